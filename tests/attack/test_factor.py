"""Tensors that were not sent: what is left of a leak is read, and what is missing is named."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from attack.cases import initialized, pictures, psnr, seeded
from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, local_update
from fedseal.attack.batch.cocktail_party import CocktailParty
from fedseal.attack.batch.separate import Separation
from fedseal.attack.batch.spear import Spear
from fedseal.attack.equations.factor import direction
from fedseal.attack.layers.layerwise import Layerwise
from fedseal.attack.layers.linear import LinearFirstLayer
from marks import slowly

SERVER, EAVESDROPPER = ThreatModel.honest_but_curious(), ThreatModel.eavesdropper()


def _frozen(model: nn.Module, *names: str) -> nn.Module:
    model = copy.deepcopy(model)
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


def _observed(
    model: nn.Module,
    batch: Batch,
    threat: ThreatModel,
    training: LocalTraining = LocalTraining.fedsgd(),  # noqa: B008
) -> Observation:
    update = local_update(model, batch, training=training)
    return threat.observe(model, update, modality=Image(shape=(1, 6, 6)))


def _perceptron(activation: nn.Module, bias: bool = True, width: int = 20) -> nn.Module:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(36, width, bias), activation, nn.Linear(width, 5))
    return initialized(layers, 0, torch.float32)


class Shifted(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.network((x - 0.3) / 0.3)
        return out


PICTURE = pictures(shape=(1, 6, 6), dtype=torch.float32)
UNBIASED = {
    "frozen bias": _frozen(_perceptron(nn.ReLU()), "1.bias"),
    "no bias": _perceptron(nn.Tanh(), bias=False),
    "frozen bias, normalized": Shifted(_frozen(_perceptron(nn.ReLU()), "1.bias")),
}


@pytest.mark.parametrize("training", [LocalTraining.fedsgd(), LocalTraining.fedavg(lr=0.1, epochs=2)])
@pytest.mark.parametrize("name", UNBIASED)
def test_without_a_gradient_by_the_bias_the_replay_gives_the_size(name: str, training: LocalTraining) -> None:
    found = LinearFirstLayer()(_observed(UNBIASED[name], PICTURE, SERVER, training), generator=seeded())
    assert psnr(found, PICTURE) > 100
    assert "whose replay" in found.outcome.note


@pytest.mark.parametrize("name", UNBIASED)
def test_without_the_weights_the_valid_range_gives_it_and_nothing_is_certain(name: str) -> None:
    full = Batch(PICTURE.inputs.clone(), PICTURE.labels)
    full.inputs.view(-1)[:2] = torch.tensor([0.0, 1.0])
    found = LinearFirstLayer()(_observed(UNBIASED[name], full, EAVESDROPPER), generator=seeded())
    assert psnr(found, full) > 100  # this picture fills the range
    assert "up to a factor" in found.outcome.note
    assert not bool(found.certain.any())


def test_two_examples_have_no_common_direction() -> None:
    two = pictures(2, (1, 6, 6), dtype=torch.float32)
    apart = [
        direction(_observed(UNBIASED["no bias"], batch, SERVER).update.tensors["1.weight"])[1]
        for batch in (two, PICTURE)
    ]
    assert apart[0] > 1e-2
    assert apart[1] < 1e-6


@pytest.mark.parametrize("threat", [SERVER, EAVESDROPPER], ids=lambda threat: threat.name)
def test_a_frozen_first_layer_is_named_by_every_route_that_reads_it(threat: ThreatModel) -> None:
    model = _frozen(_perceptron(nn.ReLU()), "1.weight")
    for route in (LinearFirstLayer(), Spear(), CocktailParty(steps=2)):
        found = route(_observed(model, PICTURE, threat), generator=seeded())
        assert found.inputs is None
        assert "'1.weight' (frozen)" in found.outcome.note


NETWORKS = {
    "perceptron": _perceptron(nn.ReLU(), width=48),
    "convolutions": initialized(
        nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 5)
        ),
        0,
        torch.float32,
    ),
}


@pytest.mark.parametrize("threat", [SERVER, EAVESDROPPER], ids=lambda threat: threat.name)
@pytest.mark.parametrize("name", slowly(NETWORKS, ["perceptron"]))
def test_whichever_tensor_is_frozen_every_route_gives_a_result_or_a_reason(name: str, threat: ThreatModel) -> None:
    model = NETWORKS[name]
    batch = Batch(pictures(2, (1, 6, 6), dtype=torch.float32).inputs, torch.tensor([1, 3]))
    routes = (LinearFirstLayer(), Spear(starts=128), Layerwise(matching_steps=2), Separation(steps=4))
    for frozen, _ in model.named_parameters():
        for count in (1, 2):
            observation = _observed(_frozen(model, frozen), batch[:count], threat)
            for route in (*routes, CocktailParty(steps=2)):
                found = route(observation, generator=seeded())
                assert found.inputs is None or bool(found.inputs.isfinite().all())
                assert found.inputs is not None or found.outcome.note


@pytest.mark.parametrize("loss", ["classes", "findings"])
def test_without_a_bias_the_targets_that_may_be_are_tried(loss: str) -> None:
    """Of two classes, or of findings, several targets explain the head's gradient, by inputs of opposite sign."""
    for seed in range(4):
        drawn = torch.Generator().manual_seed(seed)
        inputs = torch.rand(1, 1, 4, 4, generator=drawn).double()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).double()
        if loss == "classes":
            labels, training = torch.tensor([seed % 2]), LocalTraining.fedsgd()
        else:
            labels = torch.tensor([[float(seed % 2), float(seed // 2)]]).double()
            training = LocalTraining.fedsgd(loss=nn.BCEWithLogitsLoss())
        update = local_update(net, Batch(inputs, labels), training=training)
        observation = ThreatModel.honest_but_curious().observe(net, update, modality=Image(shape=(1, 4, 4)))
        found = LinearFirstLayer()(observation, generator=drawn)
        assert found.inputs is not None
        assert float((found.inputs - inputs).abs().max()) < 1e-6
        assert found.labels is not None
        assert torch.equal(found.labels, labels)


@pytest.mark.parametrize("hidden", [False, True], ids=["head alone", "a layer before it"])
def test_of_many_findings_the_signs_of_the_heads_gradient_leave_two_answers(hidden: bool) -> None:
    for seed in range(4):
        drawn = torch.Generator().manual_seed(seed)
        inputs = torch.rand(1, 1, 4, 4, generator=drawn).double()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            before = (nn.Linear(16, 12, bias=False), nn.Tanh()) if hidden else ()
            net = nn.Sequential(nn.Flatten(), *before, nn.Linear(12 if hidden else 16, 9, bias=False)).double()
        labels = torch.randint(2, (1, 9), generator=drawn).double()
        update = local_update(net, Batch(inputs, labels), training=LocalTraining.fedsgd(loss=nn.BCEWithLogitsLoss()))
        observation = ThreatModel.honest_but_curious().observe(net, update, modality=Image(shape=(1, 4, 4)))
        found = LinearFirstLayer()(observation, generator=drawn)
        assert found.inputs is not None
        assert float((found.inputs - inputs).abs().max()) < 1e-6
        assert found.labels is not None
        assert torch.equal(found.labels, labels)
