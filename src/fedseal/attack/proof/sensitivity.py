"""How much of an update hangs on each example: what a visible change of one example moves at least.

A replay that agrees proves that the data *explains* the update. Whether the update *determines* the data is another
fact: for each example, the smallest relative change of the update that a change of this example by `VISIBLE` (root
mean square) causes, whatever the other examples do meanwhile. It is worked out from the Jacobian of the update at the
reconstruction, in the cheapest way that is a proof to first order:

- for a fully connected first layer its algebra: its gradient is a sum of outer products, so that all other directions
  than mixtures of the examples show in it at once (`first_layer`);
- for layers in a row that were inverted, the error bars of the closed form;
- the Jacobian itself, where it is small and these bounds from below do not settle it;
- elsewhere nothing is said to be determined: steps of an iteration bound the smallest singular value from above only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.equations.rank import CLOSED, closed, invertible, rank_analysis, sent_counts
from fedseal.attack.equations.recursion import ClosedForm
from fedseal.attack.equations.rivals import rivaled
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.jacobian import QUICK, Linearized, linearized, small
from fedseal.attack.evidence.replay import CAP
from fedseal.attack.evidence.structure import Activation, Reshape
from fedseal.errors import NotTwiceDifferentiable
from fedseal.norm import length
from fedseal.types import Candidate
from fedseal.vocabulary import MARGIN

VISIBLE = 1e-2  # root mean square of a change that can be seen
TOO_LARGE = "the whole Jacobian is too large to work out, and no bound from below is known"
FIRST_LAYER, CLOSED_FORM = "the first layer's gradient", "the error bars of the closed form"
WHOLE = "the whole Jacobian"
FREE = 1.0  # how far (root mean square) the other examples may move meanwhile
LARGEST = 10.0  # relative change of an update that a visible change of an example can cause
CHANCE = 3  # units off that may be so by chance
POWER, ABOVE = 3, 1.5  # power steps, and what the largest singular value may be above what they find
CLOSE = 0.1  # share of what is visible that a candidate may be away from the closed form that vouches for it
SIDES, ASIDE = 2, 2e-5  # directions in which kinks are looked for, and how far, beside the inputs' root mean square
STRAIGHT = 1e-3  # share of what the derivative says that a smooth model's update may be off, so near
ZERO = 1e-4  # of an example's largest delta below which a unit counts as off


class Sensitivity(NamedTuple):
    """Of each example, `(N,)` relative changes of the update; and how they were worked out."""

    values: tuple[float, ...]
    how: str


def sensitivity(evidence: Evidence, candidate: Candidate, tolerance: float) -> Sensitivity:
    """What a change of each example by `VISIBLE` changes in the update, at least.

    Args:
        evidence: of an observation that can be replayed.
        candidate: inputs `(N, ...)` of floating point and labels, which explain the update.
        tolerance: the relative change of the update that nobody sees.
    """
    count = len(candidate.inputs)
    best = Sensitivity((0.0,) * count, "")
    bounds: dict[str, Callable[[], tuple[float, ...] | None]] = {
        FIRST_LAYER: lambda: first_layer(evidence, candidate.inputs),
        CLOSED_FORM: lambda: _error_bars(evidence, candidate),
    }
    for how, bound in bounds.items():
        values = bound()
        if values is not None:
            best = _larger(best, Sensitivity(values, how))
            if min(values) > MARGIN * tolerance:
                return best
    try:
        if small(evidence, count):
            return Sensitivity(_dense(evidence, candidate, tolerance), WHOLE)
        values = _without_bias(evidence, candidate)
        if values is not None:
            best = _larger(best, Sensitivity(values, "the first layer's weight"))
            if min(values) > MARGIN * tolerance:
                return best
        return _larger(best, Sensitivity((0.0,) * count, TOO_LARGE))
    except NotTwiceDifferentiable as error:
        return _larger(best, Sensitivity((0.0,) * count, error.fact))


def _larger(one: Sensitivity, other: Sensitivity) -> Sensitivity:
    """For each example the better of two bounds from below."""
    values = tuple(max(pair) for pair in zip(one.values, other.values, strict=True))
    return Sensitivity(values, ", ".join(filter(None, [one.how, other.how])))


def _dense(evidence: Evidence, candidate: Candidate, tolerance: float) -> tuple[float, ...]:
    """From the whole Jacobian, the least on all sides of the kinks at which units stand."""
    places = [candidate, *_beside_kinks(evidence, candidate)]
    return tuple(map(min, zip(*(_dense_at(evidence, place, tolerance) for place in places), strict=True)))


def _beside_kinks(evidence: Evidence, candidate: Candidate) -> list[Candidate]:
    """Candidates so little aside that only units change sides which stand at their kinks; none where none does.

    A unit of a ReLU that is off by a hair may be the edge of a whole family of data along which it is on; so may inputs
    that stand where a clip begins, of whatever operators it is made.
    """
    inputs, drawn = candidate.inputs.double(), torch.Generator().manual_seed(SIDES)
    length = max(float(inputs.square().mean().sqrt()), 1e-3)
    ways = [torch.randn(inputs.shape, generator=drawn).to(inputs) * (ASIDE * length) for _ in range(SIDES)]
    places = [replace(candidate, inputs=inputs + sign * way) for way in ways for sign in (1, -1)]
    if evidence.structure.nonsmooth and small(evidence, len(inputs), *QUICK):
        return places
    there = linearized(evidence, candidate)
    here = there.update.detach().double()
    rows = there.push(
        torch.stack([torch.cat([w.flatten(), w.new_zeros(there.columns - w.numel())]) for w in ways]).to(there.inputs)
    )
    said = [sign * row.double() for row in rows for sign in (1, -1)]
    moved = [linearized(evidence, place).update.detach().double() - here for place in places]
    bent = any(float((m - s).norm()) > STRAIGHT * float(s.norm()) for m, s in zip(moved, said, strict=True))
    return places if bent else []


def _dense_at(evidence: Evidence, candidate: Candidate, tolerance: float) -> tuple[float, ...]:
    """For each example the smallest singular value of its columns, others moving along."""
    there = linearized(evidence, candidate)
    jacobian, norm = there.matrix(), there.norm
    count, values = len(candidate.inputs), candidate.inputs[0].numel()
    if evidence.release.only_direction:  # clipped to a length that says nothing
        way = torch.nn.functional.normalize(
            torch.cat([t.double().flatten() for t in evidence.observation.update.tensors.values()]), dim=0
        ).to(jacobian)
        if len(way) == jacobian.shape[1]:
            jacobian = jacobian - torch.outer(jacobian @ way, way)
    triangle = torch.linalg.qr(jacobian.T, mode="r")[1] if jacobian.shape[1] > len(jacobian) else jacobian.T
    blocks = [torch.arange(k * values, (k + 1) * values) for k in range(count)]
    found = []
    for block in blocks:
        others = torch.ones(len(jacobian), dtype=torch.bool)
        others[block] = False
        found.append(_least(triangle[:, block], triangle[:, others], tolerance * norm))
    size = VISIBLE * math.sqrt(values) / max(norm, 1e-300)
    return tuple(size * value for value in found)


def _least(own: Tensor, others: Tensor, unseen: float) -> float:
    """The smallest length of `own v + others w` over unit v and whatever w, which costs `unseen` at `FREE`."""
    if own.shape[0] < own.shape[1]:
        return 0.0
    if others.shape[1]:
        cost = max(unseen, 1e-300) / (FREE * math.sqrt(others.shape[1]))
        tall = torch.cat([others, cost * torch.eye(others.shape[1], dtype=others.dtype, device=others.device)])
        basis = torch.linalg.qr(tall)[0]
        own = torch.cat([own, own.new_zeros(others.shape[1], own.shape[1])])
        own = own - basis @ (basis.T @ own)
    return float(torch.linalg.svdvals(own)[-1])


def first_layer(evidence: Evidence, inputs: Tensor) -> tuple[float, ...] | None:
    """The same from the gradient of a fully connected first layer; None where that does not settle it.

    Its gradient by weight and bias is D^T X with the inputs X `(N, inputs + 1)`, a one at the end of each, and the
    gradients by its outputs D `(N, outputs)`. A change of an example that is no mixture of the examples shows in it at
    once, by as much as this example's D stands out of the span of the others'. A mixture X + M X may be undone by
    D - M^T D, but not where a ReLU shut units off: these zeros stay, so that M vanishes if the others' deltas are
    independent there; and the column of ones makes the rows of M sum to zero.
    """
    layer, tensors = evidence.first_linear, evidence.observation.update.tensors
    if layer is None or layer.weight not in tensors or layer.bias is None or layer.bias not in tensors:
        return None
    misfit = layer_misfit(evidence, inputs)
    if not _outer_products(evidence) or misfit is None or not misfit <= CAP:
        return None
    gradient = torch.cat([tensors[layer.weight], tensors[layer.bias][:, None]], 1).double().cpu()
    rows = evidence.first_rows(inputs).double().cpu()
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    size = VISIBLE * math.sqrt(inputs[0].numel()) / length(tensors.values()) * evidence.entry_gain
    if len(rows) == 1:
        sent = first_sent(evidence)
        seen = (delta_of(gradient, rows[0], sent).square()[:, None] * sent[:, :-1]).sum(0).sqrt().min()
        return (size * float(seen),)
    if evidence.altered or len(rows) > len(deltas_of(gradient, rows)[0]):
        return None
    deltas = deltas_of(gradient, rows)
    apart = _apart(deltas)
    spread = _apart(rows)
    doubtful = rivaled(deltas.masked_fill(deltas.abs() <= ZERO * deltas.abs().amax(1, keepdim=True), 0.0))
    found = [0.0 if rival else size * value for value, rival in zip(apart, doubtful.tolist(), strict=True)]
    if not _relu_follows(evidence):
        return None
    for one in range(len(rows)):
        off = deltas[one].abs() <= ZERO * deltas[one].abs().max()
        least = _least_of_many(torch.cat([deltas[:one], deltas[one + 1 :]])[:, off])
        for other in range(len(rows)):
            if other != one:  # example `other` moves towards example `one`
                far = float((rows[one] - rows[other]).norm())
                moved = size * least * spread[one] / max(far, 1e-300)
                found[other] = min(found[other], moved)
    return tuple(found)


def _least_of_many(others: Tensor) -> float:
    """The smallest singular value of rows `(N - 1, units)` that does not hang on a few units: a unit that is off in one
    reading may be on in another. Single rows and pairs are looked at alone as well.
    """
    alone = [list(rows) for size in (1, 2) for rows in itertools.combinations(range(len(others)), size)]
    return min(_without_few(others[rows]) for rows in [list(range(len(others))), *alone])


def _without_few(others: Tensor) -> float:
    """The smallest singular value of rows after the units are left out on which most of it hangs."""
    for _ in range(CHANCE):
        if others.shape[1] < len(others) + 2:
            return 0.0
        left = torch.linalg.svd(others, full_matrices=False)[0][:, -1]
        carries = (left @ others).abs()
        others = others[:, torch.arange(others.shape[1]) != carries.argmax()]
    return float(torch.linalg.svdvals(others)[-1]) if others.shape[1] >= len(others) + 2 else 0.0


def _without_bias(evidence: Evidence, candidate: Candidate) -> tuple[float, ...] | None:
    """Of one example from the gradient of the first layer's weight alone, d x^T; None where that does not settle it.

    All directions w across the input show in it at once, by |d|. Along the input itself, u, d may shrink as x grows:
    there the whole update moves by |J u|. In a mixture a u + b w the other part may undo some of that, at most
    b |J|, so that the update moves by max(b |d|, a |J u| - b |J|) at least.
    """
    delta = delta_on_the_ray(evidence, candidate.inputs)
    if delta is None:
        return None
    row = candidate.inputs.double().cpu().flatten()
    there = linearized(evidence, candidate, torch.float64 if small(evidence, 1) else torch.float32)
    if there.targets is not None:  # which may make up for the input's size
        return None
    along = torch.zeros(there.columns).to(there.inputs)
    along[: len(row)] = (row / row.norm().clamp_min(1e-300)).to(along)
    size = VISIBLE * math.sqrt(len(row)) / max(there.norm, 1e-300)
    across, own = float(delta.norm()), float(there.push(along[None])[0].double().norm())
    most = ABOVE * max(_largest(there), own)
    return (size * across * own / max(math.hypot(across + most, own), 1e-300),)


def delta_on_the_ray(evidence: Evidence, inputs: Tensor) -> Tensor | None:
    """The first layer's delta `(outputs,)` where its weight's gradient alone says of one example all but its size: that
    is d x^T, and whatever else explains the update is a multiple of x; None where it is not, or not so near.
    """
    layer, tensors = evidence.first_linear, evidence.observation.update.tensors
    if layer is None or layer.weight not in tensors or layer.bias in tensors or len(inputs) > 1:
        return None
    if not _outer_products(evidence) or evidence.altered or evidence.preprocessing is not None:
        return None
    gradient, row = tensors[layer.weight].double().cpu(), inputs.double().cpu().flatten()
    delta: Tensor = gradient @ row / row.square().sum().clamp_min(1e-300)
    if float((gradient - torch.outer(delta, row)).norm()) > CAP * float(gradient.norm()):
        return None
    return delta


def _largest(there: Linearized) -> float:
    """About the largest singular value of the Jacobian, by some power steps."""
    way = torch.randn(there.columns, generator=torch.Generator().manual_seed(0)).to(there.inputs)
    value = 0.0
    for _ in range(POWER):
        moved = there.push((way / way.norm().clamp_min(1e-300))[None])[0]
        value, way = float(moved.double().norm()), there.pull(moved.to(there.update))
    return value


def _outer_products(evidence: Evidence) -> bool:
    """Whether the update of a layer is a sum of outer products with its inputs, as far as is known: weight decay adds
    the weights to it, and Adam scales every entry by itself.
    """
    training = evidence.observation.training
    if evidence.observation.update.kind == "gradient" or training is None:
        return True
    return training.optimizer == "sgd" and not training.weight_decay and training.fresh_optimizer


def layer_misfit(evidence: Evidence, inputs: Tensor) -> float | None:
    """How far the first layer's gradient is from outer products with these inputs, relative to its size; None where
    there is no such layer, or its gradient was not sent.
    """
    layer, tensors = evidence.first_linear, evidence.observation.update.tensors
    if layer is None or layer.weight not in tensors:
        return None
    if layer.bias is None or layer.bias not in tensors:
        return None if evidence.altered else _weight_misfit(tensors[layer.weight], evidence.first_rows(inputs))
    weight, bias = tensors[layer.weight].double().cpu(), tensors[layer.bias].double().cpu()
    rows = evidence.first_rows(inputs).double().cpu()
    gradient = torch.cat([weight, bias[:, None]], 1)
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    sent = first_sent(evidence)
    deltas = delta_of(gradient, rows[0], sent)[None] if len(rows) == 1 else deltas_of(gradient, rows)
    rest = sent * (gradient - deltas.T @ rows)
    return float(rest.norm() / gradient.norm().clamp_min(1e-300))


def _weight_misfit(weight: Tensor, rows: Tensor) -> float:
    """The same from the weight's gradient alone, which gives inputs up to a factor."""
    gradient, rows = weight.double().cpu(), rows.double().cpu()
    rest = gradient - (gradient @ torch.linalg.pinv(rows)) @ rows
    return float(rest.norm() / gradient.norm().clamp_min(1e-300))


def first_sent(evidence: Evidence) -> Tensor:
    """Which entries of the first layer's gradient by weight and bias `(outputs, inputs + 1)` were sent: 1, else 0."""
    layer, release = evidence.first_linear, evidence.release
    assert layer is not None
    assert layer.bias is not None
    masks = [release.sent(layer.weight), release.sent(layer.bias)]
    weight, bias = (evidence.observation.update.tensors[name] for name in (layer.weight, layer.bias))
    shapes = (weight.shape, (len(bias), 1))
    parts = [
        torch.ones(shape) if mask is None else mask.reshape(shape).cpu()
        for mask, shape in zip(masks, shapes, strict=True)
    ]
    return torch.cat([part.double() for part in parts], 1)


def delta_of(gradient: Tensor, row: Tensor, sent: Tensor) -> Tensor:
    """The gradient by the layer's outputs `(outputs,)` that makes what was sent of `gradient` of this one row."""
    return (sent * gradient * row).sum(1) / (sent * row.square()).sum(1).clamp_min(1e-300)


def deltas_of(gradient: Tensor, rows: Tensor) -> Tensor:
    """The gradients by the layer's outputs `(N, outputs)` that make `gradient` of these rows, by least squares."""
    deltas: Tensor = torch.linalg.pinv(rows).T @ gradient.T
    return deltas


def _apart(rows: Tensor) -> list[float]:
    """How far each row stands out of the span of the others."""
    found = []
    for one in range(len(rows)):
        others = torch.cat([rows[:one], rows[one + 1 :]])
        _, values, right = torch.linalg.svd(others, full_matrices=False)
        basis = right[values > 1e-12 * values.max().clamp_min(1e-300)]
        found.append(float((rows[one] - basis.T @ (basis @ rows[one])).norm()))
    return found


def _relu_follows(evidence: Evidence) -> bool:
    layers = evidence.structure.layers
    after = layers[layers.index(evidence.first_linear) + 1 :] if evidence.first_linear in layers else ()
    following = next((later for later in after if not isinstance(later, Reshape)), None)
    return isinstance(following, Activation) and following.kind == "relu"


def _error_bars(evidence: Evidence, candidate: Candidate) -> tuple[float, ...] | None:
    """From the closed form of layers in a row: how far its equations, true to rounding, leave each value open.

    This is another proof than the others. The closed form was worked out from what was sent, so that it is off by what
    its error bars make of the arithmetic's errors, which enter once: no margin for a second replay is needed, but the
    candidate must be the closed form itself, or nearly. The bars are root mean squares over the values, of errors that
    are like rounding, and no worst case.

    Only a route knows how to invert a batch; of one example it is done here, where no route did.
    """
    form = evidence.kept(CLOSED, ClosedForm)
    if form is None:
        one = len(candidate.inputs) == 1 and evidence.batch_size == 1 and evidence.gradient_scale is not None
        if not one or evidence.target is None or invertible(evidence) is not None or evidence.altered:
            return None
        counts = rank_analysis(evidence.structure.layers, sent=sent_counts(evidence))
        if not counts or not all(count.determined for count in counts):
            return None
        form = closed(evidence, torch.Generator().manual_seed(0))
    if form.open or len(form.inputs) != len(candidate.inputs):
        return None
    if not bool((torch.isfinite(form.error) & (form.error > 0)).all()):
        return None
    away = (form.inputs.reshape(candidate.inputs.shape).to(candidate.inputs.device) - candidate.inputs).flatten(1)
    size = form.error.flatten(1).square().mean(1).sqrt()
    near = away.double().square().mean(1).sqrt() <= CLOSE * VISIBLE
    values = [MARGIN * (1 - CLOSE) * evidence.eps * VISIBLE / max(value, 1e-300) for value in size.tolist()]
    return tuple(v if held and v <= LARGEST else 0.0 for v, held in zip(values, near.tolist(), strict=True))
