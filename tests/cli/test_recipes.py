from __future__ import annotations

import json

from cli.conftest import Command
from fedseal.attack import RECIPES, parse
from fedseal.cli.recipes import options


def test_table_names_every_recipe_its_needs_and_its_paper(fedseal: Command) -> None:
    answer = fedseal("recipes")
    assert answer.code == 0
    words = set(answer.out.replace(",", " ").split())
    for recipe in RECIPES.values():
        assert {recipe.name, *recipe.needs, *recipe.paper.replace(",", " ").split()} <= words


def test_json_is_the_whole_table(fedseal: Command) -> None:
    rows = json.loads(fedseal("recipes", "--json").out)
    assert [row["name"] for row in rows] == list(RECIPES)
    assert all(set(row) == {"name", "summary", "needs", "paper", "options"} for row in rows)


def test_every_option_that_is_shown_can_be_given() -> None:
    for recipe in RECIPES.values():
        given = ",".join(f"{name}={value}" for name, value in options(recipe).items())
        parse(f"{recipe.name}:{given}")


def test_one_recipe_is_shown_in_full(fedseal: Command) -> None:
    out = fedseal("recipes", "dlg").out
    assert "steps=300" in out
    assert "arXiv:1906.08935" in out
    assert "state: the model's weights" in out


def test_unknown_recipe_suggests_the_nearest(fedseal: Command) -> None:
    assert "did you mean 'dlg'?" in fedseal("recipes", "dgl").complaint
