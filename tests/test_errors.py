"""Every error says fact, culprit and remedy, and is caught as one thing."""

from __future__ import annotations

import inspect

import pytest

from fedseal import errors
from fedseal.errors import FedsealError, UnknownName

LEAVES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_error_of_the_module_is_caught_as_a_fedseal_error(leaf: type) -> None:
    assert issubclass(leaf, FedsealError)


def test_the_message_joins_fact_and_remedy_and_keeps_both() -> None:
    error = FedsealError("the fact", "the remedy")
    assert (str(error), error.fact, error.remedy) == ("the fact; the remedy", "the fact", "the remedy")


@pytest.mark.parametrize(
    ("typed", "hint"), [("invertng_gradients", "did you mean 'inverting_gradients'? "), ("zzz", "")]
)
def test_an_unknown_name_suggests_the_nearest_only_if_one_is_near(typed: str, hint: str) -> None:
    error = UnknownName("recipe", typed, ["inverting_gradients", "dlg"])
    assert error.remedy == f"{hint}Known: dlg, inverting_gradients"
