"""Identification: can somebody with 100 candidate pictures tell from the reconstruction which one was in the batch?"""

from __future__ import annotations

from torch import Tensor

from fedseal.metric.scores import Identification

GALLERY = 100  # pictures, the truth included


def identify(reconstruction: Tensor, truth: Tensor, others: Tensor) -> Identification:
    """Whether the truth lies nearer to the reconstruction than all others, by mean squared distance.

    A tie counts as a miss, so that a constant gallery or a constant guess never identifies anybody.

    Args:
        reconstruction: `(C, H, W)`.
        truth: `(C, H, W)`.
        others: unrelated pictures `(G - 1, C, H, W)`.

    >>> import torch
    >>> identify(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), torch.ones(99, 1, 2, 2)).rank
    1
    """
    distance = (reconstruction - truth).square().mean()
    nearer = int(((others - reconstruction).square().flatten(1).mean(1) <= distance).sum())
    return Identification(hit=nearer == 0, rank=1 + nearer, gallery=1 + len(others))
