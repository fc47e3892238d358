"""Counts from the moments of the head's gradient: the update itself says what the mean logits of its batch are.

The rows of the head's gradient obey dV_n = mean_k p_kn h_k - (c_n / K) mu_n, with mu_n the mean features of class n.
Where p hardly varies, that is db_n h + noise: every row repeats the batch's mean features h, and the noise, the mean
of c_n examples times c_n / K, has variance c_n / K^2 of one example's. Weighted least squares over the rows gives V h
without a single picture; absent classes tell the most. Random inputs only supply the spread around that mean, and the
rows' own scatter says how large it is. With the mean softmax known to a Gaussian error, so are the counts
c = K p - K db, and the integers are decoded one after another, the surest first, each correcting the rest. The more
a model's classes vary between random inputs, the less mean logits say, and the more labels are taken as even.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.labels.base import Labels, from_counts, to_counts
from fedseal.attack.labels.dimitrov import state_after
from fedseal.attack.labels.dummies import Passed, passed, varied_dummies
from fedseal.attack.labels.head import Head, bias_residual, needs_hard, read_head
from fedseal.types import Observation, Round

PRIOR = 1.0  # the weight of the random inputs' mean logits, in examples
ABSENT = 0.3  # examples' worth of variance that a row without examples is given
ROUNDS = 8  # of reweighting
SURE = 4.0  # standard deviations to the next rounding boundary beyond which a count is not corrected
POINTS = 5  # weights between the start and the end of local training at which softmax is evaluated
GAUSSIAN = 0.95  # confidence above which errors are small enough for softmax to be linear in them
DRAWS = 256  # of counts, for the confidence
SCALES = 64  # lengths of the mean features tried for a head without bias


class LabelEstimate(NamedTuple):
    """Counts `(classes,)` with their covariance `(classes, classes)`, and the softmax's sum `(classes,)`."""

    counts: Tensor
    covariance: Tensor
    softmax_sum: Tensor


class HeadView(NamedTuple):
    """The head at one point of the local training: weight, bias, and the random inputs' logits about their mean."""

    weight: Tensor
    bias: Tensor
    center: Tensor
    spread: Tensor


@dataclass(frozen=True)
class Moments:
    """Counts by the mean logits that the head's gradient implies, with an honest error; ours.

    Over several updates of one batch the estimates are averaged. Over local steps softmax is averaged between the
    weights before and after.

    Args:
        dummies: how many random inputs.
    """

    dummies: int = 300
    name: str = "moments"

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer. `label_confidence` is the expected share of right labels under the error of the estimate.

        Raises:
            UnknownToAdversary: weights or number of examples are withheld, or local steps without the training.
        """
        observation.require_state(self.name)
        inputs = varied_dummies(observation, self.dummies, generator)
        heads = [read_head(observation, self.name, round=round) for round in observation.rounds]
        needs_hard(heads[0], self.name)
        found = [
            estimate(observation, round, head, inputs) for round, head in zip(observation.rounds, heads, strict=True)
        ]
        mean = torch.stack([one.counts for one in found]).mean(0)
        covariance = torch.stack([one.covariance for one in found]).mean(0) / len(found)
        counts = to_counts(mean, heads[0].count)
        sure = label_confidence(mean, covariance, counts, generator)
        if sure >= GAUSSIAN:
            counts = decode(mean, covariance, heads[0].count)
        residual = bias_residual(heads[0], found[0].softmax_sum, counts)
        if residual is None:
            return from_counts(
                counts, note="a head without bias: the length of the features is a guess, and its error open"
            )
        return from_counts(counts, residual=residual, confidence=sure)


def estimate(observation: Observation, round: Round, head: Head, inputs: Tensor) -> LabelEstimate:
    """Counts and their error from one update."""
    views = _views(observation, round, head, inputs)
    if head.bias_gradient is not None:
        return _given(head, head.bias_gradient, views)
    left, values, right = torch.linalg.svd(head.gradient, full_matrices=False)
    features = passed(observation.model, _state(round), head.layer, inputs).features.mean(0)
    toward = 1.0 if float(features @ right[0]) >= 0 else -1.0
    rank_one, direction = toward * float(values[0]) * left[:, 0], toward * right[0]
    tries = [_given(head, rank_one / length, views) for length in _lengths(head, rank_one, direction, views[0])]
    return min(tries, key=lambda one: _roughness(one, head.count))


def _given(head: Head, bias_gradient: Tensor, views: list[HeadView]) -> LabelEstimate:
    """Counts for this gradient by the logits, `(classes,)`."""
    count, classes = head.count, head.classes
    observed = bias_gradient.double()
    counts = count * (1 / classes - observed)
    scale = 1.0
    for _ in range(ROUNDS):
        weights = 1 / (counts.clamp_min(0) + ABSENT)
        told = float(count**2 * (weights * observed).dot(observed))  # in examples
        mean = head.gradient.T @ (weights * observed) * (count**2 / max(told, 1e-300))
        softmax = [_softmax(view, mean, told, scale) for view in views]
        center = torch.stack([part.mean(0) for part in softmax]).mean(0)
        counts = count * (center - observed)
        scatter = count * (torch.outer(observed, mean) - head.gradient) @ views[0].weight.T
        per_example = (scatter.square().sum(1) / counts.clamp_min(ABSENT)).mean()
        scale = float((per_example / views[0].spread.square().sum(1).mean().clamp_min(1e-300)).sqrt().clamp(0.05, 10))
    middle, part = views[len(views) // 2], softmax[len(views) // 2]
    slope = count * (torch.diag(part.mean(0)) - part.T @ part / len(part))
    moved = slope @ middle.spread.T * (scale / (told + PRIOR) ** 0.5 / len(middle.spread) ** 0.5)
    sure = _sureness(views[0])
    even = torch.eye(classes, dtype=moved.dtype, device=moved.device) - 1 / classes
    covariance = (1 - sure) ** 2 * (moved @ moved.T) + sure**2 * count / classes * even
    center = (1 - sure) * center + sure / classes
    return LabelEstimate(count * (center - observed), covariance, count * center)


def _sureness(view: HeadView) -> float:
    """How far random inputs differ in class: 0 where logits hardly vary between them, 1 where each has its own class.

    A model that is sure of single examples gives each its own class, and softmax of the mean logits says little about
    the mean of softmax. To that share the mean softmax is taken as even, with the error of drawing labels at random.
    What all inputs have in common does not count: it is in the mean.
    """
    even = 1 / view.spread.shape[1]
    share = (view.spread.softmax(-1).square().sum(1).mean() - even) / (1 - even)
    return float(1 - (1 - share.clamp(0, 1)) ** 2)


def _softmax(view: HeadView, mean: Tensor, told: float, scale: float) -> Tensor:
    """Probabilities `(J, classes)` of logits spread around those of the mean features `(features,)`."""
    center = (told * (view.weight @ mean) + PRIOR * view.center) / (told + PRIOR)
    return (center + view.bias + scale * view.spread).softmax(-1)


def _state(round: Round) -> dict[str, Tensor]:
    assert round.state is not None
    return dict(round.state)


def _views(observation: Observation, round: Round, head: Head, inputs: Tensor) -> list[HeadView]:
    """The head along the straight line from the weights before the local training to those after."""
    ends = [_state(round)] if head.steps == 1 else [_state(round), dict(state_after(round))]
    seen = [passed(observation.model, state, head.layer, inputs) for state in ends]
    views = [_view(head, state, part) for state, part in zip(ends, seen, strict=True)]
    if len(views) == 1:
        return views
    shares = torch.linspace(0, 1, POINTS).tolist()
    return [HeadView(*((1 - s) * one + s * other for one, other in zip(*views, strict=True))) for s in shares]


def _view(head: Head, state: dict[str, Tensor], seen: Passed) -> HeadView:
    weight = state[head.layer.weight].double()
    bias = state[head.layer.bias].double() if head.layer.bias else weight.new_zeros(head.classes)
    center = seen.features.mean(0)
    return HeadView(weight, bias, weight @ center, (seen.features - center) @ weight.T)


def decode(mean: Tensor, covariance: Tensor, total: int) -> Tensor:
    """Integers `(classes,)` that sum to `total`, rounded one after another, each correcting the expectation of the
    rest.

    Args:
        mean, covariance: of the counts, `(classes,)` and `(classes, classes)`.
    """
    mean, covariance = mean.clone(), covariance.clone()
    margin = (0.5 - (mean - mean.round()).abs()) / covariance.diagonal().clamp_min(1e-18).sqrt()
    left = torch.where((margin < SURE) & (mean > -0.5))[0].tolist()
    while left:
        variance = covariance.diagonal()[left].clamp_min(1e-18)
        sureness = (0.5 - (mean[left] - mean[left].round()).abs()) / variance.sqrt()
        place = left.pop(int(sureness.argmax()))
        gain = covariance[:, place] / covariance[place, place].clamp_min(1e-18)
        mean = mean + gain * (mean[place].round().clamp_min(0) - mean[place])
        covariance = covariance - torch.outer(gain, covariance[place])
    return to_counts(mean.round(), total)


def label_confidence(mean: Tensor, covariance: Tensor, counts: Tensor, generator: torch.Generator) -> float:
    """The share of labels that would be right, on average over the estimate's error; 0 where that has no bounds."""
    if not bool(covariance.isfinite().all() and mean.isfinite().all()):
        return 0.0
    values, vectors = torch.linalg.eigh(covariance)
    noise = torch.randn(DRAWS, len(mean), generator=generator).to(mean)
    draws = mean + noise * values.clamp_min(0).sqrt() @ vectors.T
    wrong = (draws.round().clamp_min(0) - counts).abs().sum(1) / (2 * counts.sum())
    return float(1 - wrong.clamp_max(1).mean())


def _lengths(head: Head, rank_one: Tensor, direction: Tensor, view: HeadView) -> list[float]:
    """Possible lengths of the mean features, the least one first.

    No count is negative, so that db_n <= p_n; where a class is absent, equality gives the length, and with fewer
    examples than classes one is.
    """
    length = float(view.center.norm() / (view.weight @ direction).norm().clamp_min(1e-300))
    for _ in range(20):
        softmax = (length * (view.weight @ direction) + view.bias).softmax(-1)
        length = float((rank_one / softmax).max().clamp_min(1e-300))
    if head.count < head.classes:
        return [length]
    return [length * float(factor) for factor in torch.logspace(0, 0.5, SCALES)]


def _roughness(one: LabelEstimate, total: int) -> float:
    return float((one.counts - to_counts(one.counts, total)).square().mean())
