"""fedseal: what do your federated-learning updates leak, and what makes it stop?"""

from fedseal import attack, audit, defense, metric, report, zoo
from fedseal.audit import Case
from fedseal.client import local_update
from fedseal.errors import FedsealError
from fedseal.modality import Image
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
    "LocalTraining",
    "Observation",
    "Outcome",
    "Progress",
    "Reconstruction",
    "Round",
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
