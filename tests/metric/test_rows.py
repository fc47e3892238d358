"""Rows of a table through the same door as pictures and sentences."""

from __future__ import annotations

import torch

from fedseal.metric import Grader, score, tabular
from fedseal.metric.rows import RowJudge
from fedseal.modality.tabular import Categorical, Continuous, Tabular
from fedseal.types import Batch, Outcome, Reconstruction

OUTCOME = Outcome("converged", "test", None, 1, 0.0)
TABLE = Tabular((Continuous("age", 0, 100, mean=40, std=20), Categorical("sex", ("f", "m"))))
OTHERS = TABLE.encode([{"age": age, "sex": "f"} for age in (20, 40, 60)])
TRUTH = Batch(TABLE.encode([{"age": 30, "sex": "m"}, {"age": 70, "sex": "f"}]), torch.tensor([0, 1]))


def test_rows_score_by_columns_whatever_their_order() -> None:
    guess = TABLE.encode([{"age": 71, "sex": "f"}, {"age": 50, "sex": "m"}])
    found = score(Reconstruction(guess, torch.tensor([1, 0]), OUTCOME), TRUTH, modality=TABLE, gallery=OTHERS)
    assert [sample.matched for sample in found.samples] == [1, 0]
    assert [[s.value for s in sample.scores] for sample in found.samples] == [[0.5, 0.0], [1.0, 1.0]]
    assert [sample.label_correct for sample in found.samples] == [True, True]
    assert (found.headline, found.mean("columns")) == ("columns", 0.75)
    assert [baseline.name for baseline in found.samples[0].headline.baselines] == list(tabular.GUESSES)
    assert found.samples[0].headline.baselines[0].value == 0.0  # 40 is too far from 30, and "f" is wrong
    assert found.samples[1].headline.baselines[0].value == 0.5


def test_the_judge_and_the_tables_own_score_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    guess = TRUTH.inputs + 0.4 * torch.randn(TRUTH.inputs.shape, generator=generator)
    found = Reconstruction(guess, None, OUTCOME)
    by_judge = score(found, TRUTH, modality=TABLE, gallery=OTHERS)
    alone = tabular.score_table(found, TRUTH, modality=TABLE, unrelated=OTHERS)
    assert [sample.matched for sample in by_judge.samples] == [row.matched for row in alone.rows]
    assert [sample.headline.value for sample in by_judge.samples] == [row.value for row in alone.rows]


def test_a_row_that_is_not_finite_is_matched_to_nothing() -> None:
    guess = TRUTH.inputs.clone()
    guess[0, 0] = float("nan")
    found = score(Reconstruction(guess, None, OUTCOME), TRUTH, modality=TABLE, gallery=OTHERS)
    assert [sample.matched for sample in found.samples] == [None, 1]
    assert found.samples[0].headline.value is None


def test_without_unrelated_rows_there_is_no_blind_guess() -> None:
    found = score(Reconstruction(TRUTH.inputs, None, OUTCOME), TRUTH, modality=TABLE)
    assert [b.value for sample in found.samples for b in sample.headline.baselines] == [None] * 4
    assert found.mean("row") == 1.0


def test_cells_agree_by_name() -> None:
    judge = Grader(TRUTH, modality=TABLE, gallery=OTHERS).judge
    assert isinstance(judge, RowJudge)
    _, (first, second) = judge.read(TRUTH.inputs)
    assert judge.agrees(first, second) == {"age": False, "sex": False}
    assert judge.agrees(first, first) == {"age": True, "sex": True}
