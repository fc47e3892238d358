"""Learning rates over the steps of an optimization: a function of the share of steps done gives the factor."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def constant(done: float) -> float:
    """Always 1."""
    return 1.0


def step_decay(done: float) -> float:
    """A tenth after 3/8, 5/8 and 7/8 of the steps (Geiping et al., NeurIPS 2020, arXiv:2003.14053).

    >>> [round(step_decay(d), 4) for d in (0.0, 0.4, 0.7, 0.9)]
    [1.0, 0.1, 0.01, 0.001]
    """
    return float(0.1 ** sum(done >= edge for edge in (3 / 8, 5 / 8, 7 / 8)))


def cosine_decay(done: float) -> float:
    """Half a cosine wave from 1 down to 0.

    >>> cosine_decay(0.0), round(cosine_decay(0.5), 6), cosine_decay(1.0)
    (1.0, 0.5, 0.0)
    """
    return 0.5 * (1 + math.cos(math.pi * done))
