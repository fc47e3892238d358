from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from docs.pages import ROOT, follow
from fedseal.cli.app import run_command


def test_the_page_on_training_runs_and_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def command(arguments: list[str]) -> tuple[int, str]:
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = run_command(arguments)
        return code, stderr.getvalue() + stdout.getvalue()

    follow(ROOT / "docs/training.md", command)
    assert (tmp_path / "keys" / "pact.json").is_file()
