"""How large an update is, and how far two of them lie apart: Euclidean, in float64, a stretch of entries at a time.

A copy of ten million entries in float64 costs more than the gradient that they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

STEP = 1 << 16  # entries in float64 that stay in a processor's cache


def length(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm of all entries together.

    >>> length([torch.tensor([3.0]), torch.tensor([[4.0]])])
    5.0
    """
    return math.sqrt(sum(_squares(tensor) for tensor in tensors))


def distance(observed: Mapping[str, Tensor], replayed: Mapping[str, Tensor]) -> float:
    """How far `replayed` is from `observed`, relative to the latter; only its tensors count.

    NaN where an entry is, or where both are zero; infinite where `observed` alone is zero.

    >>> distance({"a": torch.tensor([4.0])}, {"a": torch.tensor([3.0]), "b": torch.ones(2)})
    0.25
    """
    apart = math.sqrt(sum(_squares(tensor, replayed[name]) for name, tensor in observed.items()))
    size = length(observed.values())
    return apart / size if size else (math.inf if apart > 0 else math.nan)


def _squares(one: Tensor, other: Tensor | None = None) -> float:
    """Their sum over one tensor, or over its difference from another."""
    parts = torch.split(one.detach().reshape(-1), STEP)
    if other is None:
        squares = [_square(part.double()) for part in parts]
    else:
        pairs = zip(parts, torch.split(other.detach().reshape(-1), STEP), strict=True)
        squares = [_square(part.double() - beside.double()) for part, beside in pairs]
    return float(torch.stack(squares).sum()) if squares else 0.0


def _square(values: Tensor) -> Tensor:
    return torch.dot(values, values)
