"""What pictures look like before any update is seen; each takes candidate inputs and gives a scalar to keep small."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Prior = Callable[[Tensor], Tensor]


def total_variation(inputs: Tensor) -> Tensor:
    """Mean absolute difference of neighbors, vertical plus horizontal, of `(N, C, H, W)` (Rudin, Osher and Fatemi
    1992).

    >>> import torch
    >>> total_variation(torch.zeros(1, 3, 8, 8)).item()
    0.0
    """
    vertical = (inputs[..., 1:, :] - inputs[..., :-1, :]).abs()
    horizontal = (inputs[..., :, 1:] - inputs[..., :, :-1]).abs()
    return vertical.sum() / max(vertical.numel(), 1) + horizontal.sum() / max(horizontal.numel(), 1)
