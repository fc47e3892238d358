"""Worlds as hypothesis draws them, which shrinks one that fails to the smallest that still does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import HealthCheck, find, settings
from hypothesis import strategies as st

from benchmarks.worlds.generate import World, world

T = TypeVar("T")


class Drawn:
    """Choices that hypothesis makes, and makes smaller."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def whole(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return self._draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.whole(0, len(options) - 1)]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Small worlds."""
    return world(Drawn(draw))


def smallest(fails: Callable[[World], bool], *, tries: int = 500) -> World:
    """The smallest world for which the condition holds, as far as hypothesis finds.

    Raises:
        hypothesis.errors.NoSuchExample: none was found.
    """
    slow = settings(
        max_examples=tries, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    return find(worlds(), fails, settings=slow)
