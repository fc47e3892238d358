"""The linear equations that a convolution's input obeys, and their solution by generalized least squares.

Let x be the input of a convolution with known output z - b and known gradient d by that output. Then

    conv(x) = z - b         forward equations, one for each output element
    dW(d, x) = g            gradient equations, one for each weight; for each input channel on its own

are both linear in x (`shared` notation follows R-GAP: Zhu and Blaschko, ICLR 2021, arXiv:2010.07733, which introduced
the count of equations against unknowns). Every equation is known to a precision of its own: a saturated sigmoid says
next to nothing about its argument. So each is weighted by its standard error, a weak prior holds what no equation
reaches, and the posterior's spread is handed on as the error of the next layer's data.

The normal matrix is never inverted blindly: its factorization preconditions conjugate gradients on the equations
themselves, which refines away the squared condition number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedseal.attack.evidence.structure import Conv

if TYPE_CHECKING:
    import scipy.sparse as sp

DENSE_LIMIT = 12_500  # unknowns up to which a dense normal matrix is factored: 1.25 GB and some 20 s at the limit
Solver = Callable[[Tensor], Tensor]


class Solution(NamedTuple):
    """The posterior of a layer's input.

    `mean` and standard error are `(N, C, *sides)`, `misfit` is that of the forward equations in standard errors, and
    `whiten` maps independent unit errors `(unknowns, 1)` to errors of the mean: coordinates in which a search is well
    conditioned.
    """

    mean: Tensor
    error: Tensor
    misfit: float
    whiten: Solver


class Factored(NamedTuple):
    """An approximate inverse S S^T of the normal matrix: `solve` applies it to `(unknowns, k)`, `whiten` applies S."""

    solve: Solver
    whiten: Solver


@dataclass(frozen=True)
class ConvEquations:
    """Forward and gradient equations of one convolution, scaled to unit error, for N examples.

    The examples stand side by side, `(C, N, *sides)`: as one picture of P = N * prod(sides) positions, whose forward
    equations keep the examples apart and whose gradient equations sum over them.

    Args:
        count: number of examples N.
        forward: `(outputs, C * P)` sparse, rows scaled.
        target: right-hand side of the forward equations, scaled, `(outputs,)`.
        gradient: `(groups, O / groups * taps, P)`, rows scaled; the same for all input channels of a group.
        gradient_target: `(C, O / groups * taps)`, scaled.
        emphasis: `(C, O / groups * taps)`, how much more or less than its row an equation weighs, where weights
            differ by the entry; None where the row tells them.
        prior_mean, prior_precision: of every entry of x; the precision is one over the squared prior spread.
    """

    conv: Conv
    count: int
    forward: sp.csr_array
    target: Tensor
    gradient: Tensor
    gradient_target: Tensor
    prior_mean: Tensor
    prior_precision: float
    emphasis: Tensor | None = None

    @property
    def unknowns(self) -> int:
        """Number of entries of x."""
        return self.count * int(np.prod(self.conv.in_shape))

    def examples(self, x: Tensor) -> Tensor:
        """From the order of the equations, `(C * P, k)`, to `(N * C * prod(sides), k)`."""
        channels, *sides = self.conv.in_shape
        return x.reshape(channels, self.count, math.prod(sides), -1).transpose(0, 1).reshape(x.shape)

    def normal_times(self, x: Tensor) -> Tensor:
        """The normal matrix times `x`, `(unknowns, k)`."""
        return (
            self._forward_transposed(self._forward(x))
            + self._gradient_transposed(self._gradient(x))
            + self.prior_precision * x
        )

    def right_hand_side(self) -> Tensor:
        """`(unknowns, 1)`."""
        prior = self.prior_precision * self.prior_mean.reshape(-1, 1)
        gradient = self._gradient_transposed(self.gradient_target[..., None])
        return self._forward_transposed(self.target[:, None]) + gradient + prior

    def probes(self, count: int, generator: torch.Generator) -> Tensor:
        """Right-hand sides `(unknowns, count)` whose solutions are draws of the solution's error."""

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        prior = math.sqrt(self.prior_precision) * noise(self.unknowns, count)
        gradient = self._gradient_transposed(noise(*self.gradient_target.shape, count))
        return self._forward_transposed(noise(len(self.target), count)) + gradient + prior

    def _forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.forward @ x.numpy())

    def _forward_transposed(self, y: Tensor) -> Tensor:
        return torch.from_numpy(self.forward.T @ y.numpy())

    def _gradient(self, x: Tensor) -> Tensor:
        groups, _, size = self.gradient.shape
        blocks = x.reshape(groups, -1, size, x.shape[-1])
        sums = (self.gradient[:, None] @ blocks).flatten(0, 1)
        return sums if self.emphasis is None else self.emphasis[..., None] * sums

    def _gradient_transposed(self, y: Tensor) -> Tensor:
        groups = len(self.gradient)
        y = y if self.emphasis is None else self.emphasis[..., None] * y
        blocks = y.reshape(groups, -1, *y.shape[1:])
        return (self.gradient.mT[:, None] @ blocks).reshape(self.unknowns, y.shape[-1])


def conv_equations(
    conv: Conv,
    weight: Tensor,
    output: Tensor,
    output_error: Tensor,
    delta: Tensor,
    gradient: Tensor,
    gradient_error: Tensor,
    prior: tuple[Tensor, float],
) -> ConvEquations:
    """Set up the equations of one convolution, all in float64.

    Args:
        weight: `(O, C / groups, *kernel)`.
        output: z - b, `(N, O, *sides)`, with its standard error `output_error`.
        delta: gradient of the mean loss by z, like `output`.
        gradient: dL/dW, like `weight`; its standard error by output channel, `(O,)`, or by entry, like `weight`, and
            infinite for what was not sent.
        prior: mean `(C, *sides)` and spread of the entries of x.
    """
    channels, size = conv.in_shape[0], math.prod(conv.in_shape[1:])
    outputs, per_group = weight.shape[:2]
    count, pixels = len(output), len(output) * size
    one = _taps(conv)
    taps = torch.cat([torch.where(one > 0, one + k * size, 0) for k in range(count)], 1)
    output, output_error, delta = (t.transpose(0, 1).reshape(outputs, -1) for t in (output, output_error, delta))
    scale = 1.0 / output_error.reshape(-1)
    forward = _forward_matrix(conv, weight, taps, scale, pixels)

    rows = torch.zeros(outputs, taps.shape[0], pixels + 1, dtype=torch.float64)
    for tap in range(taps.shape[0]):
        rows[:, tap].index_add_(1, taps[tap], delta)
    groups = conv.groups

    def by_channel(values: Tensor) -> Tensor:
        """Values of a kernel `(O, C / groups, taps)`, ordered by input channel."""
        return values.reshape(groups, outputs // groups, per_group, -1).transpose(1, 2).reshape(channels, -1)

    by_row = gradient_error if gradient_error.ndim == 1 else gradient_error.flatten(1).amin(1)
    by_row = torch.where(by_row.isfinite(), by_row, 1.0).reshape(-1, 1, 1)
    scaled = rows[..., 1:] / by_row
    target = gradient.flatten(2) / by_row  # (O, C / groups, taps)
    emphasis = None
    if gradient_error.ndim > 1:
        emphasis = by_row / gradient_error.flatten(2)
        target, emphasis = target * emphasis, by_channel(emphasis)
    return ConvEquations(
        conv=conv,
        count=count,
        forward=forward,
        target=output.reshape(-1) * scale,
        gradient=scaled.reshape(groups, -1, pixels),
        gradient_target=by_channel(target),
        prior_mean=prior[0].reshape(channels, 1, -1).expand(-1, count, -1).reshape(-1),
        prior_precision=prior[1] ** -2,
        emphasis=emphasis,
    )


def solve_convolution(
    equations: ConvEquations, *, generator: torch.Generator, probes: int = 16, iterations: int = 30
) -> Solution:
    """The posterior mean by preconditioned conjugate gradients, and its error from that many probes (0: no error)."""
    shape = (equations.count, *equations.conv.in_shape)
    sides = equations.right_hand_side()
    for quick in (True, False):
        precondition, whiten = _preconditioner(equations, quick)
        mean, converged = _conjugate_gradients(equations.normal_times, sides, precondition, iterations)
        if converged:
            break
    misfit = float((equations._forward(mean)[:, 0] - equations.target).square().mean().sqrt())
    ordered = equations.examples

    def coordinates(unit: Tensor) -> Tensor:
        return ordered(whiten(unit))

    if probes == 0:
        error = torch.zeros(equations.unknowns, 1, dtype=torch.float64)
    else:
        error = precondition(equations.probes(probes, generator)).square().mean(1, keepdim=True).sqrt()
    return Solution(ordered(mean).reshape(shape), ordered(error).reshape(shape), misfit, coordinates)


def _taps(conv: Conv) -> Tensor:
    """The input position that each tap and output position reads, 1-based, 0 for padding: `(taps, positions)`."""
    taps, sides = torch.ones(1, 1, dtype=torch.long), conv.in_shape[1:]
    for axis, side in enumerate(sides):  # one axis after the other: each tap and position is a pair of pairs
        reach, steps = torch.arange(conv.kernel[axis]), torch.arange(conv.out_shape[1 + axis])
        at = reach[:, None] * conv.dilation[axis] + steps * conv.stride[axis] - conv.padding[axis]
        own = torch.where((at >= 0) & (at < side), at + 1, 0)
        both = (taps[:, None, :, None] - 1) * side + own[None, :, None, :]
        inside = (taps[:, None, :, None] > 0) & (own[None, :, None, :] > 0)
        taps = torch.where(inside, both, 0).flatten(2).flatten(0, 1)
    return taps


def _forward_matrix(conv: Conv, weight: Tensor, taps: Tensor, scale: Tensor, pixels: int) -> sp.csr_array:
    outputs, per_group = weight.shape[:2]
    positions = taps.shape[1]
    group = torch.arange(outputs) // (outputs // conv.groups)
    channel = group[:, None] * per_group + torch.arange(per_group)  # (O, C / groups)
    row = (torch.arange(outputs) * positions).view(-1, 1, 1, 1) + torch.arange(positions)
    column = (channel * pixels)[:, :, None, None] + (taps - 1)
    value = weight.flatten(2)[..., None] * scale.reshape(outputs, 1, 1, positions)
    inside = (taps > 0).expand(outputs, per_group, -1, -1).reshape(-1).numpy()
    full = (outputs, per_group, *taps.shape)
    entries = [t.expand(full).reshape(-1).numpy()[inside] for t in (value, row, column)]
    shape = (outputs * positions, conv.in_shape[0] * pixels)
    import scipy.sparse as sp  # late: it takes longer than all of fedseal's own modules

    return sp.coo_array((entries[0], (entries[1], entries[2])), shape=shape).tocsr()


def _preconditioner(equations: ConvEquations, quick: bool) -> Factored:
    """The normal matrix, factored: by channels with few outputs, dense where it fits, else approximately by blocks.

    Quick means by channels, or in single precision: half the time, and mostly enough for conjugate gradients.
    """
    size = equations.gradient.shape[2]
    rows, unknowns = equations.forward.shape
    if quick and size <= 1024 and rows <= 0.5 * unknowns:
        return _dual(equations)
    if unknowns <= DENSE_LIMIT:
        return _primal(equations, torch.float32 if quick and unknowns > 1024 else torch.float64)
    return _blocks(equations)


def _gradient_normal(equations: ConvEquations) -> Tensor:
    """The gradient equations' normal matrix of one channel, with the prior: `(groups, P, P)`, or `(C, P, P)`."""
    if equations.emphasis is None:
        normal = equations.gradient.transpose(1, 2) @ equations.gradient
    else:
        channels, groups = len(equations.emphasis), len(equations.gradient)
        normal = torch.stack(
            [
                rows.T @ rows
                for channel, emphasis in enumerate(equations.emphasis)
                for rows in [equations.gradient[channel * groups // channels] * emphasis[:, None]]
            ]
        )
    normal.diagonal(dim1=1, dim2=2).add_(equations.prior_precision)
    return normal


def _primal(equations: ConvEquations, dtype: torch.dtype = torch.float64) -> Factored:
    channels = equations.conv.in_shape[0]
    size = equations.gradient.shape[2]
    blocks = _gradient_normal(equations)
    per_group = channels // len(blocks)
    diagonal = equations.forward.multiply(equations.forward).sum(0)
    balance = (
        torch.from_numpy(diagonal) + blocks.diagonal(dim1=1, dim2=2).repeat_interleave(per_group, 0).flatten()
    ).rsqrt()
    # balanced before it is dense, and squared in the factor's precision: each pass over the dense matrix costs
    forward = (equations.forward * balance.numpy()).astype(np.float32 if dtype == torch.float32 else np.float64)
    normal = torch.from_numpy((forward.T @ forward).toarray())
    for channel, own in enumerate(balance.reshape(channels, size)):
        part = slice(channel * size, (channel + 1) * size)
        normal[part, part] += (own[:, None] * blocks[channel // per_group] * own).to(dtype)
    factor = _factor(normal)
    upper = torch.from_numpy(factor).T

    @lru_cache(maxsize=1)
    def moved(device: torch.device, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """The factor where and as a search wants it; converted once, not at every evaluation."""
        return balance.to(device, kind)[:, None], upper.to(device, kind)

    def whiten(unit: Tensor) -> Tensor:
        scale, triangle = moved(unit.device, unit.dtype)
        solved: Tensor = torch.linalg.solve_triangular(triangle, unit, upper=True)
        return scale * solved

    return Factored(lambda sides: balance[:, None] * _substitute(factor, balance[:, None] * sides), whiten)


def _factor(matrix: Tensor) -> npt.NDArray[np.floating]:
    """The lower Cholesky factor of a unit-diagonal or diagonally dominated matrix, with as little jitter as it takes.

    What stands above the diagonal means nothing. SciPy's LAPACK takes two thirds of torch's time here, and its
    substitution does not copy the factor.
    """
    import scipy.linalg

    jitter = 1e-13 if matrix.dtype == torch.float64 else 1e-7
    (factor,) = scipy.linalg.get_lapack_funcs(("potrf",), (matrix.numpy(),))
    lower, failed = factor(matrix.numpy().T, lower=1, clean=0)
    while failed:
        matrix.diagonal().mul_(1 + jitter)
        jitter *= 100
        lower, failed = factor(matrix.numpy().T, lower=1, clean=0)
    found: npt.NDArray[np.floating] = lower
    return found


def _substitute(factor: npt.NDArray[np.floating], sides: Tensor) -> Tensor:
    import scipy.linalg

    solved = scipy.linalg.cho_solve((factor, True), sides.numpy().astype(factor.dtype), check_finite=False)
    return torch.from_numpy(np.ascontiguousarray(solved, dtype=np.float64))


def _dual(equations: ConvEquations) -> Factored:
    """Woodbury: the gradient equations alone give each channel, the few forward equations correct them together."""
    channels = equations.conv.in_shape[0]
    values, vectors = torch.linalg.eigh(_gradient_normal(equations))
    groups, size = values.shape
    values = values.clamp_min(equations.prior_precision).repeat_interleave(channels // groups, 0).reshape(-1, 1)

    def rotate(x: Tensor, basis: Tensor) -> Tensor:
        return (basis.mT[:, None] @ x.reshape(groups, -1, size, x.shape[-1])).reshape(x.shape)

    backward = vectors.transpose(1, 2).contiguous()
    half = (
        rotate(torch.from_numpy(equations.forward.toarray(order="F").T), vectors) / values.sqrt()
    )  # (unknowns, outputs)
    inner = half.T @ half
    inner.diagonal().add_(1.0)
    factor = _factor(inner)

    def solve_sides(sides: Tensor) -> Tensor:
        whitened = rotate(sides, vectors) / values.sqrt()
        corrected = whitened - half @ _substitute(factor, half.T @ whitened)
        return rotate(corrected / values.sqrt(), backward)

    return Factored(solve_sides, lambda unit: rotate(unit / values.sqrt().to(unit), backward.to(unit)))


def _gradient_diagonal(equations: ConvEquations) -> Tensor:
    """`(C, P)`: the diagonal of the gradient equations' normal matrix, without the prior."""
    channels, groups = equations.conv.in_shape[0], len(equations.gradient)
    squares = equations.gradient.square()
    if equations.emphasis is None:
        return squares.sum(1).repeat_interleave(channels // groups, 0)
    weights = equations.emphasis.square().reshape(groups, channels // groups, -1)
    return (weights @ squares).reshape(channels, -1)


def _blocks(equations: ConvEquations) -> Factored:
    channels = equations.conv.in_shape[0]
    size = equations.gradient.shape[2]
    diagonal = torch.from_numpy(np.asarray(equations.forward.multiply(equations.forward).sum(0))).reshape(
        channels, size
    )
    if size > DENSE_LIMIT // 2:
        whole = diagonal + equations.prior_precision
        whole += _gradient_diagonal(equations)
        deviation = whole.reshape(-1, 1).rsqrt()
        return Factored(lambda sides: sides * deviation**2, lambda unit: unit * deviation.to(unit))
    normal = _gradient_normal(equations)
    groups = len(normal)
    normal.diagonal(dim1=1, dim2=2).add_(diagonal.reshape(groups, -1, size).mean(1))
    factor, failed = torch.linalg.cholesky_ex(normal)
    while bool(failed.any()):
        normal.diagonal(dim1=1, dim2=2).mul_(1 + 1e-10)
        normal.diagonal(dim1=1, dim2=2).add_(1e-12 * normal.diagonal(dim1=1, dim2=2).mean(1, keepdim=True))
        factor, failed = torch.linalg.cholesky_ex(normal)

    def solve_sides(sides: Tensor) -> Tensor:
        parts = sides.reshape(groups, -1, size, sides.shape[-1])
        return torch.cholesky_solve(parts, factor[:, None]).reshape(sides.shape)

    def whiten(unit: Tensor) -> Tensor:
        parts = unit.reshape(groups, -1, size, unit.shape[-1])
        upper = factor.mT[:, None].to(unit)
        solved: Tensor = torch.linalg.solve_triangular(upper, parts, upper=True)
        return solved.reshape(unit.shape)

    return Factored(solve_sides, whiten)


def _conjugate_gradients(times: Solver, sides: Tensor, precondition: Solver, iterations: int) -> tuple[Tensor, bool]:
    """The solution, and whether what is left of its error is below a hundredth of its standard error."""
    x = precondition(sides)
    residual = sides - times(x)
    z = precondition(residual)
    direction, product = z, float((residual * z).sum())  # the remaining error in squared standard errors
    enough = 1e-4 * len(sides)
    for _ in range(iterations):
        if not product > enough:
            break
        image = times(direction)
        step = product / float((direction * image).sum())
        x = x + step * direction
        residual = residual - step * image
        z = precondition(residual)
        previous, product = product, float((residual * z).sum())
        direction = z + (product / previous) * direction
    return x, product <= enough
