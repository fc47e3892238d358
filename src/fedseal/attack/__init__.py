"""Attacks: exact routes, optimizations, and the planner that chooses.

`parse` reads specifications such as "dlg:steps=100"; `labels` holds the methods that read labels alone.
"""

from __future__ import annotations

import inspect

from fedseal.attack import labels
from fedseal.attack.auto import auto
from fedseal.attack.base import best_of, cascade, restarts
from fedseal.attack.certify.certificate import certify
from fedseal.attack.inference.property import PropertyFinding, PropertyInference
from fedseal.attack.published import (
    bayes,
    coarse,
    cocktail_party,
    dimitrov,
    dlg,
    dlg_batch,
    geng,
    gradinversion,
    idlg,
    inverting_gradients,
    sme,
)
from fedseal.attack.recipes import CHOICES, RECIPES, Recipe
from fedseal.attack.tabular.tableak import TabLeak
from fedseal.attack.text.lamp import Lamp, lamp
from fedseal.attack.text.search import dlg_text, mixture, tag
from fedseal.errors import BadConfig, UnknownName
from fedseal.types import Attack

__all__ = [
    "RECIPES",
    "Lamp",
    "PropertyFinding",
    "PropertyInference",
    "Recipe",
    "TabLeak",
    "auto",
    "bayes",
    "best_of",
    "cascade",
    "certify",
    "coarse",
    "cocktail_party",
    "dimitrov",
    "dlg",
    "dlg_batch",
    "dlg_text",
    "geng",
    "gradinversion",
    "idlg",
    "inverting_gradients",
    "labels",
    "lamp",
    "mixture",
    "parse",
    "restarts",
    "sme",
    "tag",
]


def parse(specification: str) -> Attack:
    """The attack that a specification names: "NAME", or "NAME:option=value,option=value".

    Raises:
        UnknownName: no such recipe, no such option of it, or a value that is not among the option's names.
        BadConfig: an option without a number, or outside its range.

    >>> parse("inverting_gradients:steps=500,tv=0.1,labels=joint").name
    'inverting_gradients'
    """
    name, _, rest = specification.partition(":")
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    build = RECIPES[name].build
    known = {key: p for key, p in inspect.signature(build).parameters.items() if key != "name"}
    options: dict[str, int | float | str] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, _, text = item.partition("=")
        if key not in known:
            raise UnknownName(f"option of '{name}'", key, known or ["(none)"])
        default = known[key].default
        options[key] = _choice(key, text.strip()) if isinstance(default, str) else _number(name, item, text, default)
    return build(**options)


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
