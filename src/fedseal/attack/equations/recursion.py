"""The recursion behind the exact route for layers in a row: from behind a layer to before it, errors handed on.

What stands behind a layer, the value and the gradient by it, is known with an error for every example. An invertible
activation turns both into those of its input. A linear layer's gradient is a sum of outer products, which the known
gradients by its output take apart. A convolution's input solves forward and gradient equations together
(`convolution.py`); over a batch every example has forward equations of its own, and all share the gradient equations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedseal.attack.equations.convolution import conv_equations, solve_convolution
from fedseal.attack.equations.factor import entered_range
from fedseal.attack.equations.noisy import NoisyHead, read_noisy_head, through_squashing
from fedseal.attack.equations.separation import Separated
from fedseal.attack.evidence.activations import Side
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.structure import Activation, Conv, Layer, Linear, Reshape
from fedseal.types import Progress, ProgressCallback

TINY = 1e-150  # below which a number's square is 0
FEATURES_LIMIT = 4096  # up to which the head's equations are solved together under a defense


class Signal(NamedTuple):
    """What is known between two layers: the value and the gradient of the mean loss by it, with standard errors.

    All are `(N, *shape)` in float64, for N examples.
    """

    value: Tensor
    value_error: Tensor
    delta: Tensor
    delta_error: Tensor


class ClosedForm(NamedTuple):
    """The recursion's result: inputs `(N, *shape)` in float64, and coordinates in which their errors are alike.

    `error` are the standard errors of the inputs, like them, that rounding alone leaves. `open` counts the input values
    that no equation reaches: their error is as wide as what was known before.
    """

    inputs: Tensor
    error: Tensor
    open: int
    whiten: Callable[[Tensor], Tensor] | None


def closed_form(
    evidence: Evidence, signal: Signal, generator: torch.Generator, progress: ProgressCallback | None
) -> ClosedForm:
    """From the head's input, as `head_signal` or a separated batch gives it, down to the model's input."""
    layers = evidence.structure.layers
    whiten, unreached = None, 0
    for index in range(len(layers) - 2, -1, -1):
        layer = layers[index]
        if isinstance(layer, Conv):
            signal, whiten, unreached = _through_conv(evidence, layers, index, layer, signal, generator)
        else:
            signal = _back(evidence, layers, index, layer, signal)
        if progress is not None:
            progress(Progress("layerwise", len(layers) - 1 - index, len(layers), math.nan, None))
    return _at_the_input(evidence, signal, unreached, whiten if isinstance(layers[0], Conv) else None)


def _at_the_input(
    evidence: Evidence, signal: Signal, unreached: int, whiten: Callable[[Tensor], Tensor] | None
) -> ClosedForm:
    """The model's input, from the input of the first layer."""
    undone, before = evidence.undo(signal.value), evidence.preprocessing
    if before is None:
        return ClosedForm(signal.value, signal.value_error, unreached, whiten)
    unreached += int((~undone.known).sum())
    count, numel = len(signal.value), undone.inputs[0].numel()
    place, factor = before.kept.places(numel)
    error = signal.value_error.flatten(1)[:, place] * torch.where(factor == 0, math.inf, factor)
    back = None if whiten is None else _moved(whiten, place, factor, count)
    return ClosedForm(undone.inputs.to(signal.value), error.reshape(undone.inputs.shape), unreached, back)


def _moved(whiten: Callable[[Tensor], Tensor], place: Tensor, factor: Tensor, count: int) -> Callable[[Tensor], Tensor]:
    """Coordinates of the model's input from those of what the first layer takes in."""

    @lru_cache(maxsize=1)
    def there(device: torch.device, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        return place.to(device), factor.to(device, kind)[:, None]

    def back(unit: Tensor) -> Tensor:
        moved = whiten(unit)
        where, scale = there(moved.device, moved.dtype)
        return (moved.reshape(count, -1, moved.shape[-1])[:, where] * scale).flatten(0, 1)

    return back


class Reached(NamedTuple):
    """How far the recursion comes for a batch: what is known of one layer's input or output."""

    weight: str
    side: Side
    value: Tensor
    error: Tensor


def reach(evidence: Evidence, separated: Separated, generator: torch.Generator) -> Reached:
    """Back from where a batch was separated as far as every example stays determined.

    A ReLU says where it was open, which is all that the linear layer before it needs: its gradient is a sum of outer
    products with known left factors. A convolution is passed only if forward and gradient equations determine its
    input; else its output is what is known.
    """
    tail, signal = evidence.structure.tail, batch_signal(evidence, separated)
    reached = Reached(separated.site.layer.weight, "input", signal.value, signal.value_error)
    for index in range(separated.site.place - 1, -1, -1):
        layer = tail[index]
        before = tail[index - 1] if index else None
        if isinstance(layer, (Linear, Conv)) and layer.weight not in evidence.observation.update.tensors:
            break
        if isinstance(layer, Activation) and layer.kind == "relu":
            open_ = signal.value > 4 * signal.value_error
            if not isinstance(before, Linear) or len(signal.value) > before.out_shape[0]:
                break
            unknown = torch.full_like(signal.value_error, math.inf)
            signal = Signal(
                signal.value, torch.where(open_, signal.value_error, unknown), signal.delta * open_, signal.delta_error
            )
            reached = Reached(before.weight, "output", signal.value, signal.value_error)
        elif isinstance(layer, Activation):
            if layer.kind not in ("sigmoid", "tanh", "leaky_relu") or not isinstance(before, (Conv, Linear)):
                break
            signal = _through_activation(evidence, tail, index, layer, signal)
            reached = Reached(before.weight, "output", signal.value, signal.value_error)
        elif isinstance(layer, Reshape):
            signal = _back(evidence, tail, index, layer, signal)
        elif isinstance(layer, Linear):
            signal = _apart(evidence, layer, _weight(evidence, layer.weight), _gradient(evidence, layer.weight), signal)
            reached = Reached(layer.weight, "input", signal.value, signal.value_error)
        else:
            count, outputs = len(signal.value), math.prod(layer.out_shape)
            taps = layer.out_shape[0] * layer.in_shape[0] // layer.groups * math.prod(layer.kernel)
            if not before and evidence.structure.obstacle is not None:
                break  # what stands before is not the model's input
            if count * outputs + taps < count * math.prod(layer.in_shape):
                break
            below, _, unreached = _through_conv(evidence, tail, index, layer, signal, generator)
            if unreached:
                break
            signal = below
            reached = Reached(layer.weight, "input", signal.value, signal.value_error)
    return reached


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


def batch_signal(evidence: Evidence, separated: Separated) -> Signal:
    """The inputs of the layer at which a batch was separated, and the gradient of the mean loss by them."""
    weight, features = _weight(evidence, separated.site.layer.weight), separated.features
    error = separated.error[:, None]
    delta = separated.deltas / len(features)
    size = features.square().mean(1, keepdim=True).sqrt()
    value_error = (error + evidence.eps) * (size + features.abs())
    # an error of the features moves the logits, and softmax hands at most all of that on
    outputs = error * features.norm(dim=1, keepdim=True) * weight.norm(dim=1) / math.sqrt(weight.shape[1])
    delta_error = delta.abs() * (outputs + 4 * evidence.eps)
    spread = (delta_error.square() @ weight.square()).sqrt() + evidence.eps * (delta.abs() @ weight.abs())
    return Signal(features, value_error, delta @ weight, spread)


def head_signal(evidence: Evidence) -> Signal:
    """The head's input and the gradient by it, for one example."""
    head = evidence.structure.head
    assert head is not None
    weight, gradient = _weight(evidence, head.weight), _gradient(evidence, head.weight)
    if evidence.altered and evidence.label is not None and evidence.unit.plain and weight.shape[1] <= FEATURES_LIMIT:
        return _noisy_head_signal(evidence, head, weight, gradient)
    if head.bias is not None and head.bias in evidence.observation.update.tensors:
        error = _gradient(evidence, head.bias)
        noise = evidence.noise(head.bias).cpu()
    else:
        error = _logit_gradient(evidence, weight, gradient) if evidence.single is None else evidence.single.signal.cpu()
        noise = evidence.noise(head.weight).cpu() * error.norm() / gradient.norm()
    return _through_linear(evidence, head.weight, weight, gradient, error, noise)


def _noisy_head_signal(evidence: Evidence, head: Linear, weight: Tensor, gradient: Tensor) -> Signal:
    """As `head_signal`, from all equations of the head together, each with the error that a known defense left."""
    assert evidence.label is not None
    bias = _weight(evidence, head.bias).expand(len(weight))
    if head.bias is not None and head.bias in evidence.observation.update.tensors:
        by_bias, bias_error = _gradient(evidence, head.bias), evidence.error(head.bias).cpu()
    else:
        by_bias = _logit_gradient(evidence, weight, gradient)
        bias_error = torch.full_like(by_bias, math.inf)
    layers = evidence.structure.tail
    mean, spread = _range_of(layers, len(layers)) or (0.0, 3.0 * float(gradient.norm() / by_bias.norm()))
    reading = read_noisy_head(
        NoisyHead(
            weight,
            bias,
            gradient,
            evidence.error(head.weight).cpu(),
            by_bias,
            bias_error,
            evidence.label,
            (mean, spread),
        ),
        eps=evidence.eps,
    )
    return Signal(*(part[None] for part in reading))


def _through_linear(
    evidence: Evidence, name: str, weight: Tensor, gradient: Tensor, delta: Tensor, delta_error: Tensor
) -> Signal:
    """The input of a linear layer from dL/dW = delta x^T, and the gradient by it."""
    norm = delta.norm()
    if float(norm) < TINY:  # nothing came back to this layer: its gradient says nothing of its input
        none = torch.zeros_like(gradient[:1])
        return Signal(none, torch.full_like(none, math.inf), none, none)
    value = gradient.T @ delta / norm**2
    noise = (evidence.noise(name).cpu() * delta).norm() / norm**2
    value_error = noise + delta_error.norm() / norm * value.abs()
    spread = (delta_error.square() @ weight.square()).sqrt() + evidence.eps * (delta.abs() @ weight.abs())
    return Signal(value[None], value_error[None].clamp_min(1e-300), (delta @ weight)[None], spread[None])


def _apart(evidence: Evidence, layer: Linear, weight: Tensor, gradient: Tensor, signal: Signal) -> Signal:
    """The inputs of a linear layer for a whole batch: dL/dW = delta^T X, and delta is known."""
    shared = signal.delta.T  # (outputs, N): dL/dW = shared X
    spread = (signal.delta_error.square().sum(0) * signal.value.square().mean() + 1e-300).sqrt()
    noise = (evidence.noise(layer.weight).cpu() ** 2 + spread**2).sqrt()
    rows = shared / noise[:, None]
    size = float(gradient.square().sum().sqrt() / signal.delta.norm().clamp_min(1e-300))  # of an input's length
    wide = min(max(size / math.sqrt(weight.shape[1]), 1e-100), 1e100)  # a signal that is wrong may be of any size
    normal = rows.T @ rows
    # behind a layer of one unit all signals are parallel: no smaller than what rounding leaves of the largest
    least = max(wide**-2, 4 * torch.finfo(torch.float64).eps * float(normal.diagonal().sum()))
    normal = normal + least * torch.eye(rows.shape[1], dtype=torch.float64)
    inverse = torch.linalg.inv(normal)
    inputs = inverse @ rows.T @ (gradient / noise[:, None])
    error = inverse.diagonal().clamp_min(0).sqrt()[:, None].expand_as(inputs) + evidence.eps * inputs.abs()
    # what the equations leave open is as wide as before
    error = torch.where(error > 0.3 * wide, torch.full_like(error, math.inf), error)
    below = signal.delta @ weight
    delta_error = (signal.delta_error.square() @ weight.square()).sqrt()
    return Signal(inputs, error, below, delta_error + evidence.eps * (signal.delta.abs() @ weight.abs()))


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
    """A layer's input, from its output."""
    if isinstance(layer, Reshape):
        return Signal(*(t.reshape(len(t), *layer.in_shape) for t in signal))
    if isinstance(layer, Activation):
        return _through_activation(evidence, layers, index, layer, signal)
    weight, gradient = _weight(evidence, layer.weight), _gradient(evidence, layer.weight)
    if len(signal.value) == 1:
        return _through_linear(evidence, layer.weight, weight, gradient, signal.delta[0], signal.delta_error[0])
    return _apart(evidence, layer, weight, gradient, signal)


def _through_activation(
    evidence: Evidence, layers: tuple[Layer, ...], index: int, layer: Activation, signal: Signal
) -> Signal:
    a, error, delta, delta_error = signal
    if evidence.altered and layer.kind in ("sigmoid", "tanh"):
        return _through_doubtful(evidence, layers, index, layer, signal)
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


def _through_doubtful(
    evidence: Evidence, layers: tuple[Layer, ...], index: int, layer: Activation, signal: Signal
) -> Signal:
    """An activation whose value is too uncertain to be inverted: two moments of its argument in place of the inverse.

    The prior of the argument is what the layer before can make of its inputs.
    """
    a, error, delta, delta_error = signal
    before = layers[index - 1]
    assert isinstance(before, (Conv, Linear))
    weight = _weight(evidence, before.weight)
    bias = _weight(evidence, before.bias)
    mean, spread = _inputs_of(evidence, layers, index - 1)
    rows = weight.flatten(1)
    shape = (-1, *[1] * (a.ndim - 2))
    middle = (rows.sum(1) * mean + bias).reshape(shape).expand(a.shape)
    width = (rows.norm(dim=1) * spread).reshape(shape).expand(a.shape)
    z = through_squashing(layer.kind, a, error.clamp_min(1e-300), middle, width)
    below = delta * z.slope
    return Signal(z.value, z.error, below, (delta_error * z.slope).hypot(delta * z.slope_error))


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

    def channels(values: Tensor) -> Tensor:
        """`(C, N * H * W)`: a bias gradient sums over all of a channel."""
        return values.transpose(0, 1).flatten(1)

    def examples(values: Tensor) -> Tensor:
        return values.reshape(slope.transpose(0, 1).shape).transpose(0, 1)

    slopes, open_, deltas = channels(slope).clone(), channels(doubtful).clone(), channels(signal.delta)
    tolerance = 4 * (noise + (slopes * channels(signal.delta_error)).norm(dim=1))
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
    return examples(slopes), examples(open_).to(slope)


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
    bias = _weight(evidence, layer.bias).reshape(-1, *[1] * len(layer.kernel))
    output = signal.value - bias
    output_error = signal.value_error + evidence.eps * (signal.value.abs() + bias.abs() + 1e-30)
    mean, spread = _prior(evidence, layers, index, layer, weight, output)
    rows = signal.delta_error.square().transpose(0, 1).flatten(1).sum(1).sqrt() * float(
        (mean.square().mean() + spread**2).sqrt()
    )
    errors = evidence.error(layer.weight).cpu() if evidence.altered else evidence.noise(layer.weight).cpu()
    if errors.ndim > 1 and bool((errors.flatten(1) == errors.flatten(1)[:, :1]).all()):
        errors = errors.flatten(1)[:, 0]
    equations = conv_equations(
        layer,
        weight,
        output,
        output_error,
        signal.delta,
        _gradient(evidence, layer.weight),
        (rows.reshape(-1, *[1] * (errors.ndim - 1)).square() + errors.square()).sqrt().clamp_min(TINY),
        (mean, spread),
    )
    solution = solve_convolution(equations, generator=generator, probes=4 if index == 0 else 8)
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
        for k in range(len(size))
    ]
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(size) - 1]

    def back(delta: Tensor, weight: Tensor) -> Tensor:
        found: Tensor = transposed(
            delta, weight, None, layer.stride, layer.padding, tuple(extra), layer.groups, layer.dilation
        )
        return found

    return back


def _prior(
    evidence: Evidence, layers: tuple[Layer, ...], index: int, layer: Conv, weight: Tensor, output: Tensor
) -> tuple[Tensor, float]:
    """Mean `(C, *sides)` and spread of a layer's input that its activation or the modality allows."""
    shape = torch.zeros(layer.in_shape, dtype=torch.float64)
    before = [earlier for earlier in layers[:index] if not isinstance(earlier, Reshape)]
    if not before:
        low, high = entered_range(evidence)
        middle = 0.5 * (low + high).reshape(layer.in_shape)
        return middle, float((high - low).mean()) / 3
    known = _range_of(layers, index)
    if known is not None:
        return shape + known[0], known[1]
    row = float(weight.flatten(1).square().sum(1).mean().sqrt())
    return shape, max(3.0 * float(output.square().mean().sqrt()) / row, 1e-6)


def _range_of(layers: tuple[Layer, ...], index: int) -> tuple[float, float] | None:
    """Mean and spread of what the layer at this place takes in, None where the activation before does not bound it."""
    before = [earlier for earlier in layers[:index] if not isinstance(earlier, Reshape)]
    kind = before[-1].kind if before and isinstance(before[-1], Activation) else None
    return {"sigmoid": (0.5, 0.3), "tanh": (0.0, 0.6)}.get(kind or "")


def _inputs_of(evidence: Evidence, layers: tuple[Layer, ...], index: int) -> tuple[float, float]:
    """As `_range_of`; at the model's input the modality's range, and a wide guess elsewhere."""
    if all(isinstance(earlier, Reshape) for earlier in layers[:index]) and layers == evidence.structure.layers:
        low, high = entered_range(evidence)
        return float((low + high).mean()) / 2, float((high - low).mean()) / 3
    return _range_of(layers, index) or (0.0, 3.0)
