from __future__ import annotations

import json

from cli.conftest import Command
from fedseal.attack import RECIPES, parse
from fedseal.attack.labels import METHODS
from fedseal.cli.recipes import options


def test_table_names_every_recipe_its_needs_and_its_paper(fedseal: Command) -> None:
    answer = fedseal("recipes")
    assert answer.code == 0
    words = set(answer.out.replace(",", " ").split())
    for name, needs, paper in [(row.name, row.needs, row.paper) for row in RECIPES.values()] + [
        (row.name, row.needs, row.paper) for row in METHODS.values()
    ]:
        assert {name, *needs, *paper.replace(",", " ").split()} <= words


def test_json_is_the_whole_table(fedseal: Command) -> None:
    answer = json.loads(fedseal("recipes", "--json").out)
    rows = answer["recipes"]
    assert [row["name"] for row in rows] == list(RECIPES)
    assert all(set(row) == {"name", "summary", "needs", "paper", "options", "choices"} for row in rows)
    (geng,) = (row for row in rows if row["name"] == "geng")
    assert geng["options"]["labels"] in geng["choices"]["labels"]
    assert [row["name"] for row in answer["labels"]] == list(METHODS)
    assert all(set(row) == {"name", "summary", "needs", "paper"} for row in answer["labels"])
    one = json.loads(fedseal("recipes", "geng", "--json").out)
    assert one == {"recipes": [geng], "labels": []}


def test_every_option_that_is_shown_can_be_given() -> None:
    for recipe in RECIPES.values():
        given = ",".join(f"{name}={value}" for name, value in options(recipe).items())
        parse(f"{recipe.name}:{given}")


def test_one_recipe_is_shown_in_full(fedseal: Command) -> None:
    out = fedseal("recipes", "dlg").out
    assert "steps=300" in out
    assert "arXiv:1906.08935" in out
    assert "state: the model's weights" in out


def test_options_that_are_names_are_shown_with_what_they_may_be(fedseal: Command) -> None:
    lines = fedseal("recipes", "gradinversion").out.splitlines()
    assert "labels=best" in next(line for line in lines if line.startswith("options: "))
    (ways,) = (line for line in lines if line.startswith("  labels is one of: "))
    assert set(METHODS) < set(ways.removeprefix("  labels is one of: ").split(", "))
    assert "  statistics is one of: sent, public, any" in lines


def test_unknown_recipe_suggests_the_nearest(fedseal: Command) -> None:
    assert "did you mean 'dlg'?" in fedseal("recipes", "dgl").complaint
