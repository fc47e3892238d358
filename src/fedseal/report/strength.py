"""How strong a defense is, by its specification: which family it belongs to, and where it stands in it."""

from __future__ import annotations

import re
from typing import NamedTuple

JOINED = re.compile(r"\+(?=\s*[A-Za-z_]|\s*$)")  # no "+" of a number such as 1e+3
KEEPS = frozenset({"topk", "clip"})  # what they name stays: the smaller, the stronger
PRECISION = ("float16", "bfloat16", "int8", "sign")  # from fine to coarse, one family without numbers


class Strength(NamedTuple):
    """Where a defense stands.

    Args:
        family: what differs from it in strength only has the same.
        order: the larger, the stronger; 0 where there is no number.
        text: the strength as the specification has it, or the whole name where it has none.
    """

    family: str
    order: float
    text: str


def strength_of(defense: str) -> Strength:
    """Read off a specification; in a chain the last number counts, and what comes before it is part of the family.

    >>> strength_of("prune:0.5,scope=global")
    Strength(family='prune,scope=global', order=0.5, text='0.5')
    >>> strength_of("clip:1+gaussian:0.01").family, strength_of("topk:0.1").order, strength_of("sign").family
    ('clip:1+gaussian', -0.1, 'precision')
    """
    if defense in PRECISION:
        return Strength("precision", float(PRECISION.index(defense)), defense)
    parts = [part.strip() for part in JOINED.split(defense)]
    for place in reversed(range(len(parts))):
        name, _, rest = parts[place].partition(":")
        word, comma, options = rest.partition(",")
        if (number := _number(word)) is not None:
            parts[place] = name + comma + options
            return Strength("+".join(parts), -number if name in KEEPS else number, word.strip())
    return Strength(defense, 0.0, defense)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
