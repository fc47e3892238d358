from __future__ import annotations

import re
from dataclasses import replace

import pytest

from fedseal.report import verdict
from fedseal.report.kind import judge
from fedseal.report.tally import leading, tally
from fedseal.types import RouteNote
from report.records import Shot, record, scores

WEAK = Shot(status="budget", route="matching", residual=0.4)


def weak(*psnr: float, **facts: object) -> Shot:
    """A search that did not converge."""
    return replace(WEAK, psnr=psnr, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("psnr", "hit", "blind", "finding"),
    [
        (90.0, True, 13.0, "recovered"),
        (16.0, True, 13.0, "recovered"),
        (15.9, True, 13.0, "traces"),
        (90.0, False, 13.0, "traces"),
        (12.0, False, 13.0, "none"),
        (float("inf"), True, 13.0, "recovered"),
        (40.0, True, None, "traces"),
        (8.0, False, None, "none"),
        (None, None, 13.0, "unmeasured"),
    ],
)
def test_a_picture_is_recovered_only_beyond_the_blind_guess_and_out_of_the_gallery(
    psnr: float | None, hit: bool | None, blind: float | None, finding: str
) -> None:
    assert judge(scores(0, psnr, hit, blind)) == finding


def test_full_recovery_says_who_knowing_what_how_sure_how_fast_and_beside_which_guess() -> None:
    shots = [Shot((90.0 + i,), first=i, seconds=0.2 + 0.2 * i) for i in range(3)]
    found = verdict(record(shots))
    assert found.level == "recovered"
    assert found.headline == (
        "The server (honest but curious), knowing the model's weights and the training settings, recovered all 3 "
        "private pictures from updates without a defense; it was certain of all of them without seeing the originals, "
        "in a median of 0.40 s per update, at a median PSNR of 91.0 dB where the best blind guess has 13.0 dB."
    )


def test_certainty_counts_only_certified_recoveries() -> None:
    shots = [Shot((90.0,), first=0), weak(40.0, first=1), weak(9.0, first=2)]
    found = verdict(record(shots))
    assert found.level == "partial"
    assert "recovered 2 of 3 private pictures" in found.headline
    assert "certain of 1 of 2" in found.headline


def test_each_picture_counts_once_however_many_attacks_recover_it() -> None:
    shots = [Shot((90.0,), attack="auto", seconds=2.0), weak(80.0, attack="dlg", seconds=1.0)]
    worst = leading(tally(record(shots).cells))
    assert worst is not None
    assert (worst.attacked, worst.recovered, worst.certified, worst.seconds) == (1, 1, 1, 2.0)


@pytest.mark.parametrize("hit", [False, True])
def test_nothing_recovered_is_worded_neutrally_and_never_as_safety(hit: bool) -> None:
    found = verdict(record([weak(12.0, first=i, hit=hit) for i in range(4)]))
    text = " ".join([found.headline, *found.details])
    assert found.level == ("traces" if hit else "none")
    assert "these attacks did not recover any of the 4 private pictures" in text
    assert "where guessing would pick 0.04" in text
    assert "no proof of safety" in text
    assert not re.search(r"\b(safe|secure|protected|harmless)\b", text)


def test_attacks_that_gave_nothing_identify_nothing() -> None:
    shots = [weak(12.0, first=0, hit=True), Shot((None,), first=1, status="diverged")]
    worst = leading(tally(record(shots).cells))
    assert worst is not None
    assert (worst.identification.hits, worst.identification.trials) == (1, 2)


def test_the_headline_speaks_of_the_leakiest_setting_and_the_details_of_the_others() -> None:
    shots = [
        weak(11.0, defense="gaussian:0.01"),
        weak(25.0, defense="prune:0.2"),
        Shot((95.0,), defense="none"),
        weak(9.0, threat="eavesdropper"),
    ]
    found = verdict(record(shots))
    assert "updates without a defense" in found.headline
    assert found.details[0] == "The same attacker recovered 1 of 1 pictures from updates under the defense prune:0.2."
    assert found.details[1] == "These attacks did not recover any picture from updates under the defense gaussian:0.01."
    assert found.details[2].startswith(
        "For an eavesdropper on the line, without knowing the model's weights, these attacks"
    )


def test_traces_behind_a_defense_are_not_passed_over() -> None:
    found = verdict(record([Shot((95.0,)), weak(12.0, defense="gaussian:0.01", hit=True)]))
    assert found.details[0].endswith("under the defense gaussian:0.01 (though 1 of 1 show traces).")


def test_an_oracle_never_makes_the_headline_beside_a_real_attacker() -> None:
    found = verdict(record([Shot((95.0,), threat="oracle"), weak(9.0)]))
    assert found.level == "none"
    assert any("oracle" in sentence and "recovered 1 of 1" in sentence for sentence in found.details)


def test_refused_cells_are_not_counted_as_withstood() -> None:
    refused = Shot((None,), first=1, status="refused", note="it needs the weights")
    found = verdict(record([Shot((90.0,)), refused]))
    assert "recovered the private picture" in found.headline
    alone = verdict(record([refused]))
    assert alone.level == "empty"
    assert "nothing was measured" in alone.headline


def test_certainty_counts_examples_and_not_batches() -> None:
    found = verdict(record([Shot((90.0, 80.0, 70.0), status="budget", certain=(True, False, True))]))
    assert "recovered all 3 private pictures" in found.headline
    assert "certain of 2 of 3" in found.headline


def test_a_record_that_proved_less_calls_nothing_certain_and_says_why() -> None:
    made = record([Shot()])
    old = made.model_copy(
        update={
            "header": made.header.model_copy(update={"version": 4}),
            "cells": tuple(cell.model_copy(update={"certificate": None}) for cell in made.cells),
        }
    )
    assert "could not be certain" in verdict(old).headline
    assert verdict(old).details[0].startswith("This record is of an earlier version")


def test_a_crash_is_said_first_and_is_no_result() -> None:
    crashed = Shot((None,), first=1, status="failed", note="KeyError: 'weight'")
    found = verdict(record([weak(9.0), crashed]))
    assert found.details[0] == (
        f"1 cell of 2 crashed, which says nothing of the data: runs/first/cells/{crashed.key.id}.traceback.txt says "
        "where, and the same command tries again."
    )
    assert "the private picture" in found.headline  # of one, not two
    alone = verdict(record([crashed]))
    assert (alone.level, alone.headline) == ("empty", "Every attack crashed, so nothing was measured.")


def test_routes_left_out_for_what_is_not_known_stand_in_the_first_paragraph() -> None:
    notes = (
        RouteNote("linear", False, "the first layer is not fully connected on the flattened input"),
        RouteNote("layerwise", False, "what the loss computes is not recognized"),
        RouteNote("separation", False, "what the loss computes is not recognized"),
    )
    found = verdict(record([weak(9.0, explanation=notes), Shot(first=1, defense="prune:0.2", explanation=notes)]))
    said = [d for d in found.details if "left out" in d]
    assert said == [
        "For the server (honest but curious), exact routes were left out because something is not known, and whoever "
        "knows it may read more: layerwise and separation (what the loss computes is not recognized)."
    ]
    assert found.details[0] == said[0]
    assert not any("left out" in d for d in verdict(record([Shot(explanation=notes)])).details)


def test_an_unfinished_run_says_so_first() -> None:
    found = verdict(record([Shot()], missing=7))
    assert found.details[0].startswith("This run is incomplete: 1 of 8 cells are finished")
    assert not any("incomplete" in sentence for sentence in verdict(record([Shot()])).details)


def test_no_cells_at_all_claim_nothing() -> None:
    found = verdict(record([], missing=3))
    assert found.level == "empty"
    assert "nothing is known" in found.headline
    assert leading(tally(())) is None


def test_examples_of_a_batch_count_one_by_one() -> None:
    found = verdict(record([Shot((90.0, 10.0, None, 40.0))]))
    assert "recovered 2 of 4 private pictures" in found.headline


def test_batch_sizes_and_local_trainings_count_apart() -> None:
    shots = [Shot((90.0,)), weak(9.0, 9.0, first=2)]
    one, two = tally(record(shots).cells)
    assert [(t.batch_size, t.where, t.recovered, t.attacked) for t in (one, two)] == [
        (1, "batches of 1", 1, 1),
        (2, "batches of 2", 0, 2),
    ]
    details = " ".join(verdict(record(shots)).details)
    assert "did not recover any picture from updates without a defense (batches of 2)" in details
