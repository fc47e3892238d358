"""From the end of a route or a search to data that explain the update, where least squares reach them.

Newton's steps stop at the next minimum. Two kinds of minima lie beside the right one, and are left by trying: a unit
of a ReLU is on where the truth has it off, and examples of several local steps stand in each other's places. And near
an example that stands twice they crawl, since one may go as the other comes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from fedseal.attack.base import badness, better
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.jacobian import QUICK, small
from fedseal.attack.evidence.replay import replayable
from fedseal.attack.search.newton import Newton
from fedseal.client import step_indices
from fedseal.errors import NotTwiceDifferentiable
from fedseal.types import Candidate, ProgressCallback, Reconstruction

COLUMNS, ENTRIES = 320, 4e6  # of a Jacobian, up to which one of Newton's steps takes less than a second, as measured
WIDE, CLOSE = 1024, 1e-3  # columns where the end lies so close to the update that a few steps are enough
STEPS, MANY = 30, 120  # of Newton, and where they are quick
ASTRAY, PLACED = 0.1, 0.01  # residuals from which on no truth is near, and it is no matter of places in local steps
HOPS = (1e-2, 3e-3, 3e-2) * 2  # root mean square of moves that may take a unit across its kink
TWINS = 0.2  # root mean square distance up to which two examples are tried as one that stands twice
PLACES, LOOK = 12, 3  # examples up to which every two are tried in each other's places, and steps of each try

Way = Callable[[Evidence, Reconstruction, torch.Generator], Candidate | None]


def polished(
    evidence: Evidence, found: Reconstruction, generator: torch.Generator, progress: ProgressCallback | None
) -> Reconstruction | None:
    """The same reconstruction after Newton's steps; None where they do not apply, or all is certain."""
    if not _applies(evidence, found):
        return None
    steps = MANY if _quick(evidence, found) else STEPS
    return _newton(evidence, found, _candidate(found), steps, generator, progress)


def hopped(
    evidence: Evidence, found: Reconstruction, generator: torch.Generator, progress: ProgressCallback | None
) -> Reconstruction | None:
    """The best of what Newton's steps make of places beside a minimum; None where they do not apply or lead nowhere."""
    if not _applies(evidence, found) or not _quick(evidence, found):
        return None
    ways: list[Way] = [_exchanged] if (found.outcome.residual or 0.0) <= PLACED else []
    ways += [_merged]
    ways += [partial(_moved, size=size) for size in HOPS if evidence.structure.nonsmooth]
    best = found
    for way in ways:
        start = way(evidence, best, generator) if _between(best) else None
        again = None if start is None else _newton(evidence, best, start, STEPS, generator, progress)
        if again is not None:
            best = better(best, again)
    return None if best is found else best


def _applies(evidence: Evidence, found: Reconstruction) -> bool:
    inputs, labels = found.inputs, found.labels
    if inputs is None or labels is None or len(labels) != len(inputs) or bool(found.certain.all()):
        return False
    if replayable(evidence.observation) is None or not inputs.is_floating_point():
        return False
    close = found.outcome.residual is not None and found.outcome.residual <= CLOSE
    return small(evidence, len(inputs), WIDE if close else COLUMNS, ENTRIES)


def _quick(evidence: Evidence, found: Reconstruction) -> bool:
    assert found.inputs is not None
    return small(evidence, len(found.inputs), *QUICK)


def _newton(
    evidence: Evidence,
    found: Reconstruction,
    start: Candidate,
    steps: int,
    generator: torch.Generator,
    progress: ProgressCallback | None,
) -> Reconstruction | None:
    """Newton's steps from a start, counted on top of what found it; None where the model cannot be linearized."""
    try:
        again = Newton(start.inputs, start.labels, steps)(evidence.observation, generator=generator, progress=progress)
    except NotTwiceDifferentiable:
        return None
    return replace(again, outcome=replace(again.outcome, steps=again.outcome.steps + found.outcome.steps))


def _between(found: Reconstruction) -> bool:
    """Whether it ended near the update, and does not explain it."""
    value, certificate = found.outcome.residual, found.certificate
    return value is not None and certificate is not None and certificate.tolerance < value <= ASTRAY


def _moved(evidence: Evidence, found: Reconstruction, generator: torch.Generator, *, size: float) -> Candidate:
    """The candidate with inputs moved at random by `size` (root mean square)."""
    start = _candidate(found)
    noise = torch.randn(start.inputs.shape, generator=generator).to(start.inputs)
    return replace(start, inputs=evidence.observation.modality.project(start.inputs + size * noise))


def _merged(evidence: Evidence, found: Reconstruction, generator: torch.Generator) -> Candidate | None:
    """The candidate with examples that nearly coincide in one place, their mean; None where none do."""
    here = _candidate(found)
    flat = here.inputs.double().flatten(1)
    near = (torch.cdist(flat, flat) <= TWINS * math.sqrt(flat.shape[1])).double()
    if bool((near.sum(1) == 1).all()):
        return None
    together = near @ flat / near.sum(1, keepdim=True)
    return replace(here, inputs=together.to(here.inputs).view_as(here.inputs))


def _exchanged(evidence: Evidence, found: Reconstruction, generator: torch.Generator) -> Candidate | None:
    """The candidate with examples of different local steps in each other's places as long as that is nearer to the
    update; None where nothing is.
    """
    training, count = replayable(evidence.observation), len(_candidate(found).inputs)
    if training is None or training.shuffle or not training.batch_size or not training.batch_size < count <= PLACES:
        return None
    step = torch.zeros(count, dtype=torch.long)
    for number, taken in enumerate(step_indices(replace(training, epochs=1), count)):
        step[taken] = number

    best, nearer = found, True
    while nearer and _between(best):
        nearer = False
        for one, other in itertools.combinations(range(count), 2):
            if step[one] != step[other]:
                here = _candidate(best)
                order = torch.arange(count)
                order[[one, other]] = order[[other, one]]
                tried = Newton(here.inputs[order], here.labels[order], LOOK)(evidence.observation, generator=generator)
                if badness(tried) < badness(best):
                    best, nearer = tried, True
    return None if best is found else _candidate(best)


def _candidate(found: Reconstruction) -> Candidate:
    assert found.inputs is not None
    assert found.labels is not None
    return Candidate(found.inputs, found.labels)
