"""What the rounds of a training spent of an owner's privacy: a sum over what was released, each with its own noise.

The noise of a sum is that of its owners together, so that an owner must trust others to add theirs. Neighbors are sums
with an owner's update and with zeros in its place; that the owner takes part is no secret.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from fedseal.defense import accounting
from fedseal.errors import MissingExtra
from fedseal.secagg import SumRelease
from fedseal.secagg.accounting import sum_epsilon

DELTA = 1e-5
FINE = 1e3  # elements: from this deviation on the integers' grid shows in no digit that is printed
MARGIN = 1e-3  # of the noise that is left out of the account, to be above that all the same


@dataclass(frozen=True)
class Spent:
    """What all these sums together keep of one owner's updates.

    Args:
        releases: of every round that an owner answered, whatever became of it.

    >>> noisy, bare = SumRelease(1e6, 2e6, 3, 10), SumRelease(0.0, 0.0, 3, 10)
    >>> Spent((noisy,)).epsilon < Spent((noisy, noisy)).epsilon < Spent((noisy, noisy)).among_owners
    True
    >>> Spent((noisy, bare)).epsilon
    inf
    """

    releases: tuple[SumRelease, ...]
    delta: float = DELTA

    @property
    def rounds(self) -> int:
        """How many there were."""
        return len(self.releases)

    @property
    def bare(self) -> int:
        """Those without noise: one is enough that nothing is guaranteed."""
        return sum(not release.deviation for release in self.releases)

    @property
    def trusted(self) -> int:
        """Owners of each sum, or of the smallest, whose noise is counted on."""
        return min((release.minimum for release in self.releases), default=0)

    @cached_property
    def epsilon(self) -> float:
        """Against who sees all sums and adds no noise to them; infinite where nothing is guaranteed."""
        return self._composed(0)

    @cached_property
    def among_owners(self) -> float:
        """Against one of those owners, who knows its own noise."""
        return self._composed(1)

    def plain(self) -> dict[str, object]:
        """For JSON, which knows no infinity: None stands for it."""
        epsilon, among_owners = (value if math.isfinite(value) else None for value in (self.epsilon, self.among_owners))
        return {
            "rounds": self.rounds,
            "bare": self.bare,
            "trusted": self.trusted,
            "delta": self.delta,
            "epsilon": epsilon,
            "among_owners": among_owners,
        }

    def _composed(self, curious: int) -> float:
        """Epsilon where the attacker knows the noise of so many of the owners who are counted on.

        It is never below the true one: where the noise is wide against the grid of the integers, that of the Gaussian
        mechanism by its privacy loss distribution; in any case that of concentrated differential privacy.
        """
        if not self.releases:
            return 0.0
        rho = sum(release.rho(release.minimum - curious) for release in self.releases)
        if not math.isfinite(rho):
            return math.inf
        bound = sum_epsilon(rho, self.delta)
        if min(release.deviation for release in self.releases) < FINE:
            return bound
        multiplier = (1 - MARGIN) / math.sqrt(2 * rho)  # Gaussian releases add up to one of this noise
        try:
            return min(bound, accounting.epsilon(multiplier, 1.0, 1, self.delta))
        except MissingExtra:  # the bound is enough, and some tenths larger
            return bound
