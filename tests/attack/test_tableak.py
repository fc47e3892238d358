"""TabLeak: the relaxation, the members side by side, what they agree on, and rows read off small models."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attack.cases import initialized, seeded
from fedseal import Batch, Image, LocalTraining, Observation, Progress, ThreatModel, local_update
from fedseal.attack.batch.spear import Spear
from fedseal.attack.layers.linear import LinearFirstLayer
from fedseal.attack.search.label_source import Joint
from fedseal.attack.search.objective import cosine_distance
from fedseal.attack.search.update_model import Simulate
from fedseal.attack.tabular.tableak import RelaxedRows, TabLeak, cell_confidence, member_distances, pooled_rows
from fedseal.client import local_training
from fedseal.errors import BadConfig, UnknownToAdversary
from fedseal.metric.tabular import score_table
from fedseal.modality.tabular import Categorical, Continuous, Tabular

TABLE = Tabular(
    (
        Continuous("age", 0, 100, mean=40, std=15, digits=0),
        Categorical("sex", ("f", "m")),
        Continuous("income", 0, 9000, mean=3000, std=1500, digits=0),
        Categorical("job", ("farmer", "nurse", "smith", "weaver")),
    )
)
WIDTH = TABLE.shape[0]
SMALL = TabLeak(members=4, steps=120, polish=15)


def people(count: int, seed: int = 0) -> Batch:
    generator = seeded(seed)
    rows: list[dict[str, object]] = [
        {
            "age": int(torch.randint(20, 80, (), generator=generator)),
            "sex": "fm"[int(torch.randint(2, (), generator=generator))],
            "income": int(torch.randint(1000, 6000, (), generator=generator)),
            "job": ("farmer", "nurse", "smith", "weaver")[int(torch.randint(4, (), generator=generator))],
        }
        for _ in range(count)
    ]
    return Batch(TABLE.encode(rows), torch.randint(3, (count,), generator=generator))


def perceptron(*layers: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    return initialized(nn.Sequential(nn.Linear(WIDTH, 40), *layers, nn.Linear(40, 3)), seed, dtype)


def observed(
    model: nn.Module, batch: Batch, training: LocalTraining | None = None, threat: ThreatModel | None = None
) -> Observation:
    update = local_update(model, batch, training=training or LocalTraining.fedsgd())
    return (threat or ThreatModel.honest_but_curious()).observe(model, update, modality=TABLE)


@pytest.mark.parametrize("attack", [SMALL, replace(SMALL, members=1)])
def test_rows_are_read_to_the_letter_and_certified(attack: TabLeak) -> None:
    batch = people(2)
    found = attack(observed(perceptron(nn.Tanh()), batch), generator=seeded())
    assert found.outcome.status == "converged"
    assert found.inputs is not None
    assert sorted(map(str, TABLE.rows(found.inputs))) == sorted(map(str, TABLE.rows(batch.inputs)))
    assert score_table(found, batch, modality=TABLE).whole_rows == 2
    assert found.confidence is not None
    assert found.confidence.shape == (2, 4)
    assert bool(((found.confidence >= 0) & (found.confidence <= 1)).all())


TRAININGS = {
    "fedsgd": LocalTraining.fedsgd(),
    "two epochs, momentum": LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=2, momentum=0.9),
    "adam": LocalTraining.fedavg(lr=0.01, epochs=2, optimizer="adam"),
}


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("norm", [False, True])
def test_members_side_by_side_are_what_each_client_alone_would_send(training: str, norm: bool) -> None:
    """Of every training and with BatchNorm in train mode, whose statistics no member shares with another."""
    model = perceptron(*([nn.BatchNorm1d(40)] if norm else []), nn.Tanh(), dtype=torch.float64)
    batch = people(4)
    observation = observed(model, Batch(batch.inputs.double(), batch.labels), TRAININGS[training])
    relaxed = RelaxedRows(TABLE, 3, temperature=0.7)
    candidate = torch.randn(12, WIDTH, generator=seeded(1), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2]).repeat(3)
    together = relaxed.bind(observation, "test", 4, candidate.new_empty(0), seeded()).predict(0, candidate, labels)
    assert observation.state is not None
    for member in range(3):
        rows = relaxed(candidate)[4 * member : 4 * member + 4]
        alone = local_training(observation.model, observation.state, rows, labels[:4], TRAININGS[training]).tensors
        for tensor, name in zip(together, observation.update.tensors, strict=True):
            assert torch.allclose(tensor[member], alone[name], atol=1e-8), name


def test_no_member_moves_another() -> None:
    observation = observed(perceptron(nn.Tanh()), people(2))
    prediction = RelaxedRows(TABLE, 3, temperature=1.0).bind(observation, "test", 2, torch.empty(0), seeded())
    candidate = torch.randn(6, WIDTH, generator=seeded(1), requires_grad=True)
    guess = prediction.predict(0, candidate, torch.tensor([0, 1] * 3))
    distances = member_distances(guess, prediction.targets[0])
    (slope,) = torch.autograd.grad(distances[1], candidate)
    assert slope[2:4].abs().sum() > 0
    assert not bool(slope[:2].any())
    assert not bool(slope[4:].any())
    alone = cosine_distance([g[1] for g in guess], prediction.targets[0])
    assert distances[1].item() == pytest.approx(alone.item(), rel=1e-4)


def test_soft_rows_are_valid_and_harden_as_the_temperature_falls() -> None:
    candidate = 3 * torch.randn(5, WIDTH, generator=seeded(), dtype=torch.float64)
    relaxed = RelaxedRows(TABLE, 1, temperature=4.0, decay=0.5)
    peaks = []
    for _ in range(12):
        rows = relaxed(candidate)
        assert torch.allclose(TABLE.project(rows), rows)
        assert torch.allclose(rows[:, 1:3].sum(1), torch.ones(5, dtype=torch.float64))
        peaks.append(rows[:, 1:3].max(1).values)
        relaxed.cool()
    assert bool((torch.stack(peaks).diff(dim=0) >= 0).all())
    assert bool((TABLE.nearest(rows)[:, 1:3] - rows[:, 1:3]).abs().max() < 1e-2)


def test_every_step_of_the_search_cools_by_one() -> None:
    relaxed = RelaxedRows(TABLE, 2, temperature=8.0, decay=0.5)
    prediction = relaxed.bind(observed(perceptron(nn.Tanh()), people(2)), "test", 2, torch.empty(0), seeded())
    prediction.settle()
    prediction.settle()
    assert relaxed.temperature == 2.0
    assert prediction.copies == 2


def test_soft_labels_can_be_searched_along() -> None:
    batch = people(1, seed=2)
    found = replace(SMALL, labels=Joint(), members=2)(observed(perceptron(nn.Tanh()), batch), generator=seeded())
    assert found.labels is not None
    assert found.labels.shape == (1,)
    assert found.outcome.residual is not None
    assert found.outcome.residual < 0.9


def test_a_start_is_where_its_numbers_say() -> None:
    rows = people(4).inputs
    back = RelaxedRows(TABLE, 1, temperature=1e-3)
    assert torch.allclose(back(back.inverse(rows)), rows, atol=1e-4)


def test_the_pool_is_the_median_of_matched_rows() -> None:
    """One of three members is far off and another has its rows the other way round."""
    truth = people(2, seed=3)
    labels = torch.tensor([1, 1])
    soft = torch.stack([truth.inputs, truth.inputs.flip(0), people(2, seed=9).inputs])
    pool = pooled_rows(TABLE, soft, labels, torch.tensor([0.1, 0.2, 0.9]))
    assert torch.allclose(pool.rows, truth.inputs, atol=1e-5)
    assert torch.equal(pool.best, truth.inputs)
    alone = pooled_rows(TABLE, soft, labels, torch.tensor([0.1, 0.2, math.nan]))
    assert float(alone.confidence.min()) == pytest.approx(1.0, abs=1e-4)
    assert float(pool.confidence.min()) < 0.9


def test_confidence_is_one_where_members_agree_and_zero_where_they_know_nothing() -> None:
    sure = people(1).inputs.expand(4, 1, WIDTH)
    assert cell_confidence(TABLE, sure).tolist() == [pytest.approx([1.0] * 4, abs=1e-4)]
    lost = sure.clone()
    lost[:, 0, 1:3], lost[:, 0, 4:] = 0.5, 0.25
    lost[:, 0, 0] = torch.tensor([-2.0, -1.0, 1.0, 2.0])
    assert cell_confidence(TABLE, lost)[0].tolist() == pytest.approx([0, 0, 1, 0], abs=1e-4)


def test_a_wrong_cell_is_less_sure_than_a_right_one() -> None:
    right: list[float] = []
    wrong: list[float] = []
    for seed in range(2):
        batch = people(6, seed)
        found = replace(SMALL, steps=80, polish=0)(
            observed(perceptron(nn.Tanh(), seed=seed), batch), generator=seeded()
        )
        assert found.confidence is not None
        for row in score_table(found, batch, modality=TABLE).rows:
            assert row.matched is not None
            for cell, good in zip(found.confidence[row.matched].tolist(), row.right, strict=True):
                (right if good else wrong).append(cell)
    assert len(wrong) > 5
    assert sum(right) / len(right) > sum(wrong) / len(wrong) + 0.05


def test_progress_shows_rows_and_not_the_unconstrained_candidate() -> None:
    seen: list[Tensor] = []

    def watch(progress: Progress) -> None:
        assert progress.inputs is not None
        seen.append(progress.inputs)

    replace(SMALL, steps=5)(observed(perceptron(nn.Tanh()), people(2)), generator=seeded(), progress=watch)
    assert len(seen) == 5
    assert all(rows.shape == (2, WIDTH) and torch.allclose(TABLE.project(rows), rows) for rows in seen)


def test_the_generator_decides_and_the_observation_is_untouched() -> None:
    observation = observed(perceptron(nn.Tanh()), people(3))
    before = [tensor.clone() for tensor in observation.update.tensors.values()]
    attack = replace(SMALL, steps=10)
    one, two, three = (attack(observation, generator=seeded(s)) for s in (5, 5, 6))
    assert one.inputs is not None
    assert two.inputs is not None
    assert three.inputs is not None
    assert torch.equal(one.inputs, two.inputs)
    assert not torch.equal(one.inputs, three.inputs)
    assert all(torch.equal(a, b) for a, b in zip(before, observation.update.tensors.values(), strict=True))


def test_local_steps_are_searched_through() -> None:
    batch = people(2, seed=4)
    observation = observed(perceptron(nn.Tanh()), batch, LocalTraining.fedavg(lr=0.05, epochs=2))
    found = SMALL(observation, generator=seeded())
    assert score_table(found, batch, modality=TABLE).accuracy == 1.0


def test_what_is_withheld_or_no_table_is_refused() -> None:
    model, batch = perceptron(nn.Tanh()), people(1)
    with pytest.raises(UnknownToAdversary):
        SMALL(observed(model, batch, threat=ThreatModel.eavesdropper()), generator=seeded())
    picture = replace(observed(model, batch), modality=Image(shape=(1, 2, 4)))
    found = SMALL(picture, generator=seeded())
    assert (found.outcome.status, found.inputs) == ("not_applicable", None)
    assert "no rows of a table" in found.outcome.note
    with pytest.raises(BadConfig):
        TabLeak(members=0)


def test_one_row_is_exact_by_the_first_layer_and_a_batch_by_its_zeros() -> None:
    """The exact routes take a table's rows as they are."""
    one = people(1)
    for training in (LocalTraining.fedsgd(), LocalTraining.fedavg(lr=0.1, epochs=3)):
        for threat in (ThreatModel.honest_but_curious(), ThreatModel.eavesdropper()):
            found = LinearFirstLayer()(observed(perceptron(nn.Tanh()), one, training, threat), generator=seeded())
            assert found.outcome.status == "exact"
            assert found.inputs is not None
            assert TABLE.rows(found.inputs) == TABLE.rows(one.inputs)
    three = people(3)
    found = Spear()(observed(perceptron(nn.ReLU()), three), generator=seeded())
    assert found.outcome.status == "exact"
    assert score_table(found, three, modality=TABLE).whole_rows == 3


def test_the_update_model_needs_the_training() -> None:
    observation = replace(observed(perceptron(nn.Tanh()), people(1)), training=None)
    with pytest.raises(UnknownToAdversary):
        Simulate().bind(observation, "test", 1, torch.empty(0), seeded())
    with pytest.raises(UnknownToAdversary):
        SMALL(observation, generator=seeded())
