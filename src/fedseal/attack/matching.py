"""Gradient matching: search for inputs whose update agrees with the observed one. The only optimization loop of
fedseal.

An attack is labels x init x objective x priors x optimizer; the published ones are such combinations (`presets.py`):
DLG is joint labels, normal start, squared distance, no prior, L-BFGS; Inverting Gradients is labels by sign, normal
start, cosine distance, total variation, Adam on the gradient's sign, box. The loop knows no modality, and never sees
the truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedseal.attack.base import conclude
from fedseal.attack.evidence import Evidence
from fedseal.attack.init import Init, normal
from fedseal.attack.objective import Objective, squared_distance
from fedseal.attack.prior import Prior
from fedseal.attack.schedule import Schedule, constant
from fedseal.client import explained, train, twice_differentiable
from fedseal.errors import NotTwiceDifferentiable, UnfitBatch, UnknownToAdversary
from fedseal.types import Candidate, LocalTraining, Observation, Progress, ProgressCallback, Reconstruction

Labels = Literal["joint", "sign", "oracle"]
REPORTS = 200  # how often an attack looks at its objective: every look waits for the device


@dataclass(frozen=True)
class LBFGS:
    """Torch's L-BFGS with its defaults; one step is up to `inner` evaluations."""

    lr: float = 1.0
    inner: int = 20
    line_search: bool = False

    def build(self, variables: list[Tensor]) -> torch.optim.Optimizer:
        """The optimizer over these leaves."""
        if not self.line_search:
            return torch.optim.LBFGS(variables, lr=self.lr, max_iter=self.inner)
        return torch.optim.LBFGS(
            variables,
            lr=self.lr,
            max_iter=self.inner,
            line_search_fn="strong_wolfe",
            tolerance_grad=0,
            tolerance_change=0,
        )


@dataclass(frozen=True)
class Adam:
    """Adam, optionally on the sign of the gradient, with a schedule over the steps."""

    lr: float = 0.1
    signed: bool = True
    schedule: Schedule = constant

    def build(self, variables: list[Tensor]) -> torch.optim.Optimizer:
        """The optimizer over these leaves."""
        return torch.optim.Adam(variables, lr=self.lr)


@dataclass(frozen=True)
class GradientMatching:
    """Search for inputs (and labels) whose update is the observed one.

    Args:
        name: as tables and records give it.
        labels: "joint": optimize soft labels along with the inputs; "sign": read the single label off the head first;
            "oracle": take the true labels, where the threat model grants them.
        init: the start.
        objective: distance of updates, summed over the rounds.
        priors: weights and priors added to the objective.
        optimizer: the descent.
        steps: number of optimizer steps.
        box: clamp to valid inputs after every step.
        dtype: what to compute in; None for the update's own.
        start: candidate inputs `(N, *shape)` to start from instead of `init`.
        coordinates: a linear map from `(numel, 1)` to input errors; the search then moves in its arguments from the
        start. target: stop once the objective is below.
        stall: stop once an L-BFGS step lowers the objective by less than this share.
    """

    name: str
    labels: Labels = "joint"
    init: Init = normal
    objective: Objective = squared_distance
    priors: tuple[tuple[float, Prior], ...] = ()
    optimizer: LBFGS | Adam = LBFGS()
    steps: int = 300
    box: bool = False
    dtype: torch.dtype | None = None
    start: Tensor | None = None
    coordinates: Callable[[Tensor], Tensor] | None = None
    target: float = -math.inf
    stall: float = -math.inf

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack.

        Raises:
            UnknownToAdversary: weights, local training, batch size or labels are withheld and needed.
            NotTwiceDifferentiable: an operator of the model has no second derivative.
        """
        started = time.perf_counter()
        search = _Search(self, observation, generator)
        with twice_differentiable():
            steps, finite = search.run(progress)
        return conclude(
            observation,
            search.candidate(),
            route=self.name,
            steps=steps,
            started=started,
            status=None if finite else "diverged",
        )


class _Search:
    """The state of one run of a `GradientMatching`."""

    def __init__(self, attack: GradientMatching, observation: Observation, generator: torch.Generator) -> None:
        self.attack, self.observation = attack, observation
        observation.require_state(attack.name)
        self.training: LocalTraining = observation.require_training(attack.name)
        evidence = Evidence(observation)
        count = evidence.batch_size
        if count is None:
            raise UnknownToAdversary(
                f"{attack.name} needs the batch size, which the threat model '{observation.threat}' withholds and the "
                "rank of the head's gradient does not give",
                "grant 'num_examples'",
            )
        like = observation.like
        dtype = attack.dtype or (like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32)
        to = like.new_empty(0, dtype=dtype)
        start = attack.init(observation.modality, count, generator) if attack.start is None else attack.start
        self.start = start.detach().to(to).clone()
        moving = self.start if attack.coordinates is None else self.start.new_zeros(self.start.numel(), 1)
        self.moving = moving.requires_grad_()
        self.variables = [self.moving]
        if attack.labels == "joint":
            logits = torch.randn(count, evidence.structure.num_classes, generator=generator)
            self.logits = logits.to(to).requires_grad_()
            self.variables.append(self.logits)
        else:
            self.labels = _known_labels(attack, evidence, count)
        self.rounds = [
            ({n: _cast(t, to) for n, t in (r.state or {}).items()}, [_cast(t, to) for t in r.update.tensors.values()])
            for r in observation.rounds
        ]
        self.names = list(observation.update.tensors)

    def candidate(self) -> Candidate:
        """The present guess."""
        coordinates = self.attack.coordinates
        inputs = self.moving if coordinates is None else self.start + coordinates(self.moving).view_as(self.start)
        return Candidate(inputs, self.logits.softmax(-1) if self.attack.labels == "joint" else self.labels)

    def run(self, progress: ProgressCallback | None) -> tuple[int, bool]:
        """Optimize; the number of steps taken, and whether the objective stayed finite."""
        attack, modality = self.attack, self.observation.modality
        optimizer = attack.optimizer.build(self.variables)
        closure = self._closure()
        self._check_door()
        every, before = max(1, attack.steps // REPORTS), math.inf
        for step in range(attack.steps):
            if isinstance(attack.optimizer, Adam):
                for group in optimizer.param_groups:
                    group["lr"] = attack.optimizer.lr * attack.optimizer.schedule(step / attack.steps)
            value = optimizer.step(closure)  # type: ignore[arg-type]
            if attack.box:
                with torch.no_grad():
                    self.moving.copy_(modality.project(self.moving))
            if step % every == 0 or step == attack.steps - 1:
                objective = float(value)
                if progress is not None:
                    inputs = self.candidate().inputs.detach()
                    progress(Progress(attack.name, step + 1, attack.steps, objective, inputs))
                if not math.isfinite(objective) or not bool(torch.isfinite(self.moving).all()):
                    return step + 1, False
                if objective < attack.target or before - objective < attack.stall * objective:
                    return step + 1, True
                before = objective
        return attack.steps, True

    def _closure(self) -> Callable[[], Tensor]:
        signed = isinstance(self.attack.optimizer, Adam) and self.attack.optimizer.signed

        def closure() -> Tensor:
            total = self._objective()
            for variable, grad in zip(self.variables, torch.autograd.grad(total, self.variables), strict=True):
                variable.grad = grad.sign() if signed and variable is self.moving else grad
            return total.detach()

        return closure

    def _objective(self) -> Tensor:
        attack, model = self.attack, self.observation.model
        candidate = self.candidate()
        fed = self.observation.modality.forward(candidate.inputs)
        total = candidate.inputs.new_zeros(())
        for state, observed in self.rounds:
            guess = train(model, state, fed, candidate.labels, self.training, differentiable=True).tensors
            total = total + attack.objective([guess[name] for name in self.names], observed)
        for weight, prior in attack.priors:
            total = total + weight * prior(candidate.inputs)
        return total

    def _check_door(self) -> None:
        """One evaluation before work starts, so that a model that cannot be matched says so at once.

        It goes backward through the whole graph: asked for some leaves only, torch leaves out, silently, a branch that
        cannot be differentiated twice.
        """
        with explained(self.observation.model, self.start, self.candidate().labels):
            try:
                self._objective().backward()  # type: ignore[no-untyped-call]
            except (RuntimeError, NotImplementedError) as error:
                message = str(error)
                if any(
                    w in message
                    for w in ("not implemented", "once_differentiable", "not differentiable", "is not diff")
                ):
                    raise NotTwiceDifferentiable(
                        f"the loss cannot be differentiated twice: {message.splitlines()[0]}",
                        "switch that operator to a plain one: attn_implementation='eager' for fused attention, "
                        "F.layer_norm or a hand-written function for fused or custom kernels",
                    ) from error
                raise


def _cast(tensor: Tensor, to: Tensor) -> Tensor:
    return tensor.to(to) if tensor.is_floating_point() else tensor


def _known_labels(attack: GradientMatching, evidence: Evidence, count: int) -> Tensor:
    observation = evidence.observation
    if attack.labels == "oracle":
        if observation.labels is None:
            raise UnknownToAdversary(
                f"{attack.name} takes the true labels, which the threat model '{observation.threat}' withholds",
                "use ThreatModel.oracle(), or an attack that reads or optimizes labels",
            )
        return observation.labels.to(observation.like.device)
    if count != 1:
        raise UnfitBatch(
            f"{attack.name} reads one label off the head's gradient, and the batch holds {count} examples",
            "use labels='joint' (recipe dlg), or attack a batch of one",
        )
    if evidence.label is None:
        raise UnknownToAdversary(
            f"{attack.name} cannot read the label: no linear head's gradient is sent, or the loss is another",
            "use a recipe with joint labels, such as dlg",
        )
    return torch.tensor([evidence.label], device=observation.like.device)
