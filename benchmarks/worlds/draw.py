"""Where the choices of a world come from: a seed, or hypothesis, which shrinks what fails.

One generator is written over `Draw`. Options are listed from the plainest on, so that a world shrinks to a plain one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Draw(Protocol):
    """A source of choices."""

    def whole(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""

    def pick(self, options: Sequence[T]) -> T:
        """One of the options; the first is the plainest."""


class Seeded:
    """Choices from a seed, the same on every machine.

    >>> Seeded(3).whole(1, 6) == Seeded(3).whole(1, 6)
    True
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def whole(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return self._random.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.whole(0, len(options) - 1)]


def one_in(draw: Draw, count: int) -> bool:
    """True once in `count` times."""
    return draw.whole(0, count - 1) == count - 1
