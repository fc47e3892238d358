"""Scoring tables: what must not matter does not, the truth sets no bar of its own, and blind guesses get their due."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedseal.errors import BadConfig, UnfitBatch
from fedseal.intervals import exact
from fedseal.metric.tabular import TOLERANCE, pooled, score_table, tolerances
from fedseal.modality.tabular import Categorical, Continuous, Tabular
from fedseal.types import Batch, Outcome, Reconstruction

TABLE = Tabular(
    (
        Continuous("age", 0, 100, mean=40, std=10),
        Categorical("sex", ("f", "m")),
        Continuous("income", 0, 9000, mean=3000, std=1000),
        Categorical("job", ("farmer", "nurse", "smith")),
    )
)
OUTCOME = Outcome("budget", "told", None, 0, 0.0)


def drawn(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return TABLE.nearest(torch.randn(count, *TABLE.shape, generator=generator, dtype=torch.float64))


BATCH, OTHERS = Batch(drawn(5, 0), torch.tensor([0, 1, 0, 1, 1])), drawn(200, 1)
TRUE = Reconstruction(BATCH.inputs, BATCH.labels, OUTCOME)


def test_the_truth_scores_one_and_an_unrelated_row_about_what_a_blind_guess_does() -> None:
    scores = score_table(TRUE, BATCH, modality=TABLE, unrelated=OTHERS)
    assert (scores.accuracy, scores.whole_rows) == (1.0, 5)
    assert [column.value for column in scores.columns] == [1.0] * 4
    assert [column.kind for column in scores.columns] == ["continuous", "categorical", "continuous", "categorical"]
    shares = []
    for seed in range(30):
        truth, guess = drawn(1, 100 + seed), drawn(1, 500 + seed)
        found = Reconstruction(guess, None, OUTCOME)
        scores = score_table(found, Batch(truth, torch.tensor([0])), modality=TABLE, unrelated=OTHERS)
        shares.append(scores.accuracy or 0.0)
    expected = (2 * 0.18 + 1 / 2 + 1 / 3) / 4  # two normal draws lie within .319 deviations in 18 of 100 cases
    assert sum(shares) / 30 == pytest.approx(expected, abs=0.12)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.permutations(range(5)), st.integers(0, 2**16))
def test_the_order_of_the_reconstruction_does_not_matter(order: list[int], seed: int) -> None:
    noise = torch.randn(5, *TABLE.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    guess = BATCH.inputs + 0.4 * noise
    one = score_table(Reconstruction(guess, BATCH.labels, OUTCOME), BATCH, modality=TABLE, unrelated=OTHERS)
    moved = Reconstruction(guess[order], BATCH.labels[order], OUTCOME)
    other = score_table(moved, BATCH, modality=TABLE, unrelated=OTHERS)
    assert [row.right for row in one.rows] == [row.right for row in other.rows]
    assert [row.label_correct for row in one.rows] == [row.label_correct for row in other.rows]
    assert [order[row.matched] for row in other.rows if row.matched is not None] == [row.matched for row in one.rows]


@pytest.mark.parametrize(("off", "right"), [(0.31, True), (0.33, False)])
def test_a_number_is_right_within_the_tolerance_and_a_category_if_it_is_equal(off: float, right: bool) -> None:
    truth = TABLE.encode([{"age": 40, "sex": "f", "income": 3000, "job": "smith"}])
    guess = TABLE.encode([{"age": 40 + 10 * off, "sex": "m", "income": 3000, "job": "smith"}])
    scores = score_table(Reconstruction(guess, None, OUTCOME), Batch(truth, torch.tensor([0])), modality=TABLE)
    assert scores.rows[0].right == (right, False, True, True)
    assert scores.baselines[0].value is None


def test_the_deviation_is_that_of_unrelated_rows_and_the_truth_has_no_say() -> None:
    wide = TABLE.encode([{"age": age, "sex": "f", "income": 1, "job": "smith"} for age in (0, 50, 100)])
    bar = tolerances(TABLE, TABLE.decode(wide))
    assert bar.tolist() == pytest.approx([TOLERANCE * 50, 0, TOLERANCE * 1000, 0], rel=1e-4)
    assert tolerances(TABLE, None).tolist() == pytest.approx([3.19, 0, 319, 0])
    truth = TABLE.encode([{"age": age, "sex": "f", "income": 1, "job": "smith"} for age in (0, 100)])
    guess = TABLE.encode([{"age": age, "sex": "f", "income": 1, "job": "smith"} for age in (20, 100)])
    two, told = Batch(truth, torch.tensor([0, 0])), Reconstruction(guess, None, OUTCOME)
    assert score_table(told, two, modality=TABLE, unrelated=OTHERS).rows[0].right == (False, True, True, True)
    assert score_table(told, two, modality=TABLE, unrelated=truth).rows[0].right == (True, True, True, True)


def test_blind_guesses_are_the_mode_and_mean_and_the_best_constant() -> None:
    unrelated = TABLE.encode(
        [{"age": age, "sex": sex, "income": 3000, "job": "smith"} for age, sex in [(20, "m"), (21, "m"), (80, "f")]]
    )
    truth = TABLE.encode([{"age": 20, "sex": "m", "income": 3000, "job": "nurse"}])
    scores = score_table(TRUE, Batch(truth, torch.tensor([0])), modality=TABLE, unrelated=unrelated)
    assert [(guess.name, guess.value) for guess in scores.baselines] == [
        ("column mode and mean", 0.5),  # the mean age, 40, is nobody's
        ("best constant", 0.75),
    ]
    assert scores.columns[0].baselines[1].value == 1.0


def test_rows_that_were_not_found_count_as_wrong_and_no_rows_at_all_as_unknown() -> None:
    two = Reconstruction(BATCH.inputs[:2], BATCH.labels[:2], OUTCOME)
    scores = score_table(two, BATCH, modality=TABLE, unrelated=OTHERS)
    assert scores.accuracy == pytest.approx(2 / 5)
    assert [row.matched for row in scores.rows] == [0, 1, None, None, None]
    broken = replace(TRUE, inputs=BATCH.inputs.clone().index_fill_(0, torch.tensor([1]), torch.nan))
    assert score_table(broken, BATCH, modality=TABLE).accuracy == pytest.approx(4 / 5)
    nothing = score_table(Reconstruction(None, None, OUTCOME), BATCH, modality=TABLE, unrelated=OTHERS)
    assert (nothing.accuracy, nothing.interval, nothing.columns) == (None, None, ())
    assert nothing.baselines[0].value is not None
    both = pooled([nothing, score_table(TRUE, BATCH, modality=TABLE, unrelated=OTHERS)])
    assert both.accuracy == 0.5
    assert len(both.rows) == 10


def test_intervals_hold_the_share_and_shrink_with_the_rows() -> None:
    assert list(exact(0, 10)) == pytest.approx([0.0, 0.308], abs=1e-3)
    assert list(exact(10, 10)) == pytest.approx([0.692, 1.0], abs=1e-3)
    low, high = exact(6.4, 8)
    assert low < 0.8 < high
    wider = exact(64, 80)
    assert low < wider[0] < 0.8 < wider[1] < high


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UnfitBatch, match="the batch's rows have shape"):
        score_table(TRUE, Batch(BATCH.inputs[:, 1:], BATCH.labels), modality=TABLE)
    with pytest.raises(UnfitBatch, match="the reconstruction's rows have shape"):
        score_table(replace(TRUE, inputs=BATCH.inputs[:, 1:]), BATCH, modality=TABLE)
    for unrelated in (OTHERS[:0], OTHERS[:, 1:]):
        with pytest.raises(BadConfig, match="the unrelated rows have shape"):
            score_table(TRUE, BATCH, modality=TABLE, unrelated=unrelated)
    with pytest.raises(BadConfig, match="cannot be pooled"):
        pooled([])
