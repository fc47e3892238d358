"""A batch taken apart at the head or at the layer before it: features, labels and the edge of precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attack.cases import initialized, observed, pictures, seeded
from fedseal import Batch, LocalTraining, ThreatModel, zoo
from fedseal.attack.equations import separation
from fedseal.attack.equations.separation import mixture_of, separate, settle, sites
from fedseal.attack.equations.unmixing import Mixture, evaluate_mixture, jacobian_of, mass_of, normal_of
from fedseal.attack.evidence.evidence import Evidence

LABELS = {"distinct": [0, 1, 2, 3], "two equal": [0, 1, 1, 3], "all equal": [2, 2, 2, 2]}


def _net(classes: int = 12, activation: nn.Module | None = None, bias: bool = True, seed: int = 0) -> nn.Sequential:
    layers = [nn.Flatten(), nn.Linear(48, 20), activation or nn.Sigmoid(), nn.Linear(20, classes, bias=bias)]
    model = initialized(nn.Sequential(*layers), seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    assert isinstance(model, nn.Sequential)
    return model


def _batch(labels: list[int], seed: int = 0) -> Batch:
    return Batch(pictures(len(labels), (3, 4, 4), seed=seed).inputs, torch.tensor(labels))


def _worst(truth: Tensor, found: Tensor) -> float:
    """Relative error of the worst example, whatever the order."""
    distance: Tensor = torch.cdist(truth.double(), found).min(1).values / truth.double().norm(dim=1)
    return float(distance.max())


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_head_gives_every_examples_features_also_where_labels_repeat(labels: str, seed: int) -> None:
    model, batch = _net(seed=seed), _batch(LABELS[labels], seed)
    found = separate(Evidence(observed(model, batch)), batch.labels, generator=seeded())
    assert found.certified
    assert found.site.is_head
    assert _worst(model[:3](batch.inputs).detach(), found.features) < 1e-4
    assert bool(found.visible.all())


def test_deltas_are_softmax_minus_one_hot() -> None:
    model, batch = _net(), _batch([3, 1, 0, 2])
    found = separate(Evidence(observed(model, batch)), batch.labels, generator=seeded())
    expected = model(batch.inputs).softmax(-1) - torch.eye(12).double()[batch.labels]
    assert _worst(expected.detach(), found.deltas) < 1e-6


def test_a_head_without_bias_is_separated_too() -> None:
    model, batch = _net(bias=False), _batch([3, 1, 0])
    found = separate(Evidence(observed(model, batch)), batch.labels, generator=seeded())
    assert found.certified
    assert _worst(model[:3](batch.inputs).detach(), found.features) < 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_wrong_labels_are_not_certified_and_exchanged_for_the_right_ones(seed: int) -> None:
    model, batch = _net(seed=seed), _batch([0, 1, 1, 3], seed)
    evidence = Evidence(observed(model, batch))
    wrong = torch.tensor([0, 1, 2, 3])
    assert not separate(evidence, wrong, generator=seeded(), rounds=1).certified
    found = settle(evidence, wrong, generator=seeded())
    assert found.certified
    assert found.labels.tolist() == [0, 1, 1, 3]


def test_more_examples_than_classes_are_separated_behind_a_relu() -> None:
    hidden = [nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 3)]
    model, batch = initialized(nn.Sequential(*hidden), 1), _batch([0, 1, 1, 2, 0], 3)
    evidence = Evidence(observed(model, batch))
    assert [site.is_head for site in sites(evidence)] == [False]
    found = separate(evidence, batch.labels, generator=seeded())
    assert found.certified
    assert _worst(batch.inputs.flatten(1), found.features) < 1e-6


def test_a_well_classified_example_is_reported_below_the_edge_of_precision() -> None:
    """Its part of the gradient is below what float32 keeps of the others'."""
    model, batch = _net(), _batch([0, 1, 2])
    model.float()
    inputs = batch.inputs.float()
    with torch.no_grad():  # the head is bent so that the first example is right beyond doubt
        features = model[:3](inputs)
        basis = torch.linalg.pinv(features - features.mean(0))
        head = list(model.parameters())[2]
        head[0] += 60 * basis[:, 0]
    found = separate(Evidence(observed(model, Batch(inputs, batch.labels))), batch.labels, generator=seeded())
    truth = model[:3](inputs).detach().double()
    error = (truth - found.features).norm(dim=1) / truth.norm(dim=1)
    assert not bool(found.visible[0])
    assert bool((error[found.visible] < 1e-2).all())


def _random_mixture(inside: bool) -> tuple[Mixture, Tensor, Tensor]:
    middle = [nn.ReLU(), nn.Linear(20, 7)] if inside else []
    rows = 20 if inside else 7
    model = initialized(nn.Sequential(nn.Flatten(), nn.Linear(48, rows), *middle), 5)
    evidence = Evidence(observed(model, _batch([0, 1, 2, 3])))
    site = sites(evidence)[0]
    assert site.is_head != inside
    return mixture_of(evidence, site), torch.tensor([[0, 1, 2, 3]]), torch.randn(1, 4, 4, generator=seeded(7)).double()


@pytest.mark.parametrize("inside", [False, True])
def test_the_normal_matrix_is_that_of_the_residuals_jacobian_by_autograd(inside: bool) -> None:
    mixture, labels, codes = _random_mixture(inside)
    mass = mass_of(mixture, labels)

    def residual(flat: Tensor) -> Tensor:
        return evaluate_mixture(mixture, flat.view(1, 4, 4), mass).residual.flatten()

    dense = torch.autograd.functional.jacobian(residual, codes.flatten())  # type: ignore[no-untyped-call]
    state = evaluate_mixture(mixture, codes, mass)
    normal = normal_of(mixture, state, jacobian_of(mixture, state))[0]
    assert torch.allclose(normal, dense.T @ dense, rtol=1e-9, atol=1e-9 * float(normal.abs().max()))


def test_what_cannot_be_separated_is_refused_with_the_reason() -> None:
    batch = _batch([0, 1, 2, 3])
    for observation, reason in (
        (observed(_net(classes=4), batch), "at most 3"),
        (observed(_net(), batch, threat=ThreatModel.eavesdropper()), "withholds"),
        (observed(_net(), batch, training=LocalTraining.fedavg(lr=0.1, epochs=2)), "several local steps"),
        (observed(_net(), batch, training=LocalTraining.fedsgd(loss=_other)), "cross-entropy"),
    ):
        found = separation.separation_obstacle(Evidence(observation))
        assert found is not None
        assert reason in found


def _other(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.sum(1) - labels).square().mean()


def test_the_observation_may_be_in_float32_and_small_nets_of_the_zoo_are_certified() -> None:
    photos = zoo.photos(size=16)
    model, batch = zoo.lenet(size=16, seed=1), Batch(photos.inputs[:4], torch.tensor([5, 5, 5, 9]))
    found = settle(Evidence(observed(model, batch)), torch.tensor([5, 5, 9, 9]), generator=seeded())
    assert found.certified
    assert found.labels.tolist() == [5, 5, 5, 9]
