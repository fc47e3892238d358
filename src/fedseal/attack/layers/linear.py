"""A fully connected first layer shows its input, without optimization and without the weights.

For one example, dL/dW = d x^T and dL/db = d with d the gradient by the layer's output, so that every row i with d_i
!= 0 gives x = dW_i / db_i (Phong et al., IEEE TIFS 2018; Aono et al. 2017). All rows are used at once, each weighted
by d_i.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.base import refused
from fedseal.attack.equations.factor import direction, scaled_row
from fedseal.attack.evidence.belief import belief, settled
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.proof.certificate import certify
from fedseal.attack.route import Route
from fedseal.types import Outcome, ProgressCallback, Reconstruction

REPLAYED = "no gradient by the first layer's bias was sent: the input's size is the one whose replay has the update's"
RANGED = (
    "no gradient by the first layer's bias was sent, which leaves the input open up to a factor: the largest is taken "
    "that valid inputs allow, and for rows of a table the one of standardized columns"
)
FITS = 3.0  # standard errors per equation up to which a single outer product explains a gradient


@dataclass(frozen=True)
class LinearFirstLayer(Route):
    """Read the input off the gradient of a fully connected first layer."""

    name: str = "linear"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this route does not apply, None if it does."""
        count = evidence.batch_size
        several = None if count in (1, None) else f"the update is of {count} examples"
        if several and evidence.altered:
            return f"{several}, and noise or gaps may hide that"
        if several:
            several += ", whose gradients are parallel: only a mixture of them shows"
        return self.no_product(evidence) or several

    def no_product(self, evidence: Evidence) -> str | None:
        """Why the first layer's gradient is no outer product with the input, None if it is one."""
        reason = evidence.no_first_linear
        if reason is not None:
            return reason
        if (biased := _biased(evidence)) and not bool(evidence.observation.update.tensors[biased].any()):
            return "the gradient of the first layer's bias is zero: no neuron of that layer was active"
        if evidence.release.of_error("sign", "unknown"):
            return "signs alone, or noise of untold strength, leave no outer product to fit"
        if not biased and not _in_segments(evidence):
            return "the first layer has no gradient by a bias, and noise or gaps leave the input's size open"
        if not biased and not len(_weight(evidence)):
            return "no whole row of the first layer's gradient was handed over"
        if evidence.altered and biased:
            misfit = _weighted_rank_one(evidence).misfit
            if misfit > FITS:
                return (
                    f"the first layer's gradient is no outer product ({misfit:.0e} times what the known defense "
                    "explains): more than one example"
                )
            return None
        ratio = _rank_one(evidence)[1] if biased else direction(_weight(evidence))[1]
        # local steps on one example add multiples of one outer product; their difference inherits the weights' rounding
        if ratio > (1e-2 if evidence.observation.update.kind == "difference" else 30 * evidence.eps):
            return f"the first layer's gradient is no outer product (second part {ratio:.0e}): more than one example"
        return None

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Closed form; draws nothing."""
        started = time.perf_counter()
        observation = evidence.observation
        obstacle = self.obstacle(evidence)
        if obstacle is not None:
            return refused(self.name, obstacle, started)
        row = read_row(evidence)
        inputs, ratio, notes = row.inputs.to(observation.like), row.ratio, list(row.notes)
        labels = evidence.target if row.target is None else row.target
        if evidence.batch_size is None:
            notes.append("one outer product: one example, or several whose gradients are parallel")
        note = "; ".join(notes)
        found = Reconstruction(inputs, labels, Outcome("exact", self.name, ratio, 0, 0.0, note))
        found = certify(observation, found)
        if found.outcome.residual is None:  # several rounds, or no bias: the outer product's own misfit
            found = replace(found, outcome=replace(found.outcome, residual=ratio))
        return replace(found, outcome=replace(found.outcome, seconds=time.perf_counter() - started))


def _biased(evidence: Evidence) -> str | None:
    """The first layer's bias, None where it has none, or nothing of its gradient was sent that goes with a row."""
    layer = evidence.first_linear
    sent = layer is not None and layer.bias in evidence.observation.update.tensors
    open_size = _in_segments(evidence) and not evidence.size_shows
    return layer.bias if sent and layer is not None and not open_size else None


def _in_segments(evidence: Evidence) -> bool:
    """Whether entries are as they were wherever they were handed over, in one piece of a tensor or in all of it."""
    return all(step.kind == "segment" for step in evidence.release.steps if step.facts.alters)


def _weight(evidence: Evidence) -> Tensor:
    """The gradient by the first layer's weight, of which a part may be missing: whole rows."""
    layer = evidence.first_linear
    assert layer is not None
    held = evidence.release.sent(layer.weight)
    weight = evidence.observation.update.tensors[layer.weight]
    return weight if held is None else weight[held.all(1)]


class ReadRow(NamedTuple):
    """The model's input `(1, *shape)` in float64, how far the gradient is from an outer product, what limits it, and
    the target that its size was found with, None without.
    """

    inputs: Tensor
    ratio: float
    notes: list[str]
    target: Tensor | None = None


def read_row(evidence: Evidence) -> ReadRow:
    """What the first layer's gradient shows, taken for an outer product."""
    notes: list[str] = []
    target = None
    if not _biased(evidence):
        unit, ratio = direction(_weight(evidence))
        row, target = scaled_row(evidence, unit)
        notes.append(RANGED if target is None else REPLAYED)
    elif evidence.altered:
        notes.append("as near as the known defense lets the layer's equations come")
        fit = _weighted_rank_one(evidence)
        if evidence.preprocessing is None:
            return ReadRow(
                _with_prior(evidence, fit).reshape(1, *evidence.observation.modality.shape), fit.ratio, notes
            )
        row, ratio = fit.row, fit.ratio
    else:
        row, ratio = _rank_one(evidence)
    undone = evidence.undo(row[None])
    return ReadRow(undone.inputs, ratio, [*filter(None, [undone.note]), *notes], target)


def _rank_one(evidence: Evidence) -> tuple[Tensor, float]:
    """The input `(features,)` in float64, and how far the gradient is from the outer product it implies."""
    layer = evidence.first_linear
    assert layer is not None
    assert layer.bias is not None
    tensors = evidence.observation.update.tensors
    weight, bias = tensors[layer.weight].double(), tensors[layer.bias].double()
    row = weight.T @ bias / (bias @ bias)
    ratio = (weight - torch.outer(bias, row)).norm() / weight.norm().clamp_min(1e-300)
    return row, float(ratio)


class Fit(NamedTuple):
    """A weighted outer product.

    Args:
        row: the input `(features,)` in float64, with its standard error.
        misfit: root mean square of the differences in standard errors.
        ratio: that of the entries that were sent, relative to their size.
    """

    row: Tensor
    error: Tensor
    misfit: float
    ratio: float

    @property
    def determined(self) -> bool:
        """Whether every value of the input follows from the equations."""
        return bool((self.error < 1e-3 * self.row.abs().max()).all())


def _weighted_rank_one(evidence: Evidence, iterations: int = 30) -> Fit:
    """Fit d x^T to the weight's gradient, each entry by its error, and d to the bias's, by turns."""
    layer = evidence.first_linear
    assert layer is not None
    assert layer.bias is not None
    tensors, scale = evidence.observation.update.tensors, abs(evidence.gradient_scale or 1.0)
    weight, bias = tensors[layer.weight].double(), tensors[layer.bias].double()
    error, bias_error = evidence.error(layer.weight) / scale, evidence.error(layer.bias) / scale
    if evidence.observation.update.kind == "difference":  # local steps add multiples of one outer product
        error = error.hypot(1e-2 * weight.abs())
    weights, bias_weights = error**-2, bias_error**-2
    left = bias.clone()
    for _ in range(iterations):
        row = (weights * weight).T @ left / (weights.T @ left.square()).clamp_min(1e-300)
        left = (weights * weight) @ row / (weights @ row.square()).clamp_min(1e-300)
    length = (bias_weights * left * bias).sum() / (bias_weights * left.square()).sum().clamp_min(1e-300)
    left, row = left * length, row / length
    rest = weight - torch.outer(left, row)
    sent = evidence.release.sent(layer.weight)
    sent = torch.ones_like(weight, dtype=torch.bool) if sent is None else sent
    misfit = (weights * rest.square()).mean().sqrt()
    ratio = (rest * sent).norm() / (weight * sent).norm().clamp_min(1e-300)
    own = (weights.T @ left.square()).clamp_min(1e-300).rsqrt()
    drawn = ((bias_weights * left.square()).sum().rsqrt() * row.abs()).square()
    return Fit(row, (own.square() + drawn).sqrt(), float(misfit), float(ratio))


def _with_prior(evidence: Evidence, fit: Fit) -> Tensor:
    """The input, by what is known of inputs where noise or rounding left it open."""
    if evidence.release.family == "exact" and fit.determined:
        return fit.row
    prior = belief(evidence.observation.modality)
    found = settled(prior, fit.row.cpu(), fit.error.cpu()).to(fit.row)
    return evidence.observation.modality.project(found.reshape(1, *evidence.observation.modality.shape)).flatten()
