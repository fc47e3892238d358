"""How things with options are typed: "NAME", "NAME:0.5,key=value", lists of these, and several strengths in brackets.

The one grammar of attacks, defenses, models and local trainings. What a word means is said by the signature of the
function that it is an argument of.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fedseal.errors import BadConfig, UnknownName

_BETWEEN = re.compile(r",(?![^\[\]]*\])")  # no comma in brackets


@dataclass(frozen=True)
class Specification:
    """A name, the strength that may follow it, and options as typed."""

    name: str
    strength: str | None
    options: Mapping[str, str]


def read(text: str, *, strength: bool = False) -> Specification:
    """The parts of "NAME", "NAME:key=value,key=value", and with a strength "NAME:0.5" and "NAME:0.5,key=value".

    Args:
        strength: whether the first word may be one; else every word is an option.

    Raises:
        BadConfig: an option without a value, or one twice.

    >>> read("prune:0.5,scope=global", strength=True)
    Specification(name='prune', strength='0.5', options={'scope': 'global'})
    """
    name, colon, rest = text.partition(":")
    name, words = name.strip(), _words(rest) if colon else []
    given = words[0] if strength and words and "=" not in words[0] else None
    options: dict[str, str] = {}
    for word in words[0 if given is None else 1 :]:
        key, equals, value = (part.strip() for part in word.partition("="))
        if not (key and equals and value):
            raise BadConfig(f"the option '{word}' of '{name}' has no value", f"write it as {key or 'NAME'}=VALUE")
        if key in options:
            raise BadConfig(f"the option '{key}' of '{name}' is there twice", "give it once")
        options[key] = value
    return Specification(name, given, options)


def kinds(function: Callable[..., object]) -> dict[str, Any]:
    """A function's options: what may be given by keyword alone, with the type of each."""
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    return {p.name: hints.get(p.name, str) for p in parameters if p.kind is p.KEYWORD_ONLY}


def options(named: Specification, known: Mapping[str, Any]) -> dict[str, Any]:
    """The options as values.

    Args:
        known: the type of each option that there is.

    Raises:
        UnknownName: no such option, or a value that is not among its names.
        BadConfig: a value that means nothing.

    >>> options(read("fedavg:lr=0.1,epochs=2"), {"lr": float, "epochs": int})
    {'lr': 0.1, 'epochs': 2}
    """
    for key in named.options:
        if key not in known:
            raise UnknownName(f"option of '{named.name}'", key, known or ["(none)"])
    return {key: _option(named.name, key, text, known[key]) for key, text in named.options.items()}


def _option(name: str, key: str, text: str, kind: Any) -> Any:
    kind = _given(kind)
    if get_origin(kind) is Literal and text not in get_args(kind):
        raise UnknownName(f"value of '{key}' named", text, get_args(kind))
    return value(text, kind, what=f"option '{key}={text}' of '{name}'")


def value(text: str, kind: Any, *, what: str) -> Any:
    """A word as a type says: a whole number, a number, true or false, a list of them in brackets, or text.

    Args:
        kind: a type, as in a signature; of a union the first that is not None.
        what: what the word is, for the error.

    Raises:
        BadConfig: the word means nothing.

    >>> value("[64, 32]", Sequence[int], what="option")
    (64, 32)
    """
    kind = _given(kind)
    if get_origin(kind) in (tuple, Sequence):
        return tuple(value(part, get_args(kind)[0], what=what) for part in _words(text.strip("[]")))
    if kind not in _READERS:
        return text
    wanted, reader = _READERS[kind]
    try:
        return reader(text)
    except (ValueError, KeyError):
        raise BadConfig(f"the {what} has no meaning", f"give {wanted}") from None


def _given(kind: Any) -> Any:
    """What is meant where a value is given: of a union the first type that is not None."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return next(choice for choice in get_args(kind) if choice is not NoneType)


_READERS: dict[type, tuple[str, Callable[[str], object]]] = {
    bool: ("true or false", lambda text: {"true": True, "false": False}[text.lower()]),
    int: ("a whole number", int),
    float: ("a number", float),
}


def listed(text: str) -> tuple[str, ...]:
    """A comma-separated list of specifications; `key=value` goes on with the specification before it.

    >>> listed("auto, dlg:steps=100,restarts=3,idlg")
    ('auto', 'dlg:steps=100,restarts=3', 'idlg')
    >>> listed("none,prune:[0.2,0.5]")
    ('none', 'prune:[0.2,0.5]')
    >>> listed("dpsgd:1,clip=1+prune:0.5")
    ('dpsgd:1,clip=1+prune:0.5',)

    Raises:
        BadConfig: nothing in it.
    """
    found: list[str] = []
    for part in _words(text):
        if "=" in part and ":" not in part.partition("=")[0] and found:
            found[-1] += f",{part}"
        else:
            found.append(part)
    if not found:
        raise BadConfig(f"the list '{text}' is empty", "name at least one, separated by commas")
    return tuple(found)


def expanded(specifications: Sequence[str]) -> tuple[str, ...]:
    """Strengths in brackets written out.

    >>> expanded(["none", "prune:[0.2, 0.5]", "clip:1+gaussian:0.1"])
    ('none', 'prune:0.2', 'prune:0.5', 'clip:1+gaussian:0.1')

    Raises:
        BadConfig: a bracket that is empty or does not close.
    """
    return tuple(itertools.chain.from_iterable(_expanded(text) for text in specifications))


def numbers(text: str, what: str) -> tuple[float, ...]:
    """Comma-separated finite numbers.

    >>> numbers("0.5,0.25", "--mean")
    (0.5, 0.25)

    Raises:
        BadConfig: something in it is no finite number.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise BadConfig(f"{what} is '{text}'", "give numbers separated by commas")
    return values


def whole_numbers(text: str, what: str) -> tuple[int, ...]:
    """Comma-separated whole numbers that are not negative.

    >>> whole_numbers("3,32,32", "--shape")
    (3, 32, 32)

    Raises:
        BadConfig: something in it is none.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise BadConfig(f"{what} is '{text}'", "give whole numbers separated by commas, none negative")
    return tuple(int(part) for part in parts)


def whole_number(text: str, what: str) -> int:
    """A whole number that is not negative.

    >>> whole_number("7", "--label")
    7

    Raises:
        BadConfig: it is none.
    """
    if not (text.isascii() and text.isdigit()):
        raise BadConfig(f"{what} is '{text}'", "give a whole number that is not negative")
    return int(text)


def _words(text: str) -> list[str]:
    return [word.strip() for word in _BETWEEN.split(text) if word.strip()]


def _expanded(text: str) -> Iterator[str]:
    parts = re.split(r"\[([^\[\]]*)\]", text)
    choices = [
        [choice.strip() for choice in part.split(",")] if place % 2 else [part] for place, part in enumerate(parts)
    ]
    if not all(all(group) for group in choices[1::2]) or any("[" in p or "]" in p for p in parts[::2]):
        raise BadConfig(f"the strengths of '{text}' cannot be read", "write them as 'prune:[0.2,0.5]'")
    return map("".join, itertools.product(*choices))
