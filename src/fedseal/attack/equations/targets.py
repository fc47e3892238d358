"""Targets of inputs that were found, from what each example's own gradient by the first layer's output is.

A route that takes a batch apart knows every example's gradient by the first layer's output. The weights give the
example's scores and how that gradient follows from the one by the scores, which a target explains or does not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fedseal.attack.evidence.evidence import Evidence
from fedseal.client import forward, local_training
from fedseal.types import LocalTraining

APART = 1e-6  # smallest singular value, relative to the largest, at which gradients by the scores are told apart
OFF = 1e-2  # of an example's gradient, from which no class explains it and probabilities of classes may
FITS = 1e-3  # the same, up to which these do


def targets_by_signal(evidence: Evidence, inputs: Tensor, deltas: Tensor) -> Tensor | None:
    """The targets of a batch, in the form that the loss takes; None where nothing tells them.

    Args:
        inputs: `(b, *shape)`.
        deltas: each example's part of the mean gradient by the first layer's output, `(b, rows)`.
    """
    observation, criterion = evidence.observation, evidence.unit
    count, classes = len(inputs), evidence.structure.num_classes
    counts = _counts(evidence, inputs)
    if any(isinstance(module, _BatchNorm) and module.training for module in observation.model.modules()):
        # the examples' gradients depend on each other: the counts are known, their places are not
        return None if counts is None else torch.arange(classes).repeat_interleave(counts).to(inputs.device)
    if any(secret.active is not False for secret in observation.secrets):
        # what dropout dropped behind the first layer is missing in the signals: of one class alone are all for sure
        sure = counts is not None and len(counts.nonzero()) == 1
        return None if counts is None or not sure else counts.argmax().expand(count).to(inputs.device)
    possible = torch.arange(classes) if counts is None else counts.nonzero().flatten()
    pairs = list(zip(inputs, deltas.to(inputs.device), strict=True))
    if not criterion.known:
        return torch.stack([_tried(evidence, *pair, possible, count) for pair in pairs]) if criterion.classes else None
    if criterion.classes:
        told = [_nearest(evidence, *pair, possible, count) for pair in pairs]
        named, off = torch.stack([label for label, _ in told]), max(off for _, off in told)
        mixed = _mixed(evidence, pairs, count) if off > OFF and criterion.soft else None
        return named if mixed is None else mixed.to(inputs)
    rows = [_solved(evidence, *pair, count) for pair in pairs]
    found = [row for row in rows if row is not None]
    return criterion.formed(torch.stack(found).to(inputs)) if len(found) == len(rows) else None


class _Slope:
    """One example's scores `(outputs,)` in float64, and how a gradient by them becomes one by the first layer."""

    def __init__(self, evidence: Evidence, example: Tensor) -> None:
        observation, layer = evidence.observation, evidence.first_linear
        assert observation.state is not None
        assert layer is not None
        assert layer.bias is not None
        self._bias = observation.state[layer.bias].detach().clone().requires_grad_()
        with torch.enable_grad():
            fed = observation.modality.forward(example[None])
            outputs = forward(observation.model, {**observation.state, layer.bias: self._bias}, fed)
            self._scores = evidence.criterion.scores(outputs)[0]
        self.scores = self._scores.detach().double()

    def pull(self, signal: Tensor) -> Tensor:
        """The gradient by the first layer's output `(rows,)` in float64."""
        signal = signal.to(self._scores)
        (pulled,) = torch.autograd.grad(self._scores, self._bias, signal, retain_graph=True)
        return pulled.double()


def _nearest(evidence: Evidence, example: Tensor, delta: Tensor, possible: Tensor, count: int) -> tuple[Tensor, float]:
    """The class whose gradient by the first layer's output is nearest to the one found, and how far off that is beside
    its size.
    """
    criterion, slope = evidence.unit, _Slope(evidence, example)
    free = criterion.reduction == "weights"  # the weights' sum over the batch is not known yet
    distances = []
    for label in possible.to(example.device):
        guess = slope.pull(criterion.signal(slope.scores[None], label[None], float(count))[0])
        share = (guess @ delta / guess.square().sum().clamp_min(1e-300)).clamp_min(0) if free else 1.0
        distances.append(float((share * guess - delta).norm()))
    best = min(range(len(distances)), key=distances.__getitem__)
    return possible[best].to(example.device), distances[best] / max(float(delta.norm()), 1e-300)


def _mixed(evidence: Evidence, pairs: list[tuple[Tensor, Tensor]], count: int) -> Tensor | None:
    """The class probabilities that give the gradients found, `(b, outputs)`; None where none do, or several.

    Args:
        pairs: each an example and its gradient by the first layer's output.
    """
    criterion, found = evidence.unit, []
    if not criterion.uniform or criterion.smoothing >= 1:
        return None
    for example, delta in pairs:
        slope = _Slope(evidence, example)
        pulled = torch.stack([slope.pull(one) for one in torch.eye(criterion.outputs, device=example.device)])
        size = pulled.norm() / math.sqrt(criterion.outputs)
        rows = torch.cat([pulled, size.expand(criterion.outputs, 1)], 1)  # a signal sums to zero
        values = torch.linalg.svdvals(rows)
        if len(values) < criterion.outputs or not float(values[-1]) > APART * float(values[0]):
            return None
        told = torch.cat([delta.double(), delta.new_zeros(1).double()])
        signal = torch.linalg.lstsq(rows.T, told[:, None]).solution[:, 0]
        mass = slope.scores.softmax(-1) - signal * count / criterion.factor
        target = (mass - criterion.smoothing / criterion.outputs) / (1 - criterion.smoothing)
        if not float((signal @ pulled - delta).norm()) <= FITS * float(delta.norm()):
            return None
        if bool((target < -FITS).any()):
            return None
        found.append(target.clamp_min(0) / target.clamp_min(0).sum())
    return torch.stack(found)


def _solved(evidence: Evidence, example: Tensor, delta: Tensor, count: int) -> Tensor | None:
    """The target `(outputs,)` that gives the gradient found; None where several gradients by the scores do."""
    criterion, slope = evidence.unit, _Slope(evidence, example)
    pulled = torch.stack([slope.pull(one) for one in torch.eye(criterion.outputs, device=example.device)])
    values = torch.linalg.svdvals(pulled)
    if len(values) < criterion.outputs or not float(values[-1]) > APART * float(values[0]):
        return None
    signal = torch.linalg.lstsq(pulled.T, delta[:, None].double()).solution[:, 0]
    return criterion.read(slope.scores[None], signal[None], float(count)).targets[0]


def _tried(evidence: Evidence, example: Tensor, delta: Tensor, possible: Tensor, count: int) -> Tensor:
    """As `_nearest`, by the client's own arithmetic: for a loss of class indices that was not recognized."""
    observation, layer = evidence.observation, evidence.first_linear
    assert observation.state is not None
    assert layer is not None
    assert layer.bias is not None
    mode = "as_is" if observation.training is None else observation.training.mode
    single, distances = LocalTraining.fedsgd(mode=mode, loss=observation.loss), []
    for label in possible.to(example.device):
        alone = local_training(observation.model, observation.state, example[None], label[None], single).tensors[
            layer.bias
        ]
        distances.append(float((alone.detach().double() / count - delta).norm()))
    return possible[min(range(len(distances)), key=distances.__getitem__)].to(example.device)


def _counts(evidence: Evidence, inputs: Tensor) -> Tensor | None:
    """How often each class occurs, `(classes,)`: the sum of the softmax less the batch size times the head's bias
    gradient; None where that is not known or comes out as no counts.
    """
    observation, head = evidence.observation, evidence.structure.head
    if not evidence.unit.plain or head is None or head.bias is None or observation.state is None:
        return None
    gradient = evidence.gradient(head.bias)
    if gradient is None or evidence.batch_size not in (None, len(inputs)):  # the sum is over all examples
        return None
    with torch.no_grad():
        outputs = forward(observation.model, observation.state, observation.modality.forward(inputs))
        scores = evidence.criterion.scores(outputs)
    counts = (scores.double().softmax(-1).sum(0) - len(inputs) * gradient).round().long().clamp_min(0).cpu()
    return counts if int(counts.sum()) == len(inputs) else None
