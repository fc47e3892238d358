"""One door for terminal text: nothing that comes from a file or another party can give a terminal an order."""

from __future__ import annotations

import ast
import io
import json
import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from cli.conftest import Command
from fedseal.cli import terminal
from fedseal.errors import shown
from fedseal.federation.flower_environment import only_errors
from fedseal.federation.protocol import LOG

CLEAR, TITLE, TURNED = "\x1b[2J", "\x9d0;x\x07", "\u202e"
EVIL = f"a{CLEAR}b{TITLE}c{TURNED}d"
SOURCE = Path(terminal.__file__).parents[1]


def obeyed(text: str) -> set[str]:
    """Characters that a terminal would not show."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") and c not in "\n\t"} | {
        c
        for c in text
        if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    }


@settings(deadline=None)
@given(st.text())
def test_what_is_shown_is_never_obeyed_and_plain_text_is_as_it_was(text: str) -> None:
    assert not obeyed(shown(text))
    assert shown(shown(text)) == shown(text)
    if not obeyed(text) and not {"\u200e", "\u200f", "\u061c"} & set(text):
        assert shown(text) == text


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_every_way_to_the_terminal_passes_the_door(text: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    table = Table(title=text)
    table.add_column(text)
    table.add_row(Text(text))
    table.add_row(text.replace("[", ""))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdout", out)
        patched.setattr("sys.stderr", err)
        terminal.say(text)
        terminal.line(Text(text))
        terminal.show(table)
        terminal.note(text)
        terminal.error(text)
        terminal.machine({"name": text})
    assert not obeyed(out.getvalue() + err.getvalue())


def test_nothing_else_opens_a_console_or_prints() -> None:
    """By the syntax trees of all modules but the door's."""
    for path in SOURCE.rglob("*.py"):
        if path == Path(terminal.__file__) or path.name == "daemon.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.func if isinstance(node, ast.Call) else None
            called = name.id if isinstance(name, ast.Name) else name.attr if isinstance(name, ast.Attribute) else ""
            assert called not in ("Console", "secho"), f"{path}:{node}"
            assert not (isinstance(name, ast.Name) and called == "print"), path
            if called == "echo":
                assert path.name == "app.py", "the help, which is fedseal's own text"
            if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr"):
                assert isinstance(node.value, ast.Name), path
                assert node.value.id != "sys" or path.name == "progress.py", path


def test_colors_stay_where_they_are_fedseals_own() -> None:
    found = io.StringIO()
    console = terminal._console(found, force_terminal=True, color_system="standard")
    console.print(Text(EVIL, style="red"))
    assert found.getvalue().startswith("\x1b[31m")
    assert "\\x1b[2J" in found.getvalue()
    assert CLEAR not in found.getvalue()
    assert TURNED not in found.getvalue()


@pytest.mark.parametrize("name", ["fedseal.federation", "flwr"])
def test_logs_are_shown_with_their_tracebacks(name: str, caplog: pytest.LogCaptureFixture) -> None:
    found = io.StringIO()
    logger, handler = logging.getLogger(name), logging.StreamHandler(found)
    logger.addHandler(handler)
    try:
        with only_errors("flwr"):
            try:
                raise ValueError(EVIL)
            except ValueError:
                (LOG if logger is LOG else logger).exception("%s fails", EVIL)
    finally:
        logger.removeHandler(handler)
    assert "Traceback" in found.getvalue()
    assert not obeyed(found.getvalue())


def test_names_in_files_folders_columns_and_classes(fedseal: Command, tmp_path: Path) -> None:
    from PIL import Image

    rows = "\n".join([f"age,{EVIL},label", *(f"{20 + row},{'ab'[row % 2]},{'yn'[row % 2]}" for row in range(20))])
    (tmp_path / "rows.csv").write_text(rows)
    for place in range(4):
        folder = tmp_path / EVIL.replace("/", "") / f"{CLEAR}{place % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), 20 * place, np.uint8)).save(folder / f"{place}{CLEAR}.png")
    (tmp_path / f"{CLEAR}.npz").write_bytes(b"nothing")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").write_text(json.dumps({"version": EVIL}))
    for typed in (
        ["attack", "--data", "rows.csv", "--label", EVIL],
        ["attack", "--data", "rows.csv"],
        ["train", "--data", "rows.csv", "--rounds", "1", "--label", "none" + EVIL],
        ["train", "--data", EVIL.replace("/", ""), "--shape", "3,8,8", "--owners", "2", "--rounds", "1"],
        ["train", "--data", f"{CLEAR}.npz", "--rounds", "1"],
        ["train", "--data", EVIL, "--rounds", "1"],
        ["train", "--model", f"zoo:{EVIL}", "--rounds", "1"],
        ["report", "run"],
        ["report", EVIL],
        ["join", EVIL],
        ["recipes", EVIL],
        ["audit", EVIL],
        [f"--{EVIL}"],
    ):
        answer = fedseal(*typed)
        assert not obeyed(answer.out + answer.err), typed
