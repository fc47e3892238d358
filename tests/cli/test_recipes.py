from __future__ import annotations

import json
import textwrap

import pytest
import torch

import fedseal as fs
from cli.conftest import Command
from fedseal.attack import RECIPES, parse
from fedseal.attack.labels import METHODS
from fedseal.attack.recipes import INFERENCES
from fedseal.attack.specification import defaults
from fedseal.errors import UnknownToAdversary


def test_table_names_every_recipe_its_needs_and_its_paper(fedseal: Command) -> None:
    answer = fedseal("recipes")
    assert answer.code == 0
    words = set(answer.out.replace(",", " ").split())
    rows = [(row.name, row.needs, row.paper) for row in RECIPES.values()]
    rows += [(row.name, row.needs, row.paper) for row in METHODS.values()]
    rows += [(row.name, row.needs, row.paper) for row in INFERENCES.values()]
    for name, needs, paper in rows:
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
    assert one == {"recipes": [geng], "labels": [], "inferences": []}
    assert [row["name"] for row in answer["inferences"]] == list(INFERENCES)
    (told,) = json.loads(fedseal("recipes", "property", "--json").out)["inferences"]
    assert told in answer["inferences"]
    assert set(told) == {"name", "summary", "needs", "paper", "brings", "options", "call"}
    assert {"with", "without"} <= set(told["brings"].split())


def test_every_option_that_is_shown_can_be_given() -> None:
    for recipe in RECIPES.values():
        given = ",".join(f"{name}={value}" for name, value in defaults(recipe).items())
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


def test_a_question_asked_from_python_says_how_and_its_lines_run(fedseal: Command) -> None:
    out = fedseal("recipes", "property").out
    assert "training: the local training" in out
    assert "beside that: examples of the attacker's own" in out
    assert "updates=300" in out
    lines = out.split("from Python, with an observation made by a threat model:\n")[1]
    pictures = fs.zoo.fashion_mnist()
    model, sandals = fs.zoo.mlp(widths=(4,), num_classes=10), pictures.labels == 5
    present, absent = (fs.Batch(pictures.inputs[kind], pictures.labels[kind]) for kind in (sandals, ~sandals))
    update = fs.local_update(model, present[:4], training=fs.LocalTraining.fedsgd())
    observation = fs.ThreatModel.honest_but_curious().observe(model, update, modality=fs.Image(shape=(1, 28, 28)))
    known = {"fs": fs, "torch": torch, "present": present, "absent": absent, "observation": observation}
    exec(textwrap.dedent(lines), known)
    assert isinstance(known["finding"], fs.attack.PropertyFinding)


def test_what_a_question_needs_is_what_it_refuses_without() -> None:
    picture = fs.zoo.fashion_mnist()[:12]
    model = fs.zoo.mlp(widths=(4,), num_classes=10)
    update = fs.local_update(model, picture[:2], training=fs.LocalTraining.fedsgd())
    attack = fs.attack.PropertyInference(picture[:6], picture[6:], updates=12)
    everything = fs.ThreatModel.honest_but_curious().grants
    for grant in INFERENCES["property"].needs:
        threat = fs.ThreatModel("less", everything - {grant})
        observation = threat.observe(model, update, modality=fs.Image(shape=(1, 28, 28)))
        with pytest.raises(UnknownToAdversary):
            attack(observation, generator=torch.Generator().manual_seed(0))
