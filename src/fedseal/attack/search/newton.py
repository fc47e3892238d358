"""The last steps of an attack by least squares on the update itself; see `evidence/least_squares.py`."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from fedseal.attack.base import conclude
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.least_squares import steps_from
from fedseal.attack.evidence.replay import replayable
from fedseal.errors import UnknownToAdversary
from fedseal.types import Candidate, Observation, Progress, ProgressCallback, Reconstruction


@dataclass(frozen=True)
class Newton:
    """Go on from inputs and labels by damped Gauss-Newton steps on the client's own training.

    Args:
        start: inputs `(N, *shape)`.
        labels: theirs; real targets move along, classes stay.
        steps: at most; each works out the whole Jacobian.
    """

    start: Tensor
    labels: Tensor
    steps: int = 30
    name: str = "newton"

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack; draws nothing.

        Raises:
            UnknownToAdversary: weights or local training are withheld.
            NotTwiceDifferentiable: an operator of the model has no second derivative.
        """
        started = time.perf_counter()
        if replayable(observation) is None:
            observation.require_state(self.name)
            observation.require_training(self.name)
            raise UnknownToAdversary(f"{self.name} cannot replay the local training", "let it start afresh")
        start = end = Candidate(self.start.detach().double(), self.labels)
        steps = 0
        for steps, (end, value) in enumerate(steps_from(Evidence.of(observation), start, self.steps)):
            if progress is not None:
                progress(Progress(self.name, steps, self.steps, value, end.inputs))
        return conclude(observation, end, route=self.name, steps=max(1, steps), started=started)
