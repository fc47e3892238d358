"""Least squares on the update itself: steps to data that explain it, where the Jacobian is small.

Levenberg (1944) and Marquardt (1963): from a start, the linearized update is solved for the step, damped until the
distance falls. From a start near enough every step doubles the digits, where a search by gradients crawls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.jacobian import Linearized, linearized, real_targets
from fedseal.norm import length
from fedseal.types import Candidate

DAMPED, FIRMER, LOOSER = 1e-3, 8.0, 0.2  # of the normal matrix's diagonal; after a step that failed, and one that held
TRIES = 8  # of damping, for each step
ENDS = 6  # times that values may stop at the end of their range within one step
LAST = 6  # steps at the end in units of the whole update
GAIN = 1e-3  # share of the distance that a step must take off, or it was the last
INNER = 24  # products with the Jacobian and its transpose that refine a reconstruction


def steps_from(evidence: Evidence, start: Candidate, most: int) -> Iterator[tuple[Candidate, float]]:
    """The start and what each step makes of it, each with its distance from the update; no step that does not pay.

    The last few steps look at the whole update, as a certificate does.

    Args:
        start: inputs `(N, *shape)` and labels; real targets move along, classes stay.
        most: steps; each works out the whole Jacobian.

    Raises:
        NotTwiceDifferentiable: an operator of the model has no second derivative.
    """
    candidate = Candidate(start.inputs.detach().double(), start.labels)
    for fit, steps in ((_Fit(evidence), most), (_Fit(evidence, whole=True), LAST)):
        damping, after = DAMPED, math.inf
        for _ in range(min(steps, most)):
            candidate = _whole(evidence, candidate)
            there = linearized(evidence, candidate)
            rest = fit.rest(there)
            value = float(rest.norm())
            yield candidate, value
            moved = fit.step(there, rest, candidate, damping)
            if moved is None:
                break
            candidate, damping, after = moved
            if after > (1 - GAIN) * value:
                break
        if after < math.inf:
            yield candidate, after


def refined(evidence: Evidence, candidate: Candidate) -> Candidate:
    """The candidate a little nearer to the update, whatever the size of the Jacobian; itself where that leads nowhere.

    What a closed form leaves hides the client's rounding where it lies in directions that the update shows best: it
    solves some of the equations and not the least squares of all. A few steps of LSQR (Paige and Saunders 1982) take
    that away first. Nothing is worked out of directions that the update hardly shows.

    Args:
        candidate: inputs `(N, *shape)`, which nearly explain the update, and labels, which stay.

    Raises:
        NotTwiceDifferentiable: an operator of the model has no second derivative.
    """
    from scipy.sparse.linalg import LinearOperator, lsqr  # takes as long as a closed form

    here = Candidate(candidate.inputs.detach().double(), candidate.labels)
    fit, there = _Fit(evidence, whole=True), linearized(evidence, here)
    rest = fit.rest(there)
    count = here.inputs.numel()
    like = there.inputs

    def push(way: NDArray[np.float64]) -> NDArray[np.float64]:
        direction = torch.zeros(there.columns).to(like)
        direction[:count] = torch.from_numpy(way.ravel()).to(like)
        moved: NDArray[np.float64] = (fit.weight * there.push(direction[None])[0].double()).cpu().numpy()
        return moved

    def pull(change: NDArray[np.float64]) -> NDArray[np.float64]:
        weighted = fit.weight * torch.from_numpy(change.ravel()).to(fit.weight)
        pulled: NDArray[np.float64] = there.pull(weighted.to(there.update))[:count].double().cpu().numpy()
        return pulled

    jacobian = LinearOperator((len(rest), count), matvec=push, rmatvec=pull, dtype=np.float64)
    way = lsqr(jacobian, rest.cpu().numpy(), iter_lim=INNER)[0]
    change = torch.from_numpy(way).to(here.inputs).view_as(here.inputs)
    end = replace(here, inputs=evidence.observation.modality.project(here.inputs + change))
    nearer = float(fit.rest(linearized(evidence, end)).norm()) < float(rest.norm())
    return end if nearer else candidate


def _whole(evidence: Evidence, candidate: Candidate) -> Candidate:
    """The candidate with findings that are yes or no, but for what a search left, as that."""
    labels = candidate.labels
    if not labels.is_floating_point() or real_targets(evidence, labels):
        return candidate
    return replace(candidate, labels=labels.round())


class _Fit:
    """The distance of updates, every tensor in units of its own size, so that no layer drowns the others.

    Args:
        whole: all in units of the whole update's size instead, as a residual is: what rounding left of small tensors
            counts less then.
    """

    def __init__(self, evidence: Evidence, *, whole: bool = False) -> None:
        observation = evidence.observation
        self.evidence = evidence
        targets, weights = [], []
        for number, round in enumerate(observation.rounds):
            release = evidence.releases[number]
            total = length(round.update.tensors.values())
            for name, tensor in round.update.tensors.items():
                sent = release.sent(name)
                part = tensor.double() if sent is None else tensor.double() * sent
                size = total if whole else float(part.norm()) + 1e-4 * total
                targets.append(part.flatten())
                weights.append(torch.full((tensor.numel(),), 1 / size, dtype=torch.float64, device=tensor.device))
        self.target, self.weight = torch.cat(targets), torch.cat(weights)

    def rest(self, there: Linearized) -> Tensor:
        """What is left of the observed update, in these units."""
        return self.weight * (self.target - there.update.detach().double())

    def step(
        self, there: Linearized, rest: Tensor, candidate: Candidate, damping: float
    ) -> tuple[Candidate, float, float] | None:
        """The next candidate, the damping that made it nearer, and its distance; None if none did."""
        rows = there.matrix() * self.weight
        normal, down = rows @ rows.T, rows @ rest
        scale = normal.diagonal().clamp_min(1e-12 * float(normal.diagonal().max().clamp_min(1e-300)))
        before = float(rest.norm())
        for _ in range(TRIES):
            moved = self._solved(normal + torch.diag(damping * scale), down, candidate)
            if moved is not None:
                after = self._distance(moved)
                if after < before:
                    return moved, damping * LOOSER, after
            damping *= FIRMER
        return None

    def _solved(self, normal: Tensor, down: Tensor, candidate: Candidate) -> Candidate | None:
        """The candidate after the step that solves `normal` for `down` among valid inputs; None where none does.

        Values that the step would throw out of their range stop at its end, and the others are solved for anew: cut
        off alone, a step need not lead nearer.
        """
        held = torch.zeros(len(down), dtype=torch.bool)
        change, end = torch.zeros_like(down), candidate
        for _ in range(ENDS):
            free = ~held
            factor, failed = torch.linalg.cholesky_ex(normal[free][:, free])
            if int(failed) != 0:
                return None
            rest = down[free] - normal[free][:, held] @ change[held]
            change[free] = torch.cholesky_solve(rest[:, None], factor)[:, 0]
            if not bool(torch.isfinite(change).all()):
                return None
            end, over = self._moved(candidate, change)
            over &= free
            if not bool(over.any()) or bool((held | over).all()):
                return end
            held |= over
            valid = (end.inputs - candidate.inputs).flatten()
            change[: len(valid)] = torch.where(held[: len(valid)], valid, change[: len(valid)])
        return end

    def _moved(self, candidate: Candidate, change: Tensor) -> tuple[Candidate, Tensor]:
        """The nearest valid candidate after a change, and which values `(columns,)` it does not reach."""
        count = candidate.inputs.numel()
        inputs = candidate.inputs + change[:count].view_as(candidate.inputs)
        labels = candidate.labels
        if len(change) > count:
            labels = labels.double() + change[count:].view_as(labels)
        valid = self.evidence.observation.modality.project(inputs)
        over = torch.zeros(len(change), dtype=torch.bool)
        over[:count] = (valid - inputs).abs().flatten() > 0
        return Candidate(valid, labels), over

    def _distance(self, candidate: Candidate) -> float:
        value = float(self.rest(linearized(self.evidence, candidate)).norm())
        return value if math.isfinite(value) else math.inf
