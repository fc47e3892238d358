"""The closed form for layers in a row: from the head down, each layer's input follows from its output and its gradient.

For one example the head gives its input h = dL/dV_i / dL/db_i and, through its weights, the gradient by h. An
invertible activation turns a layer's output and its gradient into the pre-activation and its gradient; a linear
layer's input is then an outer product's factor, and a convolution's input solves forward and gradient equations
together (`equations.py`).

R-GAP (Zhu and Blaschko, ICLR 2021, arXiv:2010.07733) introduced the recursion. New here: the equations are weighted
by what the client's floating-point format leaves of them, and the error of each layer is carried to the next.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedseal.attack.base import better, conclude, precision
from fedseal.attack.evidence import Evidence
from fedseal.attack.exact.equations import conv_equations, solve
from fedseal.attack.matching import LBFGS, GradientMatching
from fedseal.attack.objective import balanced_distance
from fedseal.attack.prior import total_variation
from fedseal.attack.structure import Activation, Conv, Layer, Linear, Reshape
from fedseal.types import Candidate, Observation, Outcome, Progress, ProgressCallback, Reconstruction

INVERTIBLE = ("sigmoid", "tanh", "leaky_relu")


class Signal(NamedTuple):
    """What is known between two layers: the value and the gradient by it, `(1, *shape)`, with standard errors."""

    value: Tensor
    value_error: Tensor
    delta: Tensor
    delta_error: Tensor


class ClosedForm(NamedTuple):
    """The recursion's result: inputs `(1, *shape)` in float64, and coordinates in which their errors are alike.

    `open` counts the input values that no equation reaches: their error is as wide as what was known before.
    """

    inputs: Tensor
    open: int
    whiten: Callable[[Tensor], Tensor] | None


class Count(NamedTuple):
    """One layer of the rank analysis."""

    layer: str
    equations: int
    unknowns: int

    @property
    def determined(self) -> bool:
        """Whether there are at least as many equations as unknowns."""
        return self.equations >= self.unknowns


def rank_analysis(layers: tuple[Layer, ...]) -> tuple[Count, ...]:
    """Equations against unknowns, convolution by convolution, from the input on (R-GAP's count)."""
    counts = []
    for layer in layers:
        if isinstance(layer, Conv):
            inputs, outputs = math.prod(layer.in_shape), math.prod(layer.out_shape)
            kernel = layer.out_shape[0] * layer.in_shape[0] // layer.groups
            counts.append(Count(layer.weight.removesuffix(".weight"), outputs + kernel * _taps(layer), inputs))
    return tuple(counts)


def _taps(layer: Conv) -> int:
    return layer.kernel[0] * layer.kernel[1]


@dataclass(frozen=True)
class Layerwise:
    """Read one example off the gradient of a network whose layers stand in a row and can be inverted."""

    matching_steps: int = 45
    name: str = "layerwise"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this route does not apply, None if it does."""
        observation, structure = evidence.observation, evidence.structure
        if observation.state is None:
            return f"it needs the weights, which the threat model '{observation.threat}' withholds"
        if structure.obstacle is not None:
            return structure.obstacle
        if evidence.batch_size != 1:
            size = "unknown" if evidence.batch_size is None else str(evidence.batch_size)
            return f"it takes one example apart, and the batch size is {size}"
        if evidence.gradient_scale is None:
            return "the update mixes the gradients of several local steps"
        for layer in structure.layers:
            if isinstance(layer, Activation) and layer.kind not in INVERTIBLE:
                return f"the activation '{layer.kind}' cannot be inverted: it maps many values to one"
            if isinstance(layer, Activation) and layer.kind == "leaky_relu" and layer.slope <= 0:
                return f"a leaky ReLU of slope {layer.slope:g} cannot be inverted"
        missing = [n for layer in structure.layers for n in _parameters(layer) if n not in observation.update.tensors]
        if missing:
            return f"the update has no gradient of '{missing[0]}' (frozen)"
        if evidence.label is None:
            return "the label cannot be read off the head: it needs cross-entropy and a linear head"
        return None

    def determined(self, evidence: Evidence) -> bool:
        """Whether every layer has at least as many equations as unknowns."""
        return all(count.determined for count in rank_analysis(evidence.structure.layers))

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Closed form, then matching where that falls short of the update's precision; see `Outcome` for the status."""
        return self.read(Evidence(observation), generator=generator, progress=progress)

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """The same, from evidence that somebody has gathered already."""
        started = time.perf_counter()
        observation = evidence.observation
        obstacle = self.obstacle(evidence)
        if obstacle is not None:
            outcome = Outcome("not_applicable", self.name, None, 0, time.perf_counter() - started, obstacle)
            return Reconstruction(None, None, outcome)
        closed = _closed_form(evidence, generator, progress)
        candidate = Candidate(
            closed.inputs.reshape(1, *observation.modality.shape).to(observation.like),
            torch.tensor([evidence.label], device=observation.like.device),
        )
        found = conclude(observation, candidate, route=self.name, steps=0, started=started, status="budget")
        certain = found.outcome.residual is not None and found.outcome.residual <= precision(observation)
        short = _undetermined(evidence, closed)
        if certain and not short:
            return replace(found, outcome=replace(found.outcome, status="exact"))
        if not certain:
            found = better(found, self._match(observation, closed, not short, generator, progress))
        note = f"not determined: {short}; total variation chose among the inputs that agree" if short else ""
        status = found.outcome.status if not short or found.outcome.status == "diverged" else "budget"
        outcome = replace(
            found.outcome, route=self.name, status=status, seconds=time.perf_counter() - started, note=note
        )
        return replace(found, outcome=outcome)

    def _match(
        self,
        observation: Observation,
        closed: ClosedForm,
        determined: bool,
        generator: torch.Generator,
        progress: ProgressCallback | None,
    ) -> Reconstruction:
        """Match from the closed form, in coordinates in which its errors are alike: that is what makes L-BFGS fast
        here.

        Where the layers do not determine the picture, total variation decides first and is then relaxed in stages.
        """
        start = observation.modality.project(closed.inputs.reshape(1, *observation.modality.shape))
        stages = (0.0,) if determined else (1e-3, 1e-4, 1e-5)
        for weight in stages:
            attack = GradientMatching(
                f"{self.name}+matching",
                labels="sign",
                objective=balanced_distance,
                priors=((weight, total_variation),) if weight else (),
                optimizer=LBFGS(line_search=True),
                steps=self.matching_steps // len(stages),
                dtype=torch.float32 if observation.like.device.type == "mps" else torch.float64,
                start=start,
                coordinates=closed.whiten,
                target=(0.1 * precision(observation)) ** 2,
                stall=1e-2,
            )
            found = attack(observation, generator=generator, progress=progress)
            if found.inputs is None:
                break
            start = found.inputs
        return found


def _undetermined(evidence: Evidence, closed: ClosedForm) -> str:
    """Why the equations leave the input open, empty if they do not."""
    short = [count for count in rank_analysis(evidence.structure.layers) if not count.determined]
    if short:
        return f"layer '{short[0].layer}' alone has {short[0].equations} equations for {short[0].unknowns} unknowns"
    return f"the equations leave {closed.open} of {closed.inputs.numel()} input values open" if closed.open else ""


def _closed_form(evidence: Evidence, generator: torch.Generator, progress: ProgressCallback | None) -> ClosedForm:
    layers = evidence.structure.layers
    signal, whiten, unreached = _head_signal(evidence), None, 0
    for index in range(len(layers) - 2, -1, -1):
        layer = layers[index]
        if isinstance(layer, Conv):
            signal, whiten, unreached = _through_conv(evidence, layers, index, layer, signal, generator)
        else:
            signal = _back(evidence, layers, index, layer, signal)
        if progress is not None:
            progress(Progress("layerwise", len(layers) - 1 - index, len(layers), math.nan, None))
    return ClosedForm(signal.value, unreached, whiten if isinstance(layers[0], Conv) else None)


def _parameters(layer: Layer) -> list[str]:
    return [layer.weight] if isinstance(layer, (Linear, Conv)) else []


def _weight(evidence: Evidence, name: str | None) -> Tensor:
    """A weight in float64 on the CPU, where the solvers are; zero for a bias that is not there."""
    if name is None:
        return torch.zeros((), dtype=torch.float64)
    assert evidence.observation.state is not None
    return evidence.observation.state[name].double().cpu()


def _gradient(evidence: Evidence, name: str) -> Tensor:
    gradient = evidence.gradient(name)
    assert gradient is not None
    return gradient.cpu()


def _head_signal(evidence: Evidence) -> Signal:
    """The head's input and the gradient by it."""
    head = evidence.structure.head
    assert head is not None
    weight, gradient = _weight(evidence, head.weight), _gradient(evidence, head.weight)
    if head.bias is not None and head.bias in evidence.observation.update.tensors:
        error = _gradient(evidence, head.bias)
        noise = evidence.noise(head.bias).cpu()
    else:
        error = _logit_gradient(evidence, weight, gradient)
        noise = evidence.noise(head.weight).cpu() * error.norm() / gradient.norm()
    return _through_linear(evidence, head.weight, weight, gradient, error, noise)


def _through_linear(
    evidence: Evidence, name: str, weight: Tensor, gradient: Tensor, delta: Tensor, delta_error: Tensor
) -> Signal:
    """The input of a linear layer from dL/dW = delta x^T, and the gradient by it."""
    norm = delta.norm()
    value = gradient.T @ delta / norm**2
    noise = (evidence.noise(name).cpu() * delta).norm() / norm**2
    value_error = noise + delta_error.norm() / norm * value.abs()
    spread = (delta_error.square() @ weight.square()).sqrt() + evidence.eps * (delta.abs() @ weight.abs())
    return Signal(value[None], value_error[None].clamp_min(1e-300), (delta @ weight)[None], spread[None])


def _logit_gradient(evidence: Evidence, weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient by the logits, softmax minus one-hot, for a head without bias.

    The scale t of the features h = t v solves one equation:
    dL/dV = s u v^T with unit u, v; then (softmax(t V v) - e_y) = (s / t) u, whose entry at the label is negative.
    """
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    label = evidence.label
    assert label is not None
    flip = -1.0 if left[label, 0] > 0 else 1.0
    unit, direction, size = left[:, 0] * flip, right[0] * flip, float(values[0])
    logits = weight @ direction

    def mismatch(log_scale: float) -> float:
        scale = math.exp(log_scale)
        p = torch.softmax(scale * logits, 0)
        return float(p[label] - 1.0 - size / scale * unit[label])

    grid = [math.log(size) + 0.05 * k for k in range(-200, 400)]
    best, found = math.inf, grid[0]
    for low, high in itertools.pairwise(grid):
        if mismatch(low) * mismatch(high) > 0:
            continue
        root = _bisect(mismatch, low, high)
        scale = math.exp(root)
        p = torch.softmax(scale * logits, 0)
        p[label] -= 1.0
        distance = float((p - size / scale * unit).norm() / p.norm().clamp_min(1e-300))
        if distance < best:
            best, found = distance, root
    scaled: Tensor = size / math.exp(found) * unit
    return scaled


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    sign = function(low)
    for _ in range(60):
        middle = 0.5 * (low + high)
        if function(middle) * sign > 0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _back(
    evidence: Evidence, layers: tuple[Layer, ...], index: int, layer: Linear | Activation | Reshape, signal: Signal
) -> Signal:
    """From behind a layer to before it."""
    if isinstance(layer, Reshape):
        return Signal(*(t.reshape(1, *layer.in_shape) for t in signal))
    if isinstance(layer, Activation):
        return _through_activation(evidence, layers, index, layer, signal)
    weight, gradient = _weight(evidence, layer.weight), _gradient(evidence, layer.weight)
    return _through_linear(evidence, layer.weight, weight, gradient, signal.delta[0], signal.delta_error[0])


def _through_activation(
    evidence: Evidence, layers: tuple[Layer, ...], index: int, layer: Activation, signal: Signal
) -> Signal:
    a, error, delta, delta_error = signal
    tiny = torch.finfo(evidence.observation.like.dtype).eps
    if layer.kind == "leaky_relu":
        slope, doubtful = _slopes(evidence, layers[index - 1], layer.slope, signal)
        doubt = doubtful * (1 - layer.slope) * delta.abs()
        return Signal(a / slope, error / slope, delta * slope, delta_error * slope + doubt)
    if layer.kind == "sigmoid":
        a = a.clamp(tiny, 1 - tiny)
        value, slope, curvature = torch.log(a / (1 - a)), a * (1 - a), (1 - 2 * a).abs()
    else:
        a = a.clamp(tiny - 1, 1 - tiny)
        value, slope, curvature = torch.atanh(a), 1 - a * a, 2 * a.abs()
    return Signal(value, error / slope, delta * slope, delta_error * slope + delta.abs() * curvature * error)


def _slopes(evidence: Evidence, before: Layer, leak: float, signal: Signal) -> tuple[Tensor, Tensor]:
    """The slope at every unit of a leaky ReLU, and 1 where it stays in doubt, else 0; both like the signal's value.

    Where the error leaves a value's sign open, the bias gradient of the layer before decides: it is the sum of the
    channel's deltas, so that only one combination of slopes agrees with it.
    """
    slope = torch.where(signal.value >= 0, signal.value.new_tensor(1.0), signal.value.new_tensor(leak))
    doubtful = signal.value.abs() < 4 * signal.value_error
    if not isinstance(before, Conv) or before.bias is None or before.bias not in evidence.observation.update.tensors:
        return slope, doubtful.to(slope)
    sums, noise = _gradient(evidence, before.bias), evidence.noise(before.bias).cpu()
    slopes, open_, deltas = slope[0].flatten(1).clone(), doubtful[0].flatten(1).clone(), signal.delta[0].flatten(1)
    tolerance = 4 * (noise + (slopes * signal.delta_error[0].flatten(1)).norm(dim=1))
    for channel in open_.any(1).nonzero().flatten().tolist():
        places = open_[channel].nonzero().flatten()
        if len(places) > 12:
            continue
        parts = slopes[channel] * deltas[channel]
        rest = sums[channel] - parts.sum() + parts[places].sum()
        options = torch.tensor(list(itertools.product((1.0, leak), repeat=len(places))), dtype=torch.float64)
        mismatch, order = (options @ deltas[channel, places] - rest).abs().sort()
        slopes[channel, places] = options[order[0]]
        open_[channel, places] = bool(mismatch[1] < tolerance[channel]) or bool(mismatch[0] > tolerance[channel])
    return slopes.reshape(slope.shape), open_.reshape(slope.shape).to(slope)


def _through_conv(
    evidence: Evidence,
    layers: tuple[Layer, ...],
    index: int,
    layer: Conv,
    signal: Signal,
    generator: torch.Generator,
) -> tuple[Signal, Callable[[Tensor], Tensor], int]:
    """From behind a convolution to before it, with whitened coordinates and the number of values left open."""
    weight = _weight(evidence, layer.weight)
    bias = _weight(evidence, layer.bias).reshape(-1, 1, 1)
    output = signal.value - bias
    output_error = signal.value_error + evidence.eps * (signal.value.abs() + bias.abs() + 1e-30)
    mean, spread = _prior(evidence, layers, index, layer, weight, output)
    rows = signal.delta_error.square().sum((0, 2, 3)).sqrt() * float((mean.square().mean() + spread**2).sqrt())
    equations = conv_equations(
        layer,
        weight,
        output,
        output_error,
        signal.delta,
        _gradient(evidence, layer.weight),
        (rows.square() + evidence.noise(layer.weight).cpu() ** 2).sqrt(),
        (mean, spread),
    )
    solution = solve(equations, generator=generator, probes=4 if index == 0 else 8)
    back = _transposed(layer, signal.delta.shape[2:])
    delta = back(signal.delta, weight)
    delta_error = back(signal.delta_error.square(), weight.square()).sqrt()
    delta_error = delta_error + evidence.eps * back(signal.delta.abs(), weight.abs())
    below = Signal(solution.mean, solution.error * max(1.0, solution.misfit), delta, delta_error)
    return below, solution.whiten, int((solution.error > 0.5 * spread).sum())


def _transposed(layer: Conv, size: torch.Size) -> Callable[[Tensor, Tensor], Tensor]:
    """The adjoint of the convolution by its input."""
    extra = [
        layer.in_shape[1 + k]
        - ((size[k] - 1) * layer.stride[k] - 2 * layer.padding[k] + layer.dilation[k] * (layer.kernel[k] - 1) + 1)
        for k in (0, 1)
    ]

    def back(delta: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose2d(
            delta, weight, None, layer.stride, layer.padding, tuple(extra), layer.groups, layer.dilation
        )

    return back


def _prior(
    evidence: Evidence, layers: tuple[Layer, ...], index: int, layer: Conv, weight: Tensor, output: Tensor
) -> tuple[Tensor, float]:
    """Mean `(C, H, W)` and spread of a layer's input that its activation or the modality allows."""
    shape = torch.zeros(layer.in_shape, dtype=torch.float64)
    before = [earlier for earlier in layers[:index] if not isinstance(earlier, Reshape)]
    if not before:
        modality = evidence.observation.modality
        wide = torch.full((1, *modality.shape), 1e6, dtype=torch.float64)
        low, high = modality.project(-wide)[0], modality.project(wide)[0]
        middle = 0.5 * (low + high).reshape(layer.in_shape)
        return middle, float((high - low).mean()) / 3
    last = before[-1]
    if isinstance(last, Activation) and last.kind == "sigmoid":
        return shape + 0.5, 0.3
    if isinstance(last, Activation) and last.kind == "tanh":
        return shape, 0.6
    row = float(weight.flatten(1).square().sum(1).mean().sqrt())
    return shape, max(3.0 * float(output.square().mean().sqrt()) / row, 1e-6)
