"""What all attacks share: the certificate, and combinators that wrap attacks into attacks.

Choices are made by the residual of the replayed update, which the adversary sees; nothing here knows the truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.least_squares import refined
from fedseal.attack.evidence.relaxation import concluded
from fedseal.attack.evidence.replay import CAP, agreement, in_dtype, order_is_secret, precision, replay, residual
from fedseal.attack.proof.certificate import certify
from fedseal.errors import NotTwiceDifferentiable
from fedseal.types import (
    Attack,
    Candidate,
    Observation,
    Outcome,
    ProgressCallback,
    Reconstruction,
    Status,
)

__all__ = [
    "BestOf",
    "Cascade",
    "agreement",
    "badness",
    "best_of",
    "better",
    "cascade",
    "conclude",
    "order_is_secret",
    "precision",
    "refused",
    "replay",
    "residual",
    "restarts",
]


def conclude(
    observation: Observation,
    candidate: Candidate,
    *,
    route: str,
    steps: int,
    started: float,
    status: Status = "budget",
    note: str = "",
) -> Reconstruction:
    """A finished reconstruction with its certificate; a closed form's that comes near is refined by all equations.

    Args:
        started: `time.perf_counter()` at the attack's start.
        status: "exact" for a closed form; it stands only if every example is certain. A search leaves "budget", which
            becomes "converged" if every example is certain, and "diverged" if the replay is further from the update
            than sending nothing at all.
    """
    claim = Reconstruction(
        inputs=in_dtype(candidate.inputs.detach(), observation),
        labels=concluded(observation, candidate),
        outcome=Outcome(status, route, None, steps, 0.0, note),
    )
    found = certify(observation, claim)
    if status == "exact" and _nearly(observation, found):
        assert found.inputs is not None
        assert found.labels is not None
        with suppress(NotTwiceDifferentiable):
            end = refined(Evidence.of(observation), Candidate(found.inputs, found.labels))
            found = better(found, certify(observation, replace(claim, inputs=in_dtype(end.inputs, observation))))
    return replace(found, outcome=replace(found.outcome, seconds=time.perf_counter() - started))


def _nearly(observation: Observation, found: Reconstruction) -> bool:
    """Whether a reconstruction would explain the update, were it a little nearer."""
    proof = found.certificate
    if proof is None or proof.kind != "replay" or found.labels is None or observation.secrets:
        return False
    return proof.tolerance < proof.residual <= precision(observation)


def refused(route: str, reason: str, started: float) -> Reconstruction:
    """What a route gives where it does not apply: nothing, and why."""
    return Reconstruction(None, None, Outcome("not_applicable", route, None, 0, time.perf_counter() - started, reason))


def better(one: Reconstruction, other: Reconstruction) -> Reconstruction:
    """The reconstruction with more certain examples, then the one nearer to the update; the first of two alike."""
    return other if badness(other) < badness(one) else one


def badness(found: Reconstruction) -> tuple[int, int, float]:
    """What makes one reconstruction worse than another, the gravest first.

    Fewer certain examples; no inputs, or a replay that is further from the update than sending nothing; the residual,
    where there is one: a result that could not be replayed stands between those that agree and those that diverged.
    """
    none = found.inputs is None
    return -int(found.certain.sum()), 2 if none else int(found.outcome.status == "diverged"), _size(found)


def _size(found: Reconstruction) -> float:
    """The residual; 0 where it is no more than the arithmetic leaves, since below that the smaller one says nothing."""
    value, certificate = found.outcome.residual, found.certificate
    if value is None or math.isnan(value):
        return math.inf
    explains = certificate is not None and certificate.kind == "replay" and value <= certificate.tolerance < CAP
    return 0.0 if explains else value


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
