"""Small cases and attacks with known results, for the audit's tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedseal.audit import Case, Record
from fedseal.errors import UnknownToAdversary
from fedseal.types import (
    Attack,
    Batch,
    LocalTraining,
    Observation,
    Outcome,
    Progress,
    ProgressCallback,
    Reconstruction,
)

SHAPE = (1, 12, 12)
CLASSES = 3


def pictures(count: int, seed: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def linear_model() -> nn.Module:
    layer = nn.Linear(SHAPE[1] * SHAPE[2], CLASSES)
    with torch.no_grad():
        layer.weight.copy_(0.1 * torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1)))
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def small_case(examples: int = 4, training: LocalTraining | None = None) -> Case:
    batch = Batch(pictures(examples, 0), torch.arange(examples) % CLASSES)
    return Case(linear_model(), batch, training or LocalTraining.fedsgd(), gallery=pictures(5, 7))


def ended(inputs: Tensor | None, labels: Tensor | None = None, steps: int = 0) -> Reconstruction:
    return Reconstruction(inputs, labels, Outcome("budget", "fake", 0.5, steps, 0.01))


@dataclass(frozen=True)
class Divide:
    """x = dW_i / db_i, exact for a linear layer and one example; its calls are counted."""

    name: str = "divide"
    calls: list[str] = field(default_factory=list, repr=False)

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        self.calls.append(observation.threat)
        weight, bias = observation.update.tensors["1.weight"], observation.update.tensors["1.bias"]
        row = int(bias.abs().argmax())
        return ended((weight[row] / bias[row]).view(1, *SHAPE), bias.argmin().view(1))


@dataclass(frozen=True)
class Guess:
    """Noise from the generator; the steps are noise as well."""

    name: str = "guess"
    steps: int = 3
    examples: int = 1

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        inputs = torch.empty(0)
        for step in range(self.steps):
            inputs = torch.rand(self.examples, *SHAPE, generator=generator)
            if progress is not None:
                progress(Progress("guess", step + 1, self.steps, float(step), inputs))
        return ended(inputs, torch.zeros(self.examples, dtype=torch.long), self.steps)


@dataclass(frozen=True)
class Told:
    """Answers what the test says, whatever it observes; reports the answer as one step."""

    answer: Callable[[], Reconstruction] = field(repr=False)
    name: str = "told"

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        found = self.answer()
        if progress is not None:
            progress(Progress(self.name, 1, 1, 0.0, found.inputs))
        return found


def raising(error: BaseException) -> Attack:
    def answer() -> Reconstruction:
        raise error

    return Told(answer, "raising")


def refusing() -> Attack:
    return raising(UnknownToAdversary("this attack needs the moon", "grant it"))


def timeless(record: Record) -> dict[str, object]:
    """The record without what differs from run to run: times and the folder."""
    content = record.model_dump(exclude={"folder": True, "header": {"created", "given"}})
    for cell in content["cells"]:
        del cell["seconds"], cell["check_seconds"]
    return content
