"""A folder to follow a page in, and the command line as a page uses it."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedseal.cli.app import run_command

Command = Callable[[list[str]], tuple[int, str]]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; modules that a page wrote there are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "120")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None)
        if path is not None and tmp_path in Path(path).parents:
            del sys.modules[name]


@pytest.fixture
def fedseal() -> Command:
    """Runs `fedseal ARGUMENTS`; gives its exit code and what it printed, notes before results."""

    def command(arguments: list[str]) -> tuple[int, str]:
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = run_command(arguments)
        return code, stderr.getvalue() + stdout.getvalue()

    return command
