"""The one grammar of names, strengths, options, lists and brackets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from fedseal import attack, defense, grammar
from fedseal.attack.recipes import RECIPES
from fedseal.attack.specification import defaults
from fedseal.errors import BadConfig, FedsealError, UnknownName
from fedseal.zoo import MODELS


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_empty_list_of_names_is_refused(text: str) -> None:
    with pytest.raises(BadConfig, match="empty"):
        grammar.listed(text)


@pytest.mark.parametrize("text", ["1,x", "", "nan", "1,inf"])
def test_numbers_are_finite(text: str) -> None:
    with pytest.raises(BadConfig, match="--std"):
        grammar.numbers(text, "--std")


@pytest.mark.parametrize("text", ["1,-2", "1.5", "", "²"])
def test_whole_numbers_are_whole(text: str) -> None:
    with pytest.raises(BadConfig, match="--seeds"):
        grammar.whole_numbers(text, "--seeds")


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("3", int, 3),
        ("1e-3", float, 1e-3),
        ("TRUE", bool, True),
        ("false", bool, False),
        ("tanh", str, "tanh"),
        ("4", int | None, 4),
        ("[1, 2,3]", Sequence[int], (1, 2, 3)),
        ("[0.9,0.99]", tuple[float, float], (0.9, 0.99)),
        ("7", Sequence[int], (7,)),
    ],
)
def test_a_word_means_what_the_type_says(text: str, kind: Any, expected: object) -> None:
    found = grammar.value(text, kind, what="option")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "error", "fact"),
    [
        ("x:a", BadConfig, "the option 'a' of 'x' has no value; write it as a=VALUE"),
        ("x:a=", BadConfig, "'a=' of 'x' has no value"),
        ("x:=1", BadConfig, "'=1' of 'x' has no value"),
        ("x:a=1,a=2", BadConfig, "'a' of 'x' is there twice"),
        ("x:b=1", UnknownName, "there is no option of 'x' 'b'"),
        ("x:a=1.5", BadConfig, "the option 'a=1.5' of 'x' has no meaning; give a whole number"),
        ("x:a=[1]", BadConfig, "give a whole number"),
        ("x:w=[1,y]", BadConfig, "give a whole number"),
        ("x:how=slow", UnknownName, "there is no value of 'how' named 'slow'"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text: str, error: type[FedsealError], fact: str) -> None:
    known = {"a": int, "w": Sequence[int], "how": Literal["fast"] | None}
    with pytest.raises(error) as caught:
        grammar.options(grammar.read(text), known)
    assert fact in str(caught.value)


def test_lists_in_brackets_are_one_word() -> None:
    named = grammar.read("mlp:widths=[8, 4],seed=1")
    assert grammar.options(named, grammar.kinds(MODELS["mlp"])) == {"widths": (8, 4), "seed": 1}
    assert grammar.listed("none,prune:[0.1,0.2],mlp:widths=[1,2],seed=3") == (
        "none",
        "prune:[0.1,0.2]",
        "mlp:widths=[1,2],seed=3",
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_of_every_recipe_can_be_typed_back(name: str) -> None:
    """What `fedseal recipes` prints as the options is what `parse` reads."""
    options = ",".join(f"{key}={value}" for key, value in defaults(RECIPES[name]).items() if value)
    assert repr(attack.parse(f"{name}:{options}")) == repr(attack.parse(name))


@pytest.mark.parametrize("rest", ["steps=x", "step=3", "steps", "3", "steps=3,steps=3"])
def test_attacks_and_defenses_complain_alike(rest: str) -> None:
    with pytest.raises((BadConfig, UnknownName), match="of 'dlg'"):
        attack.parse(f"dlg:{rest}")
    with pytest.raises((BadConfig, UnknownName), match="of 'prune'"):
        defense.parse(f"prune:0.1,{rest}")
