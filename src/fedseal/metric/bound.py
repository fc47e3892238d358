"""How often any attack whatever can name the private example, given the noise: bounds, and cells that hold a measured
success beside them.

All are about one game. Somebody draws a target from a prior; the client sends updates of it among other examples; the
adversary knows the prior, the other examples, every weight and the noise's strength, and must name the target. With
`kappa` the success of the best guess made without an update, and nu and mu what is sent without and with the target,
success is at most the largest mu(E) over events E with nu(E) <= kappa. Clipping to C bounds how far the target moves
what is sent, by C from nu, even where two candidates lie 2C apart: so the epsilon, rho and noise multiplier meant here
are those of adding or removing one example, as accountants of DP-SGD give them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedseal.errors import BadConfig
from fedseal.intervals import TAIL, at_least, at_most, exact

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHUNK = 2_000_000  # normal numbers drawn at once


@dataclass(frozen=True)
class Estimate:
    """A bound, and the interval that holds it with 95 % confidence: of no width where it is in closed form."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class BoundPoint:
    """How often a prior-aware attacker was right in one setting, beside the most that any could be.

    Args:
        noise: standard deviation of the summed gradients' noise, in units of the clip norm.
        kappa: success of a blind guess: one in the number of equally likely candidates.
        bound: the most that any attack can reach.
        game: how the candidates were chosen, in words.

    Raises:
        BadConfig: no trial, or more hits than trials.

    >>> cell = BoundPoint("labels", 1.0, 1, 1.0, 0.1, 350, 1000, Estimate(0.389, 0.389, 0.389))
    >>> cell.within, round(cell.share, 2), [round(end, 3) for end in cell.interval]
    (True, 0.9, [0.32, 0.38])
    """

    game: str
    noise: float
    steps: int
    sample_rate: float
    kappa: float
    hits: int
    trials: int
    bound: Estimate

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.trials or self.trials < 1:
            raise BadConfig(f"{self.hits} hits in {self.trials} trials", "count at least one trial, and its hits")

    @property
    def success(self) -> float:
        """Share of the trials in which the target was named."""
        return self.hits / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """The success's exact 95 % interval (Clopper and Pearson, 1934)."""
        return exact(self.hits, self.trials)

    @property
    def within(self) -> bool:
        """Whether the measurement agrees with the bound: the intervals of both touch, or the success lies below."""
        return self.interval[0] <= self.bound.high

    @property
    def share(self) -> float:
        """The success as a share of the bound."""
        return self.success / self.bound.value


def pure(kappa: float, epsilon: float) -> float:
    """Bound under pure differential privacy: kappa e^epsilon.

    Balle, Cherubin and Hayes, "Reconstructing training data with informed adversaries", IEEE S&P 2022,
    arXiv:2201.04845.

    Raises:
        BadConfig: kappa not between 0 and 1, or an epsilon that is not positive.

    >>> round(pure(0.1, 1.0), 4), pure(0.1, 5.0)
    (0.2718, 1.0)
    """
    return approximate(kappa, epsilon, 0.0)


def approximate(kappa: float, epsilon: float, delta: float) -> float:
    """Bound under (epsilon, delta): kappa e^epsilon + delta, since no event is likelier than that with the target.

    Raises:
        BadConfig: kappa not between 0 and 1, an epsilon that is not positive, or a delta not in [0, 1).
    """
    _share(kappa)
    _positive("epsilon", epsilon)
    if not 0 <= delta < 1:
        raise BadConfig(f"delta is {delta}", "give a number from 0 to below 1")
    return min(1.0, math.exp(min(math.log(kappa) + epsilon, 0.0)) + delta)


def renyi(kappa: float, alpha: float, epsilon: float) -> float:
    """Bound under Renyi differential privacy of order alpha: (kappa e^epsilon)^((alpha - 1) / alpha).

    Balle, Cherubin and Hayes, IEEE S&P 2022, arXiv:2201.04845.

    Raises:
        BadConfig: kappa not between 0 and 1, alpha not above 1, or an epsilon that is not positive.
    """
    _share(kappa)
    _positive("epsilon", epsilon)
    if not 1 < alpha < math.inf:
        raise BadConfig(f"the Renyi order is {alpha}", "give a finite number above 1")
    return math.exp(min(0.0, (math.log(kappa) + epsilon) * (alpha - 1) / alpha))


def concentrated(kappa: float, rho: float) -> float:
    """Bound under zero-concentrated privacy, `renyi` with epsilon = rho alpha at its best order:
    exp(-(sqrt(ln 1/kappa) - sqrt(rho))^2); Gaussian noise over T steps has rho = T / (2 noise^2).

    Balle, Cherubin and Hayes, IEEE S&P 2022, arXiv:2201.04845.

    Raises:
        BadConfig: kappa not between 0 and 1, or a rho that is not positive.

    >>> round(concentrated(0.1, 0.5), 3)  # of the noise for which `gaussian_bound` says 0.389
    0.519
    """
    _share(kappa)
    _positive("rho", rho)
    gap = math.sqrt(-math.log(kappa)) - math.sqrt(rho)
    return math.exp(-(gap**2)) if gap > 0 else 1.0


def gaussian_bound(kappa: float, noise: float, steps: int = 1) -> float:
    """Bound for Gaussian noise where the target is in every step's batch: Phi(Phi^-1(kappa) + sqrt(steps) / noise).

    Hayes, Mahloujifar and Balle, "Bounding training data reconstruction in DP-SGD", NeurIPS 2023, arXiv:2302.07225.

    Args:
        kappa: success of a blind guess.
        noise: the noise multiplier: standard deviation of the sum's noise over the clip norm.

    Raises:
        BadConfig: kappa not between 0 and 1, noise that is not positive, or no step.

    >>> [round(gaussian_bound(0.1, noise), 3) for noise in (1, 2, 4)]
    [0.389, 0.217, 0.151]
    """
    _checked(kappa, noise, 1.0, steps)
    from scipy.special import ndtr, ndtri  # imported late: it takes longer than all of fedseal's own modules

    return float(ndtr(ndtri(kappa) + math.sqrt(steps) / noise))


def subsampled(
    kappa: float,
    noise: float,
    sample_rate: float,
    steps: int,
    *,
    generator: torch.Generator,
    draws: int = 200_000,
) -> Estimate:
    """Bound for DP-SGD whose batches hold each example with probability `sample_rate`, independently in every step.

    In closed form for one step, and for a rate of 1; else by `monte_carlo`.

    Raises:
        BadConfig: kappa not between 0 and 1, noise that is not positive, a rate not in (0, 1], no step, few draws.

    >>> import torch
    >>> one = subsampled(0.1, 1.0, 0.1, 1, generator=torch.Generator())
    >>> round(one.value, 4), one.low == one.high
    (0.1289, True)
    """
    _checked(kappa, noise, sample_rate, steps)
    if steps > 1 and sample_rate < 1:
        return monte_carlo(kappa, noise, sample_rate, steps, generator=generator, draws=draws)
    # whatever the rate, the likelihood ratio of a single step grows along the target's gradient: the same half-space
    value = (1 - sample_rate) * kappa + sample_rate * gaussian_bound(kappa, noise, steps)
    return Estimate(value, value, value)


def monte_carlo(
    kappa: float,
    noise: float,
    sample_rate: float,
    steps: int,
    *,
    generator: torch.Generator,
    draws: int = 200_000,
) -> Estimate:
    """The same by Neyman and Pearson's lemma and chance: the event of a target present is a large likelihood ratio.

    The threshold is the ratio's quantile at 1 - kappa among updates without the target, the bound the share of updates
    with the target beyond it. The interval takes the threshold at ranks that a binomial law puts beyond kappa on either
    side, and there the share's exact interval: both err with 2.5 % each way in all.

    Hayes, Mahloujifar and Balle, NeurIPS 2023, arXiv:2302.07225.

    Raises:
        BadConfig: as `subsampled`.
    """
    _checked(kappa, noise, sample_rate, steps)
    if draws * min(kappa, 1 - kappa) < 20:
        raise BadConfig(
            f"{draws} draws hold fewer than 20 on one side of a quantile at {kappa}", f"draw {20 / kappa:.0f} or more"
        )
    from scipy.stats import binom

    without = _log_ratios(draws, noise, sample_rate, steps, False, generator).sort(descending=True).values
    present = _log_ratios(draws, noise, sample_rate, steps, True, generator)
    tail = TAIL / 2

    def beyond(rank: int) -> int:
        return int((present >= without[max(rank, 1) - 1]).sum())

    high_rank, low_rank = int(binom.isf(tail, draws, kappa)) + 1, int(binom.ppf(tail, draws, kappa))
    high = at_most(beyond(high_rank), draws, tail) if high_rank <= draws else 1.0
    low = at_least(beyond(low_rank), draws, tail) if low_rank >= 1 else 0.0
    value = beyond(round(kappa * draws)) / draws
    return Estimate(max(value, kappa), max(low, kappa), max(high, kappa))


def _log_ratios(draws: int, noise: float, rate: float, steps: int, present: bool, generator: torch.Generator) -> Tensor:
    """Log likelihood ratios of all steps, with the target to without, `(draws,)`, of updates made with it or without.

    Along the target's gradient of norm 1 a step without it is N(0, noise^2); with it, N(1, noise^2) by chance `rate`.
    """
    import torch  # imported late: all else here is arithmetic of single numbers, which reports need without it

    inside, outside = math.log(rate), math.log1p(-rate) if rate < 1 else -math.inf
    parts = []
    for first in range(0, draws, max(1, CHUNK // steps)):
        count = min(draws - first, max(1, CHUNK // steps))
        drawn = noise * torch.randn(count, steps, generator=generator, dtype=torch.float64)
        if present:
            drawn += torch.rand(count, steps, generator=generator, dtype=torch.float64) < rate
        single = (2 * drawn - 1) / (2 * noise**2) + inside
        parts.append(torch.logaddexp(single, torch.tensor(outside, dtype=torch.float64)).sum(1))
    return torch.cat(parts)


def simplex(candidates: int, noise: float, steps: int = 1) -> float:
    """What the best attacker reaches against equally likely candidates whose gradients form a regular simplex.

    Such gradients lie as far apart as the clip norm lets them; no others of this number are known to give more away
    (the weak simplex conjecture of coding theory), and `gaussian_bound` with kappa = 1 / candidates lies above, for two
    candidates exactly on it. A picture whose class alone is secret has them where the model holds all classes for
    equally likely.

    Raises:
        BadConfig: fewer than 2 candidates, noise that is not positive, or no step.

    >>> [round(simplex(10, noise) / gaussian_bound(0.1, noise), 2) for noise in (0.5, 1, 2, 4)]
    [0.92, 0.92, 0.95, 0.97]
    """
    if candidates < 2:
        raise BadConfig(f"{candidates} candidates leave nothing to guess", "give at least 2")
    _checked(1 / candidates, noise, 1.0, steps)
    from scipy.integrate import quad
    from scipy.special import log_ndtr

    # adding a common direction makes them orthogonal, and tells nothing
    apart = math.sqrt(steps * candidates / (candidates - 1)) / noise

    def density(x: float) -> float:
        """Of the target's own statistic lying at x, and all others below."""
        return math.exp((candidates - 1) * float(log_ndtr(x)) - (x - apart) ** 2 / 2) / math.sqrt(2 * math.pi)

    return float(quad(density, apart - 12, apart + 12, limit=400, epsabs=1e-12)[0])


def bound_curve(kappa: float, noises: tuple[float, ...], steps: int = 1) -> tuple[tuple[float, float], ...]:
    """The points (noise, `gaussian_bound` bound) of a line to draw beside measured cells."""
    return tuple((noise, gaussian_bound(kappa, noise, steps)) for noise in noises)


def _checked(kappa: float, noise: float, sample_rate: float, steps: int) -> None:
    _share(kappa)
    _positive("the noise multiplier", noise)
    if not 0 < sample_rate <= 1:
        raise BadConfig(f"the sampling rate is {sample_rate}", "give a number above 0 and at most 1")
    if steps < 1 or steps != int(steps):
        raise BadConfig(f"{steps} steps send no update", "give a whole number of at least 1")


def _share(kappa: float) -> None:
    if not 0 < kappa < 1:
        raise BadConfig(f"a blind guess that succeeds with probability {kappa}", "give kappa above 0 and below 1")


def _positive(what: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise BadConfig(f"{what} is {value}", "give a positive finite number")
