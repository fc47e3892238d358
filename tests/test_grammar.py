"""The one grammar of names, strengths, options, lists and brackets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@pytest.mark.parametrize(
    ("text", "strength", "options"),
    [
        ("x", None, {}),
        ("x:", None, {}),
        ("x:0.5", "0.5", {}),
        (" x : 0.5 , a = 1", "0.5", {"a": "1"}),
        ("x:a=1", None, {"a": "1"}),
        ("x:a=b:c,d=e=f", None, {"a": "b:c", "d": "e=f"}),
    ],
)
def test_a_strength_is_the_first_word_without_a_value(text: str, strength: str | None, options: dict[str, str]) -> None:
    assert grammar.read(text, strength=True) == grammar.Specification("x", strength, options)


def test_without_a_strength_every_word_is_an_option() -> None:
    with pytest.raises(BadConfig, match=r"'0\.5' of 'x' has no value"):
        grammar.read("x:0.5")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a,b", ("a", "b")),
        ("a:k=1,l=2,b", ("a:k=1,l=2", "b")),
        ("a:k=1,l=u:v,b:w=2", ("a:k=1,l=u:v", "b:w=2")),
        ("k=1", ("k=1",)),
    ],
)
def test_an_option_belongs_to_the_name_before_it(text: str, found: tuple[str, ...]) -> None:
    assert grammar.listed(text) == found


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], ()),
        (["a", "b:1"], ("a", "b:1")),
        (["a:[1, 2 ]"], ("a:1", "a:2")),
        (["a:[1,2],k=[x,y]+c", "d"], ("a:1,k=x+c", "a:1,k=y+c", "a:2,k=x+c", "a:2,k=y+c", "d")),
    ],
)
def test_brackets_stand_for_every_choice_in_order(texts: list[str], found: tuple[str, ...]) -> None:
    assert grammar.expanded(texts) == found


@pytest.mark.parametrize("text", ["a:[]", "a:[1,]", "a:[1", "a:1]", "a:[1,[2]]"])
def test_brackets_that_hold_nothing_or_do_not_close_are_refused(text: str) -> None:
    with pytest.raises(BadConfig) as caught:
        grammar.expanded(["b", text])
    assert str(caught.value) == f"the strengths of '{text}' cannot be read; write them as 'prune:[0.2,0.5]'"


def test_numbers_are_read_as_they_are() -> None:
    assert grammar.numbers("0.5, -2,1e3", "--mean") == (0.5, -2.0, 1000.0)
    assert grammar.whole_numbers("3, 0,32", "--shape") == (3, 0, 32)
    assert grammar.whole_number("07", "--label") == 7
    assert grammar.value("[XA, BX]", Sequence[str], what="option") == ("XA", "BX")


@pytest.mark.parametrize("text", ["-1", "1.0", "", "²", " 1"])
def test_a_whole_number_is_whole(text: str) -> None:
    with pytest.raises(BadConfig) as caught:
        grammar.whole_number(text, "--label")
    assert str(caught.value) == f"--label is '{text}'; give a whole number that is not negative"


REMEDIES: dict[str, Callable[[], object]] = {
    "the option '=1' of 'x' has no value; write it as NAME=VALUE": lambda: grammar.read("x:=1"),
    "the option 'a' of 'x' is there twice; give it once": lambda: grammar.read("x:a=1,a=2"),
    "the list '' is empty; name at least one, separated by commas": lambda: grammar.listed(""),
    "--std is 'x'; give numbers separated by commas": lambda: grammar.numbers("x", "--std"),
    "--shape is 'x'; give whole numbers separated by commas, none negative": lambda: grammar.whole_numbers(
        "x", "--shape"
    ),
    "the option 'w=[1,y]' of 'x' has no meaning; give a whole number": lambda: grammar.options(
        grammar.read("x:w=[1,y]"), {"w": Sequence[int]}
    ),
}


@pytest.mark.parametrize("sentence", REMEDIES)
def test_fact_and_remedy_are_one_sentence(sentence: str) -> None:
    with pytest.raises(BadConfig) as caught:
        REMEDIES[sentence]()
    assert str(caught.value) == sentence


def test_an_unknown_word_is_answered_with_what_there_is() -> None:
    with pytest.raises(UnknownName, match=r"\(none\)"):
        grammar.options(grammar.read("x:a=1"), {})
    with pytest.raises(UnknownName, match="steps"):
        grammar.options(grammar.read("x:step=1"), {"steps": int})
    with pytest.raises(UnknownName, match="fast"):
        grammar.options(grammar.read("x:how=slow"), {"how": Literal["fast"]})


def test_an_option_without_a_type_is_text() -> None:
    def function(first: int, *, how, much: int = 3) -> None:  # type: ignore[no-untyped-def]
        """Options are what may be given by keyword alone."""

    assert grammar.kinds(function) == {"how": str, "much": int}
