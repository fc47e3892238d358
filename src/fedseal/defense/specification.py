"""Reads specifications of defenses; the options of one are the keyword arguments of the function that makes it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fedseal.defense.base import none
from fedseal.defense.compose import chain
from fedseal.errors import BadConfig, UnknownName
from fedseal.types import Defense

Build = Callable[..., Defense]
JOINED = re.compile(r"\+(?=\s*[A-Za-z_]|\s*$)")  # no "+" of a number such as 1e+3


def read(specification: str, table: Mapping[str, Build]) -> Defense:
    """The defense, made by the functions of a table; see `fedseal.defense.parse`."""
    parts = [_one(part.strip(), table) for part in JOINED.split(specification)]
    return parts[0] if len(parts) == 1 else chain(*parts)


def _one(part: str, table: Mapping[str, Build]) -> Defense:
    name, colon, rest = part.partition(":")
    if not part:
        raise BadConfig("a defense without a name", "write none, prune:0.5, or several as prune:0.5+gaussian:0.001")
    if part == "none":
        return none()
    if name not in table:
        raise UnknownName("defense", name, ["none", *table])
    parameters = inspect.signature(table[name]).parameters.values()
    hints = get_type_hints(table[name])
    strengths = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    options = {p.name: hints[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}
    words = [word.strip() for word in rest.split(",")] if colon else []
    given = words[:1] if words and "=" not in words[0] else []
    if given and not strengths:
        raise BadConfig(f"'{name}' has no strength, and '{part}' gives one", f"write it as '{name}'")
    if not given and strengths and strengths[0].default is strengths[0].empty:
        raise BadConfig(f"the defense '{part}' has no strength", f"write it as '{name}:0.1'")
    values = [_value(name, "strength", word, hints[strengths[0].name]) for word in given]
    return table[name](*values, **_options(name, words[len(given) :], options))


def _options(name: str, words: list[str], kinds: Mapping[str, Any]) -> dict[str, object]:
    values: dict[str, object] = {}
    for word in words:
        key, equals, text = (piece.strip() for piece in word.partition("="))
        if not equals or not text:
            raise BadConfig(f"the option '{word}' of '{name}' has no value", f"write it as {key or 'NAME'}=VALUE")
        if key not in kinds:
            raise UnknownName(f"option of '{name}'", key, kinds or ["(none)"])
        if key in values:
            raise BadConfig(f"the option '{key}' of '{name}' is there twice", "give it once")
        values[key] = _value(name, f"option {key}", text, kinds[key])
    return values


def _value(name: str, what: str, text: str, kind: Any) -> object:
    """A word as the parameter's type says."""
    choices = get_args(kind)
    if get_origin(kind) is Literal:
        if text not in choices:
            raise UnknownName(f"{what} of '{name}'", text, choices)
        return text
    kind = next((choice for choice in choices if choice is not type(None)), kind)
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        wanted = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
        raise BadConfig(f"the {what} '{text}' of '{name}' has no meaning", f"give {wanted}") from None
