"""One example's input from the gradient by a first layer's weight alone: known up to a factor, which is then found.

Without the gradient by a bias, dL/dW = d x^T gives the direction of x. The client's own arithmetic, replayed, has the
right size for one factor only; where it cannot be replayed, the range of valid inputs says which factors can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.evidence import Evidence
from fedseal.attack.preprocessing import bounds
from fedseal.attack.replay import replay, replayable, residual
from fedseal.types import Candidate

BULK = 0.01  # share of values that may leave the range
GRID = torch.logspace(-2, 1, 25, dtype=torch.float64).tolist()  # factors tried, in those that fill the range
HALVINGS = 40


class Scaled(NamedTuple):
    """The first layer's input `(features,)` in float64, and whether the factor is that of the replay."""

    row: Tensor
    replayed: bool


def direction(weight: Tensor) -> tuple[Tensor, float]:
    """The unit input `(features,)` in float64 of an outer product `(outputs, features)`, and what is no such product.

    >>> row, rest = direction(torch.outer(torch.tensor([1.0, -2.0]), torch.tensor([0.6, 0.8])))
    >>> row.abs().round(decimals=3).tolist(), rest < 1e-6
    ([0.6, 0.8], True)
    """
    weight = weight.double()
    size = weight.norm().clamp_min(1e-300)
    left = torch.linalg.eigh(weight @ weight.T / size**2)[1][:, -1]
    for _ in range(2):  # what squaring the condition number has cost
        row = weight.T @ left
        row = row / row.norm().clamp_min(1e-300)
        left = weight @ row
        length = left.norm()
        left = left / length.clamp_min(1e-300)
    return row, float((weight - length * torch.outer(left, row)).norm() / size)


def scaled(evidence: Evidence, unit: Tensor) -> Scaled:
    """The input along `unit` `(features,)`, by the replay where it can be run, else by the valid range."""
    reach = [(sign, _fills(evidence, sign * unit)) for sign in (1.0, -1.0)]
    by_range = max(reach, key=lambda pair: pair[1])
    row = by_range[0] * by_range[1] * unit
    target, training = evidence.target, replayable(evidence.observation)
    if target is None or training is None or len(evidence.observation.rounds) > 1:
        return Scaled(row, False)
    typical = max(by_range[1], 1e-300)
    found = [_by_replay(evidence, sign * typical * unit, target) for sign in (1.0, -1.0)]
    best = min((pair for pair in found if pair is not None), key=lambda pair: pair[1], default=None)
    return Scaled(row, False) if best is None else Scaled(best[0], True)


def _fills(evidence: Evidence, unit: Tensor) -> float:
    """The largest factor for which all but a few values are valid."""
    low, high = (end.to(unit) for end in entered_range(evidence))
    up = torch.where(unit > 0, high.clamp_min(0) / unit, math.inf)
    down = torch.where(unit < 0, low.clamp_max(0) / unit, math.inf)
    factors = torch.minimum(up, down).sort().values
    value = float(factors[int(BULK * len(factors))])
    return value if math.isfinite(value) else 0.0


def entered_range(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """The smallest and largest values that the first layer takes in, flat."""
    low, high = bounds(evidence.observation.modality)
    before = evidence.preprocessing
    if before is None:
        return low, high
    ends = before.kept(torch.stack([low, high]))
    return ends.amin(0), ends.amax(0)


def _by_replay(evidence: Evidence, row: Tensor, target: Tensor) -> tuple[Tensor, float] | None:
    """The multiple of `row` whose replayed update has the observed one's size, and its residual; None if none has."""
    observation, training = evidence.observation, replayable(evidence.observation)
    assert training is not None
    observed = observation.update.tensors

    def candidate(factor: float) -> Candidate:
        inputs = evidence.undo(factor * row[None]).inputs
        return Candidate(inputs.to(observation.like), target)

    def excess(factor: float) -> float:
        sent = replay(observation, observation.rounds[0], candidate(factor), training)
        along = sum(float((sent[n].detach().double() * t.double()).sum()) for n, t in observed.items())
        return along / sum(float(t.double().square().sum()) for t in observed.values()) - 1.0

    values = [excess(factor) for factor in GRID]
    roots = [
        _root(excess, low, high)
        for low, high, before, after in zip(GRID, GRID[1:], values, values[1:], strict=False)
        if before * after <= 0
    ]
    found = [(factor * row, residual(observation, candidate(factor))) for factor in roots]
    known = [(one, value) for one, value in found if value is not None and math.isfinite(value)]
    return min(known, key=lambda pair: pair[1], default=None)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function changes its sign, by halving."""
    sign = function(low)
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if function(middle) * sign > 0 else (low, middle)
    return math.sqrt(low * high)
