"""The user's own code, named as "package.module:attribute": found, called, and its mistakes shown as theirs."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from fedseal.errors import BadConfig, FedsealError

Built = TypeVar("Built")
PACKAGE = Path(__file__).resolve().parents[1]


def load_object(specification: str) -> object:
    """The attribute of a module that "package.module:attribute" names; modules in the current folder are found too.

    Raises:
        BadConfig: not such a specification, no such module or attribute, or an exception of the module itself.

    >>> load_object("math:tau") > 6
    True
    """
    module_name, colon, attribute = specification.partition(":")
    if not (colon and attribute.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
        raise BadConfig(f"'{specification}' names no object in a module", "write it as package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script's search path begins with its own folder instead
        sys.path.insert(0, here)
        importlib.invalidate_caches()
    try:
        module = _guarded(f"importing '{module_name}'", lambda: importlib.import_module(module_name))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise BadConfig(
                f"'{module_name}' imports '{error.name}', which is not installed{_place(error)}",
                f"install it beside fedseal, or correct the import in '{module_name}'",
            ) from None
        raise BadConfig(
            f"there is no module '{error.name}', neither installed nor in '{here}'",
            "run fedseal in the folder that holds it, or correct the name",
        ) from None
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, [name for name in vars(module) if not name.startswith("_")], n=1)
        raise BadConfig(
            f"the module '{module_name}' has no '{attribute}'",
            f"did you mean '{module_name}:{near[0]}'?" if near else "name a function that it defines",
        )
    found: object = getattr(module, attribute)
    return found


def build_object(specification: str, kind: type[Built], options: Mapping[str, object] | None = None) -> Built:
    """What the named function returns; an object that is of the wanted kind itself is returned as it is.

    Module and function run with torch's random numbers seeded, so that a model with random weights is the same one each
    time and an interrupted audit of it can be continued.

    Args:
        specification: "package.module:attribute".
        kind: the type wanted.
        options: keyword arguments for the function.

    Raises:
        BadConfig: see `load_object`; or not callable, an exception in the user's code, or another kind of result.
        FedsealError: whatever fedseal itself says of what the user's code asks of it.

    >>> build_object("fractions:Fraction", object, {"numerator": 1, "denominator": 2})
    Fraction(1, 2)
    """
    found = load_object(specification)
    if isinstance(found, kind) and not isinstance(found, type):
        return found
    if not callable(found):
        raise BadConfig(
            f"'{specification}' is of type {type(found).__name__} and cannot be called",
            f"name a function that returns a {kind.__name__}",
        )
    try:
        built = _guarded(f"'{specification}'", lambda: found(**(options or {})))
    except ModuleNotFoundError as error:
        raise BadConfig(f"'{specification}' imports '{error.name}', which is not installed", "install it") from None
    if not isinstance(built, kind):
        raise BadConfig(
            f"'{specification}' returned a {type(built).__name__}, and a {kind.__name__} is needed",
            "add a return statement" if built is None else f"return a {kind.__name__}",
        )
    return built


def _guarded(what: str, call: Callable[[], Built]) -> Built:
    """Call the user's code. Only here may anything be raised, so only here is anything caught; it ends the command."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return call()
    except (FedsealError, ModuleNotFoundError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raised = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise BadConfig(f"{what} raised {raised}{_place(error)}", "correct it there") from error


def _place(error: Exception) -> str:
    """Where in the user's own files it happened: the innermost such line, or nothing."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _foreign(frame.filename)]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


def _foreign(filename: str) -> bool:
    path = Path(filename)
    library = Path(traceback.__file__).resolve().parent
    return (
        filename.startswith("<")
        or "site-packages" in path.parts
        or PACKAGE in path.resolve().parents
        or library in path.resolve().parents
    )
