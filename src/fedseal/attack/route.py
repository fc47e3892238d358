"""A route: an attack that says beforehand why it does not apply, and reads evidence that is gathered once."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from fedseal.attack.evidence.evidence import Evidence
from fedseal.types import Observation, ProgressCallback, Reconstruction


class Route(ABC):
    """What the planner asks before it takes an attack; by itself it is an attack like any other."""

    name: str

    @abstractmethod
    def obstacle(self, evidence: Evidence) -> str | None:
        """Why it does not apply, None if it does."""

    @abstractmethod
    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack, from evidence that may have been gathered already."""

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack."""
        return self.read(Evidence.of(observation), generator=generator, progress=progress)
