"""The attack that takes a batch apart, its labels, and what it knows of inner layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attack.cases import initialized, observed, pictures, seeded
from fedseal import Batch, Image, LocalTraining, ThreatModel, local_update, zoo
from fedseal.attack.batch.separate import Separation
from fedseal.attack.equations.recursion import reach
from fedseal.attack.equations.separation import separate
from fedseal.attack.evidence.activations import activation
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.labels import METHODS
from fedseal.attack.specification import parse
from fedseal.client import architecture, state_of
from fedseal.metric.match import match


def _leaky(seed: int = 0) -> nn.Module:
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8 * 36, 6)]
    return initialized(nn.Sequential(*layers), seed)


def _worst(batch: Batch, found: Tensor) -> float:
    order = [place for place in match(batch.inputs, found) if place is not None]
    return float((batch.inputs - found[order]).abs().max())


@pytest.mark.parametrize("labels", [[0, 1, 2], [4, 4, 1]])
def test_a_determined_batch_is_recovered_exactly_with_its_labels(labels: list[int]) -> None:
    batch = Batch(pictures(3, (1, 6, 6)).inputs, torch.tensor(labels))
    found = Separation()(observed(_leaky(), batch), generator=seeded())
    assert found.outcome.status == "exact"
    assert found.labels is not None
    assert found.labels.tolist() == sorted(labels)
    assert found.inputs is not None
    assert _worst(batch, found.inputs) < 1e-6


def test_where_nothing_is_determined_the_deepest_known_layer_leads_and_the_result_claims_no_proof() -> None:
    photos = zoo.photos(size=16)
    batch = Batch(photos.inputs[:7], torch.tensor([7] * 7))
    found = Separation(steps=200)(observed(zoo.lenet(size=16), batch), generator=seeded())
    assert found.outcome.status == "budget"
    assert "'2.weight'" in found.outcome.note
    assert found.inputs is not None
    order = [place for place in match(batch.inputs, found.inputs) if place is not None]
    guess = (batch.inputs - batch.inputs.mean()).square().mean()
    assert float((batch.inputs - found.inputs[order]).square().mean()) < 0.5 * float(guess)


def test_behind_relu_and_pooling_the_input_of_the_first_linear_layer_is_known() -> None:
    photos = zoo.photos(size=8, num_classes=10)
    model, batch = zoo.convnet(size=8, width=16), photos[:3]
    evidence = Evidence(observed(model, batch))
    separated = separate(evidence, batch.labels, generator=seeded())
    known = reach(evidence, separated, seeded())
    assert isinstance(model, nn.Sequential)
    truth = model[:11](batch.inputs).detach().double()
    assert (known.weight, known.side) == ("11.weight", "input")
    assert float((torch.cdist(truth, known.value).min(1).values / truth.norm(dim=1)).max()) < 1e-3


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("weight", ["0.weight", "3.weight"])
def test_activations_are_those_that_hooks_see(weight: str, side: str) -> None:
    model, inputs = _leaky(), pictures(2, (1, 6, 6)).inputs
    seen: dict[str, Tensor] = {}
    module = dict(model.named_modules())[weight.split(".")[0]]
    module.register_forward_hook(lambda _, given, out: seen.update(input=given[0], output=out))
    model(inputs)
    bare, state = architecture(_leaky()), state_of(_leaky())
    caught = activation(bare, state, weight, side, inputs)  # type: ignore[arg-type]
    assert torch.equal(caught, seen[side])


def test_activations_are_differentiable() -> None:
    bare, state = architecture(_leaky()), state_of(_leaky())
    inputs = pictures(2, (1, 6, 6)).inputs.requires_grad_()
    (grad,) = torch.autograd.grad(activation(bare, state, "3.weight", "input", inputs).sum(), inputs)
    assert bool(grad.any())


def test_best_names_repeated_labels_without_being_told_the_batch_size_and_certifies_none() -> None:
    photos = zoo.photos(size=16)
    batch = Batch(photos.inputs[:4], torch.tensor([30, 30, 4, 30]))
    threat = ThreatModel("no count", frozenset({"state", "training", "single_updates"}))
    found = METHODS["best"].infer(observed(zoo.lenet(size=16), batch, threat=threat), generator=seeded())
    assert found.labels.tolist() == [4, 30, 30, 30]
    assert not found.certified  # four examples explain the update, and so may five
    assert "number of examples is withheld" in found.note


def test_best_counts_where_it_cannot_separate_and_certifies_nothing_then() -> None:
    batch = Batch(pictures(40, (1, 8, 8)).inputs.float(), torch.arange(40) % 5)
    model = zoo.mlp(inputs=64, widths=(16,), num_classes=5, activation="tanh")
    found = METHODS["best"].infer(observed(model, batch), generator=seeded())
    assert not found.certified
    assert int(found.counts.sum()) == 40


def test_refusals_are_reasons() -> None:
    batch = Batch(pictures(3, (1, 6, 6)).inputs, torch.tensor([0, 1, 2]))
    found = Separation()(observed(_leaky(), batch, threat=ThreatModel.eavesdropper()), generator=seeded())
    assert found.outcome.status == "not_applicable"
    assert "withholds" in found.outcome.note


def test_a_batch_behind_a_layer_of_one_unit_is_open_and_no_crash() -> None:
    """All signals are parallel there, and their normal matrix singular (world 3575)."""
    torch.manual_seed(9610)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(25, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1), nn.Linear(1, 24), nn.Linear(24, 10)
    ).double()
    batch = Batch(torch.rand(4, 1, 5, 5).double(), torch.randint(10, (4,)))
    update = local_update(model, batch, training=LocalTraining.fedsgd())
    observation = ThreatModel.honest_but_curious().observe(model, update, modality=Image((1, 5, 5)))
    found = parse("separation:steps=5")(observation, generator=torch.Generator().manual_seed(0))
    assert found.outcome.status in ("budget", "not_applicable", "diverged")
