"""What a label method is, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedseal.types import Observation


@dataclass(frozen=True)
class Labels:
    """The labels of one batch, as read off an update; their order within the batch leaves no trace and is sorted.

    Args:
        labels: class indices `(N,)`, sorted.
        counts: how many examples each class has, `(classes,)`, integers that sum to N.
        residual: of a counting method, how far the unrounded counts are from the bias equation that every true count
            obeys, ||K db - (sum p - c)|| / ||K db||; None where the method has no such equation.
        certified: whether the evidence leaves no other multiset of labels, if the loss counts every example: one whose
            label it ignores (`ignore_index`) leaves no trace but in the number of examples that the client names.
        confidence: an estimated share of labels that are right, None where the method gives none.
        note: a sentence on what limits the result.
        soft: label distributions `(N, classes)` where labels are smoothed or mixed.

    >>> found = from_counts(torch.tensor([2, 0, 1]))
    >>> found.labels.tolist(), found.certified
    ([0, 0, 2], False)
    """

    labels: Tensor
    counts: Tensor
    residual: float | None = None
    certified: bool = False
    confidence: float | None = None
    note: str = ""
    soft: Tensor | None = None


class LabelMethod(Protocol):
    """A frozen value that reads labels off an observation; it never sees the truth."""

    @property
    def name(self) -> str:
        """The name as tables and records give it."""

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer. Raises a `FedsealError` before work starts if the observation lacks what the method needs."""


def from_counts(
    counts: Tensor,
    *,
    residual: float | None = None,
    certified: bool = False,
    confidence: float | None = None,
    note: str = "",
    soft: Tensor | None = None,
) -> Labels:
    """Labels with these counts `(classes,)`, sorted."""
    counts = counts.long()
    labels = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    return Labels(labels, counts, residual, certified, confidence, note, soft)


def to_counts(estimate: Tensor, total: int) -> Tensor:
    """Integers `(classes,)` that are not negative, sum to `total` and lie near an estimate: largest remainder.

    Fractions are cut off and what is missing goes to the largest ones; a surplus is taken where rounding down costs
    least, from classes that have something to give.

    >>> to_counts(torch.tensor([1.6, -0.4, 2.3]), 4).tolist()
    [2, 0, 2]
    >>> to_counts(torch.tensor([1.6, 0.9, 2.3]), 2).tolist()
    [1, 0, 1]
    """
    estimate = estimate.double().nan_to_num(0.0, float(total), 0.0).clamp(0, total)
    counts = estimate.floor().long()
    while int(counts.sum()) != total:
        wanting = total - int(counts.sum())
        gap = estimate - counts
        if wanting > 0:
            counts[gap.topk(min(wanting, len(gap))).indices] += 1
        else:
            gap[counts == 0] = torch.inf
            few = min(-wanting, int((counts > 0).sum()))
            counts[gap.topk(few, largest=False).indices] -= 1
    return counts
