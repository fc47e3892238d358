from __future__ import annotations

import pytest

from fedseal.report import words
from report.records import Shot, cell


@pytest.mark.parametrize(
    ("shot", "sentence"),
    [
        (
            Shot(),
            "Certain: replayed update agrees to 3e-7, and a visible change would move the update by at least 2e-3. "
            "Assumes the client's word that 1 examples made the update.",
        ),
        (
            Shot(threat="eavesdropper"),
            "Certain: the first layer's equations hold to 3e-7, and a visible change would move the update by at "
            "least 2e-3. Assumes the client's word that 1 examples made the update.",
        ),
        (
            Shot((90.0, 9.0), status="budget", certain=(True, False)),
            "Certain of 1 of 2: replayed update agrees to 3e-7, and a visible change would move the update by at "
            "least 2e-3; the rest: explains the update, does not determine 1 of 2 examples. Assumes the client's word "
            "that 2 examples made the update.",
        ),
        (
            Shot((90.0, 9.0), status="budget", certain=(False, False)),
            "Not certain: explains the update, does not determine 2 of 2 examples.",
        ),
        (
            Shot(status="budget", certain=(False,), residual=0.02),
            "Not certain: replayed update still differs by 0.02.",
        ),
        (
            Shot(residual=None),
            "Not certain: this record is of an earlier version, which did not tell what is determined.",
        ),
        (Shot(status="budget", residual=0.021), "Not certain: replayed update still differs by 0.02."),
        (Shot(status="budget", residual=None), "Not certain: this attacker cannot replay the update."),
        (Shot((None,), status="diverged", note="at step 3"), "Diverged; nothing came out: at step 3."),
        (
            Shot((None,), status="refused", note="needs the weights; grant them"),
            "Refused: needs the weights; grant them.",
        ),
        (Shot((None,), status="not_applicable"), "No route applies."),
    ],
)
def test_a_certificate_claims_only_what_this_attacker_can_check(shot: Shot, sentence: str) -> None:
    assert words.certificate(cell(shot)) == sentence


def test_every_status_and_granted_fact_has_words() -> None:
    from fedseal.threat import GRANTS, PRESETS

    assert len(words.facts(GRANTS)) == len(GRANTS)
    assert not set(words.facts(GRANTS)) & set(GRANTS)
    assert all(words.attacker_title(name) != name for name in PRESETS)
    statuses = ("exact", "converged", "budget", "diverged", "not_applicable", "refused", "failed")
    assert set(words.STATUS) == set(statuses)


@pytest.mark.parametrize(
    ("shot", "why"),
    [
        (Shot((90.0, 9.0), status="budget", certain=(True, True)), ""),
        (Shot((90.0, 9.0), status="budget", certain=(True, False)), "explains the update, does not determine the row"),
        (
            Shot((90.0, 9.0), status="budget", certain=(True, False), proof="'1' drops values at random"),
            "'1' drops values at random",
        ),
        (
            Shot((90.0, 9.0), status="budget", certain=(False, False), residual=0.2),
            "does not explain the update, which differs by 0.2",
        ),
        (Shot((90.0, 9.0), status="budget", residual=None), "this attacker cannot replay the update"),
        (Shot((None, None), status="diverged"), ""),
    ],
)
def test_every_example_says_for_itself_whether_it_is_certain(shot: Shot, why: str) -> None:
    assert words.doubt(cell(shot), 1, "row") == why


def test_a_failed_cell_says_where_its_traceback_lies() -> None:
    shot = Shot((None,), status="failed", note="KeyError: 'weight'")
    assert words.certificate(cell(shot)) == (
        f"Failed: KeyError: 'weight'. Its traceback lies in cells/{shot.key.id}.traceback.txt."
    )
