"""Inputs far from a reconstruction that a symmetric model may not tell from it: mirrored, moved, exchanged, negated.

There are too many to replay. An input that gives the same update for the same label gives the same outputs as well, so
one forward pass over all of them leaves a handful; negated inputs of the opposite class are replayed as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, combinations, islice

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.proof.sensitivity import VISIBLE
from fedseal.client import RandomLayer, forward
from fedseal.layout import canonical
from fedseal.types import Candidate, Observation, Tensors

AXES = {1: ("columns",), 2: ("rows", "columns"), 3: ("channels", "rows", "columns")}
FEW = 8  # examples that are tried one by one
SOME = 64  # values of an input, or of one of its axes, of which blocks of every width are exchanged
LARGE = 4096  # values of an input from which on a forward pass costs too much to try many
NEAR = 1e-6  # how far an input may lie from the valid ones
LEAST, MOST = 64, 4096  # exchanges that go through the forward pass
WORK = 1 << 24  # products that those may take, about, in one layer as wide as the input and in the model's own
BESIDE = 24  # changed inputs that go through it where a batch must stay whole and an input has many values
FILL = 1 << 18  # values in one forward pass
HANDFUL = 6  # inputs that are replayed because their outputs agree
ALIKE = 1e-3  # difference of outputs, relative to the largest, that is looked at
LOOSE = 100  # times the tolerance of an update, if that is more
RETARGETED = 12  # changed inputs that are replayed under other targets
SAME = 1e-5  # difference that is none
TURNS = (2, 3, 4)  # values in a row that change places, where series are interleaved

Words = str
Swap = tuple[int, int, int, int]  # an axis, 0 for all values in a row; a width; two starts


def mirrored(
    observation: Observation, candidate: Candidate, certain: Sequence[bool] | None = None, tolerance: float = 0.0
) -> Iterator[tuple[str, Candidate]]:
    """The other candidates, each with what was done, in words; only valid inputs.

    Args:
        candidate: inputs `(N, *shape)` and labels.
        certain: the examples that matter; None for all.
        tolerance: the residual up to which an update counts as explained.
    """
    inputs, labels = candidate.inputs, candidate.labels
    wanted = torch.tensor([True] * len(inputs) if certain is None else certain)
    yield from _agreeing(observation, candidate, wanted, tolerance)
    if Evidence.of(observation).criterion.kind in ("mse", "unknown") and labels.is_floating_point():
        yield from _retargeted(observation, candidate)
    for chosen in [slice(None), *(slice(one, one + 1) for one in range(len(inputs)) if 1 < len(inputs) <= FEW)]:
        negated = inputs.clone()
        negated[chosen] = -negated[chosen]
        if bool((negated - observation.modality.project(negated)).abs().max() <= NEAR):
            if chosen == slice(None):
                yield "negated", Candidate(negated, labels)
            for other in _relabeled(observation, labels, chosen):
                yield "negated, of the other class", Candidate(negated, other)


def _retargeted(observation: Observation, candidate: Candidate) -> Iterator[tuple[Words, Candidate]]:
    """Changed inputs whose real targets move as their outputs do, so that every error stays: what follows from the
    errors alone, beside frozen parts that see the change, is the same.
    """
    inputs, labels = canonical(candidate.inputs), candidate.labels
    outputs = _Outputs(observation, inputs, True)
    for words, others in _changed(observation, inputs):
        for said, other in zip(words[:RETARGETED], others[:RETARGETED], strict=False):
            moved = (outputs.run(other) - outputs.own).to(labels)
            if moved.numel() == labels.numel() and bool(
                (other - observation.modality.project(other)).abs().max() <= NEAR
            ):
                yield f"{said}, of other targets,", Candidate(other, labels + moved.view_as(labels))
        return


def _relabeled(observation: Observation, labels: Tensor, chosen: slice) -> Iterator[Tensor]:
    """The opposite targets of these examples: of two classes the other one, findings inverted, numbers negated."""
    if not labels.is_floating_point():
        opposite = [1 - labels] if Evidence.of(observation).structure.num_classes == 2 else []
    else:
        opposite = [1 - labels, -labels]
    for changed in opposite:
        targets = labels.clone()
        targets[chosen] = changed[chosen]
        yield targets


def _agreeing(
    observation: Observation, candidate: Candidate, certain: Tensor, tolerance: float
) -> Iterator[tuple[Words, Candidate]]:
    """The changed inputs whose outputs agree with their own, the likeliest first, at most a handful, and where several
    examples agree a few of them alone.

    Examples do not matter to each other's outputs, unless a batch must stay whole. So where one changed example alone
    agrees, that one is changed. Where the outputs are the same in another order, the targets go along.
    """
    inputs = canonical(candidate.inputs)
    whole = any(
        (isinstance(module, _BatchNorm) and module.training) or isinstance(module, RandomLayer)
        for module in observation.model.modules()
    )
    limit, same = min(1.0, max(ALIKE, LOOSE * tolerance)), max(SAME, tolerance)
    words, found, apart, orders = _passing(observation, inputs, certain, whole, limit)
    if not words:
        return
    best = apart.amin(1)
    order = best.clamp_min(same).argsort(stable=True)  # what agrees to rounding comes in the order of the families
    chosen = [(k, apart[k] <= max(same, 2 * float(best[k]))) for k in order[:HANDFUL].tolist()]
    single = [(k, one) for k, alike in chosen if int(alike.sum()) > 1 for one in _ones(alike)]
    for k, which in [*chosen, *single[:FEW]]:
        yield words[k], Candidate(_only(inputs, found[k], which), _ordered(candidate.labels, orders[k], which))


def _ones(chosen: Tensor) -> list[Tensor]:
    """The chosen examples one at a time."""
    return [torch.arange(len(chosen)) == place for place in chosen.nonzero().flatten().tolist()]


def _only(inputs: Tensor, other: Tensor, chosen: Tensor) -> Tensor:
    """The inputs with the chosen examples changed."""
    changed = inputs.clone()
    changed[chosen.to(inputs.device)] = other[chosen.to(inputs.device)]
    return changed


def _ordered(labels: Tensor, order: Tensor, chosen: Tensor) -> Tensor:
    """The targets of the chosen examples in another order of the outputs `(N, outputs)`; classes change their names."""
    moved = labels.clone()
    for one in chosen.nonzero().flatten().tolist():
        own = order[one].to(labels.device)
        if labels.ndim > 1 and labels.shape[1] == len(own):
            moved[one] = labels[one][own]
        elif not labels.is_floating_point() and labels.ndim == 1:
            moved[one] = (own == labels[one]).nonzero().flatten()[0] if int(labels[one]) < len(own) else labels[one]
    return moved


def _passing(
    observation: Observation, inputs: Tensor, certain: Tensor, whole: bool, limit: float
) -> tuple[list[Words], list[Tensor], Tensor, list[Tensor]]:
    """Changed inputs that agree for at least one example: words, inputs, how far each example's outputs lie apart
    `(K, N)`, infinite where it is no certain, valid, other example, and which of its own each output is `(N, outputs)`.
    """
    words: list[Words] = []
    found: list[Tensor] = []
    apart: list[Tensor] = []
    orders: list[Tensor] = []
    outputs = _Outputs(observation, inputs, whole)
    left = (4 * LEAST if inputs[0].numel() <= SOME else BESIDE) if outputs.whole else 2 * MOST
    for said, others in _changed(observation, inputs):
        others, said = others[:left], said[:left]
        far = (others - inputs).double().flatten(2).square().mean(2).sqrt() > VISIBLE
        off = (others - _projected(observation, others)).abs().flatten(2).amax(2)
        fits = far & (off <= NEAR) & certain.to(far.device)
        kept = fits.any(1).nonzero().flatten()
        if not len(kept):
            continue
        left -= len(kept)
        away, order = outputs.apart(others[kept])
        away = away.masked_fill(~fits[kept], torch.inf).cpu()
        for place in (away.amin(1) <= limit).nonzero().flatten().tolist():
            words.append(said[int(kept[place])])
            found.append(others[kept[place]])
            apart.append(away[place])
            orders.append(order[place])
        if left <= 0:
            break
    return words, found, torch.stack(apart) if apart else torch.empty(0, len(inputs)), orders


def _projected(observation: Observation, others: Tensor) -> Tensor:
    return observation.modality.project(others.flatten(0, 1)).view_as(others)


class _Outputs:
    """How far the outputs of changed inputs lie from the inputs' own.

    Args:
        whole: the examples of a batch are not independent, so that one batch is run at a time.
    """

    def __init__(self, observation: Observation, inputs: Tensor, whole: bool) -> None:
        self.observation, self.inputs, self.state = observation, inputs, _telling(observation)
        self.own = self.run(inputs)
        self.size = self.own.abs().amax(1).clamp_min(1e-30)
        self.sorted = self.own.sort(1)
        self.whole = whole or not bool((self._apart(torch.cat([inputs, inputs.flip(0)]))[0][:1] <= ALIKE).all())

    def apart(self, others: Tensor) -> tuple[Tensor, Tensor]:
        """`(K, N)` for inputs `(K, N, *shape)`, relative to each example's largest output, in whatever order the
        outputs are; and that order `(K, N, outputs)`: which of its own each output is.
        """
        step = 1 if self.whole else max(1, FILL // self.inputs.numel())
        parts = [self._apart(part.flatten(0, 1)) for part in torch.split(others, step)]
        return torch.cat([part for part, _ in parts]), torch.cat([order for _, order in parts])

    def _apart(self, others: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.run(others).view(-1, *self.own.shape)
        plain = ((outputs - self.own).abs().amax(2) / self.size).nan_to_num(nan=torch.inf)
        values, places = outputs.sort(2)
        turned = ((values - self.sorted.values).abs().amax(2) / self.size).nan_to_num(nan=torch.inf)
        own = torch.arange(outputs.shape[2], device=outputs.device).expand_as(places)
        order = own.scatter(2, places, self.sorted.indices.expand_as(places))
        as_it_was = plain <= torch.maximum(2 * turned, turned.new_tensor(SAME))
        order = torch.where(as_it_was[..., None], own, order)
        return torch.where(as_it_was, plain, turned), order.cpu()

    def run(self, inputs: Tensor) -> Tensor:
        """The outputs `(N, outputs)` in double precision."""
        names = {name for name, _ in self.observation.model.named_buffers()}
        # BatchNorm in train mode writes to its statistics
        state = {name: tensor.clone() if name in names else tensor for name, tensor in self.state.items()}
        with torch.no_grad():
            outputs = forward(self.observation.model, state, canonical(self.observation.modality.forward(inputs)))
        return outputs.double().reshape(len(inputs), -1)


def _telling(observation: Observation) -> Tensors:
    """The weights; a head of zeros, as before any training, would say nothing of the inputs, so it gets some others."""
    state, head = observation.rounds[0].state, Evidence.of(observation).structure.head
    assert state is not None
    if head is None or bool(state[head.weight].any()):
        return state
    some = torch.randn(state[head.weight].shape, generator=torch.Generator().manual_seed(0))
    return {**state, head.weight: some.to(state[head.weight])}


def _changed(observation: Observation, inputs: Tensor) -> Iterator[tuple[list[Words], Tensor]]:
    """Changed inputs `(K, N, *shape)`, all examples in the same way, with words for each."""
    moved = [(words, canonical(other)) for words, other in _moved(observation, inputs)]
    yield [words for words, _ in moved], torch.stack([other for _, other in moved])
    if inputs[0].numel() <= SOME:
        yield from _value_by_value(observation, inputs)
    if inputs.ndim == 4 and inputs.shape[2] == inputs.shape[3] and 2 < inputs.shape[2] <= FEW:
        yield from _nodes(inputs)
    shapes = [tuple(parameter.shape) for parameter in observation.model.parameters()]
    swaps = list(_swaps(tuple(inputs.shape[1:]), _widths(shapes), _budget(inputs[0].numel(), shapes)))
    room = max(1, FILL // inputs.numel())
    for start in range(0, len(swaps), room):
        part = swaps[start : start + room]
        yield [_said(swap, tuple(inputs.shape[1:])) for swap in part], _exchanged(inputs, part)


def _moved(observation: Observation, inputs: Tensor) -> Iterator[tuple[Words, Tensor]]:
    for axis, name in enumerate(_names(inputs.ndim - 1), start=1):
        if inputs.shape[axis] == 1:
            continue
        yield f"with {name} in the opposite order", inputs.flip(axis)
        for by in sorted({_common(inputs.shape[axis]), inputs.shape[axis] // 2}):
            yield f"with {name} moved by {by}", torch.roll(inputs, by, axis)
    if inputs.ndim == 4:
        yield "turned by half", inputs.flip(2, 3)
    if inputs.ndim == 4 and inputs.shape[2] == inputs.shape[3]:
        yield "with rows and columns exchanged", inputs.transpose(2, 3)
        yield from (("turned by a quarter", inputs.rot90(turns, (2, 3))) for turns in (1, 3))
    flat = inputs.flatten(1)
    for apart in (by for by in TURNS if flat.shape[1] % by == 0 and flat.shape[1] > by):
        mixed = flat.view(len(flat), -1, apart).flip(2)
        yield f"with every {apart} values in the opposite order", mixed.reshape(inputs.shape)
    yield "mirrored in their range", _ends(observation, inputs) - inputs


def _names(axes: int) -> tuple[Words, ...]:
    return AXES.get(axes, tuple(f"axis {axis}" for axis in range(1, axes + 1)))


def _ends(observation: Observation, inputs: Tensor) -> Tensor:
    """The smallest plus the largest valid input."""
    wide = torch.full((1, *inputs.shape[1:]), 1e6, dtype=torch.float64)
    low, high = (observation.modality.project(end).to(inputs) for end in (-wide, wide))
    return low + high


def _common(size: int) -> int:
    """A move along an axis of that size that is also several moves by less: what is blind to those is blind to it.

    >>> [_common(size) for size in (2, 3, 8, 28, 224)]
    [1, 2, 6, 24, 216]
    """
    return next(size - 1 - (size - 1) % by for by in (12, 6, 2, 1) if by < size)


def _value_by_value(observation: Observation, inputs: Tensor) -> Iterator[tuple[list[Words], Tensor]]:
    """One value negated or mirrored."""
    count = inputs[0].numel()
    one = torch.eye(count, dtype=torch.bool, device=inputs.device).view(count, 1, *inputs.shape[1:])
    for words, other in (("negated", -inputs), ("mirrored", _ends(observation, inputs) - inputs)):
        yield [f"with one value {words}"] * count, torch.where(one, other, inputs)


def _nodes(inputs: Tensor) -> Iterator[tuple[list[Words], Tensor]]:
    """Two rows and the same columns exchanged, as of a graph's adjacency matrix."""
    pairs = list(combinations(range(inputs.shape[2]), 2))
    found = []
    for one, other in pairs:
        order = torch.arange(inputs.shape[2])
        order[[one, other]] = order[[other, one]]
        found.append(inputs[:, :, order][:, :, :, order])
    yield ["with two rows and the same columns exchanged"] * len(pairs), torch.stack(found)


def _budget(count: int, shapes: Iterable[tuple[int, ...]]) -> int:
    """How many exchanges go through the forward pass, for inputs of `count` values and parameters of these shapes."""
    least = 4 * LEAST if count <= SOME else LEAST if count <= LARGE else LEAST // 4
    products = count * count + sum(torch.Size(shape).numel() for shape in shapes)
    return min(MOST, max(least, WORK // products))


def _widths(shapes: Iterable[tuple[int, ...]]) -> list[int]:
    """How many values the layers take in, as far as the shapes of their weights tell; one, and the smallest first.

    >>> _widths([(16, 4), (16,), (6, 3, 5, 5)])
    [1, 3, 4, 5, 6, 16, 75]
    """
    weights = [shape for shape in shapes if len(shape) > 1]
    return sorted({1, *(size for shape in weights for size in (*shape, torch.Size(shape[1:]).numel()))})


def _swaps(shape: tuple[int, ...], named: Sequence[int], most: int) -> Iterator[Swap]:
    """Exchanges of two blocks of one width, along each axis and over all values in a row.

    Half of them are of the named widths; every width of every axis has its turn.
    """
    axes = [(axis, size) for axis, size in enumerate(shape, start=1) if size > 1] if len(shape) > 1 else []
    flat = torch.Size(shape).numel()
    lines = [*axes, (0, flat)]
    first = [(axis, size, w) for axis, size in lines for w in named if 2 * w <= size and (w > 1 or size <= SOME)]
    parts = sorted({size // part for _, size in lines for part in range(2, 8)} - {0})
    rest = [
        (axis, size, w)
        for axis, size in (axes if axes and flat > SOME else lines)
        for w in (range(1, size // 2 + 1) if size <= SOME else parts)
        if 2 * w <= size and (axis, size, w) not in first
    ]
    one, other, given = _in_turn(first), _in_turn(rest), 0
    for turn, share in ((one, most // 2), (other, most), (one, most)):
        for swap in islice(turn, min(share, most - given)):
            given += 1
            yield swap


def _in_turn(kinds: Sequence[tuple[int, int, int]]) -> Iterator[Swap]:
    """The next exchange of every kind, again and again."""
    left = [((axis, width), _starts(size, width)) for axis, size, width in kinds]
    while left:
        rest = []
        for kind, starts in left:
            for pair in islice(starts, 1):
                rest.append((kind, starts))
                yield (*kind, *pair)
        left = rest


def _starts(size: int, width: int) -> Iterator[tuple[int, int]]:
    """The starts of two blocks that do not overlap: first at the ends, then in steps of the width from either end.

    >>> list(_starts(5, 2))
    [(0, 2), (1, 3), (0, 3)]
    """
    last = size - width
    seen = set()
    for pair in chain(((0, width), (last - width, last), (0, last)), _steps(last, width)):
        if pair not in seen:
            seen.add(pair)
            yield pair


def _steps(last: int, width: int) -> Iterator[tuple[int, int]]:
    for apart in range(width, last + 1, width):
        for first in range(0, last - apart + 1, width):
            yield first, first + apart
            yield last - apart - first, last - first
    if last <= SOME:
        for apart in range(width, last + 1):
            yield from ((first, first + apart) for first in range(last - apart + 1))


def _said(swap: Swap, shape: tuple[int, ...]) -> Words:
    """What was exchanged, of inputs of this shape.

    >>> _said((2, 1, 0, 5), (3, 8, 8)), _said((0, 4, 0, 4), (11,))
    ('with two rows exchanged', 'with two blocks of 4 values exchanged')
    """
    axis, width, *_ = swap
    what = _names(len(shape))[axis - 1] if axis else "values"
    return f"with two {what} exchanged" if width == 1 else f"with two blocks of {width} {what} exchanged"


def _exchanged(inputs: Tensor, swaps: Sequence[Swap]) -> Tensor:
    """The inputs after each exchange `(K, N, *shape)`."""
    out = inputs.new_empty(len(swaps), *inputs.shape)
    for axis in {swap[0] for swap in swaps}:
        own = [k for k, swap in enumerate(swaps) if swap[0] == axis]
        lines, at = (inputs, axis) if axis else (inputs.flatten(1), 1)
        places = _places(torch.tensor([swaps[k][1:] for k in own]), lines.shape[at]).to(inputs.device)
        moved = lines.movedim(at, 0)[places]  # (K, size, N, ...)
        out[own] = moved.movedim(1, at + 1).reshape(len(own), *inputs.shape)
    return out


def _places(swaps: Tensor, size: int) -> Tensor:
    """Where each value comes from, `(K, size)`, for widths and starts `(K, 3)`.

    >>> _places(torch.tensor([[2, 0, 3]]), 5).tolist()
    [[3, 4, 2, 0, 1]]
    """
    width, one, other = (column[:, None] for column in swaps.T)
    place = torch.arange(size)
    first, second = ((place >= start) & (place < start + width) for start in (one, other))
    moved: Tensor = place + (other - one) * (first.long() - second.long())
    return moved
