"""What holds for all tests: how long one may take, and where doctests are looked for."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from _pytest.doctest import DoctestModule

SLOW, LONG = 1800, 14400  # seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time than the limit of pyproject.toml, and long ones more than that."""
    for item in items:
        if item.get_closest_marker("slow") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LONG if item.get_closest_marker("long") else SLOW))


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path,
) -> Generator[None, list[pytest.Collector | None], list[pytest.Collector | None]]:
    """Look for doctests only in files of tests that hold one: the search imports a file and reads each of its sources.

    Each worker collects for itself, and nearly all files of tests hold none.
    """
    found = yield
    if file_path.suffix != ".py" or ">>> " in file_path.read_text():
        return found
    return [one for one in found if not isinstance(one, DoctestModule)]
