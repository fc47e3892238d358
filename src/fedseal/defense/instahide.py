"""Training on mixtures whose pixels carry secret signs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedseal.defense.base import Hooks
from fedseal.defense.mixup import mixable, mixed_batch, mixed_classes, named_classes
from fedseal.errors import BadConfig, UnfitBatch
from fedseal.mechanism import Mechanism
from fedseal.types import Batch, Defense

HEAVIEST = 0.65  # the paper's bound on the weight of any one picture in a mixture


def instahide(k: int, *, classes: int | None = None) -> Defense:
    """Mix k pictures `(N, C, H, W)` of the batch and their labels, and give every pixel a random sign.

    Huang, Song, Li and Arora (ICML 2020, arXiv:2010.02772). It promises that pictures are computationally hard to get
    back; it costs accuracy, more with larger k, since models learn from mixtures without signs. It is broken: Carlini
    et al. (IEEE S&P 2021, arXiv:2011.05315) get the pictures back from the encodings, whose absolute values keep the
    mixture, by finding encodings that share a picture; with gradients instead of encodings, Huang et al. (NeurIPS 2021,
    arXiv:2112.00059) need the encodings first.

    Assumed where the paper leaves a choice: the partners are other examples of the client's own batch, drawn anew for
    every example, not pictures of a public set; the weights are drawn uniformly from those that sum to 1 and have none
    above 0.65 (for one picture, 1); signs turn the model's inputs as they are, which the paper centers around 0: in
    inputs that are pixels from 0 to 1, a sign shows. The batch is encoded once a round.

    Args:
        k: how many pictures a mixture has, the example itself included; 1 changes signs only.
        classes: how many there are; None for as many as the model that is trained has outputs.

    Raises:
        BadConfig: k is not a whole number of at least 1; on a batch: nobody said how many classes there are.
        UnfitBatch: on a batch of fewer than k, or of anything but pictures.

    >>> batch = Batch(torch.ones(4, 1, 2, 2), torch.tensor([0, 1, 2, 3]))
    >>> hidden = instahide(2, classes=4).on_batch(batch, torch.Generator().manual_seed(0))
    >>> torch.allclose(hidden.inputs.abs(), torch.ones(4, 1, 2, 2)), (hidden.labels > 0).sum(1).tolist()
    (True, [2, 2, 2, 2])
    """
    if not (float(k).is_integer() and k >= 1):
        raise BadConfig(f"InstaHide mixes {k} pictures", "give a whole number of at least 1; the paper uses 4 and 6")
    k = int(k)
    name = f"instahide:{k}{named_classes(classes)}"

    def fitted(model: nn.Module | None) -> Hooks:
        def on_batch(batch: Batch, generator: torch.Generator) -> Batch:
            mixable(batch, k, "InstaHide")
            if batch.inputs.ndim != 4:
                raise UnfitBatch(
                    f"InstaHide flips the signs of pixels, and the inputs have shape {tuple(batch.inputs.shape)}",
                    "give pictures (N, C, H, W), or use 'mixup:1'",
                )
            weights = _weights(k, len(batch), generator)
            mixed = mixed_batch(batch, weights, classes or mixed_classes(model, batch, "InstaHide"))
            signs = torch.randint(2, batch.inputs.shape, generator=generator) * 2 - 1
            return Batch(mixed.inputs * signs.to(mixed.inputs.device, mixed.inputs.dtype), mixed.labels)

        return Hooks(name, (Mechanism("mixed", {"examples": k}), Mechanism("flipped")), batch=on_batch, fitted=fitted)

    return fitted(None)


def _weights(k: int, count: int, generator: torch.Generator) -> Tensor:
    """A row for each example: weights of itself and of k - 1 others."""
    weights = torch.zeros(count, count, dtype=torch.float64)
    for row in range(count):
        others = torch.randperm(count - 1, generator=generator)[: k - 1]
        members = torch.cat([torch.tensor([row]), others + (others >= row)])
        weights[row, members] = _shares(k, generator)
    return weights


def _shares(k: int, generator: torch.Generator) -> Tensor:
    """Uniform on the weights of k pictures that sum to 1 with none above `HEAVIEST`: by throwing away the others."""
    while True:  # three draws in ten pass for two pictures, nine in ten for six
        raw = -torch.rand(k, generator=generator, dtype=torch.float64).clamp_min(1e-300).log()
        shares = raw / raw.sum()
        if k == 1 or float(shares.max()) <= HEAVIEST:
            return shares
