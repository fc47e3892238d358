"""Costs made by hand, for the tests of the report."""

from __future__ import annotations

from fedseal.audit.cost import Cost

DENSE = 60_000.0


def cost(
    defense: str,
    lost: float = 0.0,
    within: float | None = 1.0,
    *,
    without: float = 0.8,
    chance: float = 0.1,
    size: float = DENSE,
    seconds: float = 0.004,
) -> Cost:
    """A defense that loses so many points; `within` is half of the interval, None for a single seed."""
    accuracy = without - lost / 100
    half = None if within is None else within / 100
    return Cost(
        defense=defense,
        accuracy=accuracy,
        accuracy_interval=None if half is None else (accuracy - half, accuracy + half),
        accuracy_without=without,
        accuracy_without_interval=None if half is None else (without - half, without + half),
        chance=chance,
        points_lost=lost,
        points_lost_interval=None if within is None else (lost - within, lost + within),
        accuracies=(accuracy,) * (1 if within is None else 3),
        diverged=(),
        bytes_per_update=size,
        bytes_without=DENSE,
        seconds_per_update=seconds,
        seconds_without=0.004,
        rounds=20,
        clients=10,
        examples=400,
        tested=100,
        seeds=(0,) if within is None else (0, 1, 2),
        setting="ab",
    )
