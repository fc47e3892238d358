"""Attacks as they are typed: "NAME" or "NAME:option=value,option=value"."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from fedseal.attack.recipes import CHOICES, RECIPES, Inference, Recipe
from fedseal.errors import BadConfig, UnknownName

if TYPE_CHECKING:
    from fedseal.types import Attack


def parse(specification: str) -> Attack:
    """The attack that a specification names: "NAME", or "NAME:option=value,option=value".

    Raises:
        UnknownName: no such recipe, no such option of it, or a value that is not among the option's names.
        BadConfig: an option without a number, or outside its range.

    >>> parse("inverting_gradients:steps=500,tv=0.1,labels=joint").name
    'inverting_gradients'
    """
    name, _, rest = specification.partition(":")
    build = recipe_of(specification).build
    known = {key: p for key, p in inspect.signature(build).parameters.items() if key != "name"}
    options: dict[str, int | float | str] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, _, text = item.partition("=")
        if key not in known:
            raise UnknownName(f"option of '{name}'", key, known or ["(none)"])
        default = known[key].default
        options[key] = _choice(key, text.strip()) if isinstance(default, str) else _number(name, item, text, default)
    return build(**options)


def recipe_of(specification: str) -> Recipe:
    """The row of the table that a specification names; nothing is loaded for it.

    Raises:
        UnknownName: no such recipe.
    """
    name = specification.partition(":")[0]
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    return RECIPES[name]


def _choice(option: str, text: str) -> str:
    names = CHOICES[option]()
    if text not in names:
        raise UnknownName(f"value of '{option}' named", text, names)
    return text


def _number(name: str, item: str, text: str, default: int | float) -> int | float:
    kind = int if isinstance(default, int) else float
    try:
        value = kind(text)
    except ValueError:
        key = item.partition("=")[0]
        raise BadConfig(f"the option '{item}' of '{name}' is no number", f"write {key}={default}") from None
    if value < 0 or (kind is int and value < 1):
        raise BadConfig(f"the option '{item}' of '{name}' is too small", f"the default is {default}")
    return value


def defaults(recipe: Recipe | Inference) -> dict[str, int | float | str]:
    """A recipe's options with their defaults."""
    defaults = {key: parameter.default for key, parameter in inspect.signature(recipe.build).parameters.items()}
    return {
        key: value
        for key, value in defaults.items()
        if isinstance(value, int | float) or (isinstance(value, str) and key in CHOICES)
    }
