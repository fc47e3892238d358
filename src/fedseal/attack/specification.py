"""Attacks as they are typed: "NAME" or "NAME:option=value,option=value"."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

from fedseal import grammar
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
    recipe, named = recipe_of(specification), grammar.read(specification)
    usual = {key: p.default for key, p in inspect.signature(recipe.build).parameters.items() if key != "name"}
    known = {key: _kind(key, default) if key in named.options else None for key, default in usual.items()}
    options = grammar.options(named, known)
    for key, value in options.items():
        if not isinstance(value, str) and (value < 0 or (isinstance(value, int) and value < 1)):
            raise BadConfig(
                f"the option '{key}={value}' of '{named.name}' is too small", f"the default is {usual[key]}"
            )
    return recipe.build(**options)


def _kind(option: str, default: object) -> Any:
    return Literal[tuple(CHOICES[option]())] if isinstance(default, str) else type(default)


def recipe_of(specification: str) -> Recipe:
    """The row of the table that a specification names; nothing is loaded for it.

    Raises:
        UnknownName: no such recipe.
    """
    name = specification.partition(":")[0].strip()
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    return RECIPES[name]


def defaults(recipe: Recipe | Inference) -> dict[str, int | float | str]:
    """A recipe's options with their defaults."""
    defaults = {key: parameter.default for key, parameter in inspect.signature(recipe.build).parameters.items()}
    return {
        key: value
        for key, value in defaults.items()
        if isinstance(value, int | float) or (isinstance(value, str) and key in CHOICES)
    }
