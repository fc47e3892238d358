"""The inputs of a whole batch, read off the gradient of a linear layer with a ReLU behind it.

dL/dW = G^T X has the rank of the batch, and G = dL/dZ is zero wherever a unit is off. With dL/dW = L R of that rank,
each column of G^T is L q for a direction q that is orthogonal to every row of L whose unit is off for that example: a
hyperplane that holds far more rows than any other. All of them together give X, and dL/db = G^T 1 gives the scales.

SPEAR (Dimitrov, Baader, Müller and Vechev, NeurIPS 2024, arXiv:2403.03945) draws rows until b - 1 of them happen to be
off together, about 2^(b - 1) / b times for each direction. New here: a direction is found by descent, not by luck.
Random directions are pulled to the nearest hyperplane full of rows by reweighted least squares, which finds a batch of
16 in a few hundred starts; and a candidate is judged not by a share of zeros but by whether every row on its
hyperplane is borne out by the others, so that no threshold depends on the batch size or on how alike the examples are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.evidence.evidence import ROUNDING
from fedseal.types import Progress, ProgressCallback

ROUND = 128  # starts that descend together
STEPS, COOLING = 30, 0.75  # reweighted least squares: steps, and how the width of "nearly zero" shrinks in each
SHARPEN, SHARPER = 8, 0.15  # then down to the noise
ZERO = 4.0  # standard errors within which an entry of G counts as zero
DISCOUNTS = (1.0, 0.9, 0.85, 0.7)  # of a row's weight for each found example that is on in it, round by round
FEW, DRAWS = 8, 64  # a mixture of so few examples is taken apart by so many draws
LEAST = 0.6  # of the median count of zeros: what has fewer is no example, unless nothing else is found
INDEPENDENT = 1e-4  # smallest singular value, in whitened coordinates
FLAT = 1e-11  # eigenvalue of a Gram matrix, relative to the largest, that counts as zero
COLOOP = 0.33  # leverage from which a row may be on a hyperplane only because it was fitted, two such by chance alike


class Diagnostics(NamedTuple):
    """How a disaggregation went.

    Args:
        rank: of the weight gradient above its noise, which is the batch size.
        directions: how many examples' directions were found; fewer than `rank` gives no inputs.
        candidates: directions that were borne out; more than `rank` leave a choice that the zeros do not settle.
        starts: random starts used.
        zeros: for each example, the share of live units that are off.
        residual: relative distance between the weight gradient and `deltas.T @ inputs`, with the zeros imposed.
        obstacle: why there are no inputs, None if there are.
    """

    rank: int
    directions: int
    candidates: int
    starts: int
    zeros: tuple[float, ...]
    residual: float | None
    obstacle: str | None


class Disaggregated(NamedTuple):
    """Inputs `(b, n)` of a linear layer and the gradients by its outputs `(b, m)`, float64, in no particular order."""

    inputs: Tensor
    deltas: Tensor
    diagnostics: Diagnostics


class _Factors(NamedTuple):
    """Live rows of a weight gradient in a basis of its row space, each divided by its noise."""

    live: Tensor
    weight: Tensor
    noise: Tensor
    rows: Tensor
    rank: int
    obstacle: str | None


def disaggregate(
    weight_gradient: Tensor,
    bias_gradient: Tensor,
    *,
    generator: torch.Generator,
    count: int | None = None,
    noise: Tensor | None = None,
    starts: int = 8192,
    progress: ProgressCallback | None = None,
) -> Disaggregated:
    """Split the gradient of any linear layer with a ReLU behind it into its examples (after arXiv:2403.03945).

    Args:
        weight_gradient: `(m, n)`, a sum over the batch in any unit; at most min(m, n) - 1 examples.
        bias_gradient: `(m,)` in the same unit.
        count: the batch size where known; None to take the rank.
        noise: standard errors of the weight gradient by row, `(m,)`; None for the rounding of its dtype.
        starts: random starts at most.

    >>> seeded = torch.Generator().manual_seed(0)
    >>> inputs = torch.rand(3, 12, generator=seeded)
    >>> deltas = torch.randn(3, 40, generator=seeded) * (torch.rand(3, 40, generator=seeded) > 0.5)
    >>> found = disaggregate(deltas.T @ inputs, deltas.sum(0), generator=seeded)
    >>> found.diagnostics.rank, round(float(torch.cdist(found.inputs.float(), inputs).min(0).values.max()), 3)
    (3, 0.0)
    """
    factors = _factor(weight_gradient, noise, count)
    if factors.obstacle is not None:
        return _nothing(weight_gradient, factors.rank, 0, 0, factors.obstacle)
    chosen, candidates, used = _directions(factors.rows, starts, generator, progress)
    if len(chosen) < factors.rank:
        obstacle = (
            f"{len(chosen)} of {factors.rank} examples' directions were found in {used} starts; plain draws of rows "
            f"would take about 2^{factors.rank - 1} each: the batch is too large for the layer's {len(factors.rows)} "
            "live units, or no ReLU stands behind it"
        )
        return _nothing(weight_gradient, factors.rank, len(chosen), used, obstacle)
    inputs, deltas, off = _scaled(factors, chosen, bias_gradient.detach().double().cpu()[factors.live])
    misfit = factors.weight - deltas.T @ inputs
    spread = weight_gradient.new_zeros(factors.rank, len(weight_gradient), dtype=torch.float64, device="cpu")
    spread[:, factors.live] = deltas
    zeros = tuple(off.double().mean(1).tolist())
    value = float(misfit.norm() / factors.weight.norm())
    return Disaggregated(inputs, spread, Diagnostics(factors.rank, len(chosen), candidates, used, zeros, value, None))


def disaggregation_obstacle(
    weight_gradient: Tensor, *, count: int | None = None, noise: Tensor | None = None
) -> str | None:
    """Why `disaggregate` cannot work on such a gradient, by its rank alone; None if it may. Arguments as there.

    >>> disaggregation_obstacle(torch.eye(3)).split(":")[0]
    'the weight gradient has full rank 3'
    """
    return _factor(weight_gradient, noise, count).obstacle


def _nothing(weight: Tensor, rank: int, directions: int, starts: int, obstacle: str) -> Disaggregated:
    empty = torch.zeros(0, dtype=torch.float64)
    diagnostics = Diagnostics(rank, directions, directions, starts, (), None, obstacle)
    return Disaggregated(empty.view(0, weight.shape[1]), empty.view(0, len(weight)), diagnostics)


def _factor(weight_gradient: Tensor, noise: Tensor | None, count: int | None) -> _Factors:
    """Low-rank rows with isotropic unit noise; twice, as what the rank leaves over measures the noise itself."""
    weight = weight_gradient.detach().double().cpu()
    live = weight.abs().amax(1) > 0
    weight = weight[live]
    if noise is None:
        eps = max(ROUNDING * torch.finfo(weight_gradient.dtype).eps, 1e-13)
        noise = eps * (weight.square().mean(1).sqrt() + 1e-3 * weight.abs().max() if len(weight) else weight.sum(1))
    else:
        noise = noise.double().cpu()[live]
    most = min(weight.shape)
    if most == 0:
        return _Factors(live, weight, noise, weight, 0, "the weight gradient is zero: no unit was active")
    left, values, right = torch.linalg.svd(weight / noise[:, None], full_matrices=False)
    edge = math.sqrt(weight.shape[0]) + math.sqrt(weight.shape[1])  # the largest singular value of unit noise
    seen = int((values > 2 * edge).sum())
    rank = min(seen, count or seen)
    obstacle = None
    if rank >= most:
        obstacle = (
            f"the weight gradient has full rank {rank}: the batch holds at least as many examples as the layer has "
            f"inputs ({weight.shape[1]}) or live units ({weight.shape[0]}), or the update was perturbed"
        )
    elif count is not None and seen < count:
        obstacle = (
            f"the weight gradient has rank {seen}, and the batch holds {count} examples: some are copies of each other "
            "or leave no trace above the rounding"
        )
    elif seen > rank:  # more than rounding: a defense, or the wrong count; the rest of the spectrum is the noise
        rest = weight - (weight @ right[:rank].T) @ right[:rank]
        noise = torch.maximum(noise, rest.square().mean(1).sqrt())
        left, values, right = torch.linalg.svd(weight / noise[:, None], full_matrices=False)
        if values[rank - 1] < 4 * edge or values[rank] > 4 * edge:
            obstacle = f"the weight gradient has rank {seen}, and the batch holds {count} examples"
    return _Factors(live, weight, noise, left[:, :rank] * values[:rank], rank, obstacle)


def _standardized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of unit length spread alike in all directions (Tyler 1987): `rows @ change` up to their lengths."""
    change = torch.eye(rows.shape[1], dtype=rows.dtype)
    for _ in range(6):
        turned = rows @ change
        turned = turned / turned.norm(dim=1, keepdim=True)
        values, axes = torch.linalg.eigh(turned.T @ turned / len(rows) * rows.shape[1])
        change = change @ (axes / values.clamp_min(1e-12).sqrt())
    return rows @ change, change


class _Candidates(NamedTuple):
    """Directions `(k, b)` in the coordinates of the rows, and how many rows each is borne out by."""

    directions: Tensor
    support: Tensor


class _Rows(NamedTuple):
    """Unit rows `(m, b)` spread alike in all directions, with the errors of each and the change of coordinates."""

    unit: Tensor
    outer: Tensor
    floor: Tensor
    change: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> _Rows:
        turned, change = _standardized(rows)
        lengths = turned.norm(dim=1, keepdim=True)
        unit = turned / lengths
        return cls(unit, (unit[:, :, None] * unit[:, None, :]).flatten(1), 1 / lengths[:, 0], change)

    def errors(self, at: Tensor) -> Tensor:
        """Standard errors of `unit @ at.T` that the noise of the rows makes, `(m, k)`."""
        errors: Tensor = self.floor[:, None] * (at @ self.change.T).norm(dim=1) + 1e-14
        return errors

    def smallest(self, weights: Tensor) -> Tensor:
        """For each column of weights `(m, k)` the unit direction with the least weighted sum of squares, `(k, b)`."""
        size = self.unit.shape[1]
        vectors = torch.linalg.eigh((weights.T @ self.outer).view(-1, size, size))[1]
        smallest: Tensor = vectors[:, :, 0]
        return smallest


def _directions(
    rows: Tensor, starts: int, generator: torch.Generator, progress: ProgressCallback | None
) -> tuple[Tensor, int, int]:
    """Directions `(k, b)` orthogonal to more rows than can be by chance, until they span the space or none are left."""
    size = rows.shape[1]
    if size == 1:
        return rows.new_ones(1, 1), 1, 0
    field = _Rows.of(rows)
    known = _Candidates(rows.new_zeros(0, size), rows.new_zeros(0))
    seen: set[bytes] = set()
    used, missing = 0, size
    while used < starts and missing > 0:
        at = torch.randn(ROUND, size, generator=generator, dtype=rows.dtype)
        if 0 < len(known.directions) < size:
            # in whitened coordinates the others lie near the complement of what is found, but not always
            basis = torch.linalg.qr(known.directions.T)[0]
            half = ROUND // 2
            at[:half] -= (at[:half] @ basis) @ basis.T
        trust = _trust(field, known, DISCOUNTS[used // ROUND % len(DISCOUNTS)])
        at = _sharpen(field, _distinct(_descend(field, at / at.norm(dim=1, keepdim=True), trust), 1e-3))
        known, mixed = _kept(field, known, at)
        used += ROUND
        missing = size - len(_independent(known, LEAST))
        for core in sorted(mixed, key=lambda rows: -int(rows.sum())):
            key = core.numpy().tobytes()
            if missing > 0 and key not in seen:
                seen.add(key)
                apart = _unmixed(field, known.directions, core, generator)
                before = len(known.directions)
                known, _ = _kept(field, known, _sharpen(field, apart))
                if len(known.directions) > before:
                    missing = size - len(_independent(known, LEAST))
        if progress is not None:
            progress(Progress("spear", used, starts, float(missing), None))
    back = known.directions[_independent(known)] @ field.change.T
    return back / back.norm(dim=1, keepdim=True), len(known.directions), used


def _descend(field: _Rows, at: Tensor, trust: Tensor | None = None) -> Tensor:
    """Minimize sum log((r q)^2 + e^2) over unit q by reweighted least squares, the width e shrinking.

    Args:
        trust: how much each row counts, `(m,)`; None for all alike.
    """
    for step in range(STEPS):
        width = COOLING**step / at.shape[1] ** 0.5
        weights = 1 / ((field.unit @ at.T).square() + width**2)
        at = field.smallest(weights if trust is None else weights * trust[:, None])
    return at


def _trust(field: _Rows, known: _Candidates, discount: float) -> Tensor:
    """Rows `(m,)` count less the more of the found examples are on in them: those few others explain say most."""
    at = known.directions
    on = ((field.unit @ at.T).abs() > ZERO * field.errors(at)).sum(1)
    trust: Tensor = torch.tensor(discount, dtype=at.dtype) ** on
    return trust


def _sharpen(field: _Rows, at: Tensor) -> Tensor:
    """Rows sharpened further, with the kernel's width lowered to each row's own error."""
    for step in range(SHARPEN):
        width = COOLING**STEPS * SHARPER**step / at.shape[1] ** 0.5
        at = field.smallest(1 / ((field.unit @ at.T).square() + (field.errors(at) + width) ** 2))
    return at


def _distinct(at: Tensor, angle: float) -> Tensor:
    """The first of each group of directions that agree up to sign."""
    near = (at @ at.T).square() > 1 - angle**2
    return at[~near.tril(-1).any(1)]


def _kept(field: _Rows, known: _Candidates, at: Tensor) -> tuple[_Candidates, list[Tensor]]:
    """Add the directions that are borne out and new; of the others, the rows `(m,)` that several examples leave."""
    found, support = known
    mixed = []
    for one in at:
        zero = (field.unit @ one).abs() <= ZERO * field.errors(one[None])[:, 0]
        leverage = _leverage(field.unit[zero])
        if leverage is None:
            continue
        core = zero.clone()
        core[zero] = leverage < max(COLOOP, min(2 * float(leverage.mean()), 0.9))  # few rows need each one more
        if _leverage(field.unit[core]) is None:
            mixed.append(core)
        elif not bool(((found @ one).square() > 1 - 1e-6).any()):
            found, support = torch.cat([found, one[None]]), torch.cat([support, zero.sum()[None].to(support)])
    return _Candidates(found, support), mixed


def _leverage(on: Tensor) -> Tensor | None:
    """How much each row `(k,)` of a hyperplane is needed to determine it, 1 for indispensable; None if they do not.

    A direction that mixes the examples T is orthogonal to the rows where all of T are off, of rank b - |T|, and to
    |T| - 1 more that were fitted: each of those has a leverage of one, or of a half where two agree by chance. For a
    single example the rows determine it without them.
    """
    size = on.shape[1]
    if len(on) < size:
        return None
    values, axes = torch.linalg.eigh(on.T @ on)
    if values[1] < FLAT * values[-1]:
        return None
    leverage: Tensor = ((on @ axes[:, 1:]).square() / values[1:]).sum(1)
    return leverage


def _unmixed(field: _Rows, directions: Tensor, core: Tensor, generator: torch.Generator) -> Tensor:
    """Directions `(k, b)` of the few examples that are all off in the core rows: a smaller batch in the other rows.

    None if all of them are among the directions known already.
    """
    size = field.unit.shape[1]
    values, axes = torch.linalg.eigh(field.unit[core].T @ field.unit[core])
    few = int((values < FLAT * values[-1]).sum())
    inside = axes[:, :few].T
    known = int(((directions @ inside.T).norm(dim=1) > 1 - 1e-9).sum())
    if not 2 <= few <= min(FEW, size - 1) or int(core.sum()) <= size - few or known == few:
        return field.unit[:0]
    rows = field.unit[~core] @ inside.T
    drawn = torch.rand(DRAWS, len(rows), generator=generator).topk(few - 1, dim=1).indices
    null = torch.linalg.svd(rows[drawn], full_matrices=True)[2][:, -1]
    smaller = _Rows.of(rows[rows.norm(dim=1) > 1e-4])
    at = _descend(smaller, torch.randn(DRAWS // 4, few, generator=generator, dtype=rows.dtype)) @ smaller.change.T
    return _distinct(torch.cat([null, at / at.norm(dim=1, keepdim=True)]) @ inside, 1e-3)


def _independent(candidates: _Candidates, least: float = 0.0) -> Tensor:
    """Places of linearly independent directions with most rows, greedily; of no less than a share of the median."""
    chosen: list[int] = []
    for index in candidates.support.argsort(descending=True, stable=True).tolist():
        if candidates.support[index] < least * candidates.support[chosen].median() if chosen else False:
            break
        if float(torch.linalg.svdvals(candidates.directions[[*chosen, index]])[-1]) > INDEPENDENT:
            chosen.append(index)
        if len(chosen) == candidates.directions.shape[1]:
            break
    return torch.tensor(chosen, dtype=torch.long)


def _scaled(factors: _Factors, directions: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs `(b, n)`, deltas `(b, live)` and which of them are off, from the directions and the bias gradient."""
    entries = factors.rows @ directions.T
    off = entries.abs() <= ZERO
    columns = torch.where(off, 0.0, entries * factors.noise[:, None])
    # "gels": the default driver, "gelsy", differs in the last bits from call to call
    weights = 1 / (bias.abs() + 1e-3 * bias.abs().max())
    scales = torch.linalg.lstsq(columns * weights[:, None], (bias * weights)[:, None], driver="gels").solution[:, 0]
    columns = columns * scales
    weighted = 1 / factors.noise[:, None]
    inputs: Tensor = torch.linalg.lstsq(columns * weighted, factors.weight * weighted, driver="gels").solution
    return inputs, columns.T, off.T
