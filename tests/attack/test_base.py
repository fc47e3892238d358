"""The certificate, and the combinators that choose by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from attack.cases import FEDSGD, initialized, observed, pictures, seeded
from fedseal import Batch, Candidate, LocalTraining, Observation, Outcome, Reconstruction, ThreatModel, zoo
from fedseal.attack import best_of, cascade, restarts
from fedseal.attack.base import conclude, precision, residual
from fedseal.norm import distance
from fedseal.types import Attack, ProgressCallback, Status

MODELS: dict[str, nn.Module] = {
    "lenet": zoo.lenet(size=8, num_classes=5, width=4),
    "batch norm": zoo.resnet(width=4, blocks=(1,), num_classes=5),
    "attention": zoo.vit(size=8, width=8, depth=1, heads=2, num_classes=5),
}
TRAININGS = (FEDSGD, LocalTraining.fedsgd(mode="eval"), LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=2))


@pytest.mark.parametrize("training", TRAININGS, ids=lambda t: f"{t.kind}-{t.mode}")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_truth_replays_to_rounding_and_a_wrong_label_does_not(
    name: str, training: LocalTraining, dtype: torch.dtype
) -> None:
    model, batch = MODELS[name].to(dtype), pictures(4, dtype=dtype)
    observation = observed(model, batch, training=training)
    right = residual(observation, Candidate(batch.inputs, batch.labels))
    wrong = residual(observation, Candidate(batch.inputs, (batch.labels + 1) % 5))
    assert right is not None
    assert wrong is not None
    assert right <= precision(observation)
    assert wrong > 0.1


def test_a_residual_is_a_plain_relative_distance() -> None:
    """Against numbers worked out by hand: off by (3, 4) from (0, 10), in two tensors."""
    observed_, replayed = (
        {"a": torch.tensor([0.0]), "b": torch.tensor([10.0])},
        {"a": torch.tensor([3.0]), "b": torch.tensor([14.0])},
    )
    assert distance(observed_, replayed) == pytest.approx(0.5)
    assert distance(observed_, observed_) == 0.0


def test_the_worst_round_counts() -> None:
    model, batch = MODELS["lenet"].float(), pictures(dtype=torch.float32)
    observation = observed(model, batch)
    other = observed(model, Batch(1 - batch.inputs, batch.labels))
    both = replace(observation, rounds=(*observation.rounds, *other.rounds))
    values = [residual(o, Candidate(batch.inputs, batch.labels)) for o in (observation, other, both)]
    assert values[2] == values[1] != values[0]


def test_nobody_replays_without_weights_or_training() -> None:
    batch = pictures(dtype=torch.float32)
    truth = Candidate(batch.inputs, batch.labels)

    def less(missing: str) -> ThreatModel:
        return ThreatModel("less", ThreatModel.honest_but_curious().grants - {missing})

    for missing in ("state", "training"):
        steps = observed(MODELS["lenet"].float(), batch, threat=less(missing), training=LocalTraining.fedavg(lr=0.1))
        assert residual(steps, truth) is None
    assert residual(observed(MODELS["lenet"].float(), batch, threat=less("state")), truth) is None
    # a gradient says of itself that no step was taken
    assert residual(observed(MODELS["lenet"].float(), batch, threat=less("training")), truth) == 0.0


def test_a_conclusion_says_converged_only_at_precision_and_diverged_where_not_finite() -> None:
    batch = pictures(dtype=torch.float32)
    observation = observed(MODELS["lenet"].float(), batch)

    def status(inputs: Tensor) -> Outcome:
        return conclude(observation, Candidate(inputs, batch.labels), route="r", steps=1, started=0.0).outcome

    assert status(batch.inputs).status == "converged"
    assert status(batch.inputs + 0.01).status == "budget"
    broken = batch.inputs.clone()
    broken[0, 0, 0, 0] = torch.nan
    assert (status(broken).status, status(broken).residual) == ("diverged", None)


def test_soft_labels_are_reported_as_the_likeliest_class() -> None:
    batch = pictures(dtype=torch.float32)
    soft = torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1]])
    done = conclude(
        observed(MODELS["lenet"].float(), batch), Candidate(batch.inputs, soft), route="r", steps=1, started=0.0
    )
    assert done.labels is not None
    assert done.labels.tolist() == [2]


@dataclass
class Scripted:
    """Ends as told, one outcome a call, and draws one number each."""

    script: Sequence[tuple[Status, float | None]]
    name: str = "scripted"
    calls: list[float] = field(default_factory=list)

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        status, value = self.script[len(self.calls)]
        self.calls.append(float(torch.rand((), generator=generator)))
        inputs = None if status in ("diverged", "not_applicable") else torch.full((1, 1), float(len(self.calls)))
        return Reconstruction(inputs, None, Outcome(status, self.name, value, steps=10, seconds=0.0))


def _run(attack: Attack) -> Reconstruction:
    return attack(observed(MODELS["lenet"].float(), pictures(dtype=torch.float32)), generator=seeded())


def _which(found: Reconstruction) -> float | None:
    return None if found.inputs is None else found.inputs.item()


def test_best_of_keeps_the_smallest_residual_of_all_its_starts() -> None:
    inner = Scripted([("budget", 0.5), ("diverged", None), ("budget", 0.2), ("budget", 0.3)])
    found = _run(best_of(4, inner))
    assert (_which(found), found.outcome.residual, found.outcome.steps) == (3.0, 0.2, 40)
    assert len(set(inner.calls)) == 4  # every start is another draw
    assert best_of(4, inner).name == "best_of(4, scripted)"


@pytest.mark.parametrize("status", ["exact", "converged"])
def test_best_of_stops_at_a_certificate(status: Status) -> None:
    inner = Scripted([("budget", 0.5), (status, 1e-7), ("budget", 0.0)])
    assert _which(_run(best_of(3, inner))) == 2.0
    assert len(inner.calls) == 2


def test_restarts_run_again_only_after_divergence() -> None:
    inner = Scripted([("diverged", None), ("budget", 0.9), ("budget", 0.1)])
    assert _which(_run(restarts(3, inner))) == 2.0
    calm = Scripted([("budget", 0.9), ("budget", 0.1)])
    assert _which(_run(restarts(2, calm))) == 1.0
    assert len(calm.calls) == 1
    hopeless = Scripted([("diverged", None)] * 3)
    assert _run(restarts(3, hopeless)).outcome.status == "diverged"
    assert len(hopeless.calls) == 3


def test_a_cascade_stops_at_the_first_certificate_and_else_keeps_the_smallest_residual() -> None:
    weak, sure, late = Scripted([("budget", 0.5)]), Scripted([("exact", 1e-8)], "sure"), Scripted([("budget", 0.0)])
    assert _run(cascade(weak, sure, late)).outcome.route == "sure"
    assert late.calls == []
    parts = [Scripted([("not_applicable", None)]), Scripted([("budget", 0.5)]), Scripted([("budget", 0.3)], "best")]
    assert _run(cascade(*parts)).outcome.route == "best"
    assert cascade(weak, sure).name == "cascade(scripted, sure)"


def test_choices_are_blind_to_a_residual_without_inputs() -> None:
    """A diverged start may carry a number; it holds no picture."""
    assert _which(_run(best_of(2, Scripted([("budget", 0.5), ("diverged", 0.0)])))) == 1.0


def test_precision_is_that_of_the_updates_dtype() -> None:
    model, batch = initialized(nn.Sequential(nn.Flatten(), nn.Linear(192, 5))), pictures()
    assert precision(observed(model, batch)) == pytest.approx(100 * 2.0**-52)
    single = Batch(batch.inputs.float(), batch.labels)
    assert precision(observed(model.float(), single)) == pytest.approx(100 * 2.0**-23)
