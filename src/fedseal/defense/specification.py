"""Reads specifications of defenses; the options of one are the keyword arguments of the function that makes it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import get_type_hints

from fedseal import grammar
from fedseal.defense.base import none
from fedseal.defense.compose import chain
from fedseal.errors import BadConfig, UnknownName
from fedseal.types import Defense

Build = Callable[..., Defense]
JOINED = re.compile(r"\+(?=\s*[A-Za-z_]|\s*$)")  # no "+" of a number such as 1e+3


def read_defense(specification: str, table: Mapping[str, Build]) -> Defense:
    """The defense, made by the functions of a table; see `fedseal.defense.parse`."""
    parts = [_one(part.strip(), table) for part in JOINED.split(specification)]
    return parts[0] if len(parts) == 1 else chain(*parts)


def _one(part: str, table: Mapping[str, Build]) -> Defense:
    if not part:
        raise BadConfig("a defense without a name", "write none, prune:0.5, or several as prune:0.5+gaussian:0.001")
    if part == "none":
        return none()
    named = grammar.read(part, strength=True)
    if named.name not in table:
        raise UnknownName("defense", named.name, ["none", *table])
    build = table[named.name]
    strength = next((p for p in inspect.signature(build).parameters.values() if p.kind is not p.KEYWORD_ONLY), None)
    if named.strength is not None and strength is None:
        raise BadConfig(f"'{named.name}' has no strength, and '{part}' gives one", f"write it as '{named.name}'")
    if named.strength is None and strength is not None and strength.default is strength.empty:
        raise BadConfig(f"the defense '{part}' has no strength", f"write it as '{named.name}:0.1'")
    given = []
    if named.strength is not None and strength is not None:
        kind, what = get_type_hints(build)[strength.name], f"strength '{named.strength}' of '{named.name}'"
        given = [grammar.value(named.strength, kind, what=what)]
    return build(*given, **grammar.options(named, grammar.kinds(build)))
