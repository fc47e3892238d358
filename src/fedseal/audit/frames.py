"""The iterations of a running attack, thinned while they come, so that memory stays the same however long it runs."""

from __future__ import annotations

import torch
from torch import Tensor

from fedseal.audit.content import decoded
from fedseal.audit.kinds import input_kind
from fedseal.types import Modality, Progress, ProgressCallback

LIMIT = 24


class Frames:
    """At most `LIMIT` evenly spaced candidates of one attack, as decoded pictures; none of sentences and rows.

    Whenever there are more, every second one goes and from then on half as many are taken.
    """

    def __init__(self, modality: Modality) -> None:
        self.steps: list[int] = []
        self._modality = modality
        self._none = not input_kind(modality).pictured
        self._pictures: list[Tensor] = []
        self._seen = 0
        self._stride = 1

    def add(self, progress: Progress) -> None:
        """Take a candidate, if it is its turn."""
        if progress.inputs is None or self._none:
            return
        if self._pictures and self._pictures[0].shape != progress.inputs.shape:  # another route guesses another number
            self.steps, self._pictures, self._seen, self._stride = [], [], 0, 1
        if self._seen % self._stride == 0:
            self._pictures.append(decoded(self._modality, progress.inputs).mul(255).round().to(torch.uint8))
            self.steps.append(progress.step)
        self._seen += 1
        if len(self.steps) > LIMIT:
            self.steps, self._pictures = self.steps[::2], self._pictures[::2]
            self._stride *= 2

    @property
    def pictures(self) -> Tensor | None:
        """All frames `(F, N, C, H, W)` uint8, None if there is none."""
        return torch.stack(self._pictures) if self._pictures else None


class Film:
    """The iterations of the attack's latest start."""

    def __init__(self, modality: Modality, show: ProgressCallback) -> None:
        self._modality, self._show = modality, show
        self._last = 0
        self.frames = Frames(modality)

    def __call__(self, step: Progress) -> None:
        """Take an iteration; earlier ones of another start, or another route, go."""
        if step.step <= self._last:
            self.frames = Frames(self._modality)
        self._last = step.step
        self.frames.add(step)
        self._show(step)
