"""Which reconstruction belongs to which true example."""

from __future__ import annotations

import torch
from torch import Tensor


def match(truths: Tensor, guesses: Tensor) -> tuple[int | None, ...]:
    """Pair truths and guesses one to one so that the sum of their mean squared errors is least (Kuhn, 1955).

    A gradient does not say in which order its examples came, so neither does a reconstruction.

    Args:
        truths: `(N, ...)`.
        guesses: `(M, ...)` of the same example shape; M may differ from N, and may be 0.

    Returns:
        For each truth the index of its guess; None for those left over where M < N.

    >>> match(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.9], [0.1]]))
    (1, None, 0)
    """
    from scipy.optimize import linear_sum_assignment  # imported late: it takes longer than all of fedseal's own modules

    matched: list[int | None] = [None] * len(truths)
    if len(guesses) > 0:
        flat = guesses.double().flatten(1)
        costs = torch.stack([(flat - truth).square().mean(1) for truth in truths.double().flatten(1)])
        rows, columns = linear_sum_assignment(costs.numpy())
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            matched[row] = column
    return tuple(matched)
