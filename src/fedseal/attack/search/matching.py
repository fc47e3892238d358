"""Gradient matching: search for inputs whose update agrees with the observed one. The only optimization loop of
fedseal.

An attack is labels x init x model of the update x objective x priors x optimizer; the published ones are such
combinations (`published.py`): DLG is joint labels, normal start, squared distance, no prior, L-BFGS; Inverting
Gradients is labels read off the head, normal start, cosine distance, total variation, Adam on the gradient's sign, box.
The loop knows no modality, and never sees the truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedseal.attack.base import conclude
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.relaxation import relaxed, softened
from fedseal.attack.search.init import Init, normal
from fedseal.attack.search.label_source import JOINT, LabelSource
from fedseal.attack.search.objective import Measured, Objective, squared_distance
from fedseal.attack.search.optimizer import LBFGS, Adam, Descent, Leaf
from fedseal.attack.search.prior import Bindable, Prior, Scene
from fedseal.attack.search.update_model import Simulate, UpdateModel, merged
from fedseal.client import twice_differentiable
from fedseal.errors import BadConfig, NotTwiceDifferentiable, UnfitBatch, UnknownToAdversary
from fedseal.layout import canonical
from fedseal.types import Candidate, Observation, Progress, ProgressCallback, Reconstruction

__all__ = ["LBFGS", "Adam", "GradientMatching", "Search"]

DLG_OPTIMIZER, CLIENT = LBFGS(), Simulate()
REPORTS = 200  # how often an attack looks at its objective: every look waits for the device


@dataclass(frozen=True)
class GradientMatching:
    """Search for inputs (and labels) whose update is the observed one.

    Args:
        name: as tables and records give it.
        labels: where they come from: soft targets searched along with the inputs, as by default, the true ones, given
            ones (`label_source.py`), or what a method infers first (`fedseal.attack.labels.Inferred`).
        init: the start.
        objective: distance of updates, summed over the rounds; one that is `Measured` looks at the observation first.
        priors: weights and priors added to the objective.
        optimizer: the descent.
        steps: number of optimizer steps.
        box: clamp to valid inputs after every step.
        dtype: what to compute in; None for the update's own.
        start: candidate inputs `(N, *shape)` to start from instead of `init`.
        coordinates: a linear map from `(numel, 1)` to input errors; the search then moves in its arguments from the
            start.
        target: stop once the objective is below.
        stall: stop once an L-BFGS step lowers the objective by less than this share.
        update_model: what the client is held to have computed.
        one_at_a_time: step t moves example t modulo N only, each with an optimizer of its own.
    """

    name: str
    labels: LabelSource = JOINT
    init: Init = normal
    objective: Objective | Measured = squared_distance
    priors: tuple[tuple[float, Prior | Bindable], ...] = ()
    optimizer: LBFGS | Adam = DLG_OPTIMIZER
    steps: int = 300
    box: bool = False
    dtype: torch.dtype | None = None
    start: Tensor | None = None
    coordinates: Callable[[Tensor], Tensor] | None = None
    target: float = -math.inf
    stall: float = -math.inf
    update_model: UpdateModel = CLIENT
    one_at_a_time: bool = False

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack.

        Raises:
            UnknownToAdversary: weights, local training, batch size or labels are withheld and needed.
            NotTwiceDifferentiable: an operator of the model has no second derivative.
        """
        started = time.perf_counter()
        search = Search(self, observation, generator)
        search.advance(self.steps, progress)
        return search.conclude(started)


class Search:
    """The state of one run of a `GradientMatching`; it can be advanced a part of the way, and again."""

    def __init__(self, attack: GradientMatching, observation: Observation, generator: torch.Generator) -> None:
        self.attack, self.observation = attack, observation
        observation.require_state(attack.name)
        evidence = Evidence.of(observation)
        count = _batch_size(attack, evidence)
        like = observation.like
        dtype = attack.dtype or (like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32)
        to = like.new_empty(0, dtype=dtype)
        if not observation.modality.forward(torch.zeros(1, *observation.modality.shape)).is_floating_point():
            raise UnfitBatch(
                f"the inputs are whole numbers, such as token ids, so {attack.name} cannot move them by small steps",
                "use 'dager' or 'tokens', or a search for sentences: 'mixture', 'dlg_text', 'tag' or 'lamp'",
            )
        self.criterion, read_labels = evidence.criterion, attack.labels.bind(evidence, attack.name, count)
        searched = read_labels is None
        if searched and self.criterion.classes and not self.criterion.known and "rows" not in self.criterion.forms:
            raise BadConfig(
                f"{attack.name} searches soft labels, which this loss does not take: {self.criterion.obstacle}",
                "use a loss that takes class probabilities, or hand the attack labels (threat model 'oracle')",
            )
        posed = softened(observation, self.criterion) if searched else observation
        self.prediction = attack.update_model.bind(posed, attack.name, count, to, generator)
        self.copies = self.prediction.copies
        self.start = canonical(self._start(count, generator)).to(to).clone()
        self.objectives = self._bound(attack.objective)
        moving = self.start if attack.coordinates is None else self.start.new_zeros(self.start.numel(), 1)
        self.pieces = _leaves(moving, 1 if attack.one_at_a_time else len(moving))
        self.logits: list[Tensor] = []
        self.labels: Tensor | None = None
        if read_labels is None:
            logits = torch.randn(count, evidence.structure.num_classes, generator=generator).to(to)
            self.logits = _leaves(logits, 1 if attack.one_at_a_time else count)
        else:
            labels = read_labels(generator)
            self.labels = labels.to(like.device, dtype if labels.is_floating_point() else labels.dtype)
        self.scene = Scene(observation, self.labels, self.copies, to, generator)
        self.priors = self._weighed(attack)
        self.descent = Descent(attack.optimizer, self._turns(), attack.steps, generator)
        self.done, self.finite, self.stopped, self._before, self._first = 0, True, False, math.inf, 0

    def _start(self, count: int, generator: torch.Generator) -> Tensor:
        if self.attack.start is None:
            return self.attack.init(self.observation.modality, count * self.copies, generator).detach()
        return self.attack.start.detach().repeat(self.copies, *[1] * (self.attack.start.ndim - 1))

    def _bound(self, objective: Objective | Measured) -> list[Objective]:
        """The objective of each round."""
        if not isinstance(objective, Measured):
            return [objective] * len(self.prediction.targets)
        values, targets = self.start.numel(), self.prediction.targets
        return [objective.bind(self.observation, number, target, values) for number, target in enumerate(targets)]

    def _weighed(self, attack: GradientMatching) -> list[tuple[float, Prior]]:
        return [(weight, p.bind(self.scene) if isinstance(p, Bindable) else p) for weight, p in attack.priors]

    def go_on(self, attack: GradientMatching) -> None:
        """Start a new stage from the present candidate, by another objective, other priors and another descent."""
        self.attack = replace(attack, steps=self.done + attack.steps)
        self.objectives, self.priors = self._bound(attack.objective), self._weighed(attack)
        self.descent = Descent(attack.optimizer, self._turns(), attack.steps, self.scene.generator)
        self.stopped, self._before, self._first = False, math.inf, self.done

    def value(self) -> float:
        """The objective of the present candidate, priors and all."""
        return float(self._objective().detach())

    def predicted(self, number: int) -> list[Tensor]:
        """The present candidate's update in one round."""
        candidate = self.candidate()
        fed = self.observation.modality.forward(candidate.inputs)
        update = self.prediction.predict(number, fed, self._repeated(candidate.labels))
        return [tensor.detach() for tensor in update]

    def _turns(self) -> list[list[Leaf]]:
        """Leaves that move together: everything, or piece by piece."""
        turns: list[list[Leaf]] = [[Leaf(piece, inputs=True), *self.prediction.leaves] for piece in self.pieces]
        for number, logits in enumerate(self.logits):
            turns[number].append(Leaf(logits))
        return turns

    def candidate(self) -> Candidate:
        """The present guess: inputs `(copies * N, ...)` and labels of the N examples."""
        coordinates = self.attack.coordinates
        inputs = self.pieces[0] if len(self.pieces) == 1 else torch.cat(self.pieces)
        if coordinates is not None:
            inputs = self.start + coordinates(inputs).view_as(self.start)
        if self.labels is not None:
            return Candidate(inputs, self.labels)
        numbers = self.logits[0] if len(self.logits) == 1 else torch.cat(self.logits)
        return Candidate(inputs, relaxed(self.criterion, numbers))

    def advance(self, steps: int, progress: ProgressCallback | None = None) -> None:
        """Optimize for up to this many steps more; sets `done`, `finite` and `stopped`."""
        with twice_differentiable():
            if self.done == 0:
                self._check_door()
            last = min(self.done + steps, self.attack.steps)
            while self.done < last and self.finite and not self.stopped:
                value = self.descent.step(self.done - self._first, self._objective)
                self.prediction.settle()
                if self.attack.box:
                    with torch.no_grad():
                        piece = self.pieces[self.done % len(self.pieces)]
                        piece.copy_(self.observation.modality.project(piece))
                self.done += 1
                if (self.done - 1) % max(1, self.attack.steps // REPORTS) == 0 or self.done == self.attack.steps:
                    self._look(float(value), progress)

    def _look(self, objective: float, progress: ProgressCallback | None) -> None:
        """Report, and judge whether to go on."""
        attack = self.attack
        if progress is not None:
            progress(Progress(attack.name, self.done, attack.steps, objective, self.found().inputs))
        if not math.isfinite(objective) or not all(bool(torch.isfinite(piece).all()) for piece in self.pieces):
            self.finite = False
        elif objective < attack.target or self._before - objective < attack.stall * objective:
            self.stopped = True
        self._before = objective

    def found(self) -> Candidate:
        """The present guess with the copies of each example merged: inputs `(N, ...)`."""
        candidate = self.candidate()
        return Candidate(merged(candidate.inputs.detach(), candidate.labels, self.copies), candidate.labels.detach())

    def conclude(self, started: float) -> Reconstruction:
        """The reconstruction with its certificate."""
        return conclude(
            self.observation,
            self.found(),
            route=self.attack.name,
            steps=self.done,
            started=started,
            status="budget" if self.finite else "diverged",
        )

    def _objective(self) -> Tensor:
        candidate = self.candidate()
        fed = self.observation.modality.forward(candidate.inputs)
        labels = self._repeated(candidate.labels)
        total = candidate.inputs.new_zeros(())
        for number, target in enumerate(self.prediction.targets):
            total = total + self.objectives[number](self.prediction.predict(number, fed, labels), target)
        for weight, prior in self.priors:
            total = total + weight * prior(candidate.inputs)
        return total

    def _repeated(self, labels: Tensor) -> Tensor:
        return labels if self.copies == 1 else labels.repeat(self.copies, *[1] * (labels.ndim - 1))

    def _check_door(self) -> None:
        """One evaluation before work starts, so that a model that cannot be matched says so at once.

        It goes backward through the whole graph: asked for some leaves only, torch leaves out, silently, a branch that
        cannot be differentiated twice.
        """
        objective = self._objective()  # in which `client.train` says what the model does not take
        try:
            objective.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            message = str(error)
            signs = ("not implemented", "once_differentiable", "not differentiable", "is not diff")
            if any(words in message for words in signs):
                raise NotTwiceDifferentiable(
                    f"the loss cannot be differentiated twice: {message.splitlines()[0]}",
                    "switch that operator to a plain one: attn_implementation='eager' for fused attention, "
                    "F.layer_norm or a hand-written function for fused or custom kernels",
                ) from error
            raise


def _leaves(values: Tensor, size: int) -> list[Tensor]:
    """Leaves of `size` rows each."""
    if size >= len(values):
        return [values.requires_grad_()]
    return [piece.clone().requires_grad_() for piece in torch.split(values, size)]


def _batch_size(attack: GradientMatching, evidence: Evidence) -> int:
    if evidence.batch_size is None:
        raise UnknownToAdversary(
            f"{attack.name} needs the batch size, which the threat model '{evidence.observation.threat}' withholds and "
            "the rank of the head's gradient does not give",
            "grant 'num_examples'",
        )
    return evidence.batch_size
