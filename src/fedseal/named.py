"""Objects named by where they are, such as "fedseal.attack.published:dlg", loaded when they are first used."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any


@cache
def named(place: str) -> Any:
    """The object at "package.module:name".

    >>> named("math:pi")
    3.141592653589793
    """
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
