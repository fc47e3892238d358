"""Property inference: whether the client's batch had a property, such as a sandal among the pictures; no
reconstruction.

The adversary computes updates of batches of its own, with and without the property, with the very weights that the
client had, and trains a classifier on them (Melis et al., "Exploiting unintended feature leakage in collaborative
learning", IEEE S&P 2019, arXiv:1805.04049).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fedseal.attack.base import replay
from fedseal.attack.evidence.evidence import Evidence
from fedseal.errors import BadConfig, UnknownToAdversary
from fedseal.intervals import wilson
from fedseal.norm import length
from fedseal.types import Batch, Candidate, Observation, Tensors

CHANCE = 0.5  # auxiliary batches have the property in one of two cases
HELD = 1 / 3  # share of the auxiliary examples and updates on which the classifier is tested


@dataclass(frozen=True)
class PropertyFinding:
    """What an update tells of a property.

    Args:
        probability: that the observed batch had it, as the classifier puts it; both cases are held equally likely.
        accuracy: on auxiliary updates of examples that the classifier was not trained on.
        interval: the accuracy's 95 % interval (Wilson, 1927).
        chance: the accuracy of a blind guess.
    """

    probability: float
    accuracy: float
    interval: tuple[float, float]
    chance: float = CHANCE

    @property
    def note(self) -> str:
        """What limits the finding, as a clause; empty if nothing does."""
        if self.interval[0] > self.chance:
            return ""
        return "the classifier is no better than chance on the attacker's own updates: the probability says nothing"


@dataclass(frozen=True)
class Sketch:
    """Features of an update: for each tensor and its absolute value at most `width` sums of entries with random signs,
    which keep lengths and angles on average (Alon, Matias and Szegedy, STOC 1996).

    Absolute values belong to it because the sign of an example's gradient depends on its label, and the property need
    not.
    """

    width: int
    seed: int

    def __call__(self, tensors: Tensors) -> list[Tensor]:
        """Features `(<= width,)` in float64, on the CPU, two for each tensor."""
        features = []
        for tensor in tensors.values():
            values = tensor.detach().double().cpu().flatten()
            features += [self._short(values), self._short(values.abs())]
        return features

    def _short(self, values: Tensor) -> Tensor:
        if len(values) <= self.width:
            return values
        filled = F.pad(values, (0, -len(values) % self.width))
        return (filled * _signs(len(filled), self.seed)).view(-1, self.width).sum(0)


@lru_cache(maxsize=256)
def _signs(count: int, seed: int) -> Tensor:
    """Plus and minus one at random, `(count,)`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (count,), generator=generator, dtype=torch.int8) * 2 - 1


@dataclass(frozen=True)
class Detector:
    """A trained classifier of updates made at one state of the model; `__call__` judges any of them.

    Args:
        scales: of each feature tensor, its root mean square over the auxiliary updates.
        center: mean of the scaled features, `(F,)`.
        weight: `(F,)`; with `bias` it gives the logit.
    """

    sketch: Sketch
    scales: Tensor = field(repr=False)
    center: Tensor = field(repr=False)
    weight: Tensor = field(repr=False)
    bias: float
    accuracy: float = math.nan
    interval: tuple[float, float] = (0.0, 1.0)

    def __call__(self, observation: Observation) -> PropertyFinding:
        """Judge an observed update."""
        logit = self.logit([round.update.tensors for round in observation.rounds])
        return PropertyFinding(1 / (1 + math.exp(-max(-700.0, logit))), self.accuracy, self.interval)

    def logit(self, rounds: Sequence[Tensors]) -> float:
        """The classifier's logit for the updates of one batch, one for each round."""
        parts = update_features(rounds, self.sketch)
        scaled = torch.cat([part / scale for part, scale in zip(parts, self.scales, strict=True)])
        return float((scaled - self.center) @ self.weight) + self.bias


@dataclass(frozen=True)
class PropertyInference:
    """Whether the observed batch had a property, judged by a classifier of updates that the adversary computes itself.

    Args:
        present: auxiliary examples with the property; nothing of the client's.
        absent: auxiliary examples without it.
        number: how many examples of a batch with the property have it; None for all.
        updates: auxiliary updates computed, half of them with the property; a third of them test the classifier.
        width: features of one tensor.
        ridge: weight decay of the classifier.

    Raises:
        BadConfig: too few examples or updates to train and test on, or inputs of two shapes.
    """

    present: Batch = field(repr=False)
    absent: Batch = field(repr=False)
    number: int | None = 1
    updates: int = 300
    width: int = 2048
    ridge: float = 0.01
    name: str = "property"

    def __post_init__(self) -> None:
        if min(len(self.present), len(self.absent)) < 6 or self.updates < 12:
            raise BadConfig(
                f"{len(self.present)} examples with the property, {len(self.absent)} without and {self.updates} "
                "updates are too few to train and to test on",
                "give 6 examples of each kind and 12 updates, better hundreds",
            )
        if self.present.inputs.shape[1:] != self.absent.inputs.shape[1:]:
            raise BadConfig("examples with and without the property differ in shape", "give inputs of one shape")

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> PropertyFinding:
        """Train the classifier for this observation's weights and judge its update.

        Raises:
            UnknownToAdversary: weights, local training or batch size are withheld.
        """
        return self.fit(observation, generator=generator)(observation)

    def fit(self, observation: Observation, *, generator: torch.Generator) -> Detector:
        """The classifier for updates of this many examples at these weights; the observed update is not looked at.

        Raises:
            UnknownToAdversary: weights, local training or batch size are withheld.
        """
        observation.require_state(self.name)
        observation.require_training(self.name)
        count = Evidence(observation).batch_size
        if count is None:
            raise UnknownToAdversary(
                f"{self.name} computes updates of batches as large as the client's, whose size the threat model "
                f"'{observation.threat}' withholds",
                "grant 'num_examples'",
            )
        number = count if self.number is None else self.number
        if not 1 <= number <= count:
            raise BadConfig(f"{number} examples with the property in a batch of {count}", f"give 1 to {count}")
        sketch = Sketch(self.width, int(torch.randint(2**31, (), generator=generator)))
        pools = [_split(len(pool), generator) for pool in (self.present, self.absent)]
        held = 2 * max(1, round(self.updates * HELD / 2))
        made = []
        for part, total in ((0, self.updates - held), (1, held)):
            rows, marks = [], torch.arange(total) % 2
            for mark in marks.tolist():
                batch = self._batch(pools[0][part], pools[1][part], number * mark, count, generator)
                rows.append(_updates(observation, batch, sketch))
            made.append((rows, marks.double()))
        return _trained(sketch, made[0], made[1], self.ridge)

    def _batch(self, having: Tensor, lacking: Tensor, number: int, count: int, generator: torch.Generator) -> Batch:
        """A batch with this many examples that have the property, at random places."""
        one = having[torch.randint(len(having), (number,), generator=generator)]
        two = lacking[torch.randint(len(lacking), (count - number,), generator=generator)]
        inputs = torch.cat([self.present.inputs[one], self.absent.inputs[two]])
        labels = torch.cat([self.present.labels[one], self.absent.labels[two]])
        order = torch.randperm(count, generator=generator)
        return Batch(inputs[order], labels[order])


def _split(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two disjoint parts of the auxiliary examples: for training and for the test."""
    order = torch.randperm(count, generator=generator)
    held = max(1, round(count * HELD))
    return order[held:], order[:held]


def _updates(observation: Observation, batch: Batch, sketch: Sketch) -> list[Tensor]:
    """Features of the updates that the client would have sent for this batch, of all rounds."""
    batch, training = batch.to(observation.like.device), observation.require_training("property")
    inputs = batch.inputs.to(observation.like.dtype) if batch.inputs.is_floating_point() else batch.inputs
    candidate = Candidate(inputs, batch.labels)
    return update_features([replay(observation, round, candidate, training) for round in observation.rounds], sketch)


def update_features(rounds: Sequence[Tensors], sketch: Sketch) -> list[Tensor]:
    """Sketches of one batch's updates, each update at unit length, and the logarithms of those lengths.

    Lengths vary by orders of magnitude among the batches of a trained model, and directions carry most of what tells.
    """
    parts: list[Tensor] = []
    for tensors in rounds:
        size = length(tensors.values())
        parts += [part / max(size, 1e-300) for part in sketch(tensors)]
        parts.append(torch.tensor([math.log(max(size, 1e-300))], dtype=torch.float64))
    return parts


def _trained(
    sketch: Sketch,
    training: tuple[list[list[Tensor]], Tensor],
    held: tuple[list[list[Tensor]], Tensor],
    ridge: float,
) -> Detector:
    """Logistic regression on the principal components of the scaled features, and its accuracy on the held updates."""
    (rows, marks), (others, truth) = training, held
    parts = [torch.stack(column) for column in zip(*rows, strict=True)]
    scales = torch.stack([part.square().sum(1).mean().sqrt().clamp_min(1e-300) for part in parts])
    features = torch.cat([part / scale for part, scale in zip(parts, scales, strict=True)], 1)
    center = features.mean(0)
    left, values, right = torch.linalg.svd(features - center, full_matrices=False)
    kept = values > 1e-6 * values[0]
    deviation = values[kept] / len(rows) ** 0.5
    # whitened: what tells the property is rarely among the directions in which updates vary most
    weight, bias = _logistic(left[:, kept] * len(rows) ** 0.5, marks, ridge)
    detector = Detector(sketch, scales, center, (weight / deviation) @ right[kept], bias)
    tested = torch.stack([torch.cat([p / s for p, s in zip(other, scales, strict=True)]) for other in others])
    right_ones = int((((tested - center) @ detector.weight + bias > 0) == (truth > 0.5)).sum())
    accuracy = right_ones / len(others)
    return Detector(sketch, scales, center, detector.weight, bias, accuracy, wilson(right_ones, len(others)))


def _logistic(features: Tensor, marks: Tensor, ridge: float) -> tuple[Tensor, float]:
    """Weights `(F,)` and bias of logistic regression on whitened features `(n, F)`."""
    parameters = features.new_zeros(features.shape[1] + 1).requires_grad_()
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        logits = features @ parameters[:-1] + parameters[-1]
        lost = F.binary_cross_entropy_with_logits(logits, marks) + ridge * parameters[:-1].square().sum()
        (parameters.grad,) = torch.autograd.grad(lost, [parameters])
        return lost.detach()

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = parameters.detach()
    return found[:-1], float(found[-1])
