"""A fully connected first layer shows its input: for any network behind it, in any precision, without the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attack.cases import initialized, observed, pictures, psnr, seeded
from attack.releases import halved, noisy, pruned
from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, local_update, zoo
from fedseal.attack.layers.linear import LinearFirstLayer
from fedseal.attack.proof.certificate import certify
from fedseal.mechanism import Mechanism

ATTACK = LinearFirstLayer()
SETTINGS = settings(max_examples=25, deadline=None, derandomize=True)


@st.composite
def perceptrons(draw: st.DrawFn, dtype: torch.dtype) -> nn.Module:
    """On pictures of 1x6x6; smooth, so that no unit is dead."""
    kinds = (nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.LeakyReLU(0.1), None)  # None for a normalization
    layers: list[nn.Module] = [nn.Flatten()]
    before = 36
    for _ in range(draw(st.integers(0, 3))):
        width = draw(st.integers(2, 24))
        kind = draw(st.sampled_from(kinds))
        layers += [nn.Linear(before, width), kind or nn.LayerNorm(width)]
        before = width
    layers.append(nn.Linear(before, draw(st.integers(2, 12))))
    return initialized(nn.Sequential(*layers), draw(st.integers(0, 2**16)), dtype)


@SETTINGS
@given(perceptrons(torch.float64), st.integers(0, 2**16))
def test_the_input_is_exact_in_float64(model: nn.Module, seed: int) -> None:
    batch = pictures(shape=(1, 6, 6), classes=2, seed=seed)
    for threat in (ThreatModel.honest_but_curious(), ThreatModel.eavesdropper()):
        found = ATTACK(observed(model, batch, threat=threat), generator=seeded())
        assert psnr(found, batch) > 200
        assert found.outcome.status == "exact"
        assert found.labels is None or found.labels.tolist() == batch.labels.tolist()


@SETTINGS
@given(perceptrons(torch.float32), st.integers(0, 2**16))
def test_the_input_is_exact_in_float32(model: nn.Module, seed: int) -> None:
    batch = pictures(shape=(1, 6, 6), classes=2, seed=seed, dtype=torch.float32)
    found = ATTACK(observed(model, batch, threat=ThreatModel.eavesdropper()), generator=seeded())
    assert found.inputs is not None
    assert found.inputs.dtype == torch.float32
    assert psnr(found, batch) > 100
    assert found.outcome.status == "exact"


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_relu_perceptron_of_the_zoo_is_read_without_its_weights(activation: str) -> None:
    batch = zoo.fashion_mnist()[3:4]
    model = zoo.mlp(widths=(50,), activation=activation)
    found = ATTACK(observed(model, batch, threat=ThreatModel.eavesdropper()), generator=seeded())
    assert psnr(found, batch) > 100
    assert found.labels is not None
    assert found.labels.tolist() == batch.labels.tolist()
    assert found.certificate is not None
    assert found.certificate.kind == "layer"


@pytest.mark.parametrize("threat", [ThreatModel.honest_but_curious(), ThreatModel.eavesdropper()])
@pytest.mark.parametrize("epochs", [1, 5])
def test_local_steps_on_one_example_are_still_exact(epochs: int, threat: ThreatModel) -> None:
    """Every step adds a multiple of the same outer product."""
    batch = pictures(shape=(1, 6, 6))
    model = initialized(nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 5)))
    training = LocalTraining.fedavg(lr=0.2, epochs=epochs)
    found = ATTACK(observed(model, batch, training=training, threat=threat), generator=seeded())
    assert psnr(found, batch) > 150
    assert found.labels is not None
    assert found.labels.tolist() == batch.labels.tolist()


def test_a_picture_of_zeros_is_read_as_zeros() -> None:
    batch = pictures(shape=(1, 6, 6))
    batch.inputs.zero_()
    model = initialized(nn.Sequential(nn.Flatten(), nn.Linear(36, 5)))
    found = ATTACK(observed(model, batch), generator=seeded())
    assert psnr(found, batch) > 200


def _perceptron(bias: bool = True) -> nn.Module:
    return initialized(nn.Sequential(nn.Flatten(), nn.Linear(36, 8, bias=bias), nn.Tanh(), nn.Linear(8, 5)))


def _without(observation: Observation, **tensors: torch.Tensor) -> Observation:
    first = observation.rounds[0]
    changed = {name: tensors.get(name.replace(".", "_"), tensor) for name, tensor in first.update.tensors.items()}
    return replace(observation, rounds=(replace(first, update=replace(first.update, tensors=changed)),))


ONE, TWO = pictures(shape=(1, 6, 6)), pictures(2, shape=(1, 6, 6))
REFUSED = {
    "two examples": (observed(_perceptron(), TWO), "no outer product"),
    "two examples, local steps": (
        observed(_perceptron(), TWO, training=LocalTraining.fedavg(lr=0.1, epochs=3)),
        "no outer product",
    ),
    "zero bias gradient": (
        _without(observed(_perceptron(), ONE), **{"1_bias": torch.zeros(8, dtype=torch.float64)}),
        "bias is zero",
    ),
    "convolution first": (
        observed(initialized(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 5))), ONE),
        "not fully connected",
    ),
    "activation first": (
        observed(initialized(nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(36, 5))), ONE),
        "tanh",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_closed_form_is_refused_with_the_reason(case: str) -> None:
    observation, words = REFUSED[case]
    found = ATTACK(observation, generator=seeded())
    assert (found.outcome.status, found.inputs, found.labels) == ("not_applicable", None, None)
    assert words in found.outcome.note


def test_noise_on_the_update_is_no_outer_product() -> None:
    observation = observed(_perceptron(), ONE)
    weight = observation.update.tensors["1.weight"]
    noisy = weight + 1e-3 * torch.randn(weight.shape, generator=seeded(), dtype=weight.dtype)
    found = ATTACK(_without(observation, **{"1_weight": noisy}), generator=seeded())
    assert found.outcome.status == "not_applicable"


@pytest.mark.parametrize("threat", [ThreatModel.honest_but_curious(), ThreatModel.eavesdropper()])
def test_a_known_defense_is_weighted_out_of_the_outer_product(threat: ThreatModel) -> None:
    batch = pictures(shape=(1, 6, 6))
    model = initialized(nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 5)))
    seen = observed(model, batch, threat=threat)
    part = ATTACK(pruned(seen, 0.3), generator=seeded())
    assert psnr(part, batch) > 150
    assert part.outcome.status == "exact"
    rough = ATTACK(halved(seen), generator=seeded())
    assert psnr(rough, batch) > 60
    assert rough.certain.tolist() == [True]  # to a hundredth, which the rounding leaves
    assert psnr(ATTACK(noisy(seen, 1e-4), generator=seeded()), batch) > 40


def test_two_examples_under_a_known_defense_are_refused() -> None:
    assert "2 examples" in ATTACK(noisy(observed(_perceptron(), TWO), 1e-1), generator=seeded()).outcome.note
    uncounted = replace(
        ThreatModel.honest_but_curious(), grants=ThreatModel.honest_but_curious().grants - {"num_examples"}
    )
    found = ATTACK(noisy(observed(_perceptron(), TWO, threat=uncounted), 1e-5), generator=seeded())
    assert "no outer product" in found.outcome.note


@pytest.mark.parametrize("rows", [slice(0, 4), slice(4, 8)])
def test_rows_whose_bias_is_missing_leave_the_size_open(rows: slice) -> None:
    """Rows of some units, or the biases of others beside them: the picture shows but for its brightness, uncertain."""
    model = initialized(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)))
    black = torch.arange(16).view(1, 1, 4, 4) % 3 == 0
    batch = Batch(
        torch.rand(1, 1, 4, 4, generator=seeded(), dtype=torch.float64).masked_fill(black, 0), torch.tensor([1])
    )
    update = local_update(model, batch, training=LocalTraining.fedsgd())
    others = slice(4, 8) if rows.start == 0 else slice(0, 4)
    kept = {"1.weight": (16 * rows.start, 16 * rows.stop), "1.bias": (others.start, others.stop), "3.weight": (0, 0)}
    held = {name: torch.zeros(update.tensors[name].numel(), dtype=torch.bool) for name in [*kept, "3.bias"]}
    for name, (start, stop) in kept.items():
        held[name][start:stop] = True
    sent = {name: t * held[name].view_as(t) for name, t in update.tensors.items()}
    ends = {**kept, "3.bias": (0, 0)}.items()
    steps = tuple(Mechanism("segment", {"start": start, "stop": stop}, (name,)) for name, (start, stop) in ends)
    observation = ThreatModel.neighbor().observe(
        model, replace(update, tensors=sent, rounding=steps), modality=Image((1, 4, 4))
    )
    found = LinearFirstLayer()(observation, generator=seeded())
    assert found.inputs is not None
    near, true = found.inputs.flatten(), batch.inputs.flatten()
    assert float(near @ true / near.norm() / true.norm()) == pytest.approx(1, abs=1e-5)
    for size in (0.7, 1.0):  # as well explained at any size, the client's own among them
        again = certify(observation, replace(found, inputs=size * batch.inputs, labels=None))
        assert not bool(again.certain.any())
