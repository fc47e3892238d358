"""GradInversion's rule: the classes whose rows of the head's gradient have the most negative entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedseal.attack.labels.base import Labels, from_counts
from fedseal.attack.labels.head import needs_hard, read_head
from fedseal.errors import UnfitBatch
from fedseal.types import Observation


@dataclass(frozen=True)
class GradInversionRule:
    """The K classes with the least min_m dL/dV_nm (Yin et al., CVPR 2021, arXiv:2104.07586).

    It gives no class twice, so a batch with repeated labels is read wrong. It assumes features that are not negative.
    """

    name: str = "gradinversion"

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer; draws nothing and needs no weights.

        Raises:
            UnfitBatch: more examples than classes.
            UnknownToAdversary: the number of examples is withheld.
        """
        head = read_head(observation, self.name)
        needs_hard(head, self.name)
        if head.count > head.classes:
            raise UnfitBatch(
                f"gradinversion gives each class at most one label, and {head.count} examples have {head.classes} "
                "classes",
                "use a method that counts, such as moments",
            )
        counts = torch.zeros(head.classes, dtype=torch.long, device=head.gradient.device)
        counts[head.gradient.amin(1).argsort()[: head.count]] = 1
        return from_counts(counts, note="every class is given once at most")
