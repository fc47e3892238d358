"""What a model does to its input before its first layer, undone.

Normalizing by constants or by BatchNorm in evaluation, scaling, reordering and reshaping are one kind of map however
they are written: every value that the first layer takes in is `scale * x_i + shift` of one input value. Whether a
model's is such a map is found out by computing it at a few points, and so are its numbers; no operator is looked at.

A dropout module on the way is a map of the same kind while it keeps a value, and a constant where it drops one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from fedseal.attack.evidence.points import corners, steps
from fedseal.attack.evidence.structure import Entrance
from fedseal.attack.evidence.trace import at_dropout
from fedseal.types import Modality

aten = torch.ops.aten
DATA = {aten.convolution.default: 0, aten.mm.default: 0, aten.addmm.default: 1}  # which operand is no weight
BASE = 16  # of the digits by which an input value's place is told; few, so that half precision tells them apart
CHECKS = 4  # random points at which the map must hold
LEVELS, VALUES = 65, 1 << 22  # of all values at once from end to end of the valid range, and how many values in all
AT_ONCE = 1 << 18  # values in one forward pass
TOLERANCE = 1e-6  # of the largest value, up to which it holds in double precision
NEARBY = 1e-2  # of how far the map moves near given inputs, up to which it holds there in double precision
SINGLE = 1e-2  # the same where the model computes in a coarser format of its own
WIDEST = 100.0  # a range of valid inputs that is wider, or has no end, is cut to this


class Entered(Exception):
    """What the first layer takes in, `(N, *shape)`."""

    def __init__(self, data: Tensor) -> None:
        super().__init__()
        self.data = data


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Ends a forward pass where the data meets a weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places = {weight.untyped_storage().data_ptr()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func in DATA:
            tensors = [arg for arg in args if isinstance(arg, Tensor)]
            if any(tensor.untyped_storage().data_ptr() in self.places for tensor in tensors):
                raise Entered(args[DATA[func]])
        result = func(*args, **(kwargs or {}))
        if func is aten._to_copy.default and args[0].untyped_storage().data_ptr() in self.places:
            self.places.add(result.untyped_storage().data_ptr())  # mixed precision: the weight in another format
        return result


@dataclass(frozen=True)
class Affine:
    """`z_j = scale_j * x_index_j + shift_j`, for every value z_j of the M that the first layer takes in of N inputs.

    Args:
        index: `(M,)`, -1 where z_j is a constant, such as padding.
        scale, shift: `(M,)` in float64.
    """

    index: Tensor
    scale: Tensor
    shift: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """What the first layer takes in, `(N, M)`, for flat inputs `(N, numel)`."""
        return self.scale * inputs[:, self.index.clamp_min(0)] + self.shift

    def places(self, numel: int) -> tuple[Tensor, Tensor]:
        """For each of `numel` input values, where it enters with the largest scale, and one over that scale; 0 for
        those that do not.
        """
        best = torch.zeros(numel, dtype=torch.float64)
        inside = self.index >= 0
        best.scatter_reduce_(0, self.index[inside], self.scale[inside].abs(), "amax")
        place = torch.zeros(numel, dtype=torch.long)
        largest = inside & (self.scale.abs() == best[self.index.clamp_min(0)])
        place[self.index[largest]] = largest.nonzero()[:, 0]
        return place, torch.where(best > 0, 1.0 / torch.where(best > 0, self.scale[place], 1.0), 0.0)

    def gain(self, numel: int) -> float:
        """By how much a change of one of `numel` input values changes what the first layer takes in, at least."""
        inside = self.index >= 0
        squares = torch.zeros(numel, dtype=torch.float64)
        squares.scatter_add_(0, self.index[inside], self.scale[inside].square())
        return float(squares.min().sqrt())

    def back(self, rows: Tensor, known: Tensor, numel: int) -> tuple[Tensor, Tensor]:
        """Inputs `(N, numel)` from rows `(N, M)`, of which only what is `known` `(N, M)` counts; and which are reached.

        An input value that several z_j show is their mean, weighted by the squared scales.
        """
        weights = torch.where(known & (self.index >= 0), self.scale.square(), 0.0)
        values = (rows - self.shift) / torch.where(self.scale == 0, 1.0, self.scale)
        place = self.index.clamp_min(0).expand(len(rows), -1)
        sums = torch.zeros(len(rows), numel, dtype=torch.float64)
        total = sums.clone().scatter_add_(1, place, weights)
        sums.scatter_add_(1, place, weights * values)
        return sums / torch.where(total == 0, 1.0, total), total > 0


@dataclass(frozen=True)
class Preprocessing:
    """The map before the first layer, with its numbers.

    Args:
        entrance: as the structure has it.
        plain: the map where no dropout draws.
        kept: the map of a value that every dropout on the way kept; `plain` without dropout.
        dropped: for each dropout module on the way, by name, what z_j is where it dropped the value, `(M,)`.
        groups: `(M,)`, which z_j share unknown numbers; None where the numbers are known.
        entering: what the first layer takes in where no dropout draws, `(N, M)`, of flat inputs `(N, numel)`, in the
            format in which the model computes it; None where it does not.
    """

    entrance: Entrance
    plain: Affine
    kept: Affine
    dropped: Mapping[str, Tensor]
    groups: Tensor | None
    entering: Callable[[Tensor], Tensor | None] = field(repr=False, compare=False)

    def holds_at(self, inputs: Tensor, modality: Modality, step: float) -> bool:
        """Whether the map is the model's near valid inputs `(N, numel)`: a clip or a threshold may begin right there.

        Args:
            step: how far values are moved, up and down and in many other ways, as far as they are valid.
        """
        low, high = whole_range(modality)
        flat = inputs.detach().double().cpu().flatten(1)
        near, far = bounds(modality)
        unmoved = self.plain.back(torch.zeros(1, len(self.plain.index)).double(), torch.ones(1, 1).bool(), len(low))[0]
        centers = [(near + far) / 2, torch.zeros_like(low), unmoved[0]]
        ways = steps(flat, modality.shape, centers, step, VALUES)
        moved = torch.cat([flat[None], torch.maximum(torch.minimum(flat + ways, high), low)])
        for points in torch.split(moved, max(1, AT_ONCE // max(1, flat.numel()))):
            seen = self.entering(points.flatten(0, 1))
            if seen is None:
                return False
            if _rounds_away(seen.double() / self.plain.scale.abs().clamp_min(1e-300), seen.dtype, inputs.dtype, step):
                return False
            rounded = max(TOLERANCE, torch.finfo(seen.dtype).eps)  # a model that insists on half precision rounds so
            off = (self.plain(points.flatten(0, 1)) - seen.double()).abs().view(*points.shape[:2], -1)
            size = seen.double().abs().view(len(points), 1, -1).amax(2, keepdim=True)
            if not bool((off <= NEARBY * step * self.plain.scale.abs() + rounded * size).all()):
                return False
        return True


def _rounds_away(values: Tensor, entering: torch.dtype, own: torch.dtype, step: float) -> bool:
    """Whether a coarser format than the inputs' own hides a change of that size, root mean square.

    Args:
        values: as they enter, in units of the inputs, `(N, M)`.
    """
    eps = torch.finfo(entering).eps
    coarser = own.is_floating_point and eps > torch.finfo(own).eps
    return coarser and bool((0.5 * eps * values.square().mean(1).sqrt() > step / 2).any())


def whole_range(modality: Modality) -> tuple[Tensor, Tensor]:
    """The smallest and the largest valid input, `(numel,)` each in float64, however far; infinite without an end."""
    wide = torch.full((1, *modality.shape), math.inf, dtype=torch.float64)
    return modality.project(-wide)[0].flatten().double(), modality.project(wide)[0].flatten().double()


def bounds(modality: Modality) -> tuple[Tensor, Tensor]:
    """The smallest and the largest valid input, `(numel,)` each in float64."""
    wide = torch.full((1, *modality.shape), 1e6, dtype=torch.float64)
    low, high = modality.project(-wide)[0].flatten().double(), modality.project(wide)[0].flatten().double()
    return low.clamp_min(-WIDEST), high.clamp_max(WIDEST)


def read_preprocessing(
    model: nn.Module,
    entrance: Entrance,
    modality: Modality,
    known: Mapping[str, Tensor],
    rates: Mapping[str, float],
    dtype: torch.dtype,
) -> Preprocessing | str:
    """The numbers of what stands before the first layer, or why it is no map of single values.

    Args:
        model: an architecture, not written to.
        known: parameters and buffers by name, as far as the adversary has them.
        rates: of the dropout modules, by name.
        dtype: the model's own.
    """
    probe = _Probe(model, entrance, modality, known, dtype)
    plain = probe.affine({})
    if plain is None:
        return _no_map(entrance)
    here = [name for name in entrance.dropout if rates.get(name, 0.0) > 0]
    factors = {name: 1 / (1 - rates[name]) if rates[name] < 1 else 0.0 for name in here}
    kept = probe.affine(factors)
    dropped = {name: probe.constant({**factors, name: 0.0}) for name in here}
    if kept is None or any(value is None for value in dropped.values()):
        if not here:
            return "what the model does before its first layer differs from run to run"
        return f"what dropout '{here[0]}' before the first layer leaves of a value cannot be told from what it drops"
    missing = [name for name in entrance.state if name not in known]
    groups = None
    if missing:
        groups = torch.unique(torch.stack([plain.scale, plain.shift], 1), dim=0, return_inverse=True)[1]
    constants = {name: value for name, value in dropped.items() if value is not None}
    return Preprocessing(entrance, plain, kept, constants, groups, lambda points: probe.computed(points, {}))


def _no_map(entrance: Entrance) -> str:
    norms = [name for name in entrance.operators if "norm" in name or name in ("std", "var", "var_mean", "std_mean")]
    if norms:
        return (
            f"before the first layer stands '{norms[0]}', which normalizes by what the batch or the input holds, "
            "and that is not sent"
        )
    chain = ", ".join(dict.fromkeys(entrance.operators))
    return f"what stands before the first layer ({chain}) is no scaling, shifting or ordering of single values"


class _Probe:
    """The model up to its first layer, at points of the valid range."""

    def __init__(
        self,
        model: nn.Module,
        entrance: Entrance,
        modality: Modality,
        known: Mapping[str, Tensor],
        dtype: torch.dtype,
    ) -> None:
        self.model, self.entrance, self.dtype = model, entrance, dtype
        self.shape, (self.low, self.high) = modality.shape, bounds(modality)
        cut = zip(whole_range(modality), bounds(modality), strict=True)
        self.first, self.last = (torch.where(end.isinf(), near, end) for end, near in cut)
        self.numel = math.prod(self.shape)
        self.places = {module: name for name, module in model.named_modules()}
        fixed = torch.Generator().manual_seed(0)  # the points are no draw of the attack: any will do
        self.state: dict[str, Tensor] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name in known:
                value = known[name].detach().cpu()
            elif name in entrance.state:
                value = 0.5 + torch.rand(tensor.shape, generator=fixed)
            else:  # the first layer's and those behind it, which are not reached: no memory is needed
                value = torch.zeros(()).expand(tensor.shape)
            self.state[name] = value if tensor.is_floating_point() else value.round().to(tensor.dtype)
        digits = max(1, math.ceil(math.log(max(self.numel, 2), BASE)))
        places = torch.arange(self.numel)
        shares = [(places // BASE**k % BASE).double() / (BASE - 1) for k in range(digits)]
        random = torch.rand(CHECKS, self.numel, generator=fixed, dtype=torch.float64)
        ends = torch.stack([torch.zeros(self.numel), torch.ones(self.numel)]).double()
        self.points = self.low + torch.cat([ends, torch.stack(shares), random]) * (self.high - self.low)

    def affine(self, factors: Mapping[str, float]) -> Affine | None:
        """The map with each dropout module scaling by its factor, None if it is none."""
        seen, tolerance = self.entered(self.points, factors)
        if seen is None or not bool(seen.isfinite().all()):
            return None
        bottom, top, digits, checks = seen[0], seen[1], seen[2:-CHECKS], seen[-CHECKS:]
        size = seen.abs().max().clamp_min(1e-300)
        moves = (top - bottom).abs() > tolerance * size
        shares = (digits - bottom) / torch.where(moves, top - bottom, 1.0)
        names = (shares * (BASE - 1)).round().long()
        index = (names * BASE ** torch.arange(len(digits))[:, None]).sum(0)
        if bool((moves & ((index < 0) | (index >= self.numel))).any()):
            return None
        width = (self.high - self.low)[index.clamp(0, self.numel - 1)]
        index = torch.where(moves, index, -1)
        scale = torch.where(moves, (top - bottom) / torch.where(width == 0, 1.0, width), 0.0)
        found = Affine(index, scale, bottom - scale * self.low[index.clamp_min(0)])
        rest = found(self.points[-CHECKS:]) - checks
        if bool((rest.abs() > tolerance * size).any()) or not self._apart(factors, tolerance):
            return None
        return found if self._everywhere(found, factors) else None

    def _everywhere(self, found: Affine, factors: Mapping[str, float]) -> bool:
        """Whether the map holds from end to end of the valid range: at so many levels of all values at once, and where
        they differ as much as they can.
        """
        most = max(16, VALUES // 2 // self.numel)
        levels = torch.linspace(0, 1, min(LEVELS, most), dtype=torch.float64)[:, None].expand(-1, self.numel)
        shares = torch.cat([levels, corners(self.shape, most)])
        span = float((found.scale.abs() * (self.last - self.first)[found.index.clamp_min(0)]).amax())
        for part in torch.split(shares, max(1, AT_ONCE // self.numel)):
            points = self.first + part * (self.last - self.first)
            seen, tolerance = self.entered(points, factors)
            if seen is None:
                return False
            size = seen.abs().amax(1, keepdim=True).clamp_min(max(TOLERANCE * span, 1e-300))
            if not bool(((found(points) - seen).abs() <= tolerance * size).all()):
                return False
        return True

    def constant(self, factors: Mapping[str, float]) -> Tensor | None:
        """What the first layer takes in where that does not depend on the input, `(M,)`; None if it does."""
        seen, tolerance = self.entered(self.points, factors)
        if seen is None or bool(((seen - seen[0]).abs() > tolerance * seen.abs().max().clamp_min(1e-300)).any()):
            return None
        return seen[0]

    def _apart(self, factors: Mapping[str, float], tolerance: float) -> bool:
        """Whether an example enters as it does in any other company."""
        whole, few = (self.entered(points, factors)[0] for points in (self.points, self.points[[1, 0]]))
        if whole is None or few is None:
            return False
        return bool(((few - whole[[1, 0]]).abs() <= tolerance * whole.abs().max().clamp_min(1e-300)).all())

    def entered(self, points: Tensor, factors: Mapping[str, float]) -> tuple[Tensor | None, float]:
        """The values `(P, M)` in float64 at points `(P, numel)`, and to what share of their size they are right."""
        seen = self.computed(points, factors)
        if seen is None:
            return None, TOLERANCE
        return seen.double(), max(TOLERANCE, min(SINGLE, 30 * torch.finfo(seen.dtype).eps))

    def computed(self, points: Tensor, factors: Mapping[str, float]) -> Tensor | None:
        """The values `(P, M)` at points `(P, numel)`, in double precision or else in the model's own format."""
        if bool((self.low == self.high).all()):
            return None
        for dtype in (torch.float64, self.dtype):
            try:
                return self._forward(points.to(dtype), factors)
            except (RuntimeError, ValueError):  # a module that insists on a format, or on more than a value a channel
                continue
        return None

    def _forward(self, points: Tensor, factors: Mapping[str, float]) -> Tensor:
        first = self.entrance.weight
        state = {n: self.state[n] for n in self.state}
        state |= {n: state[n].to(points.dtype) for n in self.entrance.state if state[n].is_floating_point()}
        state[first] = torch.zeros(state[first].shape, dtype=points.dtype)

        def scaled(module: nn.Module, output: Tensor) -> Tensor:
            return output * factors.get(self.places[module], 1.0)

        try:
            with torch.no_grad(), at_dropout(self.model, scaled), _Watch(state[first]), _untouched():
                functional_call(self.model, state, (points.reshape(-1, *self.shape),))
        except Entered as entered:
            if entered.data.numel() == len(points) * math.prod(self.entrance.shape):  # patches are rows of their own
                return entered.data.reshape(len(points), -1)
        raise ValueError("the first layer was not met")


def _untouched() -> AbstractContextManager[None]:
    """Functions that draw whatever the mode leave torch's own generator as it was."""
    return torch.random.fork_rng(devices=[])
