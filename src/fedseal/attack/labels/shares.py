"""Counts by the head's largest direction alone: the last resort, where no other method reads the update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedseal.attack.labels.base import Labels, from_counts, to_counts
from fedseal.attack.labels.head import Head, read_head
from fedseal.types import Observation

TINY = 1e-6  # weight of a class, relative to their mean, below which its share is taken as that of such a weight


@dataclass(frozen=True)
class LabelShares:
    """Each class's share of what is negative in the head's gradient by the logits, as far as one direction shows it.

    That is the bias's gradient, else the left factor of the weight's largest outer product, towards the side that has
    fewer classes. It needs no weights, no random inputs and no hard labels, and is a guess. Ours.
    """

    name: str = "shares"

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer; draws nothing.

        Raises:
            FedsealError: no head, another loss, or no batch size.
        """
        head = read_head(observation, self.name)
        below = (-_by_logits(head)).clamp_min(0) / head.criterion.weights.to(head.gradient).clamp_min(TINY)
        if not bool(below.sum() > 0):
            below = torch.ones_like(below)
        note = "a guess: no method that counts labels reads this update"
        return from_counts(to_counts(head.count * below / below.sum(), head.count), note=note)


def _by_logits(head: Head) -> Tensor:
    """The gradient by the logits `(classes,)`, up to a positive factor."""
    if head.bias_gradient is not None:
        return head.bias_gradient
    column: Tensor = torch.linalg.svd(head.gradient, full_matrices=False)[0][:, 0]
    return column if int((column < 0).sum()) <= int((column > 0).sum()) else -column
