"""No protection, for comparison: every client's step goes to the model owner in the clear."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import safetensors.numpy

from fedseal.errors import UnfitUpdate
from fedseal.federation.packing import Vector
from fedseal.federation.protocol.base import (
    UNREADABLE,
    Call,
    PartyReading,
    Sum,
    SumProtocol,
    TrainedStep,
    note_readable,
    trains_only,
)
from fedseal.federation.protocol.messages import Ask, Link
from fedseal.federation.secure import Pact, Secure
from fedseal.secagg import SERVER, Buffer, Identity, Ledger, Outgoing
from fedseal.secagg.errors import CohortTooSmall


class PlainClient:
    """Sends its step, and keeps nothing but its ledger."""

    def __init__(self, pact: Pact, number: int, identity: Identity, ledger: Ledger) -> None:
        self._pact, self._ledger = pact, ledger

    def answer(self, ask: Ask, train: Callable[[], TrainedStep]) -> Iterator[Outgoing]:
        """The step."""
        trains_only(ask)
        message = write_step(*train(), most=self._pact.secure.largest_entry)
        note_readable(self._pact, self._ledger, ask)
        yield Outgoing(SERVER, message)

    def dump(self) -> bytes | None:
        """Nothing."""
        return None

    def load(self, memory: bytes) -> None:
        """Nothing."""


def conduct_plain(call: Call, link: Link) -> Sum:
    """Add up what clients send; a step that cannot be added costs its own client.

    Raises:
        CohortTooSmall: too few answer.
    """
    total, weights, cohort = np.zeros(call.size), 0, []
    sums: dict[str, float] = defaultdict(float)
    for ask, reply in link.ask([call.to(number, "train") for number in call.clients]):
        for _, message in reply.messages[:1]:
            try:
                step, weight, metrics = fitting_step(message, call.size, call.pact.secure)
            except UnfitUpdate as error:
                call.blame(ask.to, error)
                continue
            total += weight * step.astype(np.float64)
            weights += weight
            cohort.append(ask.to)
            for name, value in metrics.items():
                sums[name] += weight * value
    least = call.pact.secure.minimum or 1
    if len(cohort) < least:
        raise CohortTooSmall(f"{len(cohort)} clients answered, and the minimum is {least}", "ask again")
    return Sum(total, weights, {name: value / weights for name, value in sums.items()}, tuple(cohort))


class PlainView:
    """Whoever gets a message reads it."""

    def __init__(self, call: Call, number: int, identity: Identity) -> None:
        pass

    def read(self, message: Buffer, carrier: int) -> list[PartyReading]:
        """The step."""
        step, weight, _ = read_step(message)
        return [PartyReading(carrier, "step", step, weight)]

    def rest(self) -> list[PartyReading]:
        """Nothing more."""
        return []


def check_step(step: Vector, most: float) -> None:
    """Whether a client may send a step in the clear.

    Raises:
        UnfitUpdate: an entry that is no number, or beyond `most`.
    """
    if not np.isfinite(step).all():
        place = int(np.flatnonzero(~np.isfinite(step))[0])
        raise UnfitUpdate(f"entry {place} is {step[place]}", "look why the training diverged; lower the step length")
    place = int(np.abs(step).argmax())
    if abs(step[place]) > most:
        raise UnfitUpdate(
            f"entry {place} is {step[place]:g}, and a round takes up to {most:g}",
            "lower the step length, bring inputs to a common scale, or declare a larger --bound, or of a statistic a "
            "larger --statistics-bound",
        )


def write_step(step: Vector, weight: int, metrics: Mapping[str, float], *, most: float = math.inf) -> bytes:
    """A client's step in the clear.

    Raises:
        UnfitUpdate: see `check_step`.
    """
    check_step(step, most)
    found = {f"metric.{name}": np.array([value]) for name, value in metrics.items()}
    return safetensors.numpy.save({"step": step, "weight": np.array([weight]), **found})


def read_step(message: Buffer) -> TrainedStep:
    """What `write_step` wrote.

    Raises:
        UnfitUpdate: it did not write this.
    """
    try:
        found = safetensors.numpy.load(bytes(message))
        metrics = {name[7:]: float(value[0]) for name, value in found.items() if name.startswith("metric.")}
        return TrainedStep(found["step"], int(found["weight"][0]), metrics)
    except UNREADABLE as error:
        raise UnfitUpdate(f"a client's step that cannot be read ({error})", "run one version at all parties") from None


def fitting_step(message: Buffer, size: int, secure: Secure) -> TrainedStep:
    """A step that can be added to the others.

    Args:
        size: entries of a step.
        secure: what was agreed on of weights and metrics.

    Raises:
        UnfitUpdate: it cannot be read, or another length, format, weight or metric than agreed, no number,
            or entries beyond the bound.
    """
    step, weight, metrics = read_step(message)
    bounds = secure.metrics or {}
    for fits, what in (
        (step.dtype == np.float32 and step.shape == (size,), f"a step of {step.dtype} {step.shape}"),
        (bool(np.isfinite(step).all()), "a step that is no number"),
        (bool((np.abs(step) <= secure.largest_entry).all()), f"entries beyond {secure.largest_entry:g}"),
        (1 <= weight <= (secure.max_weight or weight), f"a weight of {weight}"),
        (
            metrics.keys() == bounds.keys() and all(abs(metrics[name]) <= most for name, most in bounds.items()),
            "metrics that are not those agreed on",
        ),
    ):
        if not fits:
            raise UnfitUpdate(f"a client sends {what}", "send what the round asks for")
    return TrainedStep(step, weight, metrics)


PLAIN = SumProtocol(secure=False, client=PlainClient, conduct=conduct_plain, view=PlainView)
