from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from audit.fakes import Divide, Guess, refusing, small_case
from fedseal import audit
from fedseal.audit import Cell, CellKey, Group, Record, compare, summarize
from fedseal.audit.record import CellCertificate
from fedseal.audit.summary import Rate
from fedseal.metric import score_labels
from fedseal.metric.scores import Baseline, Identification, SampleScores, Score, Scores


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A record whose header other records borrow."""
    record = audit.run(small_case(1), attacks=[Divide()], out=tmp_path_factory.mktemp("run"))
    return record.model_copy(update={"cells": ()})


def cell(
    psnr: float | None,
    hit: bool = False,
    label: bool | None = True,
    attack: str = "a",
    first: int = 0,
    status: str = "budget",
    seconds: float = 1.0,
) -> Cell:
    """A cell of one example; psnr None means that the attack gave no picture."""
    score = Score("psnr", "dB", psnr, True, (Baseline("grey", 10.0 + first), Baseline("mean picture", None)))
    sample = SampleScores(0, 0, (score,), Identification(hit, 1 if hit else 7, 100), label)
    return Cell(
        key=CellKey(attack=attack, defense="none", threat="server", first=first, batch_size=1, seed=0),
        status=status,  # type: ignore[arg-type]
        route="r",
        residual=None,
        steps=0,
        seconds=seconds,
        note="",
        explanation=(),
        knows=(),
        true_labels=(0,),
        labels=None,
        scores=None if psnr is None else Scores((sample,)),
        frame_steps=(),
    )


def group(empty: Record, *cells: Cell) -> Group:
    (only,) = summarize(empty.model_copy(update={"cells": cells}))
    return only


def test_figures_of_a_group(empty: Record) -> None:
    cells = [cell(p, hit=p > 20, label=p > 10, first=i, seconds=i) for i, p in enumerate([40.0, 5.0, 30.0])]
    found = group(empty, *cells)
    assert (found.psnr_mean, found.psnr_median, found.psnr_worst) == (25.0, 30.0, 40.0)
    assert (found.cells, found.samples, found.measured, found.seconds) == (3, 3, 3, 1.0)
    assert (found.identification.hits, found.identification.trials, found.identification.chance) == (2, 3, 0.01)
    assert (found.labels.hits, found.labels.trials) == (2, 3)
    assert found.baselines == (("grey", 11.0),)


def test_an_attack_that_gave_nothing_identified_nothing_and_has_no_psnr(empty: Record) -> None:
    found = group(empty, cell(30.0, hit=True), cell(None, first=1, status="diverged"))
    assert (found.identification.hits, found.identification.trials) == (1, 2)
    assert (found.psnr_mean, found.measured, found.samples) == (30.0, 1, 2)


def test_a_refused_cell_counts_nowhere_else(empty: Record) -> None:
    found = group(empty, cell(None, status="refused"))
    assert (found.cells, found.refused, found.samples) == (1, 1, 0)
    assert found.identification.value is None
    assert (found.seconds, found.psnr_worst, found.labels.value) == (None, None, None)


def test_without_a_gallery_identification_is_unmeasured(empty: Record) -> None:
    plain = cell(30.0)
    assert plain.scores is not None
    bare = dataclasses.replace(plain.scores.samples[0], identification=None)
    found = group(empty, plain.model_copy(update={"scores": Scores((bare,))}))
    assert found.identification.value is None
    assert found.psnr_mean == 30.0


def test_certain_examples_are_counted_and_not_cells(empty: Record) -> None:
    statuses = ["exact", "converged", "budget", "diverged", "refused", "failed"]
    cells = [cell(1.0, first=i, status=status) for i, status in enumerate(statuses)]
    assert group(empty, *cells).certified == 0  # whatever a status says
    key = cells[2].key.model_copy(update={"batch_size": 3})
    some = cells[2].model_copy(update={"key": key, "certificate": certificate(True, False, True)})
    found = group(empty, *cells[:2], some, *cells[3:])
    assert (found.certified, found.samples, found.refused, found.failed) == (2, 6, 1, 1)


def certificate(*certain: bool) -> CellCertificate:
    moved = (0.1,) * len(certain)
    return CellCertificate(
        kind="replay", residual=1e-7, tolerance=1e-6, sensitivity=moved, certain=certain, assumption="that it is so"
    )


def test_labels_in_whatever_order_are_added_up_and_given_ones_do_not_count(empty: Record) -> None:
    half, all_of_them = score_labels([1, 1, 2, 3], [1, 2, 5, 6], 10), score_labels([4, 5], [5, 4], 10)
    told = cell(1.0, first=2).model_copy(update={"label_score": all_of_them, "knows": ("labels",)})
    cells = [
        cell(1.0).model_copy(update={"label_score": half}),
        cell(None, first=1).model_copy(update={"label_score": all_of_them}),
        told,
        cell(1.0, first=3),
    ]
    found = group(empty, *cells).label_multiset
    assert half is not None
    assert all_of_them is not None
    assert (found.hits, found.trials) == (4, 6)
    assert found.chance == pytest.approx(((half.chance or 0) * 4 + (all_of_them.chance or 0) * 2) / 6)
    assert group(empty, told).label_multiset.value is None


@given(st.integers(1, 200), st.data())
def test_the_interval_is_wilsons(trials: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, trials))
    wilson = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert Rate(hits, trials).interval == pytest.approx((wilson.low, wilson.high), abs=1e-12)


def test_groups_follow_the_cells_of_a_real_run(tmp_path: Path) -> None:
    record = audit.run(
        small_case(2), attacks=[Guess(), Divide(), refusing()], defenses=["none", "prune:0.9"], out=tmp_path
    )
    groups = summarize(record)
    assert [g.key[:3] for g in groups] == [
        (attack, "honest_but_curious", shield)
        for attack in ("guess", "divide", "raising")
        for shield in ("none", "prune:0.9")
    ]
    exact = groups[2]
    assert exact.psnr_mean is not None
    assert exact.identification.value == 1.0
    assert exact.identification.chance == pytest.approx(1 / 6)
    assert exact.psnr_mean > 60 > max(value for _, value in exact.baselines)


def changes(empty: Record, old: list[Cell], new: list[Cell]) -> dict[tuple[str, str], tuple[str, bool | None]]:
    before, after = (empty.model_copy(update={"cells": tuple(cells)}) for cells in (old, new))
    return {(c.attack, c.measure): (c.verdict, c.certain) for c in compare(before, after)}


def test_more_leakage_is_worse_and_less_is_better(empty: Record) -> None:
    weak, strong = cell(10.0, hit=False, label=False), cell(20.0, hit=True, label=True)
    assert {verdict for verdict, _ in changes(empty, [weak], [strong]).values()} == {"worse"}
    assert {verdict for verdict, _ in changes(empty, [strong], [weak]).values()} == {"better"}
    assert {verdict for verdict, _ in changes(empty, [strong], [strong]).values()} == {"same"}


def test_times_and_rounding_are_no_change(empty: Record) -> None:
    found = changes(empty, [cell(10.0, seconds=1.0)], [cell(10.05, seconds=9.0)])
    assert {verdict for verdict, _ in found.values()} == {"same"}


def test_a_change_is_certain_only_where_the_intervals_are_apart(empty: Record) -> None:
    def many(share: float, count: int) -> list[Cell]:
        return [cell(10.0, hit=i < share * count, first=i) for i in range(count)]

    assert changes(empty, many(0, 2), many(1, 2))["a", "identification"] == ("worse", False)
    assert changes(empty, many(0, 20), many(1, 20))["a", "identification"] == ("worse", True)


def test_what_only_one_record_has_appears_or_is_gone_and_the_worse_comes_first(empty: Record) -> None:
    old = [cell(10.0, attack="kept"), cell(10.0, attack="dropped")]
    new = [cell(20.0, attack="kept"), cell(10.0, attack="added")]
    found = changes(empty, old, new)
    assert found["dropped", "psnr_median"] == ("gone", None)
    assert found["added", "psnr_median"] == ("appeared", None)
    order = ["worse", "appeared", "gone", "better", "same"]
    ranks = [order.index(verdict) for verdict, _ in found.values()]
    assert all(one <= two for one, two in pairwise(ranks))
