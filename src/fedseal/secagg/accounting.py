"""What the noise of a round is worth: concentrated differential privacy of the opened sum.

Kairouz, Liu, Steinke, The distributed discrete Gaussian mechanism for federated learning with secure aggregation,
ICML 2021, arXiv:2102.06387, theorem 1: a sum of discrete Gaussians is nearly one. The unit is a client: its whole
contribution is replaced by zero. There is no amplification by sampling here; over rounds, rho adds up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedseal.errors import BadConfig
from fedseal.secagg.terms import Terms


def sum_sensitivity(terms: Terms) -> float:
    """Largest Euclidean norm of what a client puts into the sum, in elements: clipped, rounded, with its metrics."""
    if terms.clip is None:
        raise BadConfig("updates without a clip have no bound", "set clip")
    scale, metrics = terms.codec.scale, len(terms.metrics)
    update = terms.clip * scale + 0.5 * math.sqrt(terms.size)
    return math.hypot(update, math.sqrt(metrics) * (terms.bound * scale + 0.5))


@dataclass(frozen=True)
class SumRelease:
    """What an opened sum lets out of one client, as far as an account of privacy asks.

    Args:
        sensitivity: largest Euclidean norm of a client's contribution, in elements; 0 where nothing bounds it.
        deviation: standard deviation of one client's noise on an entry, in elements; 0 for none.
        minimum: the fewest clients whose noise is in the sum.
        entries: of the sum that carry noise.
    """

    sensitivity: float
    deviation: float
    minimum: int
    entries: int

    @classmethod
    def of(cls, terms: Terms) -> SumRelease:
        """That of a round."""
        entries = terms.size + len(terms.metrics)
        if terms.noise is None:
            return cls(0.0, 0.0, terms.minimum, entries)
        return cls(sum_sensitivity(terms), terms.deviation, terms.minimum, entries)

    def rho(self, honest: int) -> float:
        """Concentrated differential privacy: the sum satisfies rho-zCDP; infinite without noise.

        Args:
            honest: clients in the cohort that add their noise.
        """
        if not self.deviation or honest < 1:
            return math.inf
        return concentrated_sum(self.sensitivity, self.deviation, honest, self.entries)


def rho(terms: Terms, honest: int) -> float:
    """Concentrated differential privacy of one round: it satisfies rho-zCDP.

    Args:
        honest: clients in the cohort that add their noise, which a colluding client need not.

    Raises:
        BadConfig: no noise in the terms.
    """
    if terms.noise is None or honest < 1:
        raise BadConfig("a sum without noise has no such bound", "set noise, and count the honest clients")
    return SumRelease.of(terms).rho(honest)


def concentrated_sum(sensitivity: float, deviation: float, count: int, size: int) -> float:
    """Rho of a vector of so many entries under the sum of so many discrete Gaussians of this deviation an entry."""
    ratio = sensitivity / (math.sqrt(count) * deviation)
    far = 10 * sum(math.exp(-2 * (math.pi * deviation) ** 2 * k / (k + 1)) for k in range(1, count))
    return 0.5 * min(ratio**2 + 0.5 * far * size, (ratio + far * math.sqrt(size)) ** 2)


def sum_epsilon(rho: float, delta: float) -> float:
    """The epsilon at which rho-zCDP gives (epsilon, delta)-differential privacy.

    Canonne, Kamath, Steinke, NeurIPS 2020, arXiv:2004.00010, proposition 12.

    >>> sum_epsilon(0.5, 1e-5) < 0.5 + 2 * math.sqrt(0.5 * math.log(1e5))
    True
    """
    if not (rho > 0 and 0 < delta < 1):
        raise BadConfig(f"rho {rho:g} and delta {delta:g}", "give rho above zero and delta between 0 and 1")

    def at(order: float) -> float:
        tail = math.log(1 / delta) + (order - 1) * math.log1p(-1 / order) - math.log(order)
        return rho * order + tail / (order - 1)

    low, high = 1e-6, 40.0  # logarithm of the order minus one; the curve has one minimum
    low = math.log(low)
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if at(1 + math.exp(left)) < at(1 + math.exp(right)) else (left, high)
    return max(0.0, at(1 + math.exp(low)))
