"""What all attacks share: the certificate, and combinators that wrap attacks into attacks.

Choices are made by the residual of the replayed update, which the adversary sees; nothing here knows the truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedseal.attack.release import Release
from fedseal.client import train
from fedseal.types import (
    Attack,
    Candidate,
    LocalTraining,
    Observation,
    Outcome,
    ProgressCallback,
    Reconstruction,
    Round,
    Status,
    Tensors,
)

SECRET_ORDER = "the client's order is unknown: the residual is that of one possible order, and no certificate"


def distance(observed: Tensors, replayed: Tensors) -> float:
    """Relative Euclidean distance of two updates, computed in float64."""
    difference = sum(float((observed[n].double() - replayed[n].detach().double()).square().sum()) for n in observed)
    norm = sum(float(tensor.double().square().sum()) for tensor in observed.values())
    return float((difference / norm) ** 0.5)


def precision(observation: Observation) -> float:
    """The residual up to which a replay counts as exact: what rounding alone leaves, with room for another order of
    sums.

    A hundred units in the last place of the update's dtype: 1.2e-5 for float32.
    """
    return 100 * torch.finfo(observation.like.dtype).eps


def agreement(observation: Observation) -> float:
    """The residual up to which a replay agrees with the update: `precision`, or what a coarser format leaves.

    Agreement to a coarser format determines no input to the arithmetic's precision: only `precision` says "exact".
    """
    release = Release(observation)
    if release.family != "interval" or release.of_kind("levels"):
        return precision(observation)
    tensors = observation.update.tensors
    error = sum(float(release.spread(name).square().expand(t.shape).sum()) for name, t in tensors.items())
    norm = sum(float(tensor.double().square().sum()) for tensor in tensors.values())
    return max(precision(observation), 1.5 * math.sqrt(error / max(norm, 1e-300)))


def replay(observation: Observation, round: Round, candidate: Candidate, training: LocalTraining) -> dict[str, Tensor]:
    """The update that the client would have sent for this candidate, by the client's own arithmetic.

    A client that shuffles keeps its order to itself: the candidate's own order stands in for it.
    """
    assert round.state is not None
    labels = candidate.labels
    if labels.is_floating_point():
        labels = labels.to(candidate.inputs.dtype)
    return train(observation.model, round.state, candidate.inputs, labels, training).tensors


def residual(observation: Observation, candidate: Candidate) -> float | None:
    """The certificate: relative distance between observed and replayed updates, the largest over the rounds.

    What a known defense does without chance, such as clipping, is done to the replay; of a known mask only the entries
    that were sent are compared.

    Args:
        candidate: inputs `(N, ...)` in any float dtype; replayed in the update's own.

    Returns:
        None where nobody without the truth can replay: the weights or the local training are withheld, or the
        client's optimizer went on with a state that was not sent.
    """
    training = observation.training
    if observation.state is None or training is None or not training.fresh_optimizer:
        return None
    inputs = _in_dtype(candidate.inputs.detach(), observation)
    finite = Candidate(observation.modality.forward(inputs), candidate.labels.detach())
    return max(
        distance(round.update.tensors, Release(observation, k).imitate(replay(observation, round, finite, training)))
        for k, round in enumerate(observation.rounds)
    )


def _in_dtype(inputs: Tensor, observation: Observation) -> Tensor:
    """Inputs in the update's dtype; token ids stay whole numbers."""
    return inputs.to(observation.like.dtype) if inputs.is_floating_point() else inputs


def order_is_secret(training: LocalTraining, count: int) -> bool:
    """Whether the client took `count` examples in an order of its own on which the update depends."""
    return training.shuffle and training.batch_size is not None and training.batch_size < count


def conclude(
    observation: Observation,
    candidate: Candidate,
    *,
    route: str,
    steps: int,
    started: float,
    status: Status | None = None,
    note: str = "",
) -> Reconstruction:
    """A finished reconstruction with its certificate.

    Args:
        started: `time.perf_counter()` at the attack's start.
        status: None to let the residual decide between "converged" and "budget".
    """
    if not bool(torch.isfinite(candidate.inputs).all()):
        status, value = "diverged", None
    else:
        value = residual(observation, candidate)
    if status is None and value is not None and value > 1:
        status = "diverged"  # further from the update than sending nothing at all
    if status is None:
        status = "converged" if value is not None and value <= agreement(observation) else "budget"
    training = observation.training
    if value is not None and training is not None and order_is_secret(training, len(candidate.inputs)):
        note = "; ".join(filter(None, [note, SECRET_ORDER]))
    labels = candidate.labels.detach()
    return Reconstruction(
        inputs=None if value is None and status == "diverged" else _in_dtype(candidate.inputs.detach(), observation),
        labels=labels.argmax(-1) if labels.is_floating_point() else labels,
        outcome=Outcome(status, route, value, steps, time.perf_counter() - started, note),
    )


def refused(route: str, reason: str, started: float) -> Reconstruction:
    """What a route gives where it does not apply: nothing, and why."""
    return Reconstruction(None, None, Outcome("not_applicable", route, None, 0, time.perf_counter() - started, reason))


def better(one: Reconstruction, other: Reconstruction) -> Reconstruction:
    """The reconstruction with the smaller residual; the first where neither has one."""

    def badness(reconstruction: Reconstruction) -> float:
        value = reconstruction.outcome.residual
        return float("inf") if value is None or reconstruction.inputs is None else value

    return other if badness(other) < badness(one) else one


@dataclass(frozen=True)
class BestOf:
    """Restarts: run an attack several times and keep the smallest residual; stop early at a certificate."""

    times: int
    attack: Attack
    only_if_diverged: bool = False

    @property
    def name(self) -> str:
        """Such as "best_of(8, dlg)"."""
        return f"{'restarts' if self.only_if_diverged else 'best_of'}({self.times}, {self.attack.name})"

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack up to `times` times, each start drawn from the same generator."""
        started = time.perf_counter()
        best = self.attack(observation, generator=generator, progress=progress)
        tries, steps = 1, best.outcome.steps
        while tries < self.times and not self._done(best.outcome.status):
            again = self.attack(observation, generator=generator, progress=progress)
            best, tries, steps = better(best, again), tries + 1, steps + again.outcome.steps
        note = f"{best.outcome.note + '; ' if best.outcome.note else ''}start {tries} of at most {self.times}"
        outcome = replace(best.outcome, steps=steps, seconds=time.perf_counter() - started, note=note)
        return replace(best, outcome=outcome)

    def _done(self, status: Status) -> bool:
        if self.only_if_diverged:
            return status != "diverged"
        return status in ("exact", "converged")


def best_of(times: int, attack: Attack) -> Attack:
    """Restart an attack; the adversary keeps the start whose replayed update lies nearest."""
    return BestOf(times, attack)


def restarts(times: int, attack: Attack) -> Attack:
    """Run an attack again, up to `times` in all, only where it diverged."""
    return BestOf(times, attack, only_if_diverged=True)


@dataclass(frozen=True)
class Cascade:
    """Try attacks in order until one certifies its result; else keep the smallest residual."""

    attacks: Sequence[Attack]

    @property
    def name(self) -> str:
        """Such as "cascade(linear, dlg)"."""
        return f"cascade({', '.join(attack.name for attack in self.attacks)})"

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack with each until one is certain."""
        best: Reconstruction | None = None
        for attack in self.attacks:
            found = attack(observation, generator=generator, progress=progress)
            best = found if best is None else better(best, found)
            if best.outcome.status in ("exact", "converged"):
                break
        assert best is not None
        return best


def cascade(*attacks: Attack) -> Attack:
    """Try attacks in order until one certifies its result."""
    return Cascade(attacks)
