"""Your own model and your own pictures: replace `Net`, `preprocess` and `write_pictures` by what you have."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import fedseal as fs
from fedseal.modality import picture

CLASSES = 12
MEAN, STD = (0.48,), (0.25,)  # what your preprocessing subtracts and divides by: public, so the attacker knows it
IMAGE = fs.Image(shape=(1, 48, 48), mean=MEAN, std=STD)


class Net(nn.Module):
    """A small grey-scale classifier with BatchNorm, of the kind that a hospital trains."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32 * 12 * 12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Scans `(N, 1, 48, 48)` to logits `(N, 12)`."""
        logits: Tensor = self.head(self.features(x).flatten(1))
        return logits


def preprocess(path: Path) -> Tensor:
    """One file as the model is fed it, `(1, 48, 48)`: your own pipeline goes here."""
    grey = picture.load_picture(path, IMAGE.shape).pixels
    return IMAGE.encode(grey[None])[0]


def write_pictures(folder: Path, count: int = 32) -> None:
    """Stand-in for your archive: files named CLASS_NUMBER.png."""
    pictures = fs.zoo.photos(size=96, num_classes=CLASSES)[:count]
    for number, (pixels, label) in enumerate(zip(pictures.inputs, pictures.labels, strict=True)):
        picture.save_picture(pixels, folder / f"{int(label)}_{number}.png")


def case() -> fs.Case:
    """What `fedseal audit examples.own_model.audit:case` attacks: the model, its data, and how clients train."""
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        files = sorted(Path(folder).glob("*.png"), key=lambda file: int(file.stem.partition("_")[2]))
        batch = fs.Batch(
            inputs=torch.stack([preprocess(file) for file in files]),
            labels=torch.tensor([int(file.name.partition("_")[0]) for file in files]),
        )
    training = fs.LocalTraining.fedavg(lr=0.01, epochs=3, batch_size=16, mode="train")
    return fs.Case(Net(), batch, training, modality=IMAGE, name="our scans")
