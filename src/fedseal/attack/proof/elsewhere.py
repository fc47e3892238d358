"""Whether data far away may explain the update as well, though none nearby do.

A Jacobian of full rank says that nothing near a reconstruction gives the same update. As many equations as unknowns
have several solutions in general, each alone in its neighborhood; only equations to spare leave one, but for
symmetries. A model without any bias is one: it answers to scaled inputs by scaled outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fedseal.attack.equations.factor import lowest
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.jacobian import CHUNK, QUICK, linearized, small
from fedseal.attack.evidence.least_squares import steps_from
from fedseal.attack.evidence.replay import outputs_of, replayable, residual
from fedseal.attack.proof.sensitivity import VISIBLE, delta_on_the_ray
from fedseal.types import Candidate, Observation
from fedseal.vocabulary import MARGIN, OWN_SEED

ELSEWHERE = 2  # inputs and labels drawn at random at which the update's other directions are looked at
ENOUGH = 16  # equations to spare that are counted, more or less
INDEPENDENT = 1e-9  # of the largest singular value, up to which a number follows from others
TWICE = 2.0  # times the inputs, of which a model without a bias makes a multiple of its outputs
SAME = 1e-5  # of the largest output, how near to a multiple
SCALES = torch.logspace(-2, 2, 81, dtype=torch.float64).tolist()  # factors at which another solution is looked for
FEW = 8  # examples that are scaled one by one
CLASSES = 16  # up to which each is tried
STARTS, STEPS = 16, 25  # of least squares to another solution
AGREEING = 4  # ends of all starts, from which on it counts where they lie
COLUMNS, ENTRIES = 64, 1e5  # of a Jacobian up to which that takes little time
DEEP = 4  # valleys of the misfit that are followed down


def to_spare(evidence: Evidence, candidate: Candidate, tolerance: float) -> int:
    """How many independent equations updates of this kind obey beyond the unknowns of the whole batch, up to some;
    negative where there are fewer.

    Updates lie in a space of as many dimensions as the Jacobians at all data span together; the one at the candidate
    and some directions at data drawn at random show it. And they follow from what the layers take in: where all that
    they show of it are as many numbers as there are unknowns, these numbers have several preimages in general, however
    many entries repeat them.

    Args:
        tolerance: the relative change of the update that nobody sees.

    Raises:
        NotTwiceDifferentiable: an operator of the model has no second derivative.
    """
    there = linearized(evidence, candidate)
    unseen = MARGIN * tolerance * there.norm / (VISIBLE * math.sqrt(candidate.inputs[0].numel()))
    own, unknowns = there.matrix(), there.columns
    if own.shape[1] <= unknowns:
        return own.shape[1] - unknowns
    shown = _shown_numbers(evidence, candidate, unknowns + ENOUGH)
    if shown <= unknowns:
        return shown - unknowns
    basis, triangle = torch.linalg.qr(own.T)
    taken = _rank(triangle, unseen)
    generator, rows = torch.Generator().manual_seed(OWN_SEED), []
    for _ in range(ELSEWHERE):
        other = linearized(evidence, _drawn(evidence, candidate, generator))
        some = min(other.columns, unknowns - taken + ENOUGH)
        ways = torch.linalg.qr(torch.randn(other.columns, some, generator=generator, dtype=torch.float64))[0].T
        rows.append(other.push(ways.to(other.inputs)).double())
    moved = torch.cat(rows) / math.sqrt(ELSEWHERE)
    spanned = taken + _rank(moved - (moved @ basis) @ basis.T, unseen)
    return min(spanned, shown) - unknowns


def _shown_numbers(evidence: Evidence, candidate: Candidate, most: int) -> int:
    """How many numbers an update shows, up to some, if what every layer takes in were free: it says no more of the
    inputs, of which all of that follows. Where layers are no modules that are called, they are as many as the inputs.

    What a layer behind the first gives back follows from what it takes in, which shows: it adds nothing. Of the first
    layer that is no matter of course.
    """
    free = linearized(evidence, candidate, layers=True)
    count, generator = min(most, free.columns), torch.Generator().manual_seed(OWN_SEED)
    ways = torch.linalg.qr(torch.randn(free.columns, count, generator=generator, dtype=torch.float64))[0].T
    parts = [free.push(part.to(free.inputs)).double() for part in torch.split(ways, CHUNK)]
    values = torch.linalg.svdvals(torch.cat(parts))
    least = max(INDEPENDENT, 1e3 * torch.finfo(free.inputs.dtype).eps)  # some models compute in their own format only
    return int((values > least * values[0]).sum())


def _rank(rows: Tensor, unseen: float) -> int:
    return int((torch.linalg.svdvals(rows) > unseen).sum())


def _drawn(evidence: Evidence, candidate: Candidate, generator: torch.Generator) -> Candidate:
    """Valid inputs and targets of the same shapes, at random."""
    inputs, labels = candidate.inputs, candidate.labels
    noise = torch.randn(inputs.shape, generator=generator).to(inputs)
    others = evidence.observation.modality.project(evidence.observation.modality.start(noise))
    if labels.is_floating_point():
        return Candidate(others, torch.rand(labels.shape, generator=generator).to(labels))
    classes = max(1, evidence.structure.num_classes)
    return Candidate(others, torch.randint(classes, labels.shape, generator=generator).to(labels))


def scaled_inputs(
    evidence: Evidence, candidate: Candidate, certain: tuple[bool, ...], tolerance: float
) -> Iterator[Candidate]:
    """The candidates with one certain example scaled that explain the update as well, about what the first layer takes
    for zero; none where the model has a bias that stands in the way.
    """
    observation = evidence.observation
    center = _center(evidence, candidate.inputs)
    if replayable(observation) is None or not _homogeneous(observation, candidate.inputs, center):
        return
    for one in range(min(len(certain), FEW)):
        if certain[one]:
            yield from _on_the_ray(observation, candidate, one, center, tolerance)


def on_its_ray(evidence: Evidence, candidate: Candidate, tolerance: float) -> list[Candidate] | None:
    """Of one example all else that explains the update, where that can only be a multiple of it, under any class; None
    where it may be anything.
    """
    labels, classes = candidate.labels, evidence.structure.num_classes
    alone = evidence.batch_size == 1 and len(evidence.observation.rounds) == 1
    if not alone or labels.is_floating_point() or labels.numel() != 1 or not 0 < classes <= CLASSES:
        return None
    if delta_on_the_ray(evidence, candidate.inputs) is None:
        return None
    nothing = torch.zeros_like(candidate.inputs)
    return [
        other
        for label in range(classes)
        for sign in (1.0, -1.0)
        for other in _on_the_ray(
            evidence.observation,
            Candidate(candidate.inputs, torch.full_like(labels, label)),
            0,
            nothing,
            tolerance,
            sign,
        )
    ]


def _center(evidence: Evidence, inputs: Tensor) -> Tensor:
    """The input `(1, *shape)` that a normalization before the first layer makes zero."""
    if evidence.preprocessing is None or not evidence.structure.layers:
        return torch.zeros_like(inputs[:1])
    return evidence.undo(torch.zeros_like(evidence.first_rows(inputs[:1]))).inputs.to(inputs)


def solved(evidence: Evidence, candidate: Candidate, tolerance: float) -> Iterator[Candidate]:
    """What explains the update as well, found by least squares from valid inputs drawn at random, under the same
    labels; tried where an operator folds, such as GELU: its two preimages pass through whatever comes behind it.

    Raises:
        NotTwiceDifferentiable: an operator of the model has no second derivative.
    """
    if evidence.structure.folds and small(evidence, len(candidate.inputs), COLUMNS, ENTRIES):
        yield from _ends(evidence, candidate, (False,) * len(candidate.inputs), tolerance)


def freed(evidence: Evidence, candidate: Candidate, certain: tuple[bool, ...], tolerance: float) -> Iterator[Candidate]:
    """What explains the update as well, found by least squares from starts in which the examples that are not certain
    are valid ones drawn at random, under the same labels; tried where that takes little time.

    Raises:
        NotTwiceDifferentiable: an operator of the model has no second derivative.
    """
    if not all(certain) and small(evidence, len(candidate.inputs), COLUMNS, ENTRIES):
        yield from _ends(evidence, candidate, certain, tolerance)


def returning(
    evidence: Evidence, candidate: Candidate, certain: tuple[bool, ...], tolerance: float
) -> list[Candidate] | None:
    """What explains the update as well, found from starts in which only the open examples, and from others in which all
    are drawn at random; None where too few ends explain it, or looking takes long.

    Where the open examples may move and the update stays, however far they go, these ends show whether the others stay
    as well: there are no equations to spare to say so.

    Raises:
        NotTwiceDifferentiable: an operator of the model has no second derivative.
    """
    if all(certain) or not small(evidence, len(candidate.inputs), *QUICK):
        return None
    found = [end for held in (certain, (False,) * len(certain)) for end in _ends(evidence, candidate, held, tolerance)]
    return found if len(found) >= AGREEING else None


def _ends(evidence: Evidence, candidate: Candidate, held: tuple[bool, ...], tolerance: float) -> Iterator[Candidate]:
    """Where least squares lead from examples drawn at random in the place of those not held, if that explains the
    update.
    """
    generator, kept = torch.Generator().manual_seed(OWN_SEED), torch.tensor(held)
    for _ in range(STARTS):
        inputs = _drawn(evidence, candidate, generator).inputs
        inputs[kept] = candidate.inputs[kept]
        *_, (end, _) = steps_from(evidence, replace(candidate, inputs=inputs), STEPS)
        value = residual(evidence.observation, end)
        if value is not None and value <= tolerance:
            yield end


def valid(observation: Observation, inputs: Tensor) -> Tensor:
    """Which examples lie in the valid range, but for what nobody sees: `(N,)` booleans."""
    away: Tensor = (inputs - observation.modality.project(inputs)).abs().flatten(1).amax(1) <= VISIBLE
    return away


def _homogeneous(observation: Observation, inputs: Tensor, center: Tensor) -> bool:
    """Whether twice the inputs, about a center, give a multiple of the outputs, the same for all outputs of an example,
    and four times the inputs that multiple of the multiple: a single output is always a multiple of another.
    """
    once, twice, again = (
        outputs_of(observation, center + factor * (inputs - center)) for factor in (1.0, TWICE, TWICE**2)
    )
    multiple = (once * twice).sum(1, keepdim=True) / once.square().sum(1, keepdim=True).clamp_min(1e-300)
    return _alike(twice, multiple * once) and _alike(again, multiple * twice)


def _alike(outputs: Tensor, others: Tensor) -> bool:
    return bool(((outputs - others).abs().amax(1) <= SAME * outputs.abs().amax(1).clamp_min(1e-300)).all())


def _on_the_ray(
    observation: Observation, candidate: Candidate, one: int, center: Tensor, tolerance: float, sign: float = 1.0
) -> Iterator[Candidate]:
    """The multiples of one example, visibly other than itself, that explain the update: positive ones, or negative."""

    def at(factor: float) -> Candidate:
        inputs = candidate.inputs.clone()
        inputs[one] = center[0] + sign * factor * (inputs[one] - center[0])
        return replace(candidate, inputs=inputs)

    def misfit(factor: float) -> float:
        value = residual(observation, at(factor))
        return value if value is not None and math.isfinite(value) else math.inf

    size = float((candidate.inputs[one] - center[0]).double().square().mean().sqrt())
    values = [misfit(factor) for factor in SCALES]
    valleys = [k for k in range(1, len(SCALES) - 1) if values[k] <= min(values[k - 1], values[k + 1]) < math.inf]
    for k in sorted(valleys, key=values.__getitem__)[:DEEP]:
        value, factor = lowest(misfit, SCALES[k - 1], SCALES[k + 1])
        if (
            value <= tolerance
            and abs(sign * factor - 1) * size > VISIBLE
            and valid(observation, at(factor).inputs)[one]
        ):
            yield at(factor)
