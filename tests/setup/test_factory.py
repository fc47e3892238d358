from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from fedseal.errors import BadConfig, UnfitBatch
from fedseal.setup import build_object, load_object

MODULE = """
import torch
from torch import nn
import fedseal

net = nn.Linear(2, 2)
number = 3

def build(width=2):
    return nn.Linear(width, 2)

def nothing():
    build()

def broken():
    return 1 / 0  # line 16

def too_deep():
    return nn.Linear(2, 2)(torch.zeros(5))  # line 19

def unfit():
    return fedseal.Batch(torch.zeros(0, 2), torch.zeros(0))

def needs_more():
    import surely_not_installed
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module of the user's in it that is not on the search path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_model.py").write_text(MODULE)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def test_a_module_in_the_current_folder_is_found_and_called_with_options() -> None:
    built = build_object("own_model:build", nn.Module, {"width": 7})
    assert isinstance(built, nn.Linear)
    assert built.in_features == 7


def test_an_object_of_the_right_kind_needs_no_call() -> None:
    assert build_object("own_model:net", nn.Module) is load_object("own_model:net")


def test_random_weights_are_the_same_each_time_and_the_users_random_numbers_are_left_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one, expected = build_object("own_model:build", nn.Linear), torch.rand(3)
        torch.manual_seed(2)
        two = build_object("own_model:build", nn.Linear)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.weight, two.weight)


@pytest.mark.parametrize(
    ("specification", "said"),
    [
        ("own_model", "write it as package.module:function"),
        ("own_model.py:build", r"there is no module 'own_model\.py'|no module"),
        ("./own_model:build", "write it as package.module:function"),
        ("own_modle:build", "there is no module 'own_modle', neither installed nor in"),
        ("own_model.deeper:build", "there is no module"),
        ("own_model:biuld", r"has no 'biuld'; did you mean 'own_model:build'\?"),
        ("own_model:number", "is of type int and cannot be called; name a function that returns a Module"),
        ("own_model:nothing", "returned a NoneType, and a Module is needed; add a return statement"),
        ("own_model:broken", r"raised ZeroDivisionError: division by zero at .*own_model\.py:16"),
        ("own_model:too_deep", r"raised RuntimeError: .* at .*own_model\.py:19"),
        ("own_model:needs_more", "imports 'surely_not_installed', which is not installed"),
    ],
)
def test_what_is_wrong_with_the_users_code_is_said_in_a_line(specification: str, said: str) -> None:
    with pytest.raises(BadConfig, match=said) as caught:
        build_object(specification, nn.Module)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(:\n", r"raised SyntaxError: .* at .*own_bad\.py:1"),
        ("x = 1\nraise OSError('no disk')\n", r"importing 'own_bad' raised OSError: no disk at .*own_bad\.py:2"),
        (
            "\nimport surely_not_installed\n",
            r"imports 'surely_not_installed', which is not installed at .*own_bad\.py:2",
        ),
    ],
)
def test_a_module_that_does_not_import_says_where(workplace: Path, source: str, said: str) -> None:
    (workplace / "own_bad.py").write_text(source)
    with pytest.raises(BadConfig, match=said):
        load_object("own_bad:f")


def test_an_option_that_the_function_does_not_know_is_said() -> None:
    with pytest.raises(BadConfig, match="unexpected keyword argument 'depth'"):
        build_object("own_model:build", nn.Module, {"depth": 3})


def test_what_fedseal_says_of_the_users_values_is_passed_on() -> None:
    with pytest.raises(UnfitBatch, match="the batch's inputs have shape"):
        build_object("own_model:unfit", nn.Module)


def test_ctrl_c_in_the_users_code_is_no_mistake_of_theirs(workplace: Path) -> None:
    (workplace / "own_slow.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_object("own_slow:f")
