"""The patches that solve `delta^T rows = gradient`, direction by direction, and a prior for what that leaves open.

Both sides come with an error: of the arithmetic, of what several local steps left after weights were subtracted, of
noise. Where the layer is wider than there are patches, the equations that are left over show how large it is. Along a
right singular vector of delta the patches follow with that error over the singular value; directions in which the error
is no longer small are weighed against what pictures look like. An error in delta also makes singular values larger than
they are, by its variance times the width, which is taken off (corrected least squares; Fuller, Measurement Error
Models, 1987).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.evidence.belief import Belief
from fedseal.attack.evidence.patch_equations import PatchEquations

SEEN = 1e-2  # standard error, root mean square over the pixels, up to which a direction is determined
SHARP = 1e-3  # standard error, as a share of the range of valid inputs, up to which a direction needs no prior
PRECISION = 0.25  # units in the last place by which an entry is off, on average
REAL = 0.1  # share of a squared singular value that must be left once the error's part is taken off
TURNED = 3.0  # times the variance of the equations, since an error of delta turns the directions too; as measured
ROUNDS = 4  # in which the errors are worked out anew from the patches
ITERATIONS = 300  # of conjugate gradients
PROBES = 4
STRONG = 0.1  # of the largest singular value, from which patches are read to know their size


@dataclass(frozen=True)
class PatchSolution:
    """Patches, and how they were found.

    Args:
        rows: `(places, pixels)`, as they enter the layer.
        rank: directions that the equations determine, of as many as there are places.
    """

    rows: Tensor
    rank: int


def solve_patches(equations: PatchEquations, prior: Belief) -> PatchSolution:
    """The most probable patches; draws nothing."""
    delta, gradient = equations.delta, equations.gradient
    width, places = delta.shape
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    errors = errors_of(equations)
    share = 1 - errors.delta**2 * width / values.square().clamp_min(1e-300)
    corrected = (values * share.clamp_min(REAL)).clamp_min(1e-300)
    found = left.T @ gradient / corrected[:, None]
    rows = equations.mean
    for _ in range(ROUNDS):
        spread = TURNED * errors.spread(rows)
        blur = math.sqrt(float(torch.trace(spread)) / rows.shape[1]) / corrected
        sharp = (blur <= SHARP) & (share > REAL)
        rows = right[sharp].T @ found[sharp]
        if int(sharp.sum()) == places:
            break
        weights = torch.where(share > REAL, corrected, 0.0)[~sharp]
        rows = _with_prior(equations, prior, rows, right[sharp], right[~sharp], found[~sharp], weights, spread)
    usual = math.sqrt(float(torch.trace(errors.spread(rows))) / rows.shape[1])
    return PatchSolution(rows, int(((usual / corrected <= SEEN) & (share > REAL)).sum()))


class Errors(NamedTuple):
    """Standard errors of the entries of both sides.

    Args:
        delta: of the gradient by what the patches' layer gives.
        gradient: of that by its weight.
        excess: by how much the equations that are left over are further from zero than the arithmetic and the bias let
            expect; 1 where none are left over.
    """

    delta: float
    gradient: float
    excess: float

    def spread(self, rows: Tensor) -> Tensor:
        """Covariance of an equation's error over the pixels, `(pixels, pixels)`: each error of delta comes in times a
        pixel of its patch.
        """
        return self.gradient**2 * torch.eye(rows.shape[1], dtype=rows.dtype) + self.delta**2 * (rows.T @ rows)


def errors_of(equations: PatchEquations) -> Errors:
    """How far the update is from what one example leaves, by itself.

    It shows in the table's gradients, which add up to the bias's, and in the equations that are left over. The noise of
    a known defense is there whether it shows or not.
    """
    return equations.evidence.once("patch errors", lambda: _errors(equations))


def _errors(equations: PatchEquations) -> Errors:
    delta, gradient, like = equations.delta, equations.gradient, equations.evidence.observation.like
    ulp = PRECISION * torch.finfo(like.dtype).eps
    left, values, _ = torch.linalg.svd(delta, full_matrices=False)
    inside = left.T @ gradient
    strong = values > STRONG * values[0]
    found = float((inside[strong] / values[strong, None]).square().sum(0).mean())
    pixels = max(found, float(equations.mean.square().sum(0).mean()))
    off = 0.0 if equations.bias is None else float((delta.sum(1) - equations.bias).square().mean())
    beside = math.sqrt(off / (1 + delta.shape[1]))
    told = _told(equations)
    size_delta, size_gradient = (float(side.square().mean().sqrt()) for side in (delta, gradient))
    spare = equations.spare * gradient.shape[1]
    alike = beside if spare else beside * max(1.0, size_gradient / max(size_delta, 1e-300))  # a format's are shares
    of_delta = max(ulp * size_delta, beside, told[0])
    of_gradient = max(ulp * size_gradient, alike, told[1])
    if not spare:
        return Errors(of_delta, of_gradient, 1.0)
    rest = float((gradient - left @ inside).square().sum()) / spare
    expected = of_gradient**2 + of_delta**2 * pixels
    more = max(0.0, rest - expected)
    return Errors(of_delta, math.sqrt(of_gradient**2 + more), math.sqrt(rest / max(expected, 1e-300)))


def _told(equations: PatchEquations) -> tuple[float, float]:
    """Standard errors of delta and of the gradient that a known defense leaves, root mean square."""
    layer, release = equations.layer, equations.evidence.release
    table = equations.evidence.observation.update.tensors[layer.table]
    by_weight = float(release.spread(layer.weight).square().mean().sqrt())
    by_table = release.spread(layer.table).cpu().expand(table.shape)
    if not bool(by_table.any()):
        return 0.0, by_weight
    fixed = torch.Generator().manual_seed(0)  # a resized table's errors are mixed: any signs tell how large they become
    signs = 2.0 * torch.randint(2, table.shape, generator=fixed, dtype=torch.float64) - 1
    return float(equations.reading(signs * by_table).square().mean().sqrt()), by_weight


def _with_prior(
    equations: PatchEquations,
    prior: Belief,
    known: Tensor,
    sharp: Tensor,
    blurred: Tensor,
    values: Tensor,
    weights: Tensor,
    spread: Tensor,
) -> Tensor:
    """The patches that are sharp in some directions, near blurred values in others, and most probable in the rest.

    Args:
        known: patches `(places, pixels)` without what follows.
        sharp, blurred: orthonormal directions `(k, places)`.
        values: of the blurred ones, `(k, pixels)`.
        weights: what makes of a value the size of its equation `(k,)`; 0 for no value.
        spread: covariance of an equation's error over the pixels.
    """
    places, inner = known.shape[0], torch.cat([sharp, blurred])
    rest = torch.linalg.svd(torch.eye(places, dtype=known.dtype) - inner.T @ inner)[0][:, : places - len(inner)]
    open_ = torch.cat([blurred.T, rest], 1)  # (places, m): all directions that are not sharp
    squares, axes = torch.linalg.eigh(spread)
    weight = weights[:, None] * squares.clamp_min(1e-300).rsqrt()  # of each blurred direction and axis
    seen = values @ axes

    def slope(free: Tensor) -> Tensor:
        """Of the energy, by coordinates in `open_` and `axes`, `(m, pixels)`; affine in them."""
        here = free.detach().requires_grad_()
        picture = equations.picture(known + open_ @ here @ axes.T)
        energy = prior.coordinates(picture).square().sum()
        energy = energy + (weight * (here[: len(blurred)] - seen)).square().sum()
        (change,) = torch.autograd.grad(0.5 * energy, here)
        return change

    start = open_.T @ (equations.mean - known) @ axes
    start[: len(blurred)] = torch.where(weight > 1, seen, start[: len(blurred)])
    own = torch.zeros_like(start)
    own[: len(blurred)] = weight.square()
    found: Tensor = known + open_ @ _minimum(slope, start, own) @ axes.T
    return found


def _minimum(slope: Callable[[Tensor], Tensor], x: Tensor, diagonal: Tensor) -> Tensor:
    """Where a quadratic form is smallest, by conjugate gradients; `diagonal` is a part of its second derivatives, and
    what the form adds to that is estimated (Bekas, Kokiopoulou and Saad, Applied Numerical Mathematics 57, 2007).
    """
    zero, fixed = slope(torch.zeros_like(x)), torch.Generator().manual_seed(0)  # no draw of the attack: any will do
    signs = [2.0 * torch.randint(2, x.shape, generator=fixed, dtype=x.dtype) - 1 for _ in range(PROBES)]
    probed = torch.stack([sign * (slope(sign) - zero) - diagonal for sign in signs]).mean(0)
    scale = diagonal + probed.mean(0).clamp_min(1e-6 * float(probed.abs().max()))
    rest = -slope(x)
    direction = rest / scale
    square = (rest * direction).sum()
    enough = 1e-14 * float(square)
    for _ in range(ITERATIONS):
        if not float(square) > enough:
            break
        image = slope(direction) - zero
        step = square / (direction * image).sum()
        x, rest = x + step * direction, rest - step * image
        scaled = rest / scale
        previous, square = square, (rest * scaled).sum()
        direction = scaled + (square / previous) * direction
    return x
