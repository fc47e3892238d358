"""Inputs far apart that a model cannot tell: none of them is certain, and finding them costs little."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from fedseal.attack.proof.certificate import certify
from fedseal.attack.proof.mirrors import HANDFUL, mirrored
from fedseal.modality.tabular import Continuous, Tabular
from fedseal.types import Candidate, Observation, Outcome, Reconstruction

FEDSGD = fs.LocalTraining.fedsgd()


class Pair(nn.Module):
    """Two players by one layer, and what is known of the match, by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.context, self.head = nn.Linear(4, 16), nn.Linear(3, 16), nn.Linear(16, 3)

    def body(self, x: Tensor) -> Tensor:
        summed: Tensor = self.one(x[:, :4]).tanh() + self.one(x[:, 4:8]).tanh() + self.context(x[:, 8:])
        return summed

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).tanh())
        return out


class Normalized(Pair):
    """The same with its batch normalized: examples are not independent."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def body(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(super().body(x))
        return out


class Unequal(Pair):
    """The players may be exchanged only where the first thing known of the match is above 0."""

    def body(self, x: Tensor) -> Tensor:
        own = self.one(x[:, :4]).tanh() - 0.5 * self.one(x[:, 4:8]).tanh() + self.context(x[:, 8:])
        return torch.where(x[:, 8:9] > 0, super().body(x), own)


class Beside(nn.Module):
    """The match is told to the players' own layer, whose width is then not a player's."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(7, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        players = (torch.cat([x[:, :3], x[:, place : place + 4]], 1) for place in (3, 7))
        out: Tensor = self.head(sum(self.one(player).tanh() for player in players))
        return out


class Interest(nn.Module):
    """An item and what was bought before, weighted by how alike they are."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.head = nn.Linear(4, 16), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        e = self.item(x.view(-1, 4, 4)).tanh()
        weights = (e[:, :1] * e[:, 1:]).sum(2, keepdim=True).softmax(1)
        out: Tensor = self.head(torch.cat([e[:, 0], (weights * e[:, 1:]).sum(1)], 1))
        return out


class Rows(nn.Module):
    """The two last rows of a picture by one layer, the others by another."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.others, self.head = nn.Linear(6, 32), nn.Linear(24, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        last = self.last(x[:, 0, 4:]).tanh().sum(1)
        out: Tensor = self.head((last + self.others(x[:, 0, :4].flatten(1))).tanh())
        return out


def exchanged(x: Tensor, one: int, other: int, width: int = 4) -> Tensor:
    order = torch.arange(x.shape[1])
    order[one : one + width], order[other : other + width] = (
        torch.arange(start, start + width) for start in (other, one)
    )
    return x[:, order]


def seen(build: Callable[[], nn.Module], inputs: Tensor, labels: Tensor, zeros: str | None = None) -> Observation:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
    if zeros is not None:
        nn.init.zeros_(model.get_parameter(zeros))
    columns = tuple(Continuous(f"c{k}", -8, 8) for k in range(inputs[0].numel()))
    if inputs.ndim == 2:
        modality: Tabular | fs.Image = Tabular(columns=columns)
    else:
        channels, height, width = inputs.shape[1:]
        modality = fs.Image(shape=(channels, height, width))
    update = fs.local_update(model, fs.Batch(inputs, labels), training=FEDSGD)
    return fs.ThreatModel.honest_but_curious().observe(model, update, modality=modality)


def row(width: int, count: int = 1) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(2))


def told(observation: Observation, inputs: Tensor, labels: Tensor) -> Reconstruction:
    return certify(observation, Reconstruction(inputs, labels, Outcome("exact", "liar", 0.0, 0, 0.0)))


@pytest.mark.parametrize(
    ("build", "width", "one", "other"),
    [
        (Pair, 11, 0, 4),
        (Beside, 11, 3, 7),
        (Interest, 16, 8, 12),
        pytest.param(Interest, 16, 4, 12, marks=pytest.mark.slow),
    ],
)
def test_blocks_that_may_be_exchanged_are_not_certain(
    build: Callable[[], nn.Module], width: int, one: int, other: int
) -> None:
    x, y = row(width), torch.tensor([1])
    observation = seen(build, x, y)
    for inputs in (x, exchanged(x, one, other)):
        found = told(observation, inputs, y)
        assert found.certificate is not None
        assert found.certificate.certain == (False,)
        note = found.certificate.note  # a sum of products may be solved elsewhere before columns are exchanged
        assert "exchanged explain the update as well" in note or "found by least squares" in note


def test_a_model_that_tells_its_columns_apart_stays_certain() -> None:
    x, y = row(11), torch.tensor([1])
    observation = seen(lambda: nn.Sequential(nn.Linear(11, 16), nn.Tanh(), nn.Linear(16, 3)), x, y)
    assert told(observation, x, y).certificate.certain == (True,)  # type: ignore[union-attr]


def test_two_rows_beside_a_fixed_rest_are_exchanged() -> None:
    x, y = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(2)), torch.tensor([1])
    other = x[:, :, [0, 1, 2, 3, 5, 4]]
    assert any(torch.equal(c.inputs, other) for _, c in mirrored(seen(Rows, x, y), Candidate(x, y)))


def test_only_the_example_that_has_a_twin_is_doubted() -> None:
    x, y = row(11, 2), torch.tensor([1, 0])
    x[:, 8] = torch.tensor([0.5, -0.5])
    found = told(seen(Unequal, x, y), x, y).certificate
    assert found is not None
    assert found.certain == (False, True)
    assert "exchanged" in found.note or "found by least squares" in found.note


def test_every_example_may_have_a_twin_of_its_own() -> None:
    x, y = row(11, 2), torch.tensor([1, 0])
    assert told(seen(Pair, x, y), torch.cat([exchanged(x[:1], 0, 4), x[1:]]), y).certificate.certain == (  # type: ignore[union-attr]
        False,
        False,
    )


def test_a_normalized_batch_is_run_whole() -> None:
    x, y = row(11, 3), torch.tensor([1, 0, 2])
    observation = seen(Normalized, x, y)
    twins = [c.inputs for _, c in mirrored(observation, Candidate(x, y))]
    assert any(torch.equal(twin, exchanged(x, 0, 4)) for twin in twins)


def test_a_head_of_zeros_hides_no_twin() -> None:
    x, y = row(11), torch.tensor([1])
    twins = [c.inputs for _, c in mirrored(seen(Pair, x, y, zeros="head.weight"), Candidate(x, y))]
    assert any(torch.equal(twin, exchanged(x, 0, 4)) for twin in twins)


def test_at_most_a_handful_is_replayed() -> None:
    batch = fs.zoo.photos(size=32, num_classes=10)[:1]
    for build in (fs.zoo.lenet, lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.Linear(16, 10))):
        observation = seen(build, batch.inputs, batch.labels)
        assert len(list(mirrored(observation, Candidate(batch.inputs, batch.labels)))) <= HANDFUL + 1
