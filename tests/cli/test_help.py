"""Help texts can be read without the signature: each starts with what the option does and is a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
import typer

from fedseal.cli.app import app

# How a text begins that only makes sense beside the option's name.
LEANING = ("Of ", "In ", "Which", "How", "What", "Where ", "Such ", "Among", "Then ", "By ", "A ", "The ")
ALONE = {"Where parties run", "Where attacks run", "How updates are summed"}  # questions that say their subject


def texts() -> Iterator[tuple[str, str]]:
    """Every option and argument with a help text, as "verb --option"."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    for verb, command in group.commands.items():
        for parameter in command.params:
            text = getattr(parameter, "help", None)
            if isinstance(parameter, click.Option) and parameter.name != "help":
                assert text, f"{verb} {parameter.name} has no help"
            if text:
                yield f"{verb} {parameter.name}", text


@pytest.mark.parametrize(("option", "text"), list(texts()))
def test_a_help_text_starts_with_what_the_option_does(option: str, text: str) -> None:
    assert text[0].isupper(), text
    assert text.endswith("."), text
    assert text.split(":")[0] in ALONE or not text.startswith(LEANING), f"{option}: {text}"


# What an option does that its name does not say.
BESIDE = {
    "attack restarts": "starts",  # not those after the first
    "audit samples": "record",
    "train local_learning_rate": "one epoch",
    "train epochs": "--local-learning-rate",
    "train bound": "--protocol plain",
    "train quiet": "notes",
    "join quiet": "terms",
}


@pytest.mark.parametrize(("option", "words"), BESIDE.items())
def test_a_help_text_says_what_the_options_name_does_not(option: str, words: str) -> None:
    assert re.search(rf"(?<!\w){re.escape(words)}(?!\w)", dict(texts())[option])
