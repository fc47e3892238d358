from __future__ import annotations

import pytest

from fedseal.report import words
from report.records import Shot, cell


@pytest.mark.parametrize(
    ("shot", "sentence"),
    [
        (Shot(), "Certified: replayed update agrees to 3e-7."),
        (Shot(threat="eavesdropper"), "Certified: the attacked layer's equations hold to 3e-7."),
        (Shot(residual=None), "Certified by the route's own equations."),
        (Shot(status="budget", residual=0.021), "Not certified: replayed update still differs by 0.02."),
        (Shot(status="budget", residual=None), "Not certified: this attacker cannot replay the update."),
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
    statuses = ("exact", "converged", "budget", "diverged", "not_applicable", "refused")
    assert set(words.STATUS) == set(statuses)
