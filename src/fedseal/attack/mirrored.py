"""Inputs far from a reconstruction that a symmetric model may not tell from it: mirrored, moved, negated."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fedseal.attack.evidence import Evidence
from fedseal.types import Candidate, Observation

AXES = {1: ("columns",), 2: ("rows", "columns"), 3: ("channels", "rows", "columns")}
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
    if not labels.is_floating_point() and Evidence.of(observation).structure.num_classes == 2:
        negated = -inputs
        if bool((negated - observation.modality.project(negated)).abs().max() <= NEAR):
            yield "negated, of the other class", Candidate(negated, 1 - labels)


def _moved(observation: Observation, inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
    names = AXES.get(inputs.ndim - 1, tuple(f"axis {axis}" for axis in range(1, inputs.ndim)))
    for axis, name in enumerate(names, start=1):
        if inputs.shape[axis] > 1:
            yield f"with {name} in the opposite order", inputs.flip(axis)
            yield f"with {name} moved by one", torch.roll(inputs, 1, axis)
    if inputs.ndim == 4 and inputs.shape[2] == inputs.shape[3]:
        yield "with rows and columns exchanged", inputs.transpose(2, 3)
    yield "negated", -inputs
    wide = torch.full((1, *inputs.shape[1:]), 1e6, dtype=torch.float64)
    low, high = (observation.modality.project(end).to(inputs) for end in (-wide, wide))
    yield "mirrored in their range", low + high - inputs
