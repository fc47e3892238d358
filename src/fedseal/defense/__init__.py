"""Defenses on the client's side, one a file; `parse` reads specifications such as "prune:0.2+gaussian:0.001"."""

from __future__ import annotations

from collections.abc import Callable

from fedseal.defense.base import Hooks, chain, none
from fedseal.defense.noise import gaussian
from fedseal.defense.prune import prune
from fedseal.errors import BadConfig, UnknownName
from fedseal.types import Defense

DEFENSES: dict[str, Callable[[float], Defense]] = {"gaussian": gaussian, "prune": prune}

__all__ = ["DEFENSES", "Hooks", "chain", "gaussian", "none", "parse", "prune"]


def parse(specification: str) -> Defense:
    """The defense that a specification names: "none", "NAME:STRENGTH", or several joined by "+".

    Raises:
        UnknownName: no such defense.
        BadConfig: a strength that is no number, is missing, or makes no sense.

    >>> parse("prune:0.2").name
    'prune:0.2'
    """
    if specification == "none":
        return none()
    parts = [_parse_one(part.strip()) for part in specification.split("+")]
    return parts[0] if len(parts) == 1 else chain(*parts)


def _parse_one(part: str) -> Defense:
    name, _, strength = part.partition(":")
    if name not in DEFENSES:
        raise UnknownName("defense", name, ["none", *DEFENSES])
    try:
        return DEFENSES[name](float(strength))
    except ValueError:
        raise BadConfig(f"the defense '{part}' has no strength", f"write it as '{name}:0.1'") from None
