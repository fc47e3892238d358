"""A vision transformer of `transformers` at 224 pixels: replace the configuration and the pictures by yours."""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor, nn

import fedseal as fs

CLASSES = 10
LABELS: dict[str, Any] = {"num_labels": CLASSES}
SMALL_16: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
}


class Classifier(nn.Module):
    """What fedseal needs of a model: pixels in, one row of class scores out for each picture."""

    def __init__(self, **facts: Any) -> None:
        super().__init__()
        self.vit = transformers.ViTForImageClassification(transformers.ViTConfig(**facts, **LABELS))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures `(N, 3, side, side)` to logits `(N, 10)`."""
        logits: Tensor = self.vit(pixel_values=x).logits
        return logits


def case(side: int = 224, patch: int = 16, **facts: Any) -> fs.Case:
    """What `fedseal audit examples.vit.audit:case` attacks: ViT-S/16, one gradient a picture.

    Args:
        side, patch: pixels; a smaller model to try things out.
        facts: of the configuration.
    """
    image = fs.Image(shape=(3, side, side), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    pictures = fs.zoo.photos(size=side, num_classes=CLASSES)[:8]
    model = Classifier(image_size=side, patch_size=patch, **(facts or SMALL_16))
    batch = fs.Batch(image.encode(pictures.inputs), pictures.labels)
    return fs.Case(model, batch, fs.LocalTraining.fedsgd(mode="eval"), modality=image, name="ViT-S/16")
