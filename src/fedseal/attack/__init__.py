"""Attacks: exact routes, optimizations, and the planner that chooses.

`parse` reads specifications such as "dlg:steps=100".
"""

from __future__ import annotations

import inspect

from fedseal.attack.base import best_of, cascade, restarts
from fedseal.attack.presets import RECIPES, Recipe, auto, dlg, idlg, inverting_gradients
from fedseal.errors import BadConfig, UnknownName
from fedseal.types import Attack

__all__ = [
    "RECIPES",
    "Recipe",
    "auto",
    "best_of",
    "cascade",
    "dlg",
    "idlg",
    "inverting_gradients",
    "parse",
    "restarts",
]


def parse(specification: str) -> Attack:
    """The attack that a specification names: "NAME", or "NAME:option=value,option=value".

    Raises:
        UnknownName: no such recipe, or no such option of it.
        BadConfig: an option without a number, or outside its range.

    >>> parse("inverting_gradients:steps=500,tv=0.1").name
    'inverting_gradients'
    """
    name, _, rest = specification.partition(":")
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    build = RECIPES[name].build
    known = {key: p for key, p in inspect.signature(build).parameters.items() if key != "name"}
    options: dict[str, int | float] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, _, text = item.partition("=")
        if key not in known:
            raise UnknownName(f"option of '{name}'", key, known or ["(none)"])
        kind = int if isinstance(known[key].default, int) else float
        try:
            value = kind(text)
        except ValueError:
            raise BadConfig(
                f"the option '{item}' of '{name}' is no number", f"write {key}={known[key].default}"
            ) from None
        if value < 0 or (kind is int and value < 1):
            raise BadConfig(f"the option '{item}' of '{name}' is too small", f"the default is {known[key].default}")
        options[key] = value
    return build(**options)
