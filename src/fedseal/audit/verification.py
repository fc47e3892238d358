"""One attack on one observation, and what holds of its answer: whoever prints a result calls this and believes nothing.

The runner measures the time itself, takes no answer of another shape, and has residual, certificate and status worked
out anew by `fedseal.attack.certify`, from what the adversary sees. What the attack claimed of itself is dropped.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.proof.certificate import CERTAIN, certify
from fedseal.errors import (
    BadConfig,
    BrokenAttack,
    MissingExtra,
    UnfitBatch,
    UnfitModel,
    UnfitUpdate,
    UnknownName,
    UnknownToAdversary,
)
from fedseal.types import Attack, Observation, ProgressCallback, Reconstruction, Status

# What may be said at a door, before work starts; anything else that is raised is a crash.
DOOR = (UnknownToAdversary, UnfitModel, UnfitBatch, UnfitUpdate, BadConfig, UnknownName, MissingExtra)
NOT_FINITE = "the answer held numbers that are not finite, and was left out"


class Verified(NamedTuple):
    """What an attack gave, its outcome and certificate the runner's own, and the seconds that checking them took."""

    found: Reconstruction
    check_seconds: float


def verified(
    attack: Attack,
    observation: Observation,
    *,
    generator: torch.Generator,
    progress: ProgressCallback | None = None,
) -> Verified:
    """Run the attack and check its answer; the outcome's seconds are those of the attack, the check's aside.

    Raises:
        BrokenAttack: the answer is no reconstruction of such inputs.
        FedsealError: whatever the attack raises at its door.
    """
    started = time.perf_counter()
    answer = attack(observation, generator=generator, progress=progress)
    took = time.perf_counter() - started
    started = time.perf_counter()
    found = _checked(observation, _sound(attack.name, observation, answer))
    return Verified(
        replace(found, outcome=replace(found.outcome, seconds=took)), check_seconds=time.perf_counter() - started
    )


def _checked(observation: Observation, sound: Reconstruction) -> Reconstruction:
    """The answer with its certificate; without one, and the reason in its note, where nothing can be worked out."""
    try:
        return certify(observation, sound)
    except DOOR as error:
        end = sound.outcome
        status: Status = "budget" if end.status in CERTAIN else end.status
        note = _joined(end.note, f"not checked: {error.fact}")
        return replace(sound, outcome=replace(end, status=status, residual=None, note=note))


def _sound(name: str, observation: Observation, answer: Reconstruction) -> Reconstruction:
    """The answer without any claim of its own: shapes as they must be, and nothing in it that is not finite."""
    _check_shapes(name, observation, answer)
    inputs, labels, confidence = (
        None if tensor is None or not bool(torch.isfinite(tensor).all()) else tensor.detach()
        for tensor in (answer.inputs, answer.labels, answer.confidence)
    )
    end = answer.outcome
    if answer.inputs is not None and inputs is None:
        end = replace(end, status="diverged", note=_joined(end.note, NOT_FINITE))
    return replace(answer, inputs=inputs, labels=labels, confidence=confidence, outcome=end, certificate=None)


def _check_shapes(name: str, observation: Observation, answer: Reconstruction) -> None:
    if not isinstance(answer, Reconstruction):
        raise _broken(name, f"answered with a {type(answer).__name__}", "return a fedseal.Reconstruction")
    inputs, labels = answer.inputs, answer.labels
    shape = tuple(observation.modality.shape)
    if inputs is not None and not _fits(inputs, shape, observation):
        given = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise _broken(name, f"answered with inputs {given}", f"return (N, {', '.join(map(str, shape))})")
    if inputs is not None and labels is not None and (labels.ndim == 0 or len(labels) != len(inputs)):
        raise _broken(
            name,
            f"answered with {len(inputs)} inputs and labels {tuple(labels.shape)}",
            "return one label, or one row of them, for each input",
        )


def _fits(inputs: Tensor, shape: tuple[int, ...], observation: Observation) -> bool:
    """Whether these are one or more examples; sentences may be of any length."""
    if not isinstance(inputs, Tensor) or inputs.ndim != len(shape) + 1 or len(inputs) == 0:
        return False
    return tuple(inputs.shape[1:]) == shape or observation.modality.kind == "text"


def _broken(name: str, fact: str, remedy: str) -> BrokenAttack:
    return BrokenAttack(f"the attack '{name}' {fact}", f"correct the attack: {remedy}")


def _joined(*sentences: str) -> str:
    return "; ".join(sentence for sentence in sentences if sentence)
