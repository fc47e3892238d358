"""Group consistency: several searches in lockstep, each drawn toward what they agree on (GradInversion).

Examples of one label may stand in any order, and a picture may come out shifted, so the searches are aligned first:
examples matched among equal labels, then pictures registered by whole pixels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from fedseal.attack.base import better
from fedseal.attack.search.matching import GradientMatching, Search
from fedseal.attack.search.update_model import assign
from fedseal.types import Candidate, Observation, ProgressCallback, Reconstruction


class Anchor:
    """Mean squared distance from the group's mean, once there is one."""

    def __init__(self) -> None:
        self.center: Tensor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """The distance of `(N, ...)`, a scalar."""
        return inputs.new_zeros(()) if self.center is None else (inputs - self.center).square().mean()


@dataclass(frozen=True)
class GroupConsistency:
    """Run an attack from several starts at once with weight * mean ||x_s - E||^2 added, E the mean of the registered
    starts; keep the smallest residual.

    Yin et al., "See through gradients", CVPR 2021, arXiv:2104.07586, with registration by phase correlation in place
    of RANSAC, and with a matching of the examples among equal labels, which is ours.

    Args:
        attack: the search; it must not hold copies of examples.
        seeds: number of starts.
        weight: of the group's term.
        begin: share of the steps before the first mean, 5000 of 20000 in the paper.
        every: steps from one mean to the next.
        shift: the largest registration, in pixels.
    """

    attack: GradientMatching
    seeds: int = 8
    weight: float = 0.01
    begin: float = 0.25
    every: int = 100
    shift: int = 4

    @property
    def name(self) -> str:
        """Such as "group(8, gradinversion)"."""
        return f"group({self.seeds}, {self.attack.name})"

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack; the first start reports its progress."""
        started = time.perf_counter()
        anchors = [Anchor() for _ in range(self.seeds)]
        searches = [
            Search(replace(self.attack, priors=(*self.attack.priors, (self.weight, anchor))), observation, generator)
            for anchor in anchors
        ]
        first = min(self.attack.steps, round(self.begin * self.attack.steps))
        pieces = [first, *[self.every] * -(-(self.attack.steps - first) // self.every)]
        for piece in pieces:
            for number, search in enumerate(searches):
                search.advance(piece, progress if number == 0 else None)
            self.agree(anchors, searches)
        best = reduce(better, [search.conclude(started) for search in searches])
        note = f"{best.outcome.note + '; ' if best.outcome.note else ''}the best of {self.seeds} starts"
        steps = sum(search.done for search in searches)
        outcome = replace(best.outcome, steps=steps, seconds=time.perf_counter() - started, note=note)
        return replace(best, outcome=outcome)

    def agree(self, anchors: Sequence[Anchor], searches: Sequence[Search]) -> None:
        """Give each search's anchor the mean of all that are finite, in the search's own order of examples."""
        alive = [number for number, search in enumerate(searches) if search.finite]
        if len(alive) < 2:
            return
        found = [searches[number].found() for number in alive]
        orders, center = consensus(found, self.shift)
        for number, order in zip(alive, orders, strict=True):
            anchors[number].center = torch.empty_like(center).index_copy_(0, order, center)


def consensus(found: Sequence[Candidate], shift: int) -> tuple[list[Tensor], Tensor]:
    """What several candidates agree on.

    Args:
        found: the same examples in any order, inputs `(N, ...)`.
        shift: the largest registration in pixels, for inputs `(N, C, H, W)`.

    Returns:
        For each candidate the index `(N,)` of its example in each place of the first candidate, and the mean of the
        matched and registered inputs `(N, ...)` in the first's order.

    >>> one = Candidate(torch.tensor([[0.0], [1.0]]), torch.tensor([2, 2]))
    >>> two = Candidate(torch.tensor([[1.0], [0.0]]), torch.tensor([2, 2]))
    >>> orders, mean = consensus([one, two], shift=0)
    >>> orders[1].tolist(), mean.flatten().tolist()
    ([1, 0], [0.0, 1.0])
    """
    orders = [assign(found[0], candidate) for candidate in found]
    matched = torch.stack([c.inputs.detach()[order] for c, order in zip(found, orders, strict=True)])
    mean = matched.mean(0)
    if shift > 0 and mean.ndim == 4:
        mean = torch.stack([registered(inputs, mean, shift) for inputs in matched]).mean(0)
    return orders, mean


def registered(pictures: Tensor, reference: Tensor, shift: int) -> Tensor:
    """Pictures `(N, C, H, W)` moved by up to `shift` whole pixels to where they correlate most with the reference.

    Phase correlation (Kuglin and Hines, 1975). A picture stays where a move does not bring it closer; what leaves one
    edge enters at the other.

    >>> picture = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> torch.equal(registered(picture.roll((1, -2), (2, 3)), picture, 4), picture)
    True
    """
    cross = torch.fft.rfft2(reference) * torch.fft.rfft2(pictures).conj()
    phase = cross / cross.abs().clamp_min(torch.finfo(pictures.dtype).tiny)
    height, width = pictures.shape[-2:]
    peaks = torch.fft.irfft2(phase.sum(1), s=(height, width))
    reach = [torch.minimum(torch.arange(n), n - torch.arange(n)) for n in (height, width)]
    near = (reach[0][:, None] <= shift) & (reach[1][None, :] <= shift)
    best = peaks.masked_fill(~near.to(peaks.device), -torch.inf).flatten(1).argmax(1).tolist()
    moved = torch.stack(
        [picture.roll((at // width, at % width), (1, 2)) for picture, at in zip(pictures, best, strict=True)]
    )
    closer = (moved - reference).square().flatten(1).sum(1) < (pictures - reference).square().flatten(1).sum(1)
    return torch.where(closer.view(-1, 1, 1, 1), moved, pictures)
