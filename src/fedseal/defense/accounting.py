"""What noise promises: (epsilon, delta) of the sampled Gaussian mechanism after so many releases, and the inverse.

Neighbors are data sets that differ by one person's presence. A person takes part in a release with probability
`sample_rate`, independently of all others (Poisson sampling) and in secret. A client that trains on all it has, or
whose sampling is seen, has the rate 1.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from fedseal.errors import BadConfig, MissingExtra

TIGHT_BELOW = 20.0  # epsilon from which the exact distribution can take minutes, and nothing is promised anyway
MOST = 1e8  # noise multiplier
FINENESS = 1e-3  # of the noise multiplier found for an epsilon


@dataclass(frozen=True)
class Privacy:
    """What holds after so many releases, against everybody, whatever else they know.

    Args:
        epsilon, delta: for any set of outcomes, P(outcome | with the unit) <= e^epsilon P(outcome | without) + delta.
        unit: what is added or removed: one "example", or one "client" whose whole data is replaced by any other.
        noise_multiplier: standard deviation of the noise over what one unit can contribute.
        sample_rate: with which a unit takes part in a release.
        steps: releases.
    """

    epsilon: float
    delta: float
    unit: Literal["example", "client"]
    noise_multiplier: float
    sample_rate: float
    steps: int


@dataclass(frozen=True)
class Guarantee:
    """The sampled Gaussian mechanism that a defense runs in every round.

    Args:
        noise_multiplier: standard deviation of the noise over what one unit can contribute.
        sample_rate: above 0, up to 1.
        delta: above 0 and below 1; well below one over the number of people, or it allows giving one of them away.
        unit: as `Privacy.unit`.

    Raises:
        BadConfig: a figure out of range.
    """

    noise_multiplier: float
    sample_rate: float = 1.0
    delta: float = 1e-5
    unit: Literal["example", "client"] = "example"

    def __post_init__(self) -> None:
        _check(self.noise_multiplier, self.sample_rate, 1, self.delta)

    def after(self, steps: int) -> Privacy:
        """What so many releases together keep.

        Raises:
            BadConfig: fewer than one.
            MissingExtra: dp-accounting is not installed.
        """
        value = epsilon(self.noise_multiplier, self.sample_rate, steps, self.delta)
        return Privacy(value, self.delta, self.unit, self.noise_multiplier, self.sample_rate, steps)


def epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """The epsilon that `steps` releases of the sampled Gaussian mechanism keep at this delta; never below the true one.

    Below 20 it is tight, by the privacy loss distribution (Koskela et al., AISTATS 2020, arXiv:1906.03049); above, by
    Renyi divergences (Mironov et al. 2019, arXiv:1908.10530), a tenth too large or so. Both by Google's dp-accounting.

    Raises:
        BadConfig: a figure out of range.
        MissingExtra: dp-accounting is not installed.

    >>> round(epsilon(noise_multiplier=1.0, sample_rate=1.0, steps=1, delta=1e-5), 2)
    4.38
    """
    _check(noise_multiplier, sample_rate, steps, delta)
    loose = _renyi(noise_multiplier, sample_rate, steps, delta)
    if loose > TIGHT_BELOW:
        return loose
    return min(loose, _loss_distribution(noise_multiplier, sample_rate, steps, delta, loose))


def noise_for(target: float, *, sample_rate: float, steps: int, delta: float) -> float:
    """The least noise multiplier whose epsilon is at most the target, to a thousandth and never below.

    Raises:
        BadConfig: a figure out of range, such as an epsilon of 0, which no finite noise keeps.
        MissingExtra: dp-accounting is not installed.

    >>> noise = noise_for(4.4, sample_rate=1.0, steps=1, delta=1e-5)
    >>> epsilon(noise, 1.0, 1, 1e-5) <= 4.4 < epsilon(0.99 * noise, 1.0, 1, 1e-5)
    True
    """
    if not 0 < target < math.inf:
        raise BadConfig(f"a target epsilon of {target}", "give a positive number: an epsilon of 0 lets nothing through")
    _check(1.0, sample_rate, steps, delta)
    loose = _root(lambda noise: _renyi(noise, sample_rate, steps, delta), target, 1e-2, 1e2)
    if target > TIGHT_BELOW:
        return loose
    return _root(lambda noise: epsilon(noise, sample_rate, steps, delta), target, 0.8 * loose, loose)


def _root(epsilon_of: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The least noise, rounded up to four digits, of at most this epsilon; near two guesses."""

    def excess(noise: float) -> float:
        return math.log(max(epsilon_of(noise), 1e-300) / target)

    while excess(high) > 0:
        low, high = high, 4 * high
        if high > MOST:
            raise BadConfig(f"no noise multiplier up to {MOST:g} keeps that epsilon", "allow more, or take fewer steps")
    while excess(low) <= 0 and low > 1 / MOST:
        low, high = low / 4, low
    from scipy.optimize import brentq  # late: it takes longer than all of fedseal's own modules

    found = math.exp(brentq(lambda log: excess(math.exp(log)), math.log(low), math.log(high), xtol=FINENESS / 4))
    while epsilon_of(found := _upward(found)) > target:
        found *= 1 + FINENESS / 4
    return found


def _upward(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.ceil(value / unit * (1 - 1e-12)) * unit:.4g}")


def _check(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> None:
    if not 0 < noise_multiplier < math.inf:
        raise BadConfig(f"a noise multiplier of {noise_multiplier}", "give a positive number: no noise, no guarantee")
    if not 0 < sample_rate <= 1:
        raise BadConfig(
            f"a sample rate of {sample_rate}", "give a number above 0, up to 1 for a client without sampling"
        )
    if steps < 1:
        raise BadConfig(f"{steps} steps to account for", "give at least 1")
    if not 0 < delta < 1:
        raise BadConfig(f"a delta of {delta}", "give a number above 0 and below 1, such as 1e-5")


def _renyi(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    with _library() as library:
        from dp_accounting.rdp import RdpAccountant

        accountant = RdpAccountant().compose(_event(library, noise_multiplier, sample_rate, steps))
        return float(accountant.get_epsilon(delta))


def _loss_distribution(noise_multiplier: float, sample_rate: float, steps: int, delta: float, loose: float) -> float:
    # Losses are rounded up to a grid, so that a coarse one errs on the safe side; here by a thousandth at most.
    grid = 1e-3 if steps <= 1000 and loose >= 0.5 else 1e-4
    with _library() as library:
        from dp_accounting.pld import PLDAccountant

        event = _event(library, noise_multiplier, sample_rate, steps)
        return float(PLDAccountant(value_discretization_interval=grid).compose(event).get_epsilon(delta))


def _event(library: Any, noise_multiplier: float, sample_rate: float, steps: int) -> Any:
    release = library.GaussianDpEvent(noise_multiplier)
    return library.SelfComposedDpEvent(
        release if sample_rate == 1 else library.PoissonSampledDpEvent(sample_rate, release), steps
    )


@contextmanager
def _library() -> Iterator[Any]:
    """dp-accounting, which tells through absl's log of orders it leaves out; the bound holds without them."""
    try:
        import dp_accounting
    except ImportError:
        raise MissingExtra("dp-accounting is not installed", "pip install 'fedseal[dp]'") from None
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield dp_accounting
    finally:
        log.setLevel(before)
