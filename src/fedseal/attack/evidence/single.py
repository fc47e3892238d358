"""One example at the head: its features, its gradient by the scores, and its target, from the head's gradient alone.

The head's gradient is one outer product, dL/dV = d h^T, and d follows from the scores V h + b and the target by the
loss (`criterion.py`). A bias's gradient is d itself, which gives h and then the target in closed form. Without one the
length of h is open: every target that some length agrees with is found.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.criterion import Criterion

FITS = 1e-4  # relative distance from an equation up to which it holds: gradients are known to some 1e-6
LENGTHS = torch.logspace(-4.5, 9, 700, dtype=torch.float64)  # of the features tried, relative to the gradient's size
HALVINGS = 60
TRIED = 64  # classes that are tried at most where no bias says which one it is


class Single(NamedTuple):
    """What a head says of one example, in float64.

    Args:
        target: `(1,)` class index, or `(1, outputs)`.
        signal: gradient by the scores, `(outputs,)`.
        features: the head's input, `(features,)`.
        misfit: relative distance from the equations.
    """

    target: Tensor
    signal: Tensor
    features: Tensor
    misfit: float


def with_bias(criterion: Criterion, weight: Tensor, bias: Tensor, gradient: Tensor, by_bias: Tensor) -> Single:
    """The one example of a head whose bias's gradient is known.

    Args:
        criterion: the loss under which the gradients were taken, of a batch of one.
        weight, gradient: of the head, `(outputs, features)`. bias, by_bias: `(outputs,)`.
    """
    features = gradient.T @ by_bias / by_bias.square().sum().clamp_min(1e-300)
    read = criterion.read((weight @ features + bias)[None], by_bias[None], "own")
    return Single(read.targets, by_bias, features, float(read.misfit[0]))


def without_bias(criterion: Criterion, weight: Tensor, bias: Tensor, gradient: Tensor) -> list[Single]:
    """Every example that explains the gradient of a head without bias, the one that fits best first.

    dL/dV = s u v^T with unit vectors leaves h = t v and d = (s / t) u. For each possible target one number t is sought
    that solves the loss's equations. Under the squared error every t has a target, and nothing is found.
    """
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    unit, direction, size = left[:, 0], right[0], float(values[0])
    if criterion.kind not in ("cross_entropy", "bce") or size <= 0:
        return []
    found = [
        single
        for toward in (1.0, -1.0)
        for target in _possible(criterion, toward * unit)
        for single in _lengths(criterion, (weight, bias), target, (toward * unit, toward * direction, size))
    ]
    return sorted(found, key=lambda single: single.misfit)


def _possible(criterion: Criterion, unit: Tensor) -> list[Tensor]:
    """Targets `(1,)` or `(1, outputs)` that a gradient by the scores in this direction leaves."""
    if criterion.kind == "bce":
        return [(unit < 0).double()[None]]
    if criterion.smoothing == 0:  # negative at the label alone
        below = (unit < 0).nonzero().flatten()
        return [below] if len(below) == 1 else []
    return [label[None] for label in unit.topk(min(len(unit), TRIED), largest=False).indices]


def _lengths(
    criterion: Criterion, head: tuple[Tensor, Tensor], target: Tensor, product: tuple[Tensor, Tensor, float]
) -> list[Single]:
    """The lengths of the features at which the equation along the gradient's direction holds, and then all of them."""
    (weight, bias), (unit, direction, size) = head, product
    logits = weight @ direction

    def mismatch(lengths: Tensor) -> Tensor:
        scores = lengths[:, None] * logits + bias
        signal = criterion.signal(scores, target.expand(len(lengths), *target.shape[1:]), _own(criterion, target))
        return signal @ unit - size / lengths

    grid = size * LENGTHS.to(weight.device)
    off = mismatch(grid)
    places = (off[:-1] * off[1:] <= 0).nonzero().flatten()
    if not len(places):
        return []
    low, high, sign = grid[places].log(), grid[places + 1].log(), off[places].sign()
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        same = mismatch(middle.exp()).sign() == sign
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    found = []
    for length in (0.5 * (low + high)).exp().tolist():
        features, signal = length * direction, size / length * unit
        guess = criterion.signal((weight @ features + bias)[None], target, _own(criterion, target))[0]
        misfit = float((guess - signal).norm() / guess.norm().clamp_min(1e-300))
        if misfit <= FITS and math.isfinite(misfit):
            found.append(Single(target, signal, features, misfit))
    return found


def _own(criterion: Criterion, target: Tensor) -> Tensor:
    return criterion.norm(target)
