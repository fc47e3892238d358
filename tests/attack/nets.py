"""Random networks in a row, and how well their equations determine each input, by autograd and an SVD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torch.nn.grad
from hypothesis import strategies as st
from torch import Tensor, nn

from attack.cases import initialized
from fedseal import Batch

ACTIVATIONS = {
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "leaky_relu": nn.LeakyReLU(0.2),
    "identity": nn.Identity(),
}
SIDE = 8


@st.composite
def convolutions(draw: st.DrawFn, channels: int, side: int) -> tuple[nn.Conv2d, int]:
    """A small convolution on `side` x `side` maps, and the side of its output."""
    dilation = draw(st.sampled_from((1, 1, 1, 2)))
    kernel, stride, padding = draw(st.integers(1, 5)), draw(st.sampled_from((1, 2))), draw(st.integers(0, 2))
    after = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if after < 2:
        kernel, stride, padding, dilation, after = 3, 1, 1, 1, side
    width = draw(st.integers(4, 6))
    groups = draw(st.sampled_from([g for g in (1, 1, 2, 3) if channels % g == 0 and width % g == 0]))
    return nn.Conv2d(channels, width, kernel, stride, padding, dilation, groups, draw(st.booleans())), after


@st.composite
def rows_of_layers(draw: st.DrawFn) -> nn.Sequential:
    """One or two convolutions with activations, then a head, in float64, on pictures of 8x8."""
    channels, side = draw(st.sampled_from((1, 3))), SIDE
    layers: list[nn.Module] = []
    before = channels
    activation = ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]
    for _ in range(draw(st.sampled_from((1, 2)))):
        conv, side = draw(convolutions(before, side))
        layers += [conv, activation]
        before = conv.out_channels
    head = nn.Linear(before * side * side, 5, bias=draw(st.booleans()))
    model = initialized(nn.Sequential(*layers, nn.Flatten(), head), draw(st.integers(0, 2**16)))
    assert isinstance(model, nn.Sequential)
    return model


class Layer:
    """A convolution with its true input and the true gradient by its output, straight from autograd."""

    def __init__(self, conv: nn.Conv2d, value: Tensor, output: Tensor, delta: Tensor, gradient: Tensor) -> None:
        self.conv, self.value, self.delta, self.gradient = conv, value, delta, gradient
        bias = 0.0 if conv.bias is None else conv.bias.detach().view(-1, 1, 1)
        self.output = output - bias

    def equations(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The left sides of forward and gradient equations, by torch's own kernels."""
        value = value.view_as(self.value)
        conv, weight = self.conv, self.conv.weight.detach()
        geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
        forward = F.conv2d(value, weight, None, *geometry)  # type: ignore[arg-type]
        gradient: Tensor = torch.nn.grad.conv2d_weight(value, weight.shape, self.delta, *geometry)  # type: ignore[no-untyped-call]
        return forward, gradient

    def matrix(self) -> Tensor:
        """Both kinds of equations stacked, `(equations, unknowns)`, forward first."""

        def stacked(value: Tensor) -> Tensor:
            return torch.cat([part.flatten() for part in self.equations(value)])

        matrix: Tensor = torch.func.jacrev(stacked)(self.value.flatten())
        return matrix

    def condition(self) -> float:
        """Of the stacked equations, each kind scaled to a like size; infinite where they do not determine the input."""
        matrix = self.matrix()
        matrix[self.output.numel() :] /= self.delta.norm()
        values = torch.linalg.svdvals(matrix)
        if len(matrix) < self.value.numel() or values[-1] == 0:
            return float("inf")
        return float(values[0] / values[-1])


def layers_of(model: nn.Sequential, batch: Batch) -> list[Layer]:
    """Every convolution of a network in a row, from the input on."""
    seen: list[tuple[nn.Conv2d, Tensor, Tensor]] = []
    signal = batch.inputs
    for module in model:
        output = module(signal)
        if isinstance(module, nn.Conv2d):
            seen.append((module, signal.detach(), output))
        signal = output
    loss = F.cross_entropy(signal, batch.labels)
    deltas = torch.autograd.grad(loss, [output for _, _, output in seen], retain_graph=True)
    gradients = torch.autograd.grad(loss, [conv.weight for conv, _, _ in seen])
    return [
        Layer(conv, value, output.detach(), delta, gradient)
        for (conv, value, output), delta, gradient in zip(seen, deltas, gradients, strict=True)
    ]
