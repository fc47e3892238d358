"""The 95 % confidence intervals of shares, medians and means.

For shares the tests hold them against `scipy.stats.binomtest(...).proportion_ci(...)`, which is not called here for two
reasons: `fedseal report` and `fedseal compare` need these intervals, and importing scipy.stats takes them longer than
all else they do (0.3 s of CPU time on top of scipy.special's 0.1 s); and it takes whole numbers of hits only, where a
row of a table can be right in part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean, stdev

Interval = tuple[float, float]
CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile
ENOUGH = 6  # values from which order statistics give the median an interval of 95 %


def wilson(hits: int, trials: int) -> Interval:
    """Of a share, such that it holds the truth in 95 of 100 cases on average (Wilson, JASA 1927).

    Args:
        trials: at least 1.

    >>> low, high = wilson(0, 10)
    >>> low, round(high, 4)
    (0.0, 0.2775)
    """
    share, spread = hits / trials, Z95**2 / trials
    center = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # At the ends the bound is the end itself, which rounding misses.
    low = 0.0 if hits == 0 else max(0.0, center - half)
    high = 1.0 if hits == trials else min(1.0, center + half)
    return low, high


def exact(hits: float, trials: int) -> Interval:
    """Of a share, such that it holds the truth in at least 95 of 100 cases (Clopper and Pearson, Biometrika 1934).

    Args:
        hits: may be a sum of parts of ones; then it is too wide, if anything.

    >>> low, high = exact(8, 8)
    >>> round(low, 3), high
    (0.631, 1.0)
    """
    return at_least(hits, trials), at_most(hits, trials)


def at_least(hits: float, trials: int, tail: float = TAIL) -> float:
    """The lower end of the exact interval, which errs with probability `tail` at most."""
    from scipy.special import betaincinv  # imported late: it takes longer than all of fedseal's own modules

    return float(betaincinv(hits, trials - hits + 1, tail)) if hits > 0 else 0.0


def at_most(hits: float, trials: int, tail: float = TAIL) -> float:
    """The upper end of the exact interval, which errs with probability `tail` at most."""
    from scipy.special import betaincinv

    return float(betaincinv(hits + 1, trials - hits, 1 - tail)) if hits < trials else 1.0


def of_median(values: Iterable[float]) -> Interval | None:
    """By order statistics, whatever the distribution; the range below `ENOUGH` values, None without one.

    >>> of_median(range(10)), of_median([1.0, 3.0]), of_median([])
    ((1, 8), (1.0, 3.0), None)
    """
    known = sorted(values)
    if not known:
        return None
    cut = _tosses(len(known)) if len(known) >= ENOUGH else 0
    return known[max(cut - 1, 0)], known[min(len(known) - cut, len(known) - 1)]


def of_mean(values: Iterable[float]) -> Interval | None:
    """By Student's t; None for fewer than two values.

    >>> low, high = of_mean([1.0, 2.0, 3.0])
    >>> round(low, 2), round(high, 2)
    (-0.48, 4.48)
    """
    from scipy.special import stdtrit

    known = list(values)
    if len(known) < 2:
        return None
    half = float(stdtrit(len(known) - 1, 1 - TAIL)) * stdev(known) / math.sqrt(len(known))
    return fmean(known) - half, fmean(known) + half


def _tosses(tosses: int) -> int:
    """The least number of heads that as few or fewer fair tosses give with 2.5 % or more."""
    from scipy.special import bdtr

    return next(heads for heads in range(tosses + 1) if bdtr(heads, tosses, 0.5) >= TAIL)
