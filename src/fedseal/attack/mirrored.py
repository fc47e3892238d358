"""Inputs far from a reconstruction that a symmetric model may not tell from it: mirrored, moved, negated."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fedseal.attack.evidence import Evidence
from fedseal.types import Candidate, Observation

AXES = {1: ("columns",), 2: ("rows", "columns"), 3: ("channels", "rows", "columns")}
FEW = 8  # examples that are tried one by one
SOME = 12  # values of an input that are tried one by one
NEAR = 1e-6  # how far an input may lie from the valid ones


def mirrored(observation: Observation, candidate: Candidate) -> Iterator[tuple[str, Candidate]]:
    """The other candidates, each with what was done, in words; only valid inputs.

    Args:
        candidate: inputs `(N, *shape)` and labels.
    """
    inputs, labels = candidate.inputs, candidate.labels
    for words, other in _moved(observation, inputs):
        if bool((other - observation.modality.project(other)).abs().max() <= NEAR):
            yield words, Candidate(other.contiguous(), labels)
    for chosen in [slice(None), *(slice(one, one + 1) for one in range(len(inputs)) if 1 < len(inputs) <= FEW)]:
        negated = inputs.clone()
        negated[chosen] = -negated[chosen]
        if bool((negated - observation.modality.project(negated)).abs().max() <= NEAR):
            for other in _relabeled(observation, labels, chosen):
                yield "negated, of the other class", Candidate(negated, other)


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


def _moved(observation: Observation, inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
    names = AXES.get(inputs.ndim - 1, tuple(f"axis {axis}" for axis in range(1, inputs.ndim)))
    for axis, name in enumerate(names, start=1):
        if inputs.shape[axis] == 1:
            continue
        yield f"with {name} in the opposite order", inputs.flip(axis)
        for by in sorted({_common(inputs.shape[axis]), inputs.shape[axis] // 2}):
            yield f"with {name} moved by {by}", torch.roll(inputs, by, axis)
    if inputs.ndim == 4 and inputs.shape[2] == inputs.shape[3]:
        yield "with rows and columns exchanged", inputs.transpose(2, 3)
    yield "negated", -inputs
    wide = torch.full((1, *inputs.shape[1:]), 1e6, dtype=torch.float64)
    low, high = (observation.modality.project(end).to(inputs) for end in (-wide, wide))
    yield "mirrored in their range", low + high - inputs
    if inputs[0].numel() <= SOME:
        yield from _value_by_value(inputs, low + high)


def _common(size: int) -> int:
    """A move along an axis of that size that is also several moves by less: what is blind to those is blind to it.

    >>> [_common(size) for size in (2, 3, 8, 28, 224)]
    [1, 2, 6, 24, 216]
    """
    return next(size - 1 - (size - 1) % by for by in (12, 6, 2, 1) if by < size)


def _value_by_value(inputs: Tensor, ends: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One value negated or mirrored, two exchanged."""
    flat, count = inputs.flatten(1), inputs[0].numel()
    for place in range(count):
        for words, value in (("negated", -flat[:, place]), ("mirrored", ends.flatten()[place] - flat[:, place])):
            other = flat.clone()
            other[:, place] = value
            yield f"with one value {words}", other.view_as(inputs)
        for second in range(place):
            other = flat.clone()
            other[:, [place, second]] = flat[:, [second, place]]
            yield "with two values exchanged", other.view_as(inputs)
