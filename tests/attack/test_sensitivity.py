"""Bounds from below on what an update determines, where a careless bound said too much."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import fedseal as fs
from attack.test_certificate import certificate_of, claim, made, pictures, seen
from fedseal.attack.proof.certificate import certify
from fedseal.modality.tabular import Continuous, Tabular

DEAD = -100.0


def dead(act: type[nn.Module], *, inputs: int = 16) -> Any:
    net = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(inputs, 24), act(), nn.Linear(24, 4)))
    layer = net[1]
    assert isinstance(layer, nn.Linear)
    nn.init.constant_(layer.bias, DEAD)
    return net


ACTIVATIONS = (nn.Softplus, nn.ELU, nn.ReLU, nn.Sigmoid, nn.Tanh)
DEAD_QUICK = {("gradient", nn.ELU), ("gradient", nn.ReLU), *(("decay", ACTIVATIONS[place]) for place in (0, 3, 4))}


@pytest.mark.parametrize(
    ("training", "act"),
    [
        pytest.param(*case, marks=() if case in DEAD_QUICK else pytest.mark.slow)
        for case in itertools.product(("gradient", "decay", "adam", "momentum"), ACTIVATIONS)
    ],
)
def test_a_dead_first_layer_determines_nothing_however_it_is_trained(act: type[nn.Module], training: str) -> None:
    """Weight decay moves the first layer as well, and says nothing of the data."""
    course = {
        "gradient": fs.LocalTraining.fedsgd(),
        "decay": fs.LocalTraining.fedavg(lr=0.01, weight_decay=0.01),
        "adam": fs.LocalTraining.fedavg(lr=0.01, optimizer="adam"),
        "momentum": fs.LocalTraining.fedavg(lr=0.01, epochs=2, momentum=0.9),
    }[training]
    batch = fs.Batch(pictures(1), torch.tensor([2]))
    observation = seen(dead(act), batch, training=course)
    other = claim(torch.rand(batch.inputs.shape, generator=torch.Generator().manual_seed(5)), batch.labels)
    assert certify(observation, other).certain.tolist() == [False]
    found = fs.attack.auto(steps=8)(observation, generator=torch.Generator().manual_seed(0))
    assert not bool(found.certain.any())


def test_error_bars_of_a_closed_form_without_equations_prove_nothing() -> None:
    """A saturated unit hands nothing back: the closed form's error must not come out as zero."""
    net = made(
        lambda: nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2), nn.LeakyReLU(0.2), nn.Linear(2, 2))
    ).double()
    nn.init.constant_(net[0].bias, DEAD)
    batch = fs.Batch(
        torch.rand(1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.tensor([0])
    )
    update = fs.local_update(net, batch, training=fs.LocalTraining.fedsgd())
    modality = Tabular(columns=tuple(Continuous(f"c{n}", -8, 8) for n in range(8)))
    observation = fs.ThreatModel.honest_but_curious().observe(net, update, modality=modality)
    for name in ("layerwise", "separation:steps=4", "auto:steps=8"):
        found = fs.attack.parse(name)(observation, generator=torch.Generator().manual_seed(0))
        assert not bool(found.certain.any()), name


def test_the_first_layers_bound_is_below_the_whole_jacobians() -> None:
    from fedseal.attack.evidence.evidence import Evidence
    from fedseal.attack.evidence.jacobian import linearized
    from fedseal.attack.proof.sensitivity import VISIBLE, first_layer
    from fedseal.types import Candidate

    net = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 6))).double()
    batch = fs.Batch(pictures(3).double(), torch.tensor([0, 1, 2]))
    observation = seen(net, batch)
    evidence = Evidence.of(observation)
    bound = first_layer(evidence, batch.inputs)
    assert bound is not None
    there = linearized(evidence, Candidate(batch.inputs, batch.labels))
    least = float(torch.linalg.svdvals(there.matrix())[-1]) * VISIBLE * 16**0.5 / there.norm
    said = certificate_of(certify(observation, claim(batch.inputs, batch.labels)))
    assert all(said.certain)
    assert min(bound) <= 3 * least  # mixtures and other directions are bounded apart
    assert min(bound) > 1e-3 * least
