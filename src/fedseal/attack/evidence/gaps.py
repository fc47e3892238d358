"""Input values that no equation reaches, filled by what is known of inputs beforehand.

Of pictures that is their spectrum (`belief`), which fills a gap from its neighbors; a column of numbers has its mean,
and a category that was shown rules out the others of its column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from fedseal.attack.evidence.belief import Belief, belief
from fedseal.modality.tabular import Categorical, Tabular
from fedseal.types import Modality

ITERATIONS = 300  # of conjugate gradients at most
ENOUGH = 1e-10  # of the squared residual at the start


def filled_by_spectrum(modality: Modality, inputs: Tensor, known: Tensor) -> Tensor:
    """Inputs `(N, numel)` in float64 whose values count only where `known` `(N, numel)`, the others most probable.

    >>> from fedseal import Image
    >>> flat, where = torch.full((1, 64), 0.25, dtype=torch.float64), torch.arange(64)[None] % 5 > 0
    >>> found = filled_by_spectrum(Image(shape=(1, 8, 8)), torch.where(where, flat, 0.0), where)
    >>> bool((found - flat).abs().max() < 0.05)
    True
    """
    prior = belief(modality)
    return _filled(modality, inputs, known, lambda one, where: _most_probable(prior, one, where))


def filled_by_column(modality: Modality, inputs: Tensor, known: Tensor) -> Tensor:
    """The same of rows of a `Tabular`, column by column."""
    table = cast("Tabular", modality)
    return _filled(modality, inputs, known, lambda one, where: _row(table, one, where))


def _filled(modality: Modality, inputs: Tensor, known: Tensor, fill: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    if bool(known.all()):
        return inputs
    found = torch.stack([fill(one, where) for one, where in zip(inputs, known, strict=True)])
    valid = modality.project(found.reshape(-1, *modality.shape)).flatten(1)
    return torch.where(known, inputs, valid)


def _row(table: Tabular, values: Tensor, known: Tensor) -> Tensor:
    found = values.clone()
    for column, place in zip(table.columns, table.places, strict=True):
        part, seen = values[place], known[place]
        if isinstance(column, Categorical):
            shown = bool((part[seen] > 0.5).any())
            rest = 0.0 if shown else 1.0 / max(1, int((~seen).sum()))
            found[place] = torch.where(seen, part, rest)
        else:
            low, high = column.bounds
            found[place] = torch.where(seen, part, min(max(0.0, low), high))
    return found


def _most_probable(prior: Belief, values: Tensor, known: Tensor) -> Tensor:
    """The most probable input given the known values: conjugate gradients on the gaps alone."""
    here = torch.where(known, values, prior.mean)
    if bool(known.all()):
        return here
    gap = (~known).double()

    def slope(at: Tensor) -> Tensor:
        """Of half the squared length in the prior's coordinates, by the gaps."""
        at = at.detach().requires_grad_()
        with torch.enable_grad():
            energy = 0.5 * prior.coordinates(at).square().sum()
            (grad,) = torch.autograd.grad(energy, at)
        return grad * gap

    rest = -slope(here)
    step, square = rest, rest @ rest
    enough = ENOUGH * float(square)
    level = slope(prior.mean)  # of a map that is linear but for the mean
    for _ in range(ITERATIONS):
        if not float(square) > enough:
            break
        image = slope(prior.mean + step) - level
        length = square / (step @ image)
        here, rest = here + length * step, rest - length * image
        previous, square = square, rest @ rest
        step = rest + (square / previous) * step
    return here
