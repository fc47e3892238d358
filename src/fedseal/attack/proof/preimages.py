"""Whether other data come out of a model's trunk as these do: then no update tells them apart.

The trunk is what the model computes before any weight that was sent; see `evidence/trunk.py`. Its other preimages are
looked for by least squares on the trunk alone, which costs no replay. Where it is too large for that, nothing is known
of them. A search from some starts is no proof that there are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.functional import jacobian

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.preprocessing import bounds, whole_range
from fedseal.attack.evidence.replay import residual
from fedseal.attack.evidence.trunk import Trunk, trunk
from fedseal.errors import UnfitModel
from fedseal.types import Candidate, Observation, Tensors
from fedseal.vocabulary import OWN_SEED

STARTS, STEPS = 4, 30  # of least squares of each kind of start, for each example, and evaluations of each
NEAR = (0.3, 0.1, 0.03)  # of an example's size: how far from it folds that are many and small are looked for
COLUMNS, ENTRIES = 256, 1e5  # values of an example, and entries of the trunk's Jacobian, up to which it takes seconds
EQUAL = 1e-14  # relative change of the distance or of the inputs, from which on more steps change nothing
STRAIGHT = 1e-6  # share of its largest value by which a linear trunk may be off
ALONE = "what the model computes before any weight that was sent"


@dataclass(frozen=True)
class Preimages:
    """The search for other data that come out of a trunk alike."""

    observation: Observation
    trunk: Trunk
    state: Tensors
    candidate: Candidate

    @staticmethod
    def of(evidence: Evidence, candidate: Candidate) -> Preimages | str | None:
        """The search; None where the data meets weights that were sent at once, or why nothing can be said of it."""
        observation, columns = evidence.observation, candidate.inputs[0].numel()
        state = observation.rounds[0].state
        assert state is not None
        try:
            here = trunk(evidence, len(candidate.inputs))
            if here is None:
                return None
            search = Preimages(observation, here, state, candidate)
            values = len(search._at(candidate.inputs.double()))
        except (RuntimeError, UnfitModel) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return f"{ALONE} cannot be run alone ({reason}), and may give the same for other data"
        if columns > COLUMNS or columns * values > ENTRIES:
            return f"{ALONE} is too large to look for other data of which it makes the same"
        if here.waist <= columns and not search._linear():
            return (
                f"{ALONE} passes all data through no more numbers than it has itself, and other data may give the same"
            )
        return search

    def others(self, certain: tuple[bool, ...], tolerance: float) -> Iterator[Candidate]:
        """Candidates with one certain example elsewhere that explain the update as well."""
        for one, held in enumerate(certain):
            for start in self._starts(one) if held else ():
                end = self._solved(one, start)
                value = None if end is None else residual(self.observation, end)
                if end is not None and value is not None and value <= tolerance:
                    yield end

    def _at(self, inputs: Tensor) -> Tensor:
        return self.trunk(self.state, self.observation.modality.forward(inputs))

    def _linear(self) -> bool:
        """Whether the trunk is linear, but for a constant: of such a one the Jacobian tells all."""
        generator, here = torch.Generator().manual_seed(OWN_SEED), self.candidate.inputs.double()
        ways = [torch.randn(here.shape, generator=generator, dtype=torch.float64) for _ in range(2)]
        with torch.no_grad():
            one, other, both, none = (self._at(here + way) for way in (*ways, ways[0] + ways[1], 0 * ways[0]))
        return bool((both - one - other + none).abs().max() <= STRAIGHT * none.abs().max().clamp_min(1e-300))

    def _starts(self, one: int) -> Iterator[Tensor]:
        """Valid inputs of one example: drawn evenly, near the middle, about the candidate from far to near, and its
        values mirrored.
        """
        generator, here = torch.Generator().manual_seed(OWN_SEED), self.candidate.inputs[one].double()
        modality, shape = self.observation.modality, here.shape
        (low, high), (first, last) = bounds(modality), whole_range(modality)
        low = torch.where(first.isinf(), low, first).view(shape)
        high = torch.where(last.isinf(), high, last).view(shape)
        size = float(here.square().mean().sqrt()) + 1e-3

        def noise() -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        for near in NEAR:
            yield here + near * size * noise()
        for _ in range(STARTS):
            yield low + torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low)
            yield noise()
            yield here + size * noise()
            some = noise() > 0
            yield (
                torch.where(some, low + high - here, here) if bool((first + last).isfinite().all()) else here * noise()
            )
            yield torch.where(some, -here, here)

    def _solved(self, one: int, start: Tensor) -> Candidate | None:
        """The candidate with one example where least squares lead from a start; None where they lead nowhere."""
        from scipy.optimize import least_squares  # takes as long as a closed form

        inputs = self.candidate.inputs.double()
        aim, modality = self._at(inputs).detach(), self.observation.modality
        scale = float(aim.norm()) or 1.0
        low, high = (end.numpy() for end in whole_range(modality))

        def at(flat: Tensor) -> Tensor:
            moved = torch.cat([inputs[:one], flat.view_as(inputs[one : one + 1]), inputs[one + 1 :]])
            return (self._at(moved) - aim) / scale

        def off(point: NDArray[np.float64]) -> NDArray[np.float64]:
            with torch.no_grad():
                values: NDArray[np.float64] = at(torch.from_numpy(point)).numpy()
            return values

        def slope(point: NDArray[np.float64]) -> NDArray[np.float64]:
            here = torch.from_numpy(point)
            try:
                found = jacobian(at, here, vectorize=True)  # type: ignore[no-untyped-call]
            except RuntimeError:  # an operator without a batching rule
                found = jacobian(at, here)  # type: ignore[no-untyped-call]
            values: NDArray[np.float64] = found.detach().numpy()
            return values

        inside = np.clip(start.flatten().numpy(), np.nextafter(low, high), np.nextafter(high, low))
        try:
            end = least_squares(
                off, inside, slope, bounds=(low, high), ftol=EQUAL, xtol=EQUAL, gtol=EQUAL, max_nfev=STEPS
            )
        except ValueError:  # what is not finite has no direction
            return None
        moved = inputs.clone()
        moved[one] = torch.from_numpy(end.x).view_as(inputs[one])
        return replace(self.candidate, inputs=moved)
