"""One example's input from the gradient by a first layer's weight alone: known up to a factor, which is then found.

Without the gradient by a bias, dL/dW = d x^T gives the direction of x. The client's own arithmetic, replayed, has the
right size for one factor only; where it cannot be replayed, the range of valid inputs says which factors can be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.preprocessing import bounds
from fedseal.attack.evidence.replay import agreement, replayable, residual
from fedseal.types import Candidate

FEW = 3  # classes or findings that are tried where the label cannot be read
ALIKE = 1e-6  # misfit that the search for the factor may leave
BULK = 0.01  # share of values that may leave the range
GRID = torch.logspace(-2, 1, 49, dtype=torch.float64).tolist()  # factors tried, in those that fill the range
VALLEYS, SECTIONS = 4, 45  # of the replay's misfit that are followed down, and steps of each


class Scaled(NamedTuple):
    """The first layer's input `(features,)` in float64, and the target whose replay gave the factor, None without."""

    row: Tensor
    target: Tensor | None


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


def scaled_row(evidence: Evidence, unit: Tensor) -> Scaled:
    """The input along `unit` `(features,)`, by the replay where it can be run, else as large as inputs usually are."""
    reach = [(sign, _fills(evidence, sign * unit)) for sign in (1.0, -1.0)]
    by_range = max(reach, key=lambda pair: pair[1])
    row = by_range[0] * _usual(evidence, by_range[1], len(unit)) * unit
    training = replayable(evidence.observation)
    # a replay drops nothing, so behind dropout it would fit another size
    if training is None or len(evidence.observation.rounds) > 1 or evidence.observation.secrets:
        return Scaled(row, None)
    typical, best = max(by_range[1], 1e-300), (math.inf, math.inf)
    found = Scaled(row, None)
    for target in _targets(evidence):
        for sign in (1.0, -1.0):
            for multiple, misfit in _by_replay(evidence, sign * typical * unit, target):
                # of two that fit as well as can be told, the valid one is the better one
                key = max(misfit, agreement(evidence.observation), ALIKE), _outside(evidence, multiple)
                found, best = (Scaled(multiple, target), key) if key < best else (found, best)
    return found


def _targets(evidence: Evidence) -> list[Tensor]:
    """The example's target, or the few that it may be: without a bias several explain the head's gradient, by inputs
    of opposite sign.
    """
    if evidence.target is not None:
        return [evidence.target]
    criterion, like = evidence.criterion, evidence.observation.like
    few = evidence.structure.num_classes <= FEW
    if criterion.classes:
        count = evidence.structure.num_classes if few else 0
        return [torch.tensor([label], device=like.device) for label in range(count)]
    if criterion.kind != "bce":
        return []
    answers = itertools.product((0.0, 1.0), repeat=criterion.outputs) if few else _answers(evidence)
    return [criterion.formed(torch.tensor([row]).to(like)) for row in answers]


def _answers(evidence: Evidence) -> list[list[float]]:
    """Of many findings the two answers that the head's gradient leaves: by the signs of its rows, and all of them
    turned round.
    """
    head, tensors = evidence.structure.head, evidence.observation.update.tensors
    if head is None or head.weight not in tensors or len(tensors[head.weight]) != evidence.criterion.outputs:
        return []
    weight = tensors[head.weight].double()
    yes = (weight @ direction(weight)[0] < 0).double()
    return [yes.tolist(), (1 - yes).tolist()]


def _usual(evidence: Evidence, most: float, values: int) -> float:
    """The factor of a unit row where nothing tells it: pictures fill their range, and a table's standardized columns
    are about 1 each.
    """
    return most if len(evidence.observation.modality.shape) == 3 else min(most, math.sqrt(values))


def _outside(evidence: Evidence, row: Tensor) -> float:
    """How far a row is from the valid ones."""
    low, high = (end.to(row) for end in entered_range(evidence))
    return float((row - torch.minimum(torch.maximum(row, low), high)).norm())


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


def _by_replay(evidence: Evidence, row: Tensor, target: Tensor) -> list[tuple[Tensor, float]]:
    """The multiples of `row` whose replayed updates are nearest to the observed one, and how near each is."""
    observation = evidence.observation

    def misfit(factor: float) -> float:
        inputs = evidence.undo(factor * row[None]).inputs
        value = residual(observation, Candidate(inputs.to(observation.like), target))
        return value if value is not None and math.isfinite(value) else math.inf

    values = [misfit(factor) for factor in GRID]
    valleys = [k for k in range(1, len(GRID) - 1) if values[k] <= min(values[k - 1], values[k + 1]) < math.inf]
    found = []
    for k in sorted(valleys, key=values.__getitem__)[:VALLEYS]:
        value, factor = min(lowest(misfit, GRID[k - 1], GRID[k + 1]), (values[k], GRID[k]))
        found.append((factor * row, value))
    return found


def lowest(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """The least value between two positive numbers, where there is one valley, and its place: by golden section."""
    share = (math.sqrt(5) - 1) / 2
    ends = [math.log(low), math.log(high)]
    inner = [ends[1] - share * (ends[1] - ends[0]), ends[0] + share * (ends[1] - ends[0])]
    values = [function(math.exp(at)) for at in inner]
    for _ in range(SECTIONS):
        if values[0] <= values[1]:
            ends[1], inner[1], values[1] = inner[1], inner[0], values[0]
            inner[0] = ends[1] - share * (ends[1] - ends[0])
            values[0] = function(math.exp(inner[0]))
        else:
            ends[0], inner[0], values[0] = inner[0], inner[1], values[1]
            inner[1] = ends[0] + share * (ends[1] - ends[0])
            values[1] = function(math.exp(inner[1]))
    return min((value, math.exp(at)) for value, at in zip(values, inner, strict=True))
