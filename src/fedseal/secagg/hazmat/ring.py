"""Integers modulo 2^32 and 2^64, and real numbers as fixed point in them.

Vectors are little-endian unsigned arrays that are added and subtracted in place; numpy's unsigned arithmetic wraps,
which is the ring's. Overflow of a sum cannot happen: the scale is chosen so that the declared number of summands of the
declared size fits, and a summand that is larger is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedseal.errors import BadConfig
from fedseal.secagg.hazmat import memory

Elements: TypeAlias = NDArray[np.unsignedinteger[Any]]
Reals: TypeAlias = NDArray[np.floating[Any]]

SLACK = 2  # elements: what products in float64 are off by near the bound
EXACT = 2**53  # the largest integer up to which float64 holds all of them
MOST_BITS = 960  # after the point: a larger scale, times what a sum is divided by, could leave float64
TAIL = 12.0  # a normal variable passes 12 standard deviations with probability below 1e-32


@dataclass(frozen=True)
class Ring:
    """Integers modulo 2^bits.

    Raises:
        BadConfig: bits are neither 32 nor 64.

    >>> Ring(32).signed(Ring(32).zeros(2) - np.uint32(1)).tolist()
    [-1, -1]
    """

    bits: int = 32

    def __post_init__(self) -> None:
        if self.bits not in (32, 64):
            raise BadConfig(f"there is no ring of {self.bits} bits", "choose 32 or 64")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian unsigned integers, on every machine."""
        return np.dtype(f"<u{self.bits // 8}")

    @property
    def width(self) -> int:
        """Bytes an element."""
        return self.bits // 8

    @property
    def largest(self) -> int:
        """The largest magnitude that is read back with its sign."""
        return int(2 ** (self.bits - 1) - 1)

    def zeros(self, size: int) -> Elements:
        """`(size,)`."""
        return memory.zeros(size, self.dtype)

    def signed(self, elements: Elements) -> NDArray[np.signedinteger[Any]]:
        """The elements as signed integers: the same memory, read as two's complement."""
        return elements.view(np.dtype(f"<i{self.width}"))


@dataclass(frozen=True)
class FixedPoint:
    """Real numbers of magnitude `bound` as multiples of 2^-fraction, so that `summands` of them, each with its share of
    noise, are added without overflow.

    Raises:
        BadConfig: no scale fits, or figures that mean nothing.

    >>> FixedPoint(Ring(32), bound=8.0, summands=10).fraction
    24
    """

    ring: Ring
    bound: float
    summands: int
    deviation: float = 0.0  # standard deviation of each summand's noise, in the unit of the bound

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound > 0 and self.summands >= 1 and self.deviation >= 0):
            raise BadConfig(
                f"a bound of {self.bound} on {self.summands} summands means nothing", "give a finite bound above zero"
            )
        if self._need(-60) > self.ring.largest:
            raise BadConfig(
                f"{self.summands} values up to {self.bound:g} do not fit {self.ring.bits} bits", "declare a lower bound"
            )

    @cached_property
    def fraction(self) -> int:
        """Bits after the point: the most that fit."""
        low, high = -60, MOST_BITS + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(middle) else (low, middle)
        return low

    def _fits(self, fraction: int) -> bool:
        exact = math.ldexp(self.bound, min(fraction, 900)) <= EXACT
        return exact and self._need(fraction) <= self.ring.largest

    def _need(self, fraction: int) -> int:
        if math.log2(self.bound) + fraction > 70 or math.log2(self.deviation or 1e-300) + fraction > 70:
            return 2**80
        return self.summands * (math.ceil(math.ldexp(self.bound, fraction)) + SLACK + self._tail(fraction))

    def _tail(self, fraction: int) -> int:
        return math.ceil(TAIL * math.ldexp(self.deviation, fraction))

    @cached_property
    def scale(self) -> float:
        """Elements a unit: a power of two, so that scaling is exact."""
        return math.ldexp(1.0, self.fraction)

    @property
    def tail(self) -> int:
        """The largest noise a summand may draw, in elements."""
        return self._tail(self.fraction)

    @property
    def error(self) -> float:
        """The largest rounding error of the sum: half an element a summand."""
        return 0.5 * self.summands / self.scale

    def encode(self, values: Reals, factor: float, out: Elements, scratch: NDArray[np.float64]) -> None:
        """Write the nearest multiples of values times a factor, all within the bound, into `out`.

        Args:
            values: `(n,)` finite, and at most `bound` in magnitude once multiplied: the caller has checked.
            out: `(n,)` ring elements.
            scratch: float64 that is overwritten; so many values are encoded at a time.
        """
        signed = self.ring.signed(out)
        for start in range(0, values.size, scratch.size):
            part = values[start : start + scratch.size]
            scaled = scratch[: part.size]
            np.multiply(part, factor * self.scale, out=scaled, dtype=np.float64)
            np.rint(scaled, out=scaled)
            np.copyto(signed[start : start + part.size], scaled, casting="unsafe")

    def decode(self, elements: Elements, out: Reals, divisor: float = 1.0) -> None:
        """Write the sum's value, in the unit of the bound and divided by a number below 2^53, into `out`."""
        # times a power of two is exact: the quotient is rounded once, and to the type of `out`
        divisor *= self.scale
        np.divide(self.ring.signed(elements), divisor, out=out, dtype=np.float64, casting="same_kind")
