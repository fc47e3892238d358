"""Points at which a map before the first layer is tried, so that no clip of several values together goes unseen.

A clip may begin at what some values are together: their contrast, their sum, their largest one, the distance of
neighbors. It is met where values differ as much as they can, in many ways, and beside given inputs in steps that
enlarge and shrink whatever they may be together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

DENSITIES = (0.5, 0.5, 0.1, 0.9)  # of random bits
MIXTURES = (0.5, 0.1, 0.01, 0.001)  # contrasts, beside the whole range: a range without an end is cut far out
DRAWS = 6  # random directions, of each kind
BLOCKS = (2, 4, 8)  # sides of patches
FAR = 10.0  # times a step: one across all values moves by little what they are together


def corners(shape: Sequence[int], most: int) -> Tensor:
    """Points `(P, numel)` between 0 and 1, the most telling ones first, `most` of them at most.

    >>> corners((1, 2, 2), 2).tolist()
    [[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]]
    """
    return torch.stack(list(itertools.islice(_shares(shape), most)))


def _shares(shape: Sequence[int]) -> Iterator[Tensor]:
    numel, drawn = math.prod(shape), torch.Generator().manual_seed(1)
    place = torch.arange(numel)
    for bit in _bits(shape, drawn):
        yield from (bit, 1 - bit)
    for spot in dict.fromkeys([0, numel // 2, numel - 1, *torch.randint(numel, (2,), generator=drawn).tolist()]):
        spike = (place == spot).double()
        yield from (spike, 1 - spike, 0.5 + spike / 2, 0.5 - spike / 2)
    ramp = place.double() / max(1, numel - 1)
    noise = torch.rand(numel, generator=drawn, dtype=torch.float64)
    yield from (ramp, 1 - ramp, noise**8, 1 - noise**8)
    for contrast in MIXTURES:
        for bit in itertools.chain([noise], _bits(shape, drawn)):
            yield from (level + contrast * (bit - level) for level in (0.5, 0.0, 1.0))


def steps(inputs: Tensor, shape: Sequence[int], centers: Sequence[Tensor], size: float, most: int) -> Tensor:
    """Ways to go from given inputs `(N, numel)`, `(P, N, numel)`, back and forth: the most telling ones first.

    Args:
        centers: each `(numel,)`, or of each example, `(N, numel)`: what is enlarged and shrunk about.
        size: root mean square of the short ones; the long ones are `FAR` times as long.
        most: of how many numbers the answer may be, but for some ways.
    """
    grid = inputs.view(len(inputs), *shape)
    own = [grid.mean(tuple(range(axis, grid.ndim)), keepdim=True) for axis in range(1, grid.ndim)]
    about = [center.expand_as(grid).flatten(1) for center in own] + list(centers)
    least = 2 * (len(about) + 1 + DRAWS)
    moves = itertools.islice(_moves(inputs, shape, about, size), max(least, most // max(1, inputs.numel())))
    return torch.stack(list(moves))


def _moves(inputs: Tensor, shape: Sequence[int], about: Sequence[Tensor], size: float) -> Iterator[Tensor]:
    for length in (size, FAR * size):
        for center in about:
            way = inputs - center
            way = way * (length / way.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12))
            yield from (way, -way)
        for pattern in _patterns(shape):
            yield from ((length * pattern).expand_as(inputs), (-length * pattern).expand_as(inputs))


def _patterns(shape: Sequence[int]) -> Iterator[Tensor]:
    """Directions of root mean square 1 or less, `(numel,)` each."""
    numel, drawn = math.prod(shape), torch.Generator().manual_seed(2)
    yield torch.ones(numel, dtype=torch.float64)
    yield from (2 * _drawn(numel, 0.5, drawn) - 1 for _ in range(DRAWS))
    yield from (_drawn(numel, density, drawn) for density in DENSITIES)
    yield from (2 * bit - 1 for bit in _bits(shape, drawn))


def _bits(shape: Sequence[int], drawn: torch.Generator) -> Iterator[Tensor]:
    """Patterns of 0 and 1, `(numel,)` each: checkerboards, halves, stripes and random ones, over all values, over
    blocks of them, and over whole rows, columns and channels.
    """
    numel = math.prod(shape)
    place = torch.arange(numel)
    across = [index.flatten() for index in torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij")]
    axes = [(index, size) for index, size in zip(across, shape, strict=True) if size > 1]
    yield (torch.stack(across).sum(0) % 2).double()
    yield _drawn(numel, 0.5, drawn)
    yield (place * 2 >= numel).double()
    yield (place % 2).double()
    yield from ((index * 2 >= size).double() for index, size in axes)
    yield from ((index % 2).double() for index, _ in axes)
    yield from (_drawn(size, 0.5, drawn)[index] for index, size in axes)
    for side in BLOCKS:
        if side < max(shape):
            yield (torch.stack([index // side for index in across]).sum(0) % 2).double()
    yield from (_drawn(numel, density, drawn) for density in DENSITIES)
    yield from ((place >> bit & 1).double() for bit in range(1, max(1, (numel - 1).bit_length())))


def _drawn(count: int, density: float, drawn: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=drawn, dtype=torch.float64) < density).double()
