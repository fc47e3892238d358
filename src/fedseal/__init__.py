"""fedseal: what do your federated-learning updates leak, and what makes it stop?"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedseal import attack, audit, defense, metric, report, zoo
    from fedseal.audit import Case
    from fedseal.client import local_update
    from fedseal.errors import FedsealError
    from fedseal.modality import Image, LanguageModel, Tabular, Text
    from fedseal.threat import ThreatModel, aggregate
    from fedseal.types import (
        Batch,
        Candidate,
        LocalTraining,
        Observation,
        Outcome,
        Progress,
        Reconstruction,
        Round,
        Update,
    )

__all__ = [
    "Batch",
    "Candidate",
    "Case",
    "FedsealError",
    "Image",
    "LanguageModel",
    "LocalTraining",
    "Observation",
    "Outcome",
    "Progress",
    "Reconstruction",
    "Round",
    "Tabular",
    "Text",
    "ThreatModel",
    "Update",
    "aggregate",
    "attack",
    "audit",
    "defense",
    "local_update",
    "metric",
    "report",
    "zoo",
]

_HOMES = {
    "Case": "fedseal.audit",
    "local_update": "fedseal.client",
    "FedsealError": "fedseal.errors",
    "Image": "fedseal.modality",
    "LanguageModel": "fedseal.modality",
    "Tabular": "fedseal.modality",
    "Text": "fedseal.modality",
    "ThreatModel": "fedseal.threat",
    "aggregate": "fedseal.threat",
    "Batch": "fedseal.types",
    "Candidate": "fedseal.types",
    "LocalTraining": "fedseal.types",
    "Observation": "fedseal.types",
    "Outcome": "fedseal.types",
    "Progress": "fedseal.types",
    "Reconstruction": "fedseal.types",
    "Round": "fedseal.types",
    "Update": "fedseal.types",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first used: torch takes seconds, and the command line must answer Ctrl-C before."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"fedseal.{name}")
    raise AttributeError(f"module 'fedseal' has no attribute '{name}'")
