"""A fully connected first layer shows its input, without optimization and without the weights.

For one example, dL/dW = d x^T and dL/db = d with d the gradient by the layer's output, so that every row i with d_i
!= 0 gives x = dW_i / db_i (Phong et al., IEEE TIFS 2018; Aono et al. 2017). All rows are used at once, each weighted
by d_i.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from fedseal.attack.base import precision, refused, residual
from fedseal.attack.evidence import Evidence
from fedseal.attack.route import Route
from fedseal.types import Candidate, Outcome, ProgressCallback, Reconstruction


@dataclass(frozen=True)
class LinearFirstLayer(Route):
    """Read the input off the gradient of a fully connected first layer with bias."""

    name: str = "linear"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this route does not apply, None if it does."""
        layer = evidence.first_linear
        if layer is None:
            return "the first layer is not fully connected on the flattened input"
        if layer.bias is None or layer.bias not in evidence.observation.update.tensors:
            return "the first layer has no bias, so its gradient gives the input only up to a factor"
        if not bool(evidence.observation.update.tensors[layer.bias].any()):
            return "the gradient of the first layer's bias is zero: no neuron of that layer was active"
        ratio = _rank_one(evidence)[1]
        # local steps on one example add multiples of one outer product; their difference inherits the weights' rounding
        if ratio > (1e-2 if evidence.observation.update.kind == "difference" else 30 * evidence.eps):
            return f"the first layer's gradient is no outer product (second part {ratio:.0e}): more than one example"
        return None

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Closed form; draws nothing. The certificate is the replay, or the outer product itself without weights."""
        started = time.perf_counter()
        observation = evidence.observation
        obstacle = self.obstacle(evidence)
        if obstacle is not None:
            return refused(self.name, obstacle, started)
        row, ratio = _rank_one(evidence)
        inputs = row.reshape(1, *observation.modality.shape).to(observation.like.dtype)
        labels = None if evidence.label is None else torch.tensor([evidence.label], device=inputs.device)
        value = None if labels is None else residual(observation, Candidate(inputs, labels))
        certain = (ratio if value is None else value) <= precision(observation)
        if value is None:
            note = "certified by the layer's own equations: its gradient is an outer product; the weights are withheld"
        else:
            note = "" if certain else "the replayed update differs: the layer's input is right, the label may not be"
        outcome = Outcome(
            status="exact" if certain else "budget",
            route=self.name,
            residual=ratio if value is None else value,
            steps=0,
            seconds=time.perf_counter() - started,
            note=note,
        )
        return Reconstruction(inputs, labels, outcome)


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
