"""`fedseal recipes`: what attacks exist, what each needs to know, and where it was published."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedseal.attack import RECIPES, Recipe
from fedseal.attack.labels import METHODS, Method
from fedseal.attack.recipes import CHOICES
from fedseal.cli import terminal
from fedseal.errors import UnknownName
from fedseal.threat import GRANTS


def recipes(
    name: Annotated[str | None, typer.Argument(show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the attacks, and the ways to read labels: what each does, what it needs to know, the paper.

    With NAME, one of the attacks in full.

    Example:  fedseal recipes dlg
    """
    if name is not None and name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    if as_json:
        chosen = [recipe for recipe in RECIPES.values() if name in (None, recipe.name)]
        methods = METHODS.values() if name is None else ()
        terminal.machine({"recipes": [_plain(recipe) for recipe in chosen], "labels": [_row(row) for row in methods]})
    elif name is not None:
        _in_full(RECIPES[name])
    else:
        terminal.show(_table("Recipe", RECIPES.values()))
        terminal.say("")
        terminal.show(_table("Labels", METHODS.values()))


def options(recipe: Recipe) -> dict[str, int | float | str]:
    """A recipe's options with their defaults."""
    defaults = {key: parameter.default for key, parameter in inspect.signature(recipe.build).parameters.items()}
    return {
        key: value
        for key, value in defaults.items()
        if isinstance(value, int | float) or (isinstance(value, str) and key in CHOICES)
    }


def _row(row: Recipe | Method) -> dict[str, object]:
    return {"name": row.name, "summary": row.summary, "needs": list(row.needs), "paper": row.paper}


def _plain(recipe: Recipe) -> dict[str, object]:
    given = options(recipe)
    names = {key: list(CHOICES[key]()) for key, value in given.items() if isinstance(value, str)}
    return {**_row(recipe), "options": given, "choices": names}


def _table(first: str, chosen: Iterable[Recipe | Method]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in (first, "What it does", "Needs to know", "Paper"):
        table.add_column(heading, overflow="fold")
    for row in chosen:
        cells = (row.name, row.summary, ", ".join(row.needs), row.paper)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _in_full(recipe: Recipe) -> None:
    given = options(recipe)
    terminal.say(f"{recipe.name}: {recipe.summary}")
    terminal.say(f"paper: {recipe.paper}")
    terminal.say("needs to know:")
    for grant in recipe.needs:
        terminal.say(f"  {grant}: {GRANTS[grant]}")
    terminal.say("options: " + (", ".join(f"{key}={_written(value)}" for key, value in given.items()) or "none"))
    for key, value in given.items():
        if isinstance(value, str):
            terminal.say(f"  {key} is one of: {', '.join(CHOICES[key]())}")
    first = next((f":{key}={_written(value)}" for key, value in given.items()), "")
    terminal.say(f"such as: fedseal attack --recipe {recipe.name}{first}")


def _written(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
