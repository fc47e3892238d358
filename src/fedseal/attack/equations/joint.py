"""All equations of an example's gradient together, solved by Gauss-Newton steps from a prior that hardens into them.

Where a defense took or moved entries, no layer alone determines its input, but all together nearly do. The most
probable input under a normal prior and the errors of the equations is searched in stages: every equation is first
blurred by a floor on its error, wide enough that the prior's mean is a fair start, and the floor falls stage by stage.
One Gauss-Newton step a stage, by conjugate gradients, follows the solution down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedseal.attack.equations.recursion import Signal
from fedseal.attack.evidence.belief import Belief
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.preprocessing import Preprocessing
from fedseal.attack.evidence.structure import Activation, Conv, Layer, Linear
from fedseal.types import Progress, ProgressCallback

FLOORS = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)  # the blur of every stage, in sizes of a typical entry
SHARP = 0.02  # the share of equations that count as the sharpest


@dataclass(frozen=True)
class JointEquations:
    """Everything that one example's update says of its input, given what the head gave.

    Args:
        before: what stands before the first layer.
        layers: from there to the head's input, in a row.
        state: their weights by name, in float64.
        delta: gradient of the loss by the head's input, flat.
        target, error: the head's input, then the layers' gradients, flat, with standard errors; infinite for what
            was not sent.
        size: what a floor of 1 adds to the error of each.
    """

    before: Preprocessing | None
    layers: tuple[Layer, ...]
    state: dict[str, Tensor]
    delta: Tensor
    target: Tensor
    error: Tensor
    size: Tensor

    def values(self, x: Tensor) -> Tensor:
        """The left sides at an input `(numel,)`; differentiable twice."""
        weights = {name: weight.detach().requires_grad_() for name, weight in self.state.items()}
        with torch.enable_grad():
            entered = x if self.before is None else self.before.kept(x[None])[0]
            features = _forward(self.layers, weights, entered)
            grads = torch.autograd.grad(features @ self.delta, list(weights.values()), create_graph=True)
        return torch.cat([features, *(grad.flatten() for grad in grads)])

    def weights(self, floor: float) -> Tensor:
        """One over the standard error of each equation, blurred."""
        return (self.error.square() + (floor * self.size).square()).rsqrt()

    def energy(self, x: Tensor, floor: float = 0.0) -> float:
        """Half the sum of squared differences in standard errors."""
        rest = self.weights(floor) * (self.values(x).detach() - self.target)
        return 0.5 * float(rest.square().sum())


def joint_equations(evidence: Evidence, signal: Signal) -> JointEquations:
    """For one example, from the head's input as `recursion.head_signal` gives it."""
    state, sent = evidence.observation.state, evidence.observation.update.tensors
    assert state is not None
    layers = evidence.structure.layers[:-1]
    names = [
        name for layer in layers if isinstance(layer, (Conv, Linear)) for name in (layer.weight, layer.bias) if name
    ]
    names = list(dict.fromkeys(name for name in names if name in sent))
    fixed = {
        name: state[name].double().cpu()
        for layer in layers
        if isinstance(layer, (Conv, Linear))
        for name in (layer.weight, layer.bias)
        if name
    }
    gradients = [evidence.gradient(name).flatten().cpu() for name in names]  # type: ignore[union-attr]
    value = signal.value.flatten()
    typical = torch.cat(gradients).abs().mean() if gradients else value.new_ones(())
    return JointEquations(
        evidence.preprocessing,
        layers,
        {name: fixed[name] for name in [*names, *(n for n in fixed if n not in names)]},
        signal.delta.flatten(),
        torch.cat([value, *gradients]),
        torch.cat([signal.value_error.flatten(), *(evidence.error(name).flatten().cpu() for name in names)]),
        torch.cat([torch.ones_like(value), *(typical.expand(len(g)) for g in gradients)]),
    )


def _forward(layers: tuple[Layer, ...], weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The head's input, flat, from one input, flat."""
    for layer in layers:
        if isinstance(layer, (Conv, Linear)):
            bias = None if layer.bias is None else weights[layer.bias]
            inputs = x.reshape(1, *layer.in_shape)
            if isinstance(layer, Linear):
                x = F.linear(inputs, weights[layer.weight], bias)
            else:
                convolve = (F.conv1d, F.conv2d, F.conv3d)[len(layer.kernel) - 1]
                x = convolve(
                    inputs, weights[layer.weight], bias, layer.stride, layer.padding, layer.dilation, layer.groups
                )
        elif isinstance(layer, Activation):
            x = _ACTIVATE[layer.kind](x, layer.slope)
    return x.flatten()


_ACTIVATE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sigmoid": lambda x, _: torch.sigmoid(x),
    "tanh": lambda x, _: torch.tanh(x),
    "relu": lambda x, _: torch.relu(x),
    "leaky_relu": F.leaky_relu,
}


def solve_jointly(
    equations: JointEquations,
    prior: Belief,
    start: Tensor,
    *,
    floors: tuple[float, ...] = FLOORS,
    iterations: int = 150,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """The most probable input `(numel,)`, followed from `start` through the floors; draws nothing.

    Stages whose floor lies far below what even the sharpest equations' own errors blur are left out.
    """
    u = prior.coordinates(start)
    own = float((equations.error / equations.size).quantile(SHARP))
    stages = [floor for k, floor in enumerate(floors) if k == 0 or floor > 0.1 * own]
    for number, floor in enumerate(stages):
        u = _step(equations, prior, u, floor, iterations)
        if progress is not None:
            value = equations.energy(prior.mean + prior.spread(u), floor)
            progress(Progress("layerwise+joint", number + 1, len(stages), value, None))
    return prior.mean + prior.spread(u)


def _step(equations: JointEquations, prior: Belief, u: Tensor, floor: float, iterations: int) -> Tensor:
    """One Gauss-Newton step of the blurred problem, halved until it lowers the energy."""
    weights = equations.weights(floor)

    def residual(at: Tensor) -> Tensor:
        return weights * (equations.values(prior.mean + prior.spread(at)) - equations.target)

    def energy(at: Tensor) -> float:
        return 0.5 * float(residual(at).detach().square().sum() + at.square().sum())

    here = u.detach().requires_grad_()
    rest = residual(here)
    dual = torch.zeros_like(rest, requires_grad=True)
    (pulled,) = torch.autograd.grad(rest, here, dual, create_graph=True)

    def times(v: Tensor) -> Tensor:
        """The Gauss-Newton matrix: a product with the Jacobian is the derivative of that with its transpose."""
        (pushed,) = torch.autograd.grad(pulled, dual, v, retain_graph=True)
        (back,) = torch.autograd.grad(rest, here, pushed, retain_graph=True)
        return back + v

    (slope,) = torch.autograd.grad(rest, here, rest.detach(), retain_graph=True)
    move = _conjugate_gradients(times, -(slope + u), iterations)
    before, step = energy(u), 1.0
    while step > 1e-3:
        if energy(u + step * move) < before:
            return u + step * move
        step /= 2
    return u


def _conjugate_gradients(times: Callable[[Tensor], Tensor], side: Tensor, iterations: int) -> Tensor:
    """An approximate solution: the steps that are not taken are those of the least certain directions."""
    x, rest = torch.zeros_like(side), side
    direction, square = side, side @ side
    enough = 1e-4 * float(square)
    for _ in range(iterations):
        if not float(square) > enough:
            break
        image = times(direction)
        step = square / (direction @ image)
        x, rest = x + step * direction, rest - step * image
        previous, square = square, rest @ rest
        direction = rest + (square / previous) * direction
    return x
