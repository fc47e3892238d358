"""The closed form for layers in a row: from the head down, each layer's input follows from its output and its gradient.

For one example the head gives its input h = dL/dV_i / dL/db_i and, through its weights, the gradient by h. An
invertible activation turns a layer's output and its gradient into the pre-activation and its gradient; a linear
layer's input is then an outer product's factor, and a convolution's input solves forward and gradient equations
together (`equations/convolution.py`).

R-GAP (Zhu and Blaschko, ICLR 2021, arXiv:2010.07733) introduced the recursion. New here: the equations are weighted
by what the client's floating-point format leaves of them, and the error of each layer is carried to the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedseal.attack.base import better, conclude, precision, refused
from fedseal.attack.equations.joint import FLOORS, joint_equations, solve_jointly
from fedseal.attack.equations.rank import closed, invertible, rank_analysis, sent_counts, signal, undetermined
from fedseal.attack.equations.recursion import ClosedForm
from fedseal.attack.evidence.belief import belief
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.replay import replayable
from fedseal.attack.proof.certificate import CERTAIN
from fedseal.attack.route import Route
from fedseal.attack.search.label_source import given_or
from fedseal.attack.search.matching import LBFGS, GradientMatching
from fedseal.attack.search.objective import balanced_distance
from fedseal.attack.search.prior import total_variation
from fedseal.types import Candidate, ProgressCallback, Reconstruction, Status


def unread(evidence: Evidence) -> str:
    """Why the target of a single example cannot be read off the head."""
    if not evidence.criterion.known:
        return evidence.criterion.obstacle
    if evidence.structure.head is None:
        return "the target cannot be read off the head: no linear layer makes the outputs"
    return f"the target under {evidence.criterion.describe()} cannot be read off the head's gradient"


def _unfit_defense(evidence: Evidence) -> str | None:
    """Why what a known defense did to the update leaves no equations to weigh, None if it leaves some."""
    release, head = evidence.release, evidence.structure.head
    if release.of_error("sign"):
        return "only signs were sent, which are no equations"
    if release.of_error("unknown"):
        return "the noise on the update has a strength that nobody told"
    if evidence.altered and release.of_kind("mixed"):
        return "the label is mixed of several, and the update was changed as well"
    mask = None if head is None else release.sent(head.weight)
    if mask is not None and not mask.any():
        return "nothing of the head's gradient was sent as it was"
    return None


@dataclass(frozen=True)
class Layerwise(Route):
    """Read one example off the gradient of a network whose layers stand in a row and can be inverted."""

    matching_steps: int = 45
    name: str = "layerwise"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this route does not apply, None if it does."""
        observation = evidence.observation
        if observation.state is None:
            return f"it needs the weights, which the threat model '{observation.threat}' withholds"
        if evidence.structure.obstacle is not None:
            return evidence.structure.obstacle
        if evidence.batch_size != 1:
            size = "unknown" if evidence.batch_size is None else str(evidence.batch_size)
            return f"it takes one example apart, and the batch size is {size}"
        if evidence.gradient_scale is None:
            return "the update mixes the gradients of several local steps"
        reason = invertible(evidence)
        if reason is not None:
            return reason
        if evidence.target is None:
            return unread(evidence)
        return _unfit_defense(evidence)

    def determined(self, evidence: Evidence) -> bool:
        """Whether every layer has at least as many equations as unknowns."""
        return all(count.determined for count in rank_analysis(evidence.structure.layers, sent=sent_counts(evidence)))

    def coordinates(self, evidence: Evidence, generator: torch.Generator) -> Callable[[Tensor], Tensor] | None:
        """Coordinates `(numel, 1)` in which the closed form's errors are alike; None without a first convolution.

        They are of single precision, which is half the memory to read in every step; a search after an exact result
        needs those of `match`.
        """
        whiten = closed(evidence, generator).whiten
        return None if whiten is None else lambda unit: whiten(unit.float()).to(unit)

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Closed form, then matching where that falls short of the update's precision; see `Outcome` for the status."""
        started = time.perf_counter()
        observation = evidence.observation
        obstacle = self.obstacle(evidence)
        if obstacle is not None:
            return refused(self.name, obstacle, started)
        if evidence.altered:
            return self._read_altered(evidence, generator, progress, started)
        form = closed(evidence, generator, progress)
        short = undetermined(evidence, form)
        note = f"not determined by layer: {short}; total variation chose among the inputs that agree" if short else ""
        found = self._conclude(evidence, form.inputs, started)
        drops = [secret.module for secret in observation.secrets if secret.active]
        if drops:  # a model that drops nothing is nearest to the update at what dropout left
            note = f"dropout '{drops[0]}' dropped values before the first layer, which are filled in from the others"
        told = replayable(observation) is not None and not drops
        if told and found.outcome.status not in CERTAIN and not _explains(found, precision(observation)):
            found = better(found, self.match(evidence, form, not short, generator, progress))
        outcome = replace(found.outcome, route=self.name, seconds=time.perf_counter() - started, note=note)
        return replace(found, outcome=outcome)

    def _conclude(self, evidence: Evidence, inputs: Tensor, started: float, steps: int = 0) -> Reconstruction:
        observation, target = evidence.observation, evidence.target
        assert target is not None
        candidate = Candidate(
            inputs.reshape(1, *observation.modality.shape).to(observation.like),
            target,
        )
        status: Status = "exact" if steps == 0 else "budget"
        return conclude(observation, candidate, route=self.name, steps=steps, started=started, status=status)

    def _read_altered(
        self, evidence: Evidence, generator: torch.Generator, progress: ProgressCallback | None, started: float
    ) -> Reconstruction:
        """Where a known defense took or moved entries: layer by layer if that determines the input, and jointly.

        The update itself says which of the two is nearer: the joint one has seen the prior, the other every digit.
        """
        observation = evidence.observation
        form = closed(evidence, generator, progress) if self.determined(evidence) else None
        short = undetermined(evidence, form)
        if form is not None:
            found = self._conclude(evidence, form.inputs, started)
            if found.outcome.status in CERTAIN or (_explains(found, precision(observation)) and not short):
                return found
        equations, prior = joint_equations(evidence, signal(evidence)), belief(observation.modality)
        inputs, steps = solve_jointly(equations, prior, prior.mean, progress=progress), len(FLOORS)
        if form is not None and equations.energy(form.inputs.flatten()) < equations.energy(inputs):
            inputs = solve_jointly(equations, prior, form.inputs.flatten(), floors=FLOORS[-1:], progress=progress)
        shaped = observation.modality.project(inputs.reshape(1, *observation.modality.shape))
        found = self._conclude(evidence, shaped, started, steps)
        if not short:
            return found
        note = f"not determined by layer: {short}; a prior chose among the inputs that agree"
        return replace(found, outcome=replace(found.outcome, note=note))

    def match(
        self,
        evidence: Evidence,
        form: ClosedForm,
        determined: bool,
        generator: torch.Generator,
        progress: ProgressCallback | None,
    ) -> Reconstruction:
        """Match from the closed form, in coordinates in which its errors are alike: that is what makes L-BFGS fast
        here.

        Where the layers do not determine the picture, total variation decides first and is then relaxed in stages.
        """
        training = replayable(evidence.observation)  # which a gradient says of itself, though nobody told it
        observation = replace(evidence.observation, training=training)
        start = observation.modality.project(form.inputs.reshape(1, *observation.modality.shape))
        stages = (0.0,) if determined else (1e-3, 1e-4, 1e-5)
        for weight in stages:
            attack = GradientMatching(
                f"{self.name}+matching",
                labels=given_or(evidence.target),
                objective=balanced_distance,
                priors=((weight, total_variation),) if weight else (),
                optimizer=LBFGS(line_search=True),
                steps=self.matching_steps // len(stages),
                dtype=torch.float32 if observation.like.device.type == "mps" else torch.float64,
                start=start,
                coordinates=form.whiten,
                target=(0.1 * precision(observation)) ** 2,
                stall=1e-2,
            )
            found = attack(observation, generator=generator, progress=progress)
            if found.inputs is None:
                break
            start = found.inputs
        return found


def _explains(found: Reconstruction, tolerance: float) -> bool:
    """Whether the replay agrees, so that no search can come nearer."""
    return found.outcome.residual is not None and found.outcome.residual <= tolerance
