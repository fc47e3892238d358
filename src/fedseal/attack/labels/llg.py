"""LLG: labels one by one, each taking its estimated share out of the row sums of the head's gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedseal.attack.labels.base import Labels, from_counts
from fedseal.attack.labels.dummies import normal_dummies, passed
from fedseal.attack.labels.head import needs_hard, read_head
from fedseal.types import Observation


@dataclass(frozen=True)
class LLG:
    """Label Leakage from Gradients (Wainakh et al., PoPETs 2022, arXiv:2105.09369).

    Every class with a negative row sum has a label; then, until there are K, the class with the least sum gets one and
    loses its share of it. A label's share is m = (1 + 1/classes) / K times the sum of the negative row sums.

    Args:
        dummies: of how many random inputs to estimate what a class without labels would show (LLG*, needs the
            weights); 0 for plain LLG.
    """

    dummies: int = 0
    name: str = "llg"

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer; draws only where `dummies` is positive.

        Raises:
            UnknownToAdversary: the number of examples is withheld, or the weights are and `dummies` is positive.
        """
        state = observation.require_state(self.name) if self.dummies else None
        head = read_head(observation, self.name)
        needs_hard(head, self.name)
        sums = head.row_sums.clone()
        share = (1 + 1 / head.classes) / head.count * float(sums.clamp_max(0).sum())
        if state is not None:
            seen = passed(observation.model, state, head.layer, normal_dummies(observation, self.dummies, generator))
            sums = sums - (seen.softmax * seen.features.sum(1, keepdim=True)).mean(0)
        counts = torch.zeros(head.classes, dtype=torch.long, device=sums.device)
        for place in head.row_sums.argsort()[: head.count].tolist():
            if head.row_sums[place] < 0:
                counts[place] += 1
                sums[place] -= share
        while int(counts.sum()) < head.count:
            place = int(sums.argmin())
            counts[place] += 1
            sums[place] -= share
        return from_counts(counts)
