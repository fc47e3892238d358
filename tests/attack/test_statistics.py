"""BatchNorm statistics: the batch's own are read off the sent buffers exactly, and they cost the batch nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack.cases import observed, pictures, seeded
from fedseal import Batch, LocalTraining, Observation, ThreatModel, attack, zoo
from fedseal.attack.labels import Inferred
from fedseal.attack.labels.gradinversion import GradInversionRule
from fedseal.attack.search.batchnorm import BatchStatistics, Source, normalized, public_moments, sent_moments
from fedseal.attack.search.matching import Adam, GradientMatching
from fedseal.attack.search.prior import Scene
from fedseal.client import state_of
from fedseal.errors import FedsealError, UnfitModel, UnfitUpdate, UnknownToAdversary

FEDSGD, ONE_STEP = LocalTraining.fedsgd(), LocalTraining.fedavg(lr=0.1)


def _resnet(momentum: float | None = 0.1) -> nn.Module:
    model = zoo.resnet(width=4, blocks=(1, 1), num_classes=5).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=seeded(1))
            module.running_var.uniform_(0.5, 2.0, generator=seeded(2))
    return model


def _inputs_of_norms(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """What every BatchNorm module is given, by torch's own hooks."""
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    model.train()(inputs)
    for hook in hooks:
        hook.remove()
    return seen


def _scene(observation: Observation) -> Scene:
    return Scene(observation, None, 1, observation.like.new_empty(0), seeded())


def _cost(observation: Observation, inputs: Tensor, source: Source = "sent") -> float:
    return BatchStatistics(source).bind(_scene(observation))(inputs).item()


@pytest.mark.parametrize("training", [FEDSGD, ONE_STEP], ids=["gradient", "one local step"])
@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_the_sent_buffers_give_the_batchs_own_statistics(training: LocalTraining, momentum: float | None) -> None:
    batch = pictures(3)
    observation = observed(_resnet(momentum), batch, training=training)
    layers = normalized(observation, observation.require_state("test"), torch.zeros_like(batch.inputs))
    read = sent_moments(observation.rounds[0], layers)
    truth = _inputs_of_norms(_resnet(momentum), batch.inputs)
    assert len(read) == len(truth) == 6
    for moments, seen in zip(read, truth, strict=True):
        torch.testing.assert_close(moments.mean, seen.mean((0, 2, 3)))
        torch.testing.assert_close(moments.variance, seen.var((0, 2, 3), correction=0))


def test_the_batch_costs_nothing_another_batch_does_and_so_does_the_batch_by_public_statistics() -> None:
    batch = pictures(3)
    observation = observed(_resnet(), batch)
    assert _cost(observation, batch.inputs) < 1e-12
    assert _cost(observation, batch.inputs.flip(0)) < 1e-12
    assert _cost(observation, pictures(3, seed=9).inputs) > 0.01
    assert _cost(observation, batch.inputs, "public") > 0.01


def test_public_statistics_are_those_in_the_weights() -> None:
    model, batch = _resnet(), pictures(2)
    observation = observed(model, batch)
    layers = normalized(observation, observation.require_state("test"), batch.inputs)
    first = public_moments(observation.rounds[0], layers)[0]
    torch.testing.assert_close(first.mean, dict(model.named_buffers())["1.running_mean"])
    torch.testing.assert_close(first.variance, dict(model.named_buffers())["1.running_var"])


def test_the_slope_reaches_the_inputs_and_nothing_is_written() -> None:
    batch = pictures(2)
    observation = observed(_resnet(), batch)
    before = {name: tensor.clone() for name, tensor in observation.require_state("test").items()}
    guess = pictures(2, seed=4).inputs.requires_grad_()
    value = BatchStatistics("sent").bind(_scene(observation))(guess)
    (grad,) = torch.autograd.grad(value, guess)
    assert bool(torch.isfinite(grad).all())
    assert float(grad.abs().max()) > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in observation.require_state("test").items())


class Functional(nn.Module):
    """BatchNorm without a module."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 5)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("var", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.var, Tensor)
        out: Tensor = self.head(F.batch_norm(x, self.mean, self.var, training=self.training, momentum=0.3).flatten(1))
        return out


def test_a_functional_batch_norm_is_seen_too() -> None:
    batch = pictures(3, dtype=torch.float32)
    observation = observed(Functional(), batch)
    assert _cost(observation, batch.inputs) < 1e-4
    assert _cost(observation, 1 - batch.inputs) > 1e-2


class Shared(nn.Module):
    """One BatchNorm, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.norm(x).relu()).flatten(1))
        return out


WITHHELD = ThreatModel("no buffers", ThreatModel.honest_but_curious().grants - {"buffers"})
REFUSED: dict[str, tuple[nn.Module, LocalTraining, ThreatModel | None, type[FedsealError], str]] = {
    "no BatchNorm": (zoo.lenet(size=8, width=4, num_classes=5), FEDSGD, None, UnfitModel, "no BatchNorm"),
    "buffers withheld": (_resnet(), FEDSGD, WITHHELD, UnknownToAdversary, "grant 'buffers'"),
    "several steps": (_resnet(), LocalTraining.fedavg(lr=0.1, epochs=2), None, UnfitUpdate, "several local steps"),
    "steps over parts": (_resnet(), LocalTraining.fedavg(lr=0.1, batch_size=2), None, UnfitUpdate, "several local"),
    "evaluation": (_resnet(), LocalTraining.fedsgd(mode="eval"), None, UnfitUpdate, "as in evaluation"),
    "shared": (Shared(), FEDSGD, None, UnfitUpdate, "more than once"),
}


def _case(name: str) -> Observation:
    model, training, threat, _, _ = REFUSED[name]
    dtype = next(model.parameters()).dtype
    return observed(model, pictures(4, dtype=dtype), training=training, threat=threat)


@pytest.mark.parametrize("name", REFUSED)
def test_statistics_that_are_not_the_batchs_are_refused_with_the_reason(name: str) -> None:
    _, _, _, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        BatchStatistics("sent").bind(_scene(_case(name)))


@pytest.mark.parametrize("name", REFUSED)
def test_any_takes_the_next_best_instead(name: str) -> None:
    observation = _case(name)
    value = _cost(observation, torch.rand(4, 3, 8, 8, generator=seeded()).to(observation.like), "any")
    assert (value == 0) == (name == "no BatchNorm")


def test_buffers_that_were_not_sent_are_missed_by_name() -> None:
    observation = observed(_resnet(), pictures(2))
    round_ = observation.rounds[0]
    bare = replace(observation, rounds=(replace(round_, update=replace(round_.update, buffers=None)),))
    with pytest.raises(UnknownToAdversary, match="not sent or are withheld"):
        BatchStatistics("sent").bind(_scene(bare))


def test_the_prior_draws_a_search_to_the_batchs_statistics() -> None:
    model = zoo.resnet(width=4, blocks=(1,), num_classes=5)
    batch = Batch(zoo.photos(size=8).inputs[:2], torch.tensor([1, 3]))
    state, observation = state_of(model), observed(model, batch)
    start = 0.1 + 0.01 * pictures(2, dtype=torch.float32).inputs
    search = GradientMatching(
        "m",
        labels=Inferred(GradInversionRule()),
        priors=((100.0, BatchStatistics("sent")),),
        optimizer=Adam(lr=0.03, signed=False),
        start=start,
        steps=60,
    )
    found = search(observation, generator=seeded())
    assert found.inputs is not None
    assert _cost(observation, found.inputs) < 0.3 * _cost(observation, start)
    assert all(torch.equal(state[name], tensor) for name, tensor in state_of(model).items())


@pytest.mark.parametrize("source", ["sent", "public", "any"])
def test_gradinversion_runs_with_every_source(source: str) -> None:
    model, batch = zoo.resnet(width=4, blocks=(1,), num_classes=5), pictures(2, dtype=torch.float32)
    found = attack.parse(f"gradinversion:steps=3,seeds=2,statistics={source}")(
        observed(model, batch), generator=seeded()
    )
    assert found.inputs is not None
    assert found.outcome.steps == 6
