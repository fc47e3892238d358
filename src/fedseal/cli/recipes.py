"""`fedseal recipes`: what attacks exist, what each needs to know, and where it was published."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedseal.attack.labels.methods import METHODS, Method
from fedseal.attack.recipes import CHOICES, INFERENCES, RECIPES, Inference, Recipe
from fedseal.attack.specification import defaults
from fedseal.cli import terminal
from fedseal.errors import UnknownName
from fedseal.vocabulary import GRANTS


def recipes(
    name: Annotated[str | None, typer.Argument(show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """List attacks, label inference methods and other inferences: what each does, what it needs to know, and the paper.

    With NAME, show one attack or inference in full.

    Example:  fedseal recipes dlg
    """
    if name is not None and name not in RECIPES and name not in INFERENCES:
        raise UnknownName("recipe", name, [*RECIPES, *INFERENCES])
    if as_json:
        chosen = [recipe for recipe in RECIPES.values() if name in (None, recipe.name)]
        asked = [inference for inference in INFERENCES.values() if name in (None, inference.name)]
        methods = METHODS.values() if name is None else ()
        terminal.machine(
            {
                "recipes": [_plain(recipe) for recipe in chosen],
                "labels": [_row(row) for row in methods],
                "inferences": [_asked(inference) for inference in asked],
            }
        )
    elif name in INFERENCES:
        _how_to_ask(INFERENCES[name])
    elif name is not None:
        _in_full(RECIPES[name])
    else:
        terminal.show(_table("Recipe", RECIPES.values()))
        terminal.say("")
        terminal.show(_table("Labels", METHODS.values()))
        terminal.say("")
        terminal.show(_table("From Python", INFERENCES.values()))


def _row(row: Recipe | Method | Inference) -> dict[str, object]:
    return {"name": row.name, "summary": row.summary, "needs": list(row.needs), "paper": row.paper}


def _plain(recipe: Recipe) -> dict[str, object]:
    given = defaults(recipe)
    names = {key: list(CHOICES[key]()) for key, value in given.items() if isinstance(value, str)}
    return {**_row(recipe), "options": given, "choices": names}


def _asked(inference: Inference) -> dict[str, object]:
    return {
        **_row(inference),
        "brings": inference.brings,
        "options": defaults(inference),
        "call": list(inference.call),
    }


def _table(first: str, chosen: Iterable[Recipe | Method | Inference]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in (first, "What it does", "Needs to know", "Paper"):
        table.add_column(heading, overflow="fold")
    for row in chosen:
        brings = [row.brings] if isinstance(row, Inference) else []
        cells = (row.name, row.summary, ", ".join([*row.needs, *brings]), row.paper)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _in_full(recipe: Recipe) -> None:
    given = _head(recipe)
    for key, value in given.items():
        if isinstance(value, str):
            terminal.say(f"  {key} is one of: {', '.join(CHOICES[key]())}")
    first = next((f":{key}={_written(value)}" for key, value in given.items()), "")
    terminal.say(f"such as: fedseal attack --recipe {recipe.name}{first}")


def _how_to_ask(inference: Inference) -> None:
    _head(inference)
    terminal.say(f"beside that: {inference.brings}")
    terminal.say("from Python, with an observation made by a threat model:")
    for line in inference.call:
        terminal.say(f"  {line}")


def _head(row: Recipe | Inference) -> dict[str, int | float | str]:
    """Say what both kinds have; the options."""
    given = defaults(row)
    terminal.say(f"{row.name}: {row.summary}")
    terminal.say(f"paper: {row.paper}")
    terminal.say("needs to know:")
    for grant in row.needs:
        terminal.say(f"  {grant}: {GRANTS[grant]}")
    terminal.say("options: " + (", ".join(f"{key}={_written(value)}" for key, value in given.items()) or "none"))
    return given


def _written(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
