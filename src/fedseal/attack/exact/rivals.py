"""Other examples that explain a layer's gradient with as many zeros: where a sum of outer products has two readings.

`disaggregate` takes what is sparse for an example. With one output, or two classes, every example's gradient by the
layer's outputs is the same vector where its units are on, up to a factor: the difference of two examples vanishes where
both are on as well as where both are off, and passes for an example itself. The same holds for three examples where
gradients have two directions. Without the weights nothing tells such readings apart; with them, an example's units are
on where its own forward pass says so.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.evidence import Evidence

SAME = 1e-4  # smallest singular value, relative to the largest, of gradients that cancel each other
LARGEST = 3  # examples in a combination
EXAMPLES = 12  # of a batch up to which combinations are tried
ENOUGH = 0.75  # share of the zeros of the examples that a combination stands for, from which it rivals them
READINGS = 4000  # sets of directions that are tried at most
BORNE_OUT = 0.98  # share of units that must be on where the forward pass says so


class Rival(NamedTuple):
    """A combination of examples that vanishes where all of them are on: its row `(rows,)`, and which they are."""

    row: Tensor
    members: tuple[int, ...]


def rivals(deltas: Tensor) -> list[Rival]:
    """The combinations of few examples that pass for examples.

    Args:
        deltas: gradients by the layer's outputs `(b, rows)`, exactly 0 where a unit is off.

    >>> on = torch.tensor([[1.0, 1, 0, 0, 1, 1], [0.0, 1, 1, 0, 1, 1]])
    >>> [rival.members for rival in rivals(on * torch.tensor([0.3, -1, 2, 1, 0.5, 1.5]))]
    [(0, 1)]
    """
    count, found = len(deltas), []
    if count > EXAMPLES:
        return []
    for size in range(2, min(LARGEST, count) + 1):
        for members in itertools.combinations(range(count), size):
            some = deltas[list(members)]
            some = some / some.norm(dim=1, keepdim=True).clamp_min(1e-300)
            on = (some != 0).all(0)
            if int(on.sum()) <= size:
                continue
            _, values, right = torch.linalg.svd(some[:, on].T, full_matrices=False)
            if float(values[-1]) > SAME * float(values[0]) or bool((right[-1].abs() < SAME).any()):
                continue
            row = (right[-1] @ some).masked_fill(on, 0.0)
            least = min(int((deltas[one] == 0).sum()) for one in members)
            if bool(row.any()) and int((row == 0).sum()) >= ENOUGH * least:
                found.append(Rival(row, members))
    return found


def rivaled(deltas: Tensor) -> Tensor:
    """Which examples another reading replaces, `(b,)` of bool. Arguments as of `rivals`."""
    marked = torch.zeros(len(deltas), dtype=torch.bool)
    for rival in rivals(deltas):
        marked[list(rival.members)] = True
    return marked


def told_apart(evidence: Evidence, inputs: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """The reading whose examples' units are on where their own forward pass says so, by the weights.

    Args:
        inputs: of the first layer, `(b, features)`, as one reading has them. deltas: `(b, rows)`, of the same.

    Returns:
        Inputs and deltas of the reading that is borne out best; those given where none is better.
    """
    layer, state = evidence.first_linear, evidence.observation.state
    if layer is None or layer.bias is None or state is None or not bool(deltas.any()):
        return inputs, deltas
    gradient, by_bias = evidence.gradient(layer.weight), evidence.gradient(layer.bias)
    weight, bias = state[layer.weight].double().cpu(), state[layer.bias].double().cpu()
    assert gradient is not None
    assert by_bias is not None
    sums = torch.cat([gradient, by_bias[:, None]], 1).cpu()

    def borne_out(rows: Tensor, on: Tensor) -> float:
        open_ = rows @ weight.T + bias > 0
        return float((open_ == on)[:, live].double().mean())

    live = (deltas != 0).any(0)
    best, found = borne_out(inputs, deltas != 0), (inputs, deltas)
    if best >= BORNE_OUT:
        return found
    pool = _closed(deltas)
    for places in itertools.islice(itertools.combinations(range(len(pool)), len(deltas)), READINGS):
        rows = pool[list(places)]
        values = torch.linalg.svdvals(rows)
        if float(values[-1]) <= SAME * float(values[0]):
            continue
        tried = _read(sums, _sharpened(sums, rows))
        if tried is None:
            continue
        value = borne_out(tried[0], tried[1] != 0)
        if value > best:
            best, found = value, tried
    return found


def _read(sums: Tensor, rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Inputs and deltas of a reading; None where an example's bias gradient vanishes, so that its scale is open."""
    solved: Tensor = torch.linalg.lstsq(rows.T, sums, driver="gels").solution
    scale = solved[:, -1:]  # the input's own last value is one
    if bool((scale.abs() < 1e-9 * scale.abs().max()).any()):
        return None
    return solved[:, :-1] / scale, rows * scale


def _sharpened(sums: Tensor, rows: Tensor) -> Tensor:
    """The same directions from the gradient anew, by their zeros alone: combinations cost digits."""
    left = torch.linalg.svd(sums, full_matrices=False)[0][:, : len(rows)]
    sharp = [torch.linalg.svd(left[row == 0], full_matrices=True)[2][-1] for row in rows]
    found: Tensor = (left @ torch.stack(sharp).T).T
    return found.masked_fill(rows == 0, 0.0)


def _closed(deltas: Tensor) -> Tensor:
    """The examples with their rivals, and the rivals of these: unit rows with most zeros first."""
    pool = deltas / deltas.norm(dim=1, keepdim=True).clamp_min(1e-300)
    for _ in range(2):
        anew = [rival.row / rival.row.norm() for rival in rivals(pool)]
        for row in anew:
            if len(pool) < EXAMPLES and not bool(((pool @ row).abs() > 1 - 1e-9).any()):
                pool = torch.cat([pool, row[None]])
    return pool[(pool != 0).sum(1).argsort(stable=True)]
