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

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.structure import Activation, Reshape

SAME = 1e-4  # smallest singular value, relative to the largest, of gradients that cancel each other
LARGEST = 3  # examples in a combination
EXAMPLES = 12  # of a batch up to which combinations are tried
ENOUGH = 0.75  # share of the zeros of the examples that a combination stands for, from which it rivals them
POOL = 16  # directions that are tried in sets
WHOLE = 1e-2  # from 0 or 1, within which a unit is taken for off or on
READINGS = 4000  # sets of directions that are tried at most
BORNE_OUT = 0.9999  # share of units that must be on where the forward pass says so, for no other reading to be tried


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
    """Which examples another reading may replace, `(b,)` of bool: none, or all of them. Arguments as of `rivals`.

    Every example's input depends on all directions that were chosen, so that one that may be another leaves all open.
    """
    return torch.full((len(deltas),), bool(rivals(deltas)))


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

    def share(rows: Tensor, on: Tensor) -> float:
        open_ = rows @ weight.T + bias > 0
        return float((open_ == on)[:, live].double().mean())

    live = (deltas != 0).any(0)
    best, found = share(inputs, deltas != 0), (inputs, deltas)
    if best >= BORNE_OUT:
        return found
    pool = _two_valued(evidence, sums, len(deltas))
    pool = _closed(deltas) if pool is None else pool
    for places in itertools.islice(itertools.combinations(range(len(pool)), len(deltas)), READINGS):
        rows = pool[list(places)]
        values = torch.linalg.svdvals(rows)
        if float(values[-1]) <= SAME * float(values[0]):
            continue
        tried = _read(sums, _sharpened(sums, rows))
        if tried is None:
            continue
        value = share(tried[0], tried[1] != 0)
        if value > best:
            best, found = value, tried
    if found[0] is inputs:
        return found
    ones = torch.cat([found[0], found[0].new_ones(len(inputs), 1)], 1)
    return found[0], torch.linalg.lstsq(ones.T, sums.T, driver="gels").solution  # also of units that were left out


def directions(evidence: Evidence) -> int:
    """How many directions the gradients by the first layer's outputs may have behind its activation, at most."""
    layer, tensors = evidence.first_linear, evidence.observation.update.tensors
    assert layer is not None
    classes = evidence.structure.num_classes
    behind = [len(tensor) for name, tensor in tensors.items() if tensor.ndim == 2 and name != layer.weight]
    several = evidence.criterion.known and not evidence.criterion.classes  # a softmax's gradients add up to zero
    return min([*behind, classes if several else classes - 1])


def borne_out(evidence: Evidence, inputs: Tensor) -> bool:
    """Whether examples' units are on where their own forward pass says so; where the weights are withheld, nothing
    speaks against it.

    Args:
        inputs: the model's, `(b, *shape)`.
    """
    layer, state, tensors = evidence.first_linear, evidence.observation.state, evidence.observation.update.tensors
    assert layer is not None
    assert layer.bias is not None
    if state is None:
        return True
    rows = evidence.first_rows(inputs).double().cpu()
    ones = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
    sums = torch.cat([tensors[layer.weight], tensors[layer.bias][:, None]], 1).double().cpu()
    deltas = torch.linalg.lstsq(ones.T, sums.T, driver="gels").solution
    on = deltas.abs() > SAME * deltas.abs().amax(1, keepdim=True)
    open_ = rows @ state[layer.weight].double().cpu().T + state[layer.bias].double().cpu() > 0
    live = on.any(0)
    return bool((open_ == on)[:, live].double().mean() >= BORNE_OUT)


def _read(sums: Tensor, rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Inputs and deltas of a reading; None where an example's bias gradient vanishes, so that its scale is open."""
    used = (rows != 0).any(0)
    solved: Tensor = torch.linalg.lstsq(rows[:, used].T, sums[used], driver="gels").solution
    scale = solved[:, -1:]  # the input's own last value is one
    if bool((scale.abs() < 1e-9 * scale.abs().max()).any()):
        return None
    return solved[:, :-1] / scale, rows * scale


def _sharpened(sums: Tensor, rows: Tensor) -> Tensor:
    """The same directions from the gradient anew, by their zeros alone: combinations cost digits."""
    left = torch.linalg.svd(sums, full_matrices=False)[0][:, : len(rows)]
    used = (rows != 0).any(0)
    sharp = [torch.linalg.svd(left[(row == 0) & used], full_matrices=True)[2][-1] for row in rows]
    found: Tensor = (left @ torch.stack(sharp).T).T.masked_fill(rows == 0, 0.0)
    return found


def _two_valued(evidence: Evidence, sums: Tensor, count: int) -> Tensor | None:
    """All examples' possible rows where the head shows one direction right behind the ReLU; None where it does not.

    With one output, or two classes, an example's row is that direction's weight wherever its unit is on, and 0
    elsewhere, up to a factor. So divided by the weights the gradient's columns span vectors of zeros and ones, and each
    is known by its values on as many units as there are examples: all of them are tried.
    """
    head, state, layer = evidence.structure.head, evidence.observation.state, evidence.first_linear
    layers = [one for one in evidence.structure.layers if not isinstance(one, Reshape)]
    if head is None or state is None or layers != [layer, Activation("relu"), head] or count > EXAMPLES:
        return None
    weight = state[head.weight].double().cpu()
    if len(weight) != (2 if evidence.criterion.classes else 1):
        return None
    direction = weight[0] - weight[1] if len(weight) == 2 else weight[0]
    seen = (sums.norm(dim=1) > 0) & (direction.abs() > 1e-2 * direction.abs().max())
    span = torch.linalg.svd(sums, full_matrices=False)[0][:, :count] / direction[:, None].where(seen[:, None], 1.0)
    chosen, rest = [], span * seen[:, None]
    for _ in range(count):
        chosen.append(int(rest.norm(dim=1).argmax()))
        axis = rest[chosen[-1]] / rest[chosen[-1]].norm().clamp_min(1e-300)
        rest = rest - torch.outer(rest @ axis, axis)
    values = torch.tensor(list(itertools.product((0.0, 1.0), repeat=count))[1:], dtype=torch.float64)
    tried = span @ torch.linalg.pinv(span[chosen]) @ values.T
    whole = tried.round()
    fits = ((tried - whole).abs() * seen[:, None]).amax(0) < WHOLE
    fits &= ((whole == 0) | (whole == 1) | ~seen[:, None]).all(0)
    if int(fits.sum()) < count:
        return None
    found: Tensor = (whole[:, fits].clamp(0, 1) * seen[:, None] * direction[:, None]).T
    return found[:POOL]


def _closed(deltas: Tensor) -> Tensor:
    """The examples with their rivals, and the rivals of these: unit rows with most zeros first."""
    pool: Tensor = deltas / deltas.norm(dim=1, keepdim=True).clamp_min(1e-300)
    for _ in range(2):
        anew = [rival.row / rival.row.norm() for rival in rivals(pool)]
        for row in anew:
            if len(pool) < EXAMPLES and not bool(((pool @ row).abs() > 1 - 1e-9).any()):
                pool = torch.cat([pool, row[None]])
    fewest: Tensor = (pool != 0).sum(1).argsort(stable=True)
    return pool[fewest]
