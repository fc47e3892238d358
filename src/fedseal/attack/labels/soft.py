"""Soft labels of a single example: smoothed or mixed targets leave softmax minus target in the head's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.own_backward import NOT_DERIVED, derives
from fedseal.attack.evidence.single import Single
from fedseal.attack.labels.base import Labels, from_counts
from fedseal.attack.labels.head import Head, read_head, undefended
from fedseal.errors import BadConfig, UnfitBatch
from fedseal.types import Observation

SCALES = 400  # feature lengths tried for a head without bias, over five orders of magnitude
SHAKEN = 1e-2  # of the scores, the most that rounding may move them for a target to be certified
FITS = 1e-6  # distance from a known form below which lengths count as equally good


class Form(NamedTuple):
    """The nearest target of a known kind: its distance from what was read, the target `(classes,)`, and words."""

    distance: float
    target: Tensor
    words: str


@dataclass(frozen=True)
class Soft:
    """The target of one example, whatever its form: q = p - dL/dz, with p = softmax(V h + b) and h = dV_i / db_i.

    The result is named as hard, smoothed (Szegedy et al., CVPR 2016, arXiv:1512.00567) or mixed (Zhang et al., ICLR
    2018, arXiv:1710.09412), and its parameter given. Without a bias the scale of h is open; it is the one at which the
    target has one of these forms. Ours.
    """

    name: str = "soft"

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer; draws nothing. `soft` is `(1, classes)`, `labels` its largest entry.

        Raises:
            UnknownToAdversary: weights or number of examples are withheld.
            BadConfig: the loss weighs classes.
            UnfitBatch: more than one example, whose targets are only seen added up.
        """
        state = observation.require_state(self.name)
        head = read_head(observation, self.name)
        if head.count != 1 or head.steps != 1:
            raise UnfitBatch(
                f"soft reads one example's target from one gradient; here are {head.count} examples and {head.steps} "
                "local steps",
                "use a counting method, such as moments, which gives hard labels",
            )
        evidence = Evidence.of(observation)
        if not head.criterion.uniform:
            raise BadConfig(
                "soft reads a target whose classes weigh the same, and the loss weighs classes",
                "use best, which gives the hard label",
            )
        weight = state[head.layer.weight].double()
        bias = state[head.layer.bias].double() if head.layer.bias else weight.new_zeros(head.classes)
        if head.bias_gradient is not None:
            residual = head.bias_gradient
            feature = head.gradient.T @ residual / (residual @ residual)
            form = nearest((weight @ feature + bias).softmax(-1) - residual)
        else:
            single = evidence.single
            form = _scaled(head.gradient, weight, bias) if single is None else _hard(single, head.classes)
        precision = 100 * evidence.eps
        counts = torch.nn.functional.one_hot(form.target.argmax(), head.classes)
        sure = _trusted(evidence) and form.distance <= precision and _known(head, weight, form, precision)
        derived = not sure or derives(evidence)
        return from_counts(
            counts,
            residual=form.distance,
            certified=sure and derived,
            note=form.words if derived else f"{form.words}; {NOT_DERIVED}",
            soft=form.target[None],
        )


def _trusted(evidence: Evidence) -> bool:
    """Whether the update is one example's gradient, as the client says, and nothing else."""
    observation = evidence.observation
    whole = evidence.criterion.everywhere  # else a shrunk gradient's target lies between the label and the guess
    return whole and observation.update.num_examples == 1 and undefended(observation) and evidence.sums_gradients


def _known(head: Head, weight: Tensor, form: Form, precision: float) -> bool:
    """Whether rounding leaves no other label: it hardly moves the scores, and the target by less than its lead.

    Without a bias the features' length is open, and another length may go with another target.
    """
    if head.bias_gradient is None:
        return False
    off = head.error / float(head.bias_gradient.norm().clamp_min(1e-300))
    scores = weight @ head.gradient.T @ head.bias_gradient / head.bias_gradient.square().sum().clamp_min(1e-300)
    first, second = form.target.topk(2).values.tolist()
    return off * (1 + float(scores.abs().max())) <= SHAKEN and first - second > 2 * (precision + head.error)


def _hard(single: Single, classes: int) -> Form:
    """The one hard target that some length of the features explains."""
    target = torch.nn.functional.one_hot(single.target[0], classes).to(single.signal)
    return Form(single.misfit, target, "hard")


def nearest(target: Tensor) -> Form:
    """The hard, smoothed or mixed distribution nearest to a target `(classes,)`, the simplest on a tie.

    >>> nearest(torch.tensor([0.025, 0.925, 0.025, 0.025])).words
    'smoothed by 0.1000'
    """
    forms = _forms(target)
    best = min(form.distance for form in forms)
    return next(form for form in forms if form.distance <= 1.01 * best + 1e-5)


def _forms(target: Tensor) -> list[Form]:
    """The nearest target of each kind, the simplest kind first."""
    classes = len(target)
    order = target.argsort(descending=True)
    hard = torch.zeros_like(target)
    hard[order[0]] = 1
    rest = (float(target.sum()) - float(target[order[0]])) / max(1, classes - 1)
    smoothing = min(max(rest * classes, 0.0), 1.0)
    smoothed = (1 - smoothing) * hard + smoothing / classes
    share = min(max(0.5 * float(1 + target[order[0]] - target[order[1]]), 0.5), 1.0)
    mixed = share * hard
    mixed[order[1]] += 1 - share
    pair = f"{int(order[0])} and {int(order[1])}"
    return [
        Form(float((target - hard).norm()), hard, "hard"),
        Form(float((target - smoothed).norm()), smoothed, f"smoothed by {smoothing:.4f}"),
        Form(float((target - mixed).norm()), mixed, f"classes {pair} mixed {share:.4f} to {1 - share:.4f}"),
    ]


def _scaled(gradient: Tensor, weight: Tensor, bias: Tensor) -> Form:
    """Without a bias: dV = r h^T fixes r and h up to a factor, found by a scan and golden sections."""
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    direction, size = left[:, 0], float(values[0])

    def at(scale: float) -> Tensor:
        target: Tensor = (scale * (weight @ right[0]) + bias).softmax(-1) - size / scale * direction
        return target

    def misfit(scale: float) -> float:
        return min(form.distance for form in _forms(at(scale)))

    found: list[tuple[float, Form]] = []
    for sign in (1.0, -1.0):
        grid = sign * size * torch.logspace(-2, 3, SCALES).double()
        distances = [misfit(float(scale)) for scale in grid]
        for place in range(1, SCALES - 1):
            if distances[place] <= min(distances[place - 1], distances[place + 1]):
                scale = _lowest(misfit, float(grid[place - 1]), float(grid[place + 1]))
                found.append((abs(scale), nearest(at(scale))))
    if not found:
        return nearest(gradient.new_full((len(gradient),), 1 / len(gradient)))
    # long features saturate softmax, which looks like a hard label whatever the truth: the shortest that fit count
    best = min(form.distance for _, form in found)
    return min((one for one in found if one[1].distance <= 10 * best + FITS), key=lambda one: one[0])[1]


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with a single valley is lowest, by golden sections."""
    for _ in range(80):
        one, two = low + 0.382 * (high - low), low + 0.618 * (high - low)
        low, high = (low, two) if function(one) < function(two) else (one, high)
    return 0.5 * (low + high)
