"""What a known defense leaves of every entry of an update: which were sent, and how far off they are.

Attacks ask this and nothing else about defenses, so that an exact route weights its equations and a search its
differences by the same account. An attacker who does not know the defense, or faces none, finds every entry sent and
true to the arithmetic's precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fedseal.mechanism import Effect, ErrorForm, Mechanism
from fedseal.norm import length
from fedseal.types import Observation, Round, Tensors

Family = Literal["exact", "gaussian", "laplace", "interval", "sign"]


@dataclass(frozen=True)
class Release:
    """The public part of the defense, read beside one round's update.

    The mechanisms are taken in the client's order; what a later step does to an earlier one's zeros is minded: noise
    after pruning hides which entries were pruned.
    """

    observation: Observation
    number: int = 0

    @property
    def round(self) -> Round:
        """The round that is read."""
        return self.observation.rounds[self.number]

    @property
    def steps(self) -> tuple[Mechanism, ...]:
        """The known steps of the defense, none where it is withheld, and what the number format rounded off."""
        return (*(self.observation.defense or ()), *self.round.update.rounding)

    def of_kind(self, *kinds: str) -> tuple[Mechanism, ...]:
        """The steps of these kinds."""
        return tuple(step for step in self.steps if step.kind in kinds)

    def of_effect(self, effect: Effect) -> tuple[Mechanism, ...]:
        """The steps that do this."""
        return tuple(step for step in self.steps if step.facts.effect == effect)

    def of_error(self, *forms: ErrorForm) -> tuple[Mechanism, ...]:
        """The steps that leave an error of one of these forms."""
        return tuple(step for step in self.steps if step.facts.error in forms)

    @property
    def altered(self) -> bool:
        """Whether a known step took or moved entries of the update."""
        return any(step.facts.alters for step in self.steps)

    @cached_property
    def family(self) -> Family:
        """The form of the largest error that the defense adds to an entry that was sent."""
        forms: tuple[Family, ...] = ("sign", "gaussian", "laplace", "interval")
        left = {step.facts.error for step in self.steps}
        return next((form for form in forms if form in left), "exact")

    @property
    def only_direction(self) -> bool:
        """Whether the update was shrunk by an unknown factor."""
        norms = [step.figures["norm"] for step in self._clips()]
        if not norms:
            return False
        length = sum(
            float(t.double().square().sum() - self.spread(name).square().expand(t.shape).sum())
            for name, t in self.round.update.tensors.items()
        )
        return length >= (0.99 * min(norms)) ** 2

    def _clips(self) -> tuple[Mechanism, ...]:
        """Steps that shorten the whole update by one factor: for a single example, clipping it is clipping the mean."""
        single = self.round.update.num_examples == 1
        return tuple(step for step in self.of_effect("clip") if single or step.facts.stage == "update")

    def imitate(self, replayed: Tensors) -> dict[str, Tensor]:
        """What the known steps that draw nothing make of a replayed update, and what the observed mask lets pass."""
        made = dict(replayed)
        clips = self._clips()
        for step in self.steps:
            if step in clips:
                size = length(made.values())
                made = {
                    name: tensor * min(1.0, step.figures["norm"] / max(size, 1e-300)) for name, tensor in made.items()
                }
            elif step.facts.effect == "mask":
                masks = {name: self.sent(name) if step.touches(name) else None for name in made}
                made = {name: t if (mask := masks[name]) is None else t * mask for name, t in made.items()}
        return made

    def sent(self, name: str) -> Tensor | None:
        """Which entries of a parameter's tensor carry a value, bool like the tensor; None where all do."""
        tensor = self.round.update.tensors[name]
        steps = self.steps
        masks = [k for k, step in enumerate(steps) if step.facts.effect == "mask" and step.touches(name)]
        anew = any(steps[k].facts.stage == "steps" for k in masks)
        if anew and self.round.update.kind == "difference":  # another mask at each local step: none shows in the sum
            return torch.zeros_like(tensor, dtype=torch.bool)
        if not masks or any(step.facts.effect == "noise" for step in steps[masks[-1] :]):
            return None
        segments = [steps[k] for k in masks if steps[k].kind == "segment"]
        held = torch.ones_like(tensor, dtype=torch.bool) if len(segments) == len(masks) else tensor != 0
        place = torch.arange(tensor.numel(), device=tensor.device).view_as(tensor)
        for step in segments:
            held = held & (place >= step.figures["start"]) & (place < step.figures["stop"])
        return held

    def bound(self, name: str) -> float | None:
        """How large an entry that was not sent can have been at most; None where nothing is known.

        Pruning drops the smallest, so that none of them was larger than the smallest that was kept. That is so of each
        tensor, and of the whole update too where the threshold is one for all.
        """
        mask = self.sent(name)
        if mask is None or {step.kind for step in self.of_effect("mask")} != {"prune"} or not mask.any():
            return None
        return float(self.round.update.tensors[name][mask].abs().min())

    def spread(self, name: str) -> Tensor:
        """Standard deviation of the error that the defense added to entries that were sent, float64.

        A scalar, or like the tensor where it depends on the entry. Rounding is taken as uniform over its interval.
        """
        tensor = self.round.update.tensors[name].double()
        square = tensor.new_zeros(())
        for step in self.steps:
            if not step.touches(name):
                continue
            if step.kind == "gaussian":
                square = square + step.figures["sigma"] ** 2
            elif step.kind == "gaussian_sum":  # the least number where it is withheld
                square = square + (step.figures["sigma"] / (self.round.update.num_examples or 1)) ** 2
            elif step.kind == "laplace":
                square = square + 2 * step.figures["scale"] ** 2
            elif step.kind == "float":
                square = square + self.half_width(name).square() / 3
            elif step.kind == "levels":  # up or down at random, by how far off: a sixth of the step squared, on average
                square = square + self.half_width(name).square() / 6
            elif step.kind == "sign":
                square = square + tensor.square()
        return square.sqrt()

    def half_width(self, name: str) -> Tensor:
        """How far rounding moved an entry at most, float64: a scalar, or like the tensor; 0 without rounding."""
        tensor = self.round.update.tensors[name].double()
        width = tensor.new_zeros(())
        for step in self.steps:
            if step.kind == "float" and step.touches(name):
                width = width + step.figures["eps"] * tensor.abs() + step.figures["tiny"]
            elif step.kind == "levels" and step.touches(name):  # at random, up or down: a whole step off at most
                width = width + tensor.abs().max() / step.figures["levels"]
        return width
