"""The span of the rows that a linear product was given, read off its weight's gradient.

For outputs Y = X W^T the gradient is dW = dY^T X: its rows lie in the span of the rows of X, whatever was computed
behind it, and its rank is their number where they and their signals are independent. Rounding and noise show as a tail
of small singular values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

GAP = 30.0  # ratio of neighboring singular values that ends the signal beyond doubt
FLOOR = 4.0  # units of the largest singular value's rounding, below which there is no signal
CLEAN = 1e-2  # tilt of the span up to which rows in it and beside it are told apart one by one


@dataclass(frozen=True)
class Span:
    """What the rows that went into a product span.

    Args:
        basis: orthonormal `(rank, width)` in float64.
        tilt: largest singular value of the noise over the smallest of the signal: no direction is off by more.
    """

    basis: Tensor
    tilt: float

    @property
    def rank(self) -> int:
        """Number of independent rows."""
        return len(self.basis)

    @property
    def full(self) -> bool:
        """Whether the rows fill the whole space, so that every row lies in their span."""
        return self.rank >= self.basis.shape[1]

    @property
    def tolerance(self) -> float:
        """Relative distance up to which a row counts as in the span."""
        return max(1e-5, min(self.tilt, 0.5))

    def distance(self, rows: Tensor) -> Tensor:
        """Sine of the angle between rows `(..., width)` and the span."""
        rest = rows - (rows @ self.basis.T) @ self.basis
        sine: Tensor = rest.norm(dim=-1) / rows.norm(dim=-1).clamp_min(1e-300)
        return sine

    @cached_property
    def complement(self) -> Tensor:
        """Orthonormal `(width - rank, width)` beside the span."""
        return complement(self.basis)


def complement(rows: Tensor) -> Tensor:
    """An orthonormal basis of all directions beside the rows."""
    right: Tensor = torch.linalg.svd(rows, full_matrices=True)[2]
    return right[len(rows) :]


def span_of(gradient: Tensor) -> Span:
    """The span behind a weight's gradient `(outputs, inputs)`, or several of one input on top of each other.

    Where no gap ends the singular values, they end where the rest looks like independent noise (Marchenko and Pastur,
    1967: its largest singular value is sigma (sqrt(rows) + sqrt(columns))).
    """
    _, values, right = torch.linalg.svd(gradient.double(), full_matrices=False)
    floor = values[0] * 1e-16
    ratios = values[:-1] / values[1:].clamp_min(floor)
    ratios = ratios.where(values[1:] < 0.1 * values[0], torch.zeros_like(ratios))
    place = int(ratios.argmax()) if len(ratios) else 0
    if len(ratios) and float(ratios[place]) >= GAP and float(values[place + 1]) < 1e-3 * float(values[0]):
        rank = place + 1
    else:
        rounding = FLOOR * torch.finfo(gradient.dtype).eps * float(values[0])
        rank = max(1, min(_noise_starts(values, gradient.shape[0]), int((values > rounding).sum())))
    last = values[rank] if rank < len(values) else floor
    return Span(right[:rank], float(last / values[rank - 1]))


def _noise_starts(values: Tensor, rows: int) -> int:
    """The first singular value from which on all are those of independent noise."""
    columns = len(values)
    energy = values.square().flip(0).cumsum(0).flip(0)
    for rank in range(1, columns):
        m, n = max(rows, columns) - rank, columns - rank
        sigma = (energy[rank] / (m * n)).sqrt()
        if values[rank] <= 1.05 * sigma * (m**0.5 + n**0.5):
            return rank
    return columns
