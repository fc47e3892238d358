"""The closed form for layers in a row: from the head down, each layer's input follows from its output and its gradient.

For one example the head gives its input h = dL/dV_i / dL/db_i and, through its weights, the gradient by h. An
invertible activation turns a layer's output and its gradient into the pre-activation and its gradient; a linear
layer's input is then an outer product's factor, and a convolution's input solves forward and gradient equations
together (`equations.py`).

R-GAP (Zhu and Blaschko, ICLR 2021, arXiv:2010.07733) introduced the recursion. New here: the equations are weighted
by what the client's floating-point format leaves of them, and the error of each layer is carried to the next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.base import better, conclude, precision, refused
from fedseal.attack.evidence import Evidence
from fedseal.attack.exact.joint import FLOORS, belief, joint_equations, solve_jointly
from fedseal.attack.exact.recursion import ClosedForm, Signal, closed_form, head_signal
from fedseal.attack.matching import LBFGS, GradientMatching
from fedseal.attack.objective import balanced_distance
from fedseal.attack.prior import total_variation
from fedseal.attack.route import Route
from fedseal.attack.structure import Activation, Conv, Layer, Linear
from fedseal.types import Candidate, Observation, ProgressCallback, Reconstruction, Status

INVERTIBLE = ("sigmoid", "tanh", "leaky_relu")


class Count(NamedTuple):
    """One layer of the rank analysis."""

    layer: str
    equations: int
    unknowns: int

    @property
    def determined(self) -> bool:
        """Whether there are at least as many equations as unknowns."""
        return self.equations >= self.unknowns


def rank_analysis(
    layers: tuple[Layer, ...], count: int = 1, sent: Mapping[str, int] | None = None
) -> tuple[Count, ...]:
    """Equations against unknowns, convolution by convolution, from the input on (R-GAP's count).

    Over a batch of `count`, every example has forward equations of its own; all share the gradient equations, of which
    a defense may have left only so many as `sent` says by the weight's name.
    """
    counts = []
    for layer in layers:
        if isinstance(layer, Conv):
            inputs, outputs = math.prod(layer.in_shape), math.prod(layer.out_shape)
            weights = layer.out_shape[0] * layer.in_shape[0] // layer.groups * _taps(layer)
            weights = weights if sent is None else sent.get(layer.weight, weights)
            name = layer.weight.removesuffix(".weight")
            counts.append(Count(name, count * outputs + weights, count * inputs))
    return tuple(counts)


def invertible(evidence: Evidence) -> str | None:
    """Why the layers cannot all be inverted from the head to the input, None if they can."""
    structure = evidence.structure
    if structure.obstacle is not None:
        return structure.obstacle
    for layer in structure.layers:
        if isinstance(layer, Activation) and layer.kind not in INVERTIBLE:
            return f"the activation '{layer.kind}' cannot be inverted: it maps many values to one"
        if isinstance(layer, Activation) and layer.kind == "leaky_relu" and layer.slope <= 0:
            return f"a leaky ReLU of slope {layer.slope:g} cannot be inverted"
    sent = evidence.observation.update.tensors
    missing = [name for layer in structure.layers for name in _parameters(layer) if name not in sent]
    return f"the update has no gradient of '{missing[0]}' (frozen)" if missing else None


def _unfit_defense(evidence: Evidence) -> str | None:
    """Why what a known defense did to the update leaves no equations to weigh, None if it leaves some."""
    release, head = evidence.release, evidence.structure.head
    if release.of_kind("sign"):
        return "only signs were sent, which are no equations"
    if release.of_kind("unknown_noise"):
        return "the noise on the update has a strength that nobody told"
    if evidence.altered and release.of_kind("mixed"):
        return "the label is mixed of several, and the update was changed as well"
    mask = None if head is None else release.sent(head.weight)
    if mask is not None and not mask.any():
        return "nothing of the head's gradient was sent as it was"
    return None


def _parameters(layer: Layer) -> list[str]:
    return [layer.weight] if isinstance(layer, (Linear, Conv)) else []


def _taps(layer: Conv) -> int:
    return layer.kernel[0] * layer.kernel[1]


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
        if evidence.label is None:
            return "the label cannot be read off the head: it needs cross-entropy and a linear head"
        return _unfit_defense(evidence)

    def determined(self, evidence: Evidence) -> bool:
        """Whether every layer has at least as many equations as unknowns."""
        return all(count.determined for count in rank_analysis(evidence.structure.layers, sent=_sent(evidence)))

    def coordinates(self, evidence: Evidence, generator: torch.Generator) -> Callable[[Tensor], Tensor] | None:
        """Coordinates `(numel, 1)` in which the closed form's errors are alike; None without a first convolution.

        They are of single precision, which is half the memory to read in every step; a search after an exact result
        needs those of `match`.
        """
        whiten = _closed(evidence, generator).whiten
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
        closed = _closed(evidence, generator, progress)
        found = self._conclude(evidence, closed.inputs, started)
        certain = found.outcome.residual is not None and found.outcome.residual <= precision(observation)
        short = _undetermined(evidence, closed)
        if certain and not short:
            return replace(found, outcome=replace(found.outcome, status="exact"))
        if not certain:
            found = better(found, self.match(observation, closed, not short, generator, progress))
        note = f"not determined: {short}; total variation chose among the inputs that agree" if short else ""
        status = found.outcome.status if not short or found.outcome.status == "diverged" else "budget"
        outcome = replace(
            found.outcome, route=self.name, status=status, seconds=time.perf_counter() - started, note=note
        )
        return replace(found, outcome=outcome)

    def _conclude(self, evidence: Evidence, inputs: Tensor, started: float, steps: int = 0) -> Reconstruction:
        observation = evidence.observation
        candidate = Candidate(
            inputs.reshape(1, *observation.modality.shape).to(observation.like),
            torch.tensor([evidence.label], device=observation.like.device),
        )
        status: Status | None = "budget" if steps == 0 else None
        return conclude(observation, candidate, route=self.name, steps=steps, started=started, status=status)

    def _read_altered(
        self, evidence: Evidence, generator: torch.Generator, progress: ProgressCallback | None, started: float
    ) -> Reconstruction:
        """Where a known defense took or moved entries: layer by layer if that determines the input, and jointly.

        The update itself says which of the two is nearer: the joint one has seen the prior, the other every digit.
        """
        observation = evidence.observation
        closed = _closed(evidence, generator, progress) if self.determined(evidence) else None
        short = _undetermined(evidence, closed)
        if closed is not None:
            found = self._conclude(evidence, closed.inputs, started)
            value = found.outcome.residual
            if value is not None and value <= precision(observation) and not short:
                return replace(found, outcome=replace(found.outcome, status="exact"))
        equations, prior = joint_equations(evidence, _signal(evidence)), belief(observation.modality)
        inputs, steps = solve_jointly(equations, prior, prior.mean, progress=progress), len(FLOORS)
        if closed is not None and equations.energy(closed.inputs.flatten()) < equations.energy(inputs):
            inputs = solve_jointly(equations, prior, closed.inputs.flatten(), floors=FLOORS[-1:], progress=progress)
        shaped = observation.modality.project(inputs.reshape(1, *observation.modality.shape))
        found = self._conclude(evidence, shaped, started, steps)
        if not short:
            return found
        status: Status = "diverged" if found.outcome.status == "diverged" else "budget"
        note = f"not determined: {short}; a prior chose among the inputs that agree"
        return replace(found, outcome=replace(found.outcome, status=status, note=note))

    def match(
        self,
        observation: Observation,
        closed: ClosedForm,
        determined: bool,
        generator: torch.Generator,
        progress: ProgressCallback | None,
    ) -> Reconstruction:
        """Match from the closed form, in coordinates in which its errors are alike: that is what makes L-BFGS fast
        here.

        Where the layers do not determine the picture, total variation decides first and is then relaxed in stages.
        """
        start = observation.modality.project(closed.inputs.reshape(1, *observation.modality.shape))
        stages = (0.0,) if determined else (1e-3, 1e-4, 1e-5)
        for weight in stages:
            attack = GradientMatching(
                f"{self.name}+matching",
                labels="sign",
                objective=balanced_distance,
                priors=((weight, total_variation),) if weight else (),
                optimizer=LBFGS(line_search=True),
                steps=self.matching_steps // len(stages),
                dtype=torch.float32 if observation.like.device.type == "mps" else torch.float64,
                start=start,
                coordinates=closed.whiten,
                target=(0.1 * precision(observation)) ** 2,
                stall=1e-2,
            )
            found = attack(observation, generator=generator, progress=progress)
            if found.inputs is None:
                break
            start = found.inputs
        return found


def _signal(evidence: Evidence) -> Signal:
    return evidence.once("head", lambda: head_signal(evidence))


def _closed(evidence: Evidence, generator: torch.Generator, progress: ProgressCallback | None = None) -> ClosedForm:
    return evidence.once("closed form", lambda: closed_form(evidence, _signal(evidence), generator, progress))


def _sent(evidence: Evidence) -> dict[str, int] | None:
    """How many entries of each tensor carry a value; None where all do."""
    masks = {name: evidence.release.sent(name) for name in evidence.observation.update.tensors}
    return {name: int(mask.sum()) for name, mask in masks.items() if mask is not None} or None


def _undetermined(evidence: Evidence, closed: ClosedForm | None) -> str:
    """Why the equations leave the input open, empty if they do not."""
    short = [count for count in rank_analysis(evidence.structure.layers, sent=_sent(evidence)) if not count.determined]
    if short:
        return f"layer '{short[0].layer}' alone has {short[0].equations} equations for {short[0].unknowns} unknowns"
    if closed is None or not closed.open:
        return ""
    return f"the equations leave {closed.open} of {closed.inputs.numel()} input values open"
