"""Batches with repeated examples: fewer were found than made the update, and some of them stand for several.

A route that reads a layer's gradient finds as many examples as that gradient has directions. An example that occurs
twice has one direction, also under two labels.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedseal.attack.base import conclude, refused
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.input_traits import traits_of
from fedseal.attack.evidence.replay import CAP, replayable, residual
from fedseal.attack.labels import best
from fedseal.attack.layers.linear import LinearFirstLayer, read_row
from fedseal.attack.route import Route
from fedseal.errors import FedsealError
from fedseal.types import Candidate, Outcome, ProgressCallback, Reconstruction

MOST = 8  # examples of a batch up to which it is completed
TRIALS = 64  # replays
COARSE = 4  # units in the last place of the update that a replay may be off where they are larger than any tolerance


@dataclass(frozen=True)
class Repeated(Route):
    """A batch of one example, repeated: its first layer's gradient is one outer product, and shows that example.

    Phong et al., IEEE TIFS 2018, for one example. Examples that differ, and whose gradients are parallel all the same,
    show as a mixture, which does not explain the update.
    """

    name: str = "repeated"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this route does not apply, None if it does."""
        count = evidence.batch_size
        if count is None:
            return "nobody says how many examples made the update"
        if count == 1:
            return "one example alone repeats nothing"
        if replayable(evidence.observation) is None:
            return "it needs the weights and the local training, to see whether one example explains the update"
        return LinearFirstLayer().no_product(evidence)

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Closed form, and the labels of `best`."""
        started = time.perf_counter()
        obstacle = self.obstacle(evidence)
        if obstacle is not None:
            return refused(self.name, obstacle, started)
        inputs = read_row(evidence).inputs.to(evidence.observation.like)
        one = Reconstruction(inputs, None, Outcome("budget", self.name, None, 0, 0.0))
        found = with_repeats(evidence, one, generator)
        return found or refused(self.name, "one example repeated does not explain the update: a mixture shows", started)


def with_repeats(evidence: Evidence, found: Reconstruction, generator: torch.Generator) -> Reconstruction | None:
    """The reconstruction with examples repeated so that as many as are known to have made the update explain it; None
    where none are missing, or no repetition explains it.
    """
    observation, count, inputs = evidence.observation, evidence.batch_size, found.inputs
    if inputs is None or count is None or not 0 < len(inputs) < count <= MOST:
        return None
    if replayable(observation) is None or traits_of(observation.modality).discrete:
        return None
    started = time.perf_counter()
    nearest, least = None, max(CAP, COARSE * evidence.eps)
    for candidate in itertools.islice(_candidates(evidence, found, count, generator), TRIALS):
        value = residual(observation, candidate)
        if value is not None and value <= least:
            nearest, least = candidate, value
    if nearest is None:
        return None
    return conclude(
        observation,
        nearest,
        route=found.outcome.route,
        steps=found.outcome.steps,
        started=started,
        status=found.outcome.status,
        note="; ".join(filter(None, [found.outcome.note, f"{len(inputs)} examples stand for {count}"])),
    )


def _candidates(
    evidence: Evidence, found: Reconstruction, count: int, generator: torch.Generator
) -> Iterator[Candidate]:
    """The inputs repeated in every way, under their own labels and, of one input alone, under the batch's."""
    inputs, labels = found.inputs, found.labels
    assert inputs is not None
    for times in _times(count, len(inputs)):
        again = inputs.repeat_interleave(torch.tensor(times, device=inputs.device), 0)
        if labels is not None and len(labels) == len(inputs):
            yield Candidate(again, labels.repeat_interleave(torch.tensor(times, device=labels.device), 0))
    if len(inputs) == 1:
        read = _labels(evidence, generator)
        if read is not None and len(read) == count:
            yield Candidate(inputs.repeat(count, *[1] * (inputs.ndim - 1)), read.to(inputs.device))


def _times(count: int, kinds: int) -> Iterator[tuple[int, ...]]:
    """All ways to give each of some kinds a number of at least 1, together `count`.

    >>> list(_times(4, 2))
    [(1, 3), (2, 2), (3, 1)]
    """
    for cuts in itertools.combinations(range(1, count), kinds - 1):
        ends = (0, *cuts, count)
        yield tuple(after - before for before, after in itertools.pairwise(ends))


def _labels(evidence: Evidence, generator: torch.Generator) -> Tensor | None:
    try:
        return best(evidence.observation, generator=generator).labels
    except FedsealError:
        return None
