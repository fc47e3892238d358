"""What inputs look like before any update is seen, as a normal distribution.

That of pictures is scale invariant: the power of natural images falls with the square of the frequency (Field, JOSA A
4:2379, 1987), and their channels move together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedseal.types import Modality

DENSE = 4096  # values of an input up to which a dense covariance of all of them is inverted
COLOR = 0.85  # correlation of the channels of a natural picture


@dataclass(frozen=True)
class Belief:
    """A normal prior of one input: `mean + spread(u)` for independent unit normal u `(numel,)`, in float64."""

    mean: Tensor
    spread: Callable[[Tensor], Tensor]
    coordinates: Callable[[Tensor], Tensor]


def belief(modality: Modality) -> Belief:
    """What is known before: natural pictures by their spectrum, other inputs by their range alone.

    >>> from fedseal import Image
    >>> prior = belief(Image(shape=(3, 8, 8)))
    >>> flat, rough = torch.full((192,), 0.1), 0.1 * (-1) ** torch.arange(192)
    >>> bool(prior.coordinates(prior.mean + flat).norm() < 0.1 * prior.coordinates(prior.mean + rough).norm())
    True
    """
    wide = torch.full((1, *modality.shape), 1e6, dtype=torch.float64)
    low, high = modality.project(-wide)[0].flatten(), modality.project(wide)[0].flatten()
    mean, width = (low + high) / 2, (high - low) / 4
    if len(modality.shape) != 3:
        return Belief(mean, lambda u: u * width, lambda x: (x - mean) / width)
    channels, *sides = modality.shape
    rows, columns = (_cosines(side) for side in sides)
    squares = torch.arange(sides[0])[:, None] ** 2 + torch.arange(sides[1]) ** 2
    power = 1.0 / (squares.double() + 0.3)
    power = power / power.mean()
    mixing = torch.full((channels, channels), COLOR, dtype=torch.float64)
    mixing.fill_diagonal_(1.0)
    shares, mixed = torch.linalg.eigh(mixing)
    deviation = (shares[:, None, None] * power).sqrt()

    def spread(u: Tensor) -> Tensor:
        picture = rows.T @ (u.reshape(channels, *sides) * deviation) @ columns
        offset: Tensor = torch.einsum("ab,bij->aij", mixed, picture).reshape(-1) * width
        return offset

    def coordinates(x: Tensor) -> Tensor:
        unmixed = torch.einsum("ab,aij->bij", mixed, ((x - mean) / width).reshape(channels, *sides))
        u: Tensor = (rows @ unmixed @ columns.T / deviation).reshape(-1)
        return u

    return Belief(mean, spread, coordinates)


def _cosines(side: int) -> Tensor:
    """The orthonormal cosine transform, `(frequencies, places)`."""
    k = torch.arange(side, dtype=torch.float64)
    basis = torch.cos((k + 0.5) * k[:, None] * math.pi / side) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis


def settled(prior: Belief, value: Tensor, error: Tensor) -> Tensor:
    """The most probable input `(numel,)` where each value was seen directly, with a standard error.

    Of more values than `DENSE` the prior is left out.
    """
    if len(value) > DENSE:
        return value
    root = torch.func.vmap(prior.spread)(torch.eye(len(value), dtype=torch.float64))  # rows: of unit coordinates
    covariance = root.T @ root
    seen = covariance.clone()
    seen.diagonal().add_(error.square().clamp_min(1e-12 * float(covariance.diagonal().max())))
    found: Tensor = prior.mean + covariance @ torch.linalg.solve(seen, value - prior.mean)
    return found
