"""The discrete Gaussian, exactly, from secret randomness, a whole vector at a time.

Canonne, Kamath, Steinke, The discrete Gaussian for differential privacy, NeurIPS 2020, arXiv:2004.00010: rejection
from the discrete Laplace distribution, whose pieces are coins that fall with probability exp(-x). Such a coin is one
uniform number against exp(-x), compared in float64 where that is certain; the few that are too close to tell are told
apart with as many further random digits as it takes. So no rounding enters the distribution.

The time that a draw takes depends on what is drawn: this is no constant-time code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fedseal.errors import BadConfig
from fedseal.secagg.hazmat.prg import Stream, fresh_seed
from fedseal.secagg.hazmat.ring import Elements

LARGEST = float(1 << 55)  # standard deviation, so that 64 of them fit int64
SMALLEST = 1e-100  # whose square is a number in float64 still: beside less, nothing drawn would ever be kept
UNSURE = 2.0**-40  # far above what float64's exp, and the x in it, are off by


class Coins:
    """Uniform numbers and coins from a seed's stream.

    Args:
        unsure: distance of a uniform number from the probability below which float64 is not trusted.
    """

    def __init__(self, seed: bytes, unsure: float = UNSURE) -> None:
        self._stream, self._offset, self._unsure = Stream(seed), 0, unsure

    def words(self, count: int) -> NDArray[np.uint64]:
        """`(count,)` of 64 uniform bits."""
        data = self._stream.read(-(-count // 2) * 16, offset=self._offset)
        self._offset += len(data)
        return np.frombuffer(data, "<u8", count)

    def below(self, limit: int, count: int) -> NDArray[np.int64]:
        """`(count,)` uniform in 0, ..., limit - 1."""
        out, pending = np.empty(count, np.int64), np.arange(count)
        most = np.uint64(2**64 // limit * limit - 1)
        while pending.size:
            drawn = self.words(pending.size)
            good = drawn <= most
            out[pending[good]] = (drawn[good] % np.uint64(limit)).astype(np.int64)
            pending = pending[~good]
        return out

    def heads(self, x: NDArray[np.float64], exact: Callable[[int], Fraction]) -> NDArray[np.bool_]:
        """Coins that are heads with probability exp(-x).

        Args:
            x: `(n,)`, each off by 2^-45 at most.
            exact: the true x at a place.
        """
        words = self.words(x.size)
        distance = np.exp(-x) - words * 2.0**-64
        out: NDArray[np.bool_] = distance > 0
        for place in np.flatnonzero(np.abs(distance) < self._unsure):
            out[place] = self._decided(int(words[place]), exact(int(place)))
        return out

    def _decided(self, word: int, x: Fraction) -> bool:
        """Whether the uniform number that begins with these 64 bits is below exp(-x)."""
        bits = 64
        while True:
            digits = bits // 2  # more than the bits are worth in decimals
            context = Context(prec=digits, Emin=-(10**6))
            power = context.exp(-context.divide(Decimal(x.numerator), Decimal(x.denominator)))
            middle, off = Fraction(power), Fraction(10 + int(x), 10 ** (digits - 2))
            low, high = Fraction(word, 2**bits), Fraction(word + 1, 2**bits)
            if high <= middle - off:
                return True
            if low >= middle + off:
                return False
            more = self.words(2).tolist()
            word, bits = (word << 128) + (more[0] << 64) + more[1], bits + 128


class DiscreteGaussian:
    """Integers with probability proportional to exp(-k^2 / (2 deviation^2)), of magnitude `tail` at most.

    Beyond 12 deviations lies less than 1e-32 of the distribution; what is drawn there is drawn again.

    Args:
        deviation: of the distribution before it is cut off, in elements of the ring.
        tail: largest magnitude.
        coins: for tests; fresh secret randomness otherwise.

    Raises:
        BadConfig: no such deviation.
    """

    def __init__(self, deviation: float, tail: int, coins: Coins | None = None) -> None:
        if not SMALLEST <= deviation <= LARGEST or tail < deviation:
            raise BadConfig(f"a standard deviation of {deviation:g} elements", "choose a larger noise or a lower scale")
        self._variance, self._tail = Fraction(deviation) ** 2, tail
        self._step = math.floor(deviation) + 1
        self._coins = coins or Coins(fresh_seed())

    def add_to(self, elements: Elements) -> None:
        """Add independent draws to ring elements in place."""
        elements += self.draw(elements.size).astype(np.dtype(f"<i{elements.itemsize}")).view(elements.dtype)

    def draw(self, count: int) -> NDArray[np.int64]:
        """`(count,)` independent draws."""
        out, pending = np.empty(count, np.int64), np.arange(count)
        center = self._variance / self._step
        while pending.size:
            drawn = self._laplace(pending.size)
            size = np.abs(drawn)
            x = (size - float(center)) ** 2 / float(2 * self._variance)
            good = self._coins.heads(x, lambda at, size=size: (int(size[at]) - center) ** 2 / (2 * self._variance))  # type: ignore[misc]
            good &= size <= self._tail
            out[pending[good]] = drawn[good]
            pending = pending[~good]
        return out

    def _laplace(self, count: int) -> NDArray[np.int64]:
        """Probability proportional to exp(-|k| / step)."""
        out, pending = np.empty(count, np.int64), np.arange(count)
        while pending.size:
            size = self._exponential(pending.size)
            negative = (self._coins.words(-(-size.size // 64)).view(np.uint8)[:, None] >> np.arange(8)) & 1
            minus = negative.reshape(-1)[: size.size].astype(bool)
            good = ~(minus & (size == 0))  # else zero would count twice
            out[pending[good]] = np.where(minus, -size, size)[good]
            pending = pending[~good]
        return out

    def _exponential(self, count: int) -> NDArray[np.int64]:
        """Non-negative, with probability proportional to exp(-k / step)."""
        step, out, pending = self._step, np.empty(count, np.int64), np.arange(count)
        while pending.size:
            rest = self._coins.below(step, pending.size)
            good = self._coins.heads(rest / step, lambda at, rest=rest: Fraction(int(rest[at]), step))  # type: ignore[misc]
            out[pending[good]] = rest[good]
            pending = pending[~good]
        going = np.arange(count)
        while going.size:
            going = going[self._coins.heads(np.ones(going.size), lambda _: Fraction(1))]
            out[going] += step
        return out
