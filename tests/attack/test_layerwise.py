"""The closed form for layers in a row: exact where the equations determine the picture, honest where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from attack.cases import initialized, observed, pictures, psnr, seeded
from attack.nets import ACTIVATIONS, layers_of, rows_of_layers
from attack.releases import clipped, halved, noisy, pruned, released
from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, local_update, zoo
from fedseal.attack.equations.rank import Count, rank_analysis
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.structure import structure_of
from fedseal.attack.layers.layerwise import Layerwise
from fedseal.attack.specification import parse
from fedseal.client import architecture
from fedseal.mechanism import Mechanism

FAST = Layerwise(matching_steps=1)  # the closed form does the work here
DRAWN = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate,),  # shrinking a network takes minutes and helps little
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


@DRAWN
@given(rows_of_layers(), st.integers(0, 2**16))
@pytest.mark.slow
def test_float64_gradients_give_the_picture_wherever_the_equations_determine_it(
    model: nn.Sequential, seed: int
) -> None:
    batch = _batch_for(model, seed)
    assume(max(layer.condition() for layer in layers_of(model, batch)) < 1e3)
    found = FAST(observed(model, batch), generator=seeded())
    assert psnr(found, batch) > 120
    assert found.labels is not None
    assert found.labels.tolist() == batch.labels.tolist()
    assert found.outcome.residual is not None
    assert found.outcome.residual < 1e-6


@DRAWN
@given(rows_of_layers(), st.integers(0, 2**16))
def test_what_is_called_exact_is_the_picture(model: nn.Sequential, seed: int) -> None:
    """Whatever the network: also where pixels are never read, or outputs read only padding."""
    batch = _batch_for(model, seed)
    found = FAST(observed(model, batch), generator=seeded())
    assert found.outcome.status != "exact" or psnr(found, batch) > 100


UNREAD = {
    "stride above kernel": nn.Conv2d(1, 4, 1, stride=2),
    "last row and column": nn.Conv2d(1, 6, 5, stride=2),
    "dilation over a stride": nn.Conv2d(1, 4, 3, stride=2, padding=2, dilation=2),
}


@pytest.mark.parametrize("case", UNREAD)
def test_a_picture_with_unread_pixels_is_never_called_exact(case: str) -> None:
    conv = UNREAD[case]
    outputs = conv(torch.zeros(1, 1, 8, 8)).numel()
    model = initialized(nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.Linear(outputs, 5)))
    found = FAST(observed(model, pictures(shape=(1, 8, 8))), generator=seeded())
    assert found.outcome.status not in ("exact", "converged")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_well_conditioned_float64_gradient_is_solved_to_float64s_precision(activation: str, bias: bool) -> None:
    conv = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
    model = initialized(
        nn.Sequential(conv, ACTIVATIONS[activation], nn.Flatten(), nn.Linear(6 * 64, 5, bias=bias)), seed=3
    )
    batch = pictures(seed=4)
    found = Layerwise()(observed(model, batch), generator=seeded())
    assert found.outcome.status == "exact"
    assert found.outcome.steps == 0
    assert psnr(found, batch) > 220


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "leaky_relu"])
def test_float32_gradients_of_the_lenet_give_the_picture_and_the_label(activation: str) -> None:
    batch = zoo.photos(size=16)[2:3]
    model = zoo.lenet(size=16, activation=activation, seed=3)
    found = Layerwise()(observed(model, batch), generator=seeded())
    assert psnr(found, batch) > 40
    assert found.labels is not None
    assert found.labels.tolist() == batch.labels.tolist()
    assert found.outcome.status in ("exact", "converged")


def test_a_step_of_sgd_gives_the_picture_too() -> None:
    model = initialized(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(384, 5)))
    batch = pictures()
    training = LocalTraining.fedavg(lr=0.1)
    found = Layerwise()(observed(model, batch, training=training), generator=seeded())
    assert psnr(found, batch) > 120
    assert found.labels is not None
    assert found.labels.tolist() == batch.labels.tolist()


# Equations against unknowns, as the issue and R-GAP's way of counting give them.
RANKS = [
    (zoo.lenet(), [("0", 3972, 3072), ("2", 4368, 3072), ("4", 4368, 768)]),
    (zoo.lenet(kernel=3), [("0", 3396, 3072), ("2", 2064, 3072), ("4", 2064, 768)]),
    (zoo.lenet(kernel=3, width=32), [("0", 9056, 3072), ("2", 11264, 8192), ("4", 11264, 2048)]),
]


@pytest.mark.parametrize(("model", "expected"), RANKS, ids=["lenet", "3x3, width 12", "3x3, width 32"])
def test_the_rank_analysis_counts_equations_and_unknowns(
    model: nn.Module, expected: list[tuple[str, int, int]]
) -> None:
    counts = rank_analysis(structure_of(architecture(model), (3, 32, 32)).layers)
    assert counts == tuple(Count(*row) for row in expected)


def test_a_network_with_too_few_equations_is_never_exact_and_says_which_layer() -> None:
    model = zoo.lenet(size=12, kernel=3, width=6, seed=1)
    observation = observed(model, zoo.photos(size=12)[:1])
    evidence = Evidence(observation)
    assert not Layerwise().determined(evidence)
    found = Layerwise(matching_steps=6)(observation, generator=seeded())
    assert found.outcome.status not in ("exact", "converged")
    assert "not determined by layer: layer" in found.outcome.note
    assert found.inputs is not None


class Residual(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(x)


def _lazy(*layers: nn.Module) -> nn.Sequential:
    model = nn.Sequential(*layers, nn.Flatten())
    features = model(torch.zeros(2, 3, 8, 8)).shape[1]
    return nn.Sequential(*model, nn.Linear(features, 5)).double()


REFUSED = {
    "relu": (_lazy(nn.Conv2d(3, 4, 3), nn.ReLU()), "the activation 'relu' cannot be inverted"),
    "flat leaky relu": (_lazy(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.0)), "leaky ReLU of slope 0 cannot be inverted"),
    "residual": (_lazy(nn.Conv2d(3, 3, 3, padding=1), Residual()), "2 ways (a residual or attention block)"),
    "pooling": (_lazy(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2)), "'avg_pool2d'"),
    "batch norm": (_lazy(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh()).eval(), "batch_norm"),
    "gelu": (_lazy(nn.Conv2d(3, 4, 3), nn.GELU()), "'gelu'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_network_that_cannot_be_inverted_is_refused_with_the_reason(case: str) -> None:
    model, words = REFUSED[case]
    observation = observed(model, pictures(), training=LocalTraining.fedsgd(mode="eval"))
    _assert_refused(observation, words)


def test_a_batch_withheld_weights_local_steps_and_frozen_layers_are_refused_with_the_reason() -> None:
    model = _lazy(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh())
    _assert_refused(observed(model, pictures(2)), "it takes one example apart, and the batch size is 2")
    threat = ThreatModel.eavesdropper()
    _assert_refused(
        observed(model, pictures(), threat=threat), "needs the weights, which the threat model 'eavesdropper'"
    )
    steps = LocalTraining.fedavg(lr=0.1, epochs=2)
    _assert_refused(observed(model, pictures(), training=steps), "mixes the gradients of several local steps")
    loss = LocalTraining.fedsgd(loss=nn.functional.multi_margin_loss)
    _assert_refused(observed(model, pictures(), training=loss), "the loss is not one that was recognized")
    frozen = _lazy(nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False), nn.Tanh())
    _assert_refused(observed(frozen, pictures()), "no gradient of '0.weight' (frozen)")


def _batch_for(model: nn.Sequential, seed: int) -> Batch:
    assert isinstance(model[0], nn.Conv2d)
    return pictures(shape=(model[0].in_channels, 8, 8), seed=seed)


def _assert_refused(observation: Observation, words: str) -> None:
    found = Layerwise()(observation, generator=seeded())
    assert (found.outcome.status, found.inputs, found.labels, found.outcome.residual) == (
        "not_applicable",
        None,
        None,
        None,
    )
    assert words in found.outcome.note


# The least PSNR in dB, and the status. A 16x16 picture has so few unknowns that 70 % pruning leaves it determined.
DEFENDED: dict[str, tuple[Callable[[Observation], Observation], float, str]] = {
    "70 % pruned": (lambda seen: pruned(seen, 0.7), 60, "exact"),
    "95 % pruned": (lambda seen: pruned(seen, 0.95), 20, "budget"),
    "half precision": (halved, 35, "budget"),
    "noise": (lambda seen: noisy(seen, 1e-3), 25, "budget"),
    "clipped": (lambda seen: clipped(seen, 0.1), 60, "exact"),
}


@pytest.mark.parametrize("case", DEFENDED)
def test_a_known_defense_degrades_the_picture_and_does_not_hide_it(case: str) -> None:
    change, least, status = DEFENDED[case]
    batch = zoo.photos(size=16)[1:2]
    defended = change(observed(zoo.lenet(size=16, seed=2), batch))
    found = Layerwise()(defended, generator=seeded())
    assert psnr(found, batch) > least
    assert found.outcome.status == status
    assert found.labels is not None
    assert found.labels.tolist() == batch.labels.tolist()


def test_an_attacker_who_does_not_know_of_the_pruning_falls_far_behind() -> None:
    batch = zoo.photos(size=16)[1:2]
    defended = pruned(observed(zoo.lenet(size=16, seed=2), batch), 0.2)
    unaware = Layerwise(matching_steps=2)(replace(defended, defense=None), generator=seeded())
    assert psnr(unaware, batch) < 30
    assert unaware.outcome.status not in ("exact", "converged")


def test_signs_and_noise_of_untold_strength_are_refused() -> None:
    seen = observed(_lazy(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh()), pictures())
    for step, words in (
        (Mechanism("sign"), "only signs"),
        (Mechanism("unknown_noise"), "nobody told"),
    ):
        _assert_refused(released(seen, lambda tensor: tensor, step), words)


def test_a_gradient_whose_training_nobody_named_is_matched_all_the_same() -> None:
    """It says of itself that no step was taken; the search refused, and with it the planner, where the head is zero."""
    torch.manual_seed(0)
    head = nn.Linear(4, 3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.LeakyReLU(0.2), head)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    batch = Batch(torch.rand(1, 1, 8, 8, generator=seeded()), torch.tensor([1]))
    update = local_update(model, batch, training=LocalTraining.fedsgd())
    observation = ThreatModel.unknown_training().observe(model, update, modality=Image((1, 8, 8)))
    for attack in (Layerwise(), parse("auto:steps=8")):
        found = attack(observation, generator=seeded())
        assert found.outcome.status == "budget"
        assert found.certain is None or not found.certain.any()
        assert found.outcome.residual == pytest.approx(0.0, abs=1e-5)


def test_a_convolution_to_which_nothing_came_back_is_open_and_no_crash() -> None:
    """The head is zero, so that the gradient of all layers below is (world 4843)."""
    torch.manual_seed(763)
    head = nn.Linear(12, 10)
    nn.init.zeros_(head.weight)
    model = nn.Sequential(nn.Conv2d(3, 12, 4, bias=False), nn.Flatten(), head)
    batch = Batch(torch.rand(1, 3, 4, 4), torch.tensor([3]))
    update = local_update(model, batch, training=LocalTraining.fedsgd())
    observation = ThreatModel.honest_but_curious().observe(model, update, modality=Image((3, 4, 4)))
    found = Layerwise()(observation, generator=seeded())
    assert found.inputs is not None
    assert found.certain is None or not found.certain.any()
