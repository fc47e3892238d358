"""fedseal: what do your federated-learning updates leak, and what makes it stop?"""

from fedseal import attack, defense
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
