"""A linear layer's gradient is a mixture of its inputs: synthetic mixtures come apart, and every term does its part."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attack.cases import initialized, observed, pictures, seeded
from fedseal import Batch, Image, LocalTraining, Progress, ThreatModel, attack, local_update, zoo
from fedseal.attack.batch.cocktail_party import GAUSSIAN, CocktailParty, Contrast, box_filled, unmix
from laws.tables import facts, same, snapshot

EAVESDROPPER = ThreatModel.eavesdropper()
FASHION = zoo.fashion_mnist()


def _matched(found: Tensor, truth: Tensor) -> float:
    """The smallest over the true rows of the largest correlation with a found row."""
    count = len(truth)
    correlation = torch.corrcoef(torch.cat([truth.double(), found.double()]))[:count, count:].abs()
    return float(correlation.amax(1).min())


def _sources(count: int = 3, size: int = 2000, seed: int = 0) -> Tensor:
    """Independent, far from Gaussian, and without any order that a total variation could use."""
    return torch.rand(count, size, generator=seeded(seed), dtype=torch.float64) ** 6


def _mixture(sources: Tensor, units: int = 40, seed: int = 1) -> tuple[Tensor, Tensor]:
    deltas = torch.randn(len(sources), units, generator=seeded(seed), dtype=torch.float64)
    return deltas.T @ sources, deltas.sum(0)


def test_independent_sources_come_apart_with_sign_and_scale() -> None:
    sources = _sources()
    found = unmix(*_mixture(sources), count=3, generator=seeded(), steps=300)
    assert _matched(found.inputs, sources) > 0.99
    order = torch.cdist(sources, found.inputs).argmin(1)
    assert float((found.inputs[order] - sources).square().mean()) < 0.01 * float(sources.square().mean())


def test_the_contrast_is_what_takes_them_apart() -> None:
    """Published code overwrites it by zero right after computing it; then nothing but chance is left."""
    sources = _sources()
    mixture = _mixture(sources)
    blind = unmix(*mixture, count=3, generator=seeded(), steps=300, contrast=Contrast(gaussian=0.0))
    seeing = unmix(*mixture, count=3, generator=seeded(), steps=300)
    assert _matched(blind.inputs, sources) < 0.95 < _matched(seeing.inputs, sources)
    assert not same(blind.inputs, seeing.inputs)


def test_negentropy_is_zero_for_gaussian_signals_and_large_for_others() -> None:
    contrast, directions = Contrast(tv=0.0, apart=0.0), torch.eye(2, dtype=torch.float64)
    gaussian = torch.randn(2, 200_000, generator=seeded(), dtype=torch.float64)
    spiky = torch.randn(2, 200_000, generator=seeded(), dtype=torch.float64).sign() * gaussian.square() / 3**0.5
    assert float(gaussian.cosh().log().mean()) == pytest.approx(GAUSSIAN, abs=3e-3)
    assert abs(float(contrast(directions, gaussian, None))) < 1e-4
    assert float(contrast(directions, spiky, None)) < -1e-3


@pytest.mark.parametrize("term", ["gaussian", "tv", "apart"])
def test_every_term_changes_the_result(term: str) -> None:
    update = observed(zoo.mlp(), FASHION[:4]).update.tensors
    one, other = (
        unmix(
            update["1.weight"],
            update["1.bias"],
            count=4,
            generator=seeded(),
            shape=(1, 28, 28),
            steps=30,
            contrast=contrast,
        ).inputs
        for contrast in (Contrast(), replace(Contrast(), **{term: 0.0}))
    )
    assert not torch.allclose(one, other)


def test_without_repulsion_directions_coincide_more() -> None:
    sources = _sources(4)

    def closest(apart: float) -> float:
        found = unmix(*_mixture(sources), count=4, generator=seeded(2), steps=200, contrast=Contrast(apart=apart))
        correlation = torch.corrcoef(found.inputs).abs() - torch.eye(4, dtype=torch.float64)
        return float(correlation.max())

    assert closest(0.3) < 0.9 < closest(0.0)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("threat", [ThreatModel.honest_but_curious(), EAVESDROPPER], ids=lambda threat: threat.name)
def test_two_pictures_are_unmixed_whatever_the_activation(activation: str, threat: ThreatModel) -> None:
    batch = FASHION[0:2]
    found = CocktailParty(steps=300)(observed(zoo.mlp(activation=activation), batch, threat=threat), generator=seeded())
    assert found.inputs is not None
    assert found.inputs.shape == batch.inputs.shape
    assert _matched(found.inputs.flatten(1), batch.inputs.flatten(1)) > 0.9
    assert found.outcome.status in ("budget", "converged")
    assert (found.labels is None) == (threat is EAVESDROPPER)
    # without the weights the layer's equations are compared, which mixtures solve as well
    assert found.outcome.residual is not None or threat is EAVESDROPPER


def test_local_epochs_mix_the_same_pictures() -> None:
    batch = FASHION[0:2]
    observation = observed(zoo.mlp(), batch, training=LocalTraining.fedavg(lr=0.05, epochs=3))
    found = CocktailParty(steps=300)(observation, generator=seeded())
    assert found.inputs is not None
    assert _matched(found.inputs.flatten(1), batch.inputs.flatten(1)) > 0.9


def test_pictures_that_fit_are_left_alone_and_others_fill_the_box() -> None:
    inputs = torch.rand(3, 100, generator=seeded(), dtype=torch.float64)
    inputs[1] *= 40
    inputs[2] *= -0.5
    result = box_filled(inputs, 0.0, 1.0)
    assert torch.equal(result[0], inputs[0])
    assert 0.9 < float(result[1].max()) < 1.2
    assert 0.9 < float(result[2].max()) < 1.2
    assert float(result.min()) >= 0


def _net(*layers: nn.Module) -> nn.Module:
    return initialized(nn.Sequential(*layers))


REFUSED = {
    "convolution": (
        observed(_net(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 5)), pictures(2, shape=(1, 6, 6))),
        "not fully connected",
    ),
    "as many examples as mixtures": (
        observed(_net(nn.Flatten(), nn.Linear(36, 3), nn.Tanh(), nn.Linear(3, 5)), pictures(4, shape=(1, 6, 6))),
        "fills the first layer's gradient",
    ),
    "count withheld, rank full": (
        observed(
            _net(nn.Flatten(), nn.Linear(36, 3), nn.Tanh(), nn.Linear(3, 5)),
            pictures(4, shape=(1, 6, 6)),
            threat=ThreatModel("nothing", frozenset({"single_updates"})),
        ),
        "batch size is withheld",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_unmixed_is_refused_with_the_reason(case: str) -> None:
    observation, words = REFUSED[case]
    found = CocktailParty(steps=2)(observation, generator=seeded())
    assert (found.outcome.status, found.inputs, found.labels) == ("not_applicable", None, None)
    assert words in found.outcome.note


def test_the_batch_size_is_the_rank_where_it_is_withheld() -> None:
    threat = ThreatModel("nothing", frozenset({"single_updates"}))
    found = CocktailParty(steps=2)(observed(zoo.mlp(), FASHION[:3], threat=threat), generator=seeded())
    assert found.inputs is not None
    assert len(found.inputs) == 3


def test_the_observation_is_untouched_and_the_generator_decides() -> None:
    observation, reports = observed(zoo.mlp(), FASHION[:3]), list[Progress]()
    before, world = snapshot(facts(observation)), torch.get_rng_state()
    attack = CocktailParty(steps=20)
    one = attack(observation, generator=seeded(3), progress=reports.append)
    two = attack(observation, generator=seeded(3))
    assert same([one.inputs, one.labels, one.outcome.residual], [two.inputs, two.labels, two.outcome.residual])
    assert not same(one.inputs, attack(observation, generator=seeded(4)).inputs)
    assert same(facts(observation), before)
    assert torch.equal(torch.get_rng_state(), world)
    assert reports[-1].step == 20


def test_a_first_layer_without_a_live_unit_is_refused_and_equal_pictures_are_one() -> None:
    dead = initialized(nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 5)))
    with torch.no_grad():
        dead.get_parameter("1.bias").fill_(-10)
    batch = pictures(2, shape=(1, 6, 6))
    found = CocktailParty(steps=5)(observed(dead, batch, threat=EAVESDROPPER), generator=seeded())
    assert found.outcome.status == "not_applicable"
    assert "no unit of that layer was active" in found.outcome.note
    alive = initialized(nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 5)))
    equal = replace(batch, inputs=batch.inputs[:1].expand_as(batch.inputs).clone())
    found = CocktailParty(steps=5)(observed(alive, equal, threat=EAVESDROPPER), generator=seeded())
    assert found.inputs is not None
    assert len(found.inputs) == 1
    assert bool(found.inputs.isfinite().all())
    assert not bool(found.certain.any())
    black = replace(batch, inputs=torch.zeros_like(batch.inputs))
    found = CocktailParty(steps=5)(observed(alive, black, threat=EAVESDROPPER), generator=seeded())
    assert found.outcome.status == "not_applicable"
    assert "holds no mixtures" in found.outcome.note


def test_a_black_picture_has_no_statistics() -> None:
    """Its first layer is fed one number everywhere; `auto` by an eavesdropper crashed on it."""
    first = nn.Linear(16, 3)
    nn.init.ones_(first.bias)
    model = nn.Sequential(Scaled(1.3, -0.4), nn.Flatten(), first, nn.ReLU(), nn.Linear(3, 10))
    batch = Batch(torch.zeros(1, 1, 4, 4), torch.tensor([3]))
    update = local_update(model, batch, training=LocalTraining.fedsgd())
    observation = EAVESDROPPER.observe(model, update, modality=Image((1, 4, 4)))
    found = CocktailParty(steps=5)(observation, generator=seeded())
    assert found.outcome.status == "not_applicable"
    assert "one and the same number" in found.outcome.note
    attack.parse("auto:steps=5")(observation, generator=seeded())


class Scaled(nn.Module):
    """A normalization that knows no names."""

    def __init__(self, factor: float, shift: float) -> None:
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.factor + self.shift


@pytest.mark.parametrize("seed", [0, 4, 5, 6, 12, 14])
def test_dropout_behind_the_first_layer_hides_no_label_behind_another(seed: int) -> None:
    """The input is certain by the first layer alone; its label was read off a signal of which units were dropped."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(16, 4),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Linear(4, 3),
        nn.LeakyReLU(0.2),
        nn.Linear(3, 2),
        nn.Linear(2, 3, bias=False),
    )
    batch = Batch(torch.rand(1, 1, 4, 4), torch.tensor([seed % 3]))
    update = local_update(model, batch, training=LocalTraining.fedsgd(), generator=seeded(seed))
    observation = ThreatModel.honest_but_curious().observe(model, update, modality=Image((1, 4, 4)))
    found = CocktailParty(steps=5)(observation, generator=seeded())
    assert found.labels is None or found.labels.tolist() == batch.labels.tolist()
