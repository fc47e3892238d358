"""`fedseal recipes`: what attacks exist, what each needs to know, and where it was published."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedseal.attack import RECIPES, Recipe
from fedseal.cli import terminal
from fedseal.errors import UnknownName
from fedseal.threat import GRANTS


def recipes(
    name: Annotated[str | None, typer.Argument(show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the attacks: what each does, what it needs to know, the paper.

    With NAME, one of them in full.

    Example:  fedseal recipes dlg
    """
    if name is not None and name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    chosen = [RECIPES[name]] if name is not None else list(RECIPES.values())
    if as_json:
        terminal.machine([_plain(recipe) for recipe in chosen])
    elif name is not None:
        _in_full(chosen[0])
    else:
        terminal.show(_table(chosen))


def options(recipe: Recipe) -> dict[str, int | float]:
    """A recipe's options with their defaults."""
    defaults = {key: parameter.default for key, parameter in inspect.signature(recipe.build).parameters.items()}
    return {key: value for key, value in defaults.items() if isinstance(value, int | float)}


def _plain(recipe: Recipe) -> dict[str, object]:
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "needs": list(recipe.needs),
        "paper": recipe.paper,
        "options": options(recipe),
    }


def _table(chosen: list[Recipe]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("Recipe", "What it does", "Needs to know", "Paper"):
        table.add_column(heading, overflow="fold")
    for recipe in chosen:
        cells = (recipe.name, recipe.summary, ", ".join(recipe.needs), recipe.paper)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _in_full(recipe: Recipe) -> None:
    given = options(recipe)
    terminal.say(f"{recipe.name}: {recipe.summary}")
    terminal.say(f"paper: {recipe.paper}")
    terminal.say("needs to know:")
    for grant in recipe.needs:
        terminal.say(f"  {grant}: {GRANTS[grant]}")
    terminal.say("options: " + (", ".join(f"{key}={value:g}" for key, value in given.items()) or "none"))
    first = next((f":{key}={value:g}" for key, value in given.items()), "")
    terminal.say(f"such as: fedseal attack --recipe {recipe.name}{first}")
