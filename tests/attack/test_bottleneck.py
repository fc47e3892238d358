"""PRECODE against an attacker who reads the secret draw off the update."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from fedseal.attack.base import residual
from fedseal.attack.evidence.draw import with_draw
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.layers.bottleneck import Bottleneck
from fedseal.client import RandomLayer
from fedseal.defense import parse
from fedseal.threat import preset
from fedseal.types import Candidate, LocalTraining, Observation

PICTURES = fs.zoo.photos(size=8, num_classes=5)[:2]
ONE = PICTURES[:1]
LENET = fs.zoo.lenet(size=8, width=6, num_classes=5)
SGD = LocalTraining.fedsgd()


def seen(
    model: nn.Module = LENET,
    batch: fs.Batch = ONE,
    *,
    defense: str = "precode:6",
    training: LocalTraining = SGD,
    threat: str = "honest_but_curious",
    seed: int = 0,
) -> Observation:
    shield, draws = parse(defense), torch.Generator().manual_seed(seed)
    guarded = shield.on_model(model)
    update = fs.local_update(guarded, batch, training=training, defense=shield, generator=draws)
    adversary = preset(threat)
    return adversary.observe(guarded, update, modality=fs.Image(shape=(3, 8, 8)), defense=shield)


def error(found: Tensor | None, truth: Tensor = ONE.inputs) -> float:
    assert found is not None
    return float((found - truth).abs().max())


def layer(observation: Observation) -> RandomLayer:
    (found,) = (module for module in observation.model.modules() if isinstance(module, RandomLayer))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_draw_makes_the_true_example_replay_to_the_arithmetics_precision(seed: int) -> None:
    secret = seen(seed=seed)
    known, truth = with_draw(secret), Candidate(ONE.inputs, ONE.labels)
    before, after = residual(secret, truth), residual(known, truth)
    assert before is not None
    assert after is not None
    assert before > 0.05
    assert after < 2e-6
    assert (known.defense, secret.defense and secret.defense[0].kind) == ((), "bottleneck")


def test_another_draw_is_another_secret() -> None:
    one, other = (layer(with_draw(seen(seed=seed))).drawn for seed in (0, 1))
    assert one is not None
    assert other is not None
    assert float((one - other).abs().max()) > 0.1
    assert layer(seen()).drawn is None


@pytest.mark.parametrize(
    ("model", "training"),
    [
        (LENET, SGD),
        (LENET, LocalTraining.fedavg(lr=0.1)),
        (fs.zoo.lenet(size=8, width=6, num_classes=5).double(), SGD),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.Tanh(), nn.Linear(20, 5)), SGD),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), SGD),
    ],
    ids=["lenet", "one local step", "double", "perceptron", "linear"],
)
def test_one_example_is_read_exactly(model: nn.Module, training: LocalTraining) -> None:
    dtype = next(model.parameters()).dtype
    batch = fs.Batch(ONE.inputs.to(dtype), ONE.labels)
    found = Bottleneck()(seen(model, batch, training=training), generator=torch.Generator().manual_seed(0))
    assert found.outcome.status == "exact" if training is SGD else found.outcome.status in ("exact", "converged")
    assert error(found.inputs, batch.inputs) < 1e-2
    assert found.labels is not None
    assert found.labels.tolist() == ONE.labels.tolist()


def test_what_hides_the_draw_leaves_the_observation_as_it_is() -> None:
    for hidden in (
        seen(batch=PICTURES),
        seen(defense="precode:6+gaussian:0.001"),
        seen(defense="precode:6+prune:0.5"),
        seen(threat="unaware"),
        seen(threat="eavesdropper"),
        seen(training=LocalTraining.fedavg(lr=0.1, epochs=2)),
        seen(defense="none"),
    ):
        assert with_draw(hidden) is hidden
        assert Bottleneck().obstacle(Evidence(hidden)) is not None


def test_the_route_says_what_cannot_be_inverted_and_finds_nothing_then() -> None:
    kinked = fs.zoo.lenet(size=8, width=6, num_classes=5, activation="relu")
    route, observation = Bottleneck(), seen(kinked)
    assert "'relu' cannot be inverted" in (route.obstacle(Evidence(observation)) or "")
    found = route(observation, generator=torch.Generator())
    assert (found.inputs, found.outcome.status) == (None, "not_applicable")


def test_the_observation_stays_as_it_was() -> None:
    observation = seen()
    state, sent = observation.state, observation.update.tensors
    assert state is not None
    copies = [{name: tensor.clone() for name, tensor in tensors.items()} for tensors in (state, sent)]
    Bottleneck()(observation, generator=torch.Generator().manual_seed(0))
    for tensors, before in zip((state, sent), copies, strict=True):
        assert tensors.keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())
    assert layer(observation).drawn is None


def test_rounds_with_a_draw_each_are_left_alone() -> None:
    observation = seen()
    assert with_draw(replace(observation, rounds=observation.rounds * 2)).rounds == observation.rounds * 2
    assert layer(with_draw(replace(observation, rounds=observation.rounds * 2))).drawn is None
