"""The public names: adding one is a decision, losing one breaks somebody's code."""

from __future__ import annotations

import fedseal

PUBLIC = {
    *("Batch", "Candidate", "Case", "FedsealError", "Image", "LocalTraining", "Observation", "Outcome", "Progress"),
    *(
        "LanguageModel",
        "Tabular",
        "Text",
        "Reconstruction",
        "Round",
        "ThreatModel",
        "Update",
        "aggregate",
        "local_update",
    ),
    *("attack", "audit", "defense", "metric", "report", "zoo"),
}


def test_the_public_names_are_these() -> None:
    assert set(dir(fedseal)) == PUBLIC
    assert all(hasattr(fedseal, name) for name in PUBLIC)
