"""Learning rates over the steps of an optimization: a function of the share of steps done gives the factor."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]
WARM = 0.025  # share of the steps in which the rate rises


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


def warm_cosine(done: float) -> float:
    """A linear rise over the first 2.5 %, then half a cosine wave from 1 to 0 (Yin et al., CVPR 2021,
    arXiv:2104.07586: 50 of 2000 steps).

    >>> round(warm_cosine(0.0125), 3), warm_cosine(0.025), round(warm_cosine(1.0), 6)
    (0.5, 1.0, 0.0)
    """
    if done < WARM:
        return max(done, 1e-3) / WARM
    return cosine_decay((done - WARM) / (1 - WARM))
