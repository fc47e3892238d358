"""Findings of examples, and tallies of attackers and defenses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fedseal.audit.record import Cell
from fedseal.report.tally import Sample, Tally, leading, leakage, samples, strongest, tally
from report.records import BLIND, Shot, record

OPEN, TRACES, SHUT = 40.0, 17.0, 12.0


def cells(*shots: Shot, epochs: int | None = None) -> tuple[Cell, ...]:
    made = record(shots).cells
    return tuple(cell.model_copy(update={"key": cell.key.model_copy(update={"epochs": epochs})}) for cell in made)


def shot(value: float | None, first: int = 0, **facts: object) -> Shot:
    """One example: identified if and only if it is close, refused if it has no value."""
    status = "refused" if value is None else "budget"
    return Shot((value,), first=first, hit=(value or 0) >= OPEN, **{"status": status, **facts})  # type: ignore[arg-type]


def one(*shots: Shot) -> Tally:
    (found,) = tally(cells(*shots))
    return found


def test_a_finding_without_inputs_is_nothing_and_a_refusal_is_not_measured() -> None:
    silent, refused = cells(Shot((None, None), status="exact"), shot(None))
    assert [(s.finding, s.certified) for s in samples(silent)] == [("none", False)] * 2
    assert [s.finding for s in samples(refused)] == ["unmeasured"]


def test_gain_is_what_lies_above_the_best_blind_guess() -> None:
    (sample,) = samples(cells(shot(OPEN))[0])
    assert sample.gain == OPEN - BLIND
    (nothing,) = samples(cells(Shot((math.nan,), status="budget"))[0])
    assert nothing.gain == -math.inf


def test_findings_rank_before_certainty_and_certainty_before_closeness() -> None:
    traces, none, sure, close = (
        samples(cell)[0]
        for cell in cells(
            shot(TRACES), shot(SHUT, status="exact"), shot(OPEN, status="exact"), shot(OPEN + 9, status="budget")
        )
    )
    assert [s.finding for s in (traces, none, sure, close)] == ["traces", "none", "recovered", "recovered"]
    assert leakage(none) < leakage(traces) < leakage(close) < leakage(sure)
    assert leakage(traces) < leakage(replace(traces, finding="recovered"))


def test_a_refused_example_counts_as_refused_and_not_as_safe() -> None:
    found = one(shot(OPEN), shot(None, 1), shot(None, 2, attack="dlg"), shot(SHUT, 2))
    assert (found.attacked, found.refused, found.recovered) == (2, 1, 1)
    assert (found.rate.hits, found.rate.trials) == (1, 2)


def test_an_example_under_each_seed_and_each_place_counts_for_itself() -> None:
    shots = [shot(SHUT, first, seed=seed) for first in (0, 1) for seed in (0, 1)]
    best, refused = strongest(cells(*shots))
    assert (len(best), refused) == (4, 0)
    assert one(*shots).attacked == 4


def test_of_several_attacks_the_one_that_leaks_most_counts_in_whatever_order() -> None:
    for attacks in (("weak", "strong"), ("strong", "weak")):
        shots = [shot(OPEN if name == "strong" else SHUT, attack=name) for name in attacks]
        (best,), _ = strongest(cells(*shots))
        assert best.cell.key.attack == "strong"
        assert one(*shots).recovered == 1


@pytest.mark.parametrize("slow_first", [True, False])
def test_of_attacks_that_recovered_an_example_a_certified_one_counts_then_the_fastest(slow_first: bool) -> None:
    shots = [
        shot(OPEN, attack="lucky", seconds=0.1),
        shot(OPEN, attack="slow", seconds=9.0, status="exact"),
        shot(OPEN, attack="fast", seconds=2.0, status="exact"),
    ]
    found = one(*(shots if slow_first else reversed(shots)))
    assert found.best[0].cell.key.attack == "fast"
    assert (found.seconds, found.certified) == (2.0, 1)


def test_what_was_recovered_is_what_median_and_time_speak_of() -> None:
    found = one(shot(OPEN, seconds=1.0), shot(SHUT, 1, seconds=100.0), shot(SHUT, 2, seconds=100.0))
    assert (found.value, found.seconds) == (OPEN, 1.0)
    nothing = one(shot(SHUT, seconds=3.0, status="exact"))
    assert (nothing.value, nothing.seconds, nothing.certified) == (SHUT, 3.0, 0)


def test_an_attack_that_gave_nothing_picked_nothing_out() -> None:
    found = one(shot(OPEN), Shot((None,), first=1, status="diverged"))
    assert (found.identification.hits, found.identification.trials) == (1, 2)


def test_labels_of_a_batch_are_those_of_the_attack_that_named_most_batch_by_batch() -> None:
    wrong = Shot((SHUT, SHUT), status="budget", labels=(8, 9), attack="dlg")
    right = Shot((SHUT, SHUT), status="budget", labels=(0, 1), attack="auto")
    assert (one(wrong, right).labels.hits, one(right, wrong).labels.hits) == (2, 2)
    assert one(replace(right, seed=1), wrong).labels.trials == 4


def test_batch_sizes_and_local_trainings_count_apart_where_there_are_several() -> None:
    small, large = cells(shot(OPEN), Shot((SHUT, SHUT), first=2, status="budget"))
    (longer,) = cells(shot(SHUT), epochs=5)
    by_size = tally([small, large])
    assert [(t.batch_size, t.epochs) for t in by_size] == [(1, None), (2, None)]
    assert [[t.holds(cell) for cell in (small, large)] for t in by_size] == [[True, False], [False, True]]
    (once,) = cells(shot(OPEN), epochs=0)
    by_course = tally([once, longer])
    assert [(t.batch_size, t.epochs) for t in by_course] == [(None, 0), (None, 5)]
    assert [[t.holds(cell) for cell in (once, longer)] for t in by_course] == [[True, False], [False, True]]


def test_settings_stand_by_the_share_that_leaks_an_oracle_last_and_the_unattacked_never_lead() -> None:
    half = [shot(OPEN, defense="half"), *(shot(SHUT, k, defense="half") for k in (1, 2, 3))]
    whole = [shot(OPEN, defense="whole"), shot(None, 1, defense="whole")]
    many = [shot(TRACES, k, defense="many") for k in range(9)]
    sure = [shot(OPEN, threat="oracle", status="exact", defense="oracle")]
    shut = [shot(None, defense="shut")]
    found = tally(cells(*shut, *many, *half, *sure, *whole))
    assert [t.defense for t in found] == ["whole", "half", "many", "shut", "oracle"]
    first = leading(found)
    assert first is not None
    assert first.defense == "whole"
    only = tally(cells(shot(None), *sure))
    led = leading(only)
    assert led is not None
    assert led.threat == "oracle"
    assert leading(tally(cells(shot(None)))) is None


def test_what_was_attacked_in_vain_stands_before_what_nobody_could_attack() -> None:
    vain = Shot((None,), status="diverged", defense="vain")
    for shots in ([vain, shot(None, defense="shut")], [shot(None, defense="shut"), vain]):
        assert [t.defense for t in tally(cells(*shots))] == ["vain", "shut"]


def test_a_sample_is_a_plain_value() -> None:
    (cell,) = cells(shot(OPEN))
    assert samples(cell) == (Sample(cell, 0, samples(cell)[0].scores, "recovered"),)
