"""Dropout before the layer that is read: its public rate is undone, its gaps are filled, and nothing is certain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attack.cases import initialized, seeded
from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, attack, local_update, zoo
from fedseal.attack.batch.spear import Spear
from fedseal.attack.evidence.belief import belief
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.input_traits import traits_of
from fedseal.attack.evidence.structure import structure_of
from fedseal.attack.layers.layerwise import Layerwise
from fedseal.attack.layers.linear import LinearFirstLayer
from fedseal.client import architecture
from fedseal.modality.tabular import Categorical, Continuous, Tabular
from fedseal.types import Modality, Reconstruction

SERVER, EAVESDROPPER = ThreatModel.honest_but_curious(), ThreatModel.eavesdropper()
GREY = Image(shape=(1, 28, 28))


def _photos(count: int, size: int = 28, first: int = 0) -> Batch:
    photos = zoo.photos(size=size)[first : first + count]
    return Batch(photos.inputs.mean(1, keepdim=True), torch.arange(count) % 10)


def _perceptron(*before: nn.Module, inputs: int = 784, width: int = 64) -> nn.Module:
    layers = [nn.Flatten(), *before, nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 10)]
    return initialized(nn.Sequential(*layers), 0, torch.float32)


def _observed(
    model: nn.Module,
    batch: Batch,
    threat: ThreatModel,
    modality: Modality = GREY,
    training: LocalTraining = LocalTraining.fedsgd(),  # noqa: B008
) -> Observation:
    update = local_update(model, batch, training=training, generator=seeded(1))
    return threat.observe(model, update, modality=modality)


def _decibels(found: Tensor, true: Tensor) -> float:
    return float(-10 * torch.log10((found.double() - true.double()).square().mean()))


def _right(found: Reconstruction, batch: Batch) -> float:
    assert found.inputs is not None
    return float(((found.inputs - batch.inputs).abs() < 1e-3).float().mean())


class Normalized(nn.Module):
    """Dropout before or behind a normalization."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first, self.drop, self.network = first, nn.Dropout(0.2), _perceptron()

    def forward(self, x: Tensor) -> Tensor:
        x = (self.drop(x) - 0.5) / 0.5 if self.first else self.drop((x - 0.5) / 0.5)
        out: Tensor = self.network(x)
        return out


DROPPING: dict[str, Callable[[], nn.Module]] = {
    "behind flatten": lambda: _perceptron(nn.Dropout(0.2)),
    "before a normalization": lambda: Normalized(True),
    "behind a normalization": lambda: Normalized(False),
}


@pytest.mark.parametrize("threat", [SERVER, EAVESDROPPER], ids=lambda threat: threat.name)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", DROPPING)
def test_a_photo_behind_dropout_is_read_but_for_what_was_dropped(name: str, first: int, threat: ThreatModel) -> None:
    batch = _photos(1, first=first)
    found = LinearFirstLayer()(_observed(DROPPING[name](), batch, threat), generator=seeded())
    assert found.inputs is not None
    assert _decibels(found.inputs, batch.inputs) > 27
    assert _right(found, batch) >= 0.8
    assert found.outcome.status == "budget"
    assert not bool(found.certain.any())
    assert "are filled in from the others" in found.outcome.note


@pytest.mark.parametrize("threat", [SERVER, EAVESDROPPER], ids=lambda threat: threat.name)
def test_the_planner_stays_with_what_was_read(threat: ThreatModel) -> None:
    batch = _photos(1)
    found = attack.parse("auto:steps=20")(_observed(_perceptron(nn.Dropout(0.2)), batch, threat), generator=seeded())
    assert found.inputs is not None
    assert _decibels(found.inputs, batch.inputs) > 27
    assert not bool(found.certain.any())


def test_a_picture_with_a_black_background_keeps_it() -> None:
    """Most zeros are no work of dropout there."""
    batch = zoo.fashion_mnist()[:1]
    for threat in (SERVER, EAVESDROPPER):
        found = LinearFirstLayer()(_observed(_perceptron(nn.Dropout(0.2)), batch, threat), generator=seeded())
        assert _right(found, batch) >= 0.8
        assert "lie among their like" in found.outcome.note


def test_zeros_of_the_picture_itself_are_no_dropout_where_nobody_says_whether_it_drew() -> None:
    batch, training = zoo.fashion_mnist()[:1], LocalTraining.fedsgd(mode="eval")
    observation = _observed(_perceptron(nn.Dropout(0.2)), batch, EAVESDROPPER, training=training)
    found = LinearFirstLayer()(observation, generator=seeded())
    assert found.inputs is not None
    assert float((found.inputs - batch.inputs).abs().max()) < 1e-6
    assert "nobody says whether dropout '1' drew" in found.outcome.note
    assert not bool(found.certain.any())


def test_dropout_behind_the_layer_that_is_read_takes_nothing_from_the_proof() -> None:
    layers = [nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10)]
    batch, model = _photos(1), initialized(nn.Sequential(*layers), 0, torch.float32)
    for threat in (SERVER, EAVESDROPPER):
        found = LinearFirstLayer()(_observed(model, batch, threat), generator=seeded())
        assert found.inputs is not None
        assert float((found.inputs - batch.inputs).abs().max()) < 1e-6
        assert found.certain.tolist() == [True]


def test_a_batch_behind_dropout_has_its_rate_undone_and_no_certificate() -> None:
    batch = _photos(3)
    for threat in (SERVER, EAVESDROPPER):
        found = Spear()(_observed(_perceptron(nn.Dropout(0.2), width=200), batch, threat), generator=seeded())
        assert found.inputs is not None
        order = torch.cdist(batch.inputs.flatten(1), found.inputs.flatten(1)).argmin(1)
        for true, read in zip(batch.inputs, found.inputs[order], strict=True):
            assert _decibels(read, true) > 27
        assert not bool(found.certain.any())


TABLE = Tabular(
    (
        *[Continuous(f"c{place}", 0, 10, mean=5, std=3) for place in range(8)],
        Categorical("color", ("blue", "green", "red")),
    )
)


def test_a_row_behind_dropout_has_the_rate_undone_and_usual_values_in_its_gaps() -> None:
    rows = TABLE.encode([{**{f"c{place}": 1.0 + place for place in range(8)}, "color": "red"}])
    network = initialized(nn.Sequential(nn.Dropout(0.2), nn.Linear(11, 32), nn.Tanh(), nn.Linear(32, 5)))
    batch = Batch(rows, torch.tensor([2]))
    for threat in (SERVER, EAVESDROPPER):
        observation = _observed(network.float(), batch, threat, TABLE)
        found = LinearFirstLayer()(observation, generator=seeded())
        assert found.inputs is not None
        kept = observation.update.tensors["1.weight"].abs().amax(0) > 0
        assert float((found.inputs - rows)[0, kept].abs().max()) < 1e-4
        assert "with what is usual" in found.outcome.note
        assert not bool(found.certain.any())


def test_gaps_of_a_row_are_the_mean_and_the_category_that_is_left() -> None:
    row = torch.tensor([[0.7, *[0.0] * 7, 0.0, 0.0, 0.0]], dtype=torch.float64)
    known = torch.tensor([[True, *[False] * 7, False, True, True]])
    assert traits_of(TABLE).fill(TABLE, row, known).tolist() == [[0.7, *[0.0] * 7, 1.0, 0.0, 0.0]]


def test_gaps_of_a_picture_are_its_most_probable_values() -> None:
    """The dense solution of the same normal equations."""
    modality = Image(shape=(1, 6, 6))
    prior, known = belief(modality), torch.rand(36, generator=seeded()) > 0.3
    value = torch.rand(36, generator=seeded(1), dtype=torch.float64)
    root = torch.func.vmap(prior.spread)(torch.eye(36, dtype=torch.float64))
    covariance = root.T @ root
    across = covariance[~known][:, known] @ torch.linalg.inv(covariance[known][:, known])
    expected = (prior.mean[~known] + across @ (value - prior.mean)[known]).clamp(0, 1)
    found = traits_of(modality).fill(modality, value[None], known[None])
    assert torch.allclose(found[0, ~known], expected, atol=1e-4)


class Blocks(nn.Module):
    """Dropout before, beside and behind: on the way to the second layer alone, at the end, and never called."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.inner, self.idle = nn.Dropout(0.1), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.one(x))
        out: Tensor = self.three(x + torch.tanh(self.two(self.inner(x))))
        return out


def test_which_dropout_the_data_passes_on_its_way_to_a_layer_is_known() -> None:
    structure = structure_of(architecture(Blocks()).eval(), (16,))
    passed = [structure.dropout_before(f"{name}.weight") for name in ("one", "two", "three")]
    assert passed == [(), ("inner",), ("inner",)]
    table = Tabular(tuple(Continuous(f"c{place}", 0, 1) for place in range(16)))
    batch = Batch(torch.rand(1, 16, generator=seeded()), torch.tensor([1]))
    evidence = Evidence(_observed(initialized(Blocks(), 0, torch.float32), batch, SERVER, table))
    before = [[s.module for s in evidence.secrets_before(f"{name}.weight")] for name in ("one", "two", "three")]
    assert before == [["idle"], ["inner", "idle"], ["inner", "idle"]]  # where 'idle' draws is not known


def test_layers_with_dropout_between_them_are_not_inverted() -> None:
    layers = [nn.Conv2d(1, 8, 5, 2, 2), nn.Sigmoid(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1568, 10)]
    observation = _observed(initialized(nn.Sequential(*layers), 0, torch.float32), _photos(1), SERVER)
    found = Layerwise()(observation, generator=seeded())
    assert found.outcome.status == "not_applicable"
    assert "dropout '3' draws in secret between the layers" in found.outcome.note


def test_layers_with_dropout_before_them_are_inverted_but_for_what_was_dropped() -> None:
    batch = _photos(1, size=16)
    layers = [nn.Dropout(0.2), nn.Conv2d(1, 12, 3, 2, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(768, 10)]
    model = initialized(nn.Sequential(*layers), 0, torch.float32)
    found = Layerwise()(_observed(model, batch, SERVER, Image(shape=(1, 16, 16))), generator=seeded())
    assert found.inputs is not None
    assert not bool(found.certain.any())
    assert _right(found, batch) >= 0.75
