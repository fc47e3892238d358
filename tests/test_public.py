"""The public names: adding one is a decision, losing one breaks somebody's code."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

import fedseal
from fedseal.errors import MissingExtra

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


def test_without_nvflare_its_recorder_says_what_to_install() -> None:
    if importlib.util.find_spec("nvflare") is not None:
        pytest.skip("NVFlare is installed")
    with pytest.raises(MissingExtra, match="nvflare is not installed"):
        importlib.import_module("fedseal.nvflare")
