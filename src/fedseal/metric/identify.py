"""Identification: can somebody with 100 candidate pictures tell from the reconstruction which one was in the batch?"""

from __future__ import annotations

from torch import Tensor

from fedseal.metric.scores import Identification

GALLERY = 100  # pictures, the truth included
FLAT = 0.01  # deviation of the values of a picture below which it counts as flat, of a range of 1


def identify(reconstruction: Tensor, truth: Tensor, others: Tensor) -> Identification:
    """Whether the truth is more alike to the reconstruction than all others: by correlation, whatever the contrast.

    Squared distance would not do: of pictures that have nothing to do with a reconstruction, the flatter is always
    nearer, so that noise would pick the flattest. A tie counts as a miss, so that a constant gallery, or a constant
    guess of a picture that is not constant, never identifies anybody.

    Args:
        reconstruction: `(C, H, W)`.
        truth: `(C, H, W)`.
        others: unrelated pictures `(G - 1, C, H, W)`.

    >>> import torch
    >>> ramp = torch.arange(4.0).view(1, 2, 2) / 4
    >>> identify(0.5 + 0.1 * ramp, ramp, torch.ones(99, 1, 2, 2)).rank
    1
    """
    seen = _standard(reconstruction)
    distance = (seen - _standard(truth)).square().mean()
    nearer = int(((seen - _standard(others)).square().flatten(-3).mean(-1) <= distance).sum())
    return Identification(hit=nearer == 0, rank=1 + nearer, gallery=1 + len(others))


def _standard(picture: Tensor) -> Tensor:
    """`(..., C, H, W)` with mean 0 and deviation 1, if not flat: distances of two such fall with their correlation."""
    values, axes = picture.double(), (-3, -2, -1)
    centered = values - values.mean(axes, keepdim=True)
    return centered / centered.square().mean(axes, keepdim=True).sqrt().clamp_min(FLAT)
