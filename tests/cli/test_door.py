"""Help, tables, records and mistakes are answered before torch, transformers and Flower are loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fedseal.audit.store import write_cell, write_header
from report.records import Shot, on_disk

HEAVY = ("torch", "transformers", "flwr", "ray", "scipy.stats", "pandas")
VERBS = ("audit", "attack", "train", "join", "report", "compare", "rescore", "recipes")
QUESTIONS = (("--help",), ("--version",), *((verb, "--help") for verb in VERBS), ("recipes",))
MISTAKES = (
    ("nothing",),
    ("attack", "--nothing"),
    ("attack", "--recipe", "nothing"),
    ("attack", "--kind", "weights"),
    ("attack", "--steps", "none"),
    ("audit", "--fail-above", "nothing=1"),
    ("report", "nowhere"),
    ("compare", "nowhere", "nowhere"),
    ("rescore", "nowhere"),
    ("recipes", "nothing"),
)


Line = tuple[str, ...]
Answer = tuple[int, set[str]]


def _answers(folder: Path, lines: Sequence[Line]) -> dict[Line, Answer]:
    """Exit codes of command lines, one after the other in a process of theirs, and the heavy packages each loaded."""
    script = (
        "import json, sys\n"
        "from fedseal.cli import main\n"
        "answers, before = [], set()\n"
        f"for line in {lines!r}:\n"
        "    sys.argv = ['fedseal', *line]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as end:\n"
        "        code = end.code or 0\n"
        f"    loaded = set({HEAVY!r}) & set(sys.modules)\n"
        "    answers.append((code, sorted(loaded - before)))\n"
        "    before |= loaded\n"
        "json.dump(answers, open('answers.json', 'w'))\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, check=True)
    answers = json.loads((folder / "answers.json").read_text())
    return {line: (code, set(names)) for line, (code, names) in zip(lines, answers, strict=True)}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[Line, Answer]:
    """Those of questions and mistakes: a process for each would spend its time on starting."""
    return _answers(tmp_path_factory.mktemp("door"), QUESTIONS + MISTAKES)


@pytest.mark.parametrize("line", QUESTIONS)
def test_help_and_the_table_of_attacks_load_nothing_heavy(answers: dict[Line, Answer], line: Line) -> None:
    assert answers[line] == (0, set())


@pytest.mark.parametrize("line", MISTAKES, ids=" ".join)
def test_what_was_typed_wrongly_is_answered_at_once(answers: dict[Line, Answer], line: Line) -> None:
    assert answers[line] == (2, set())


def test_a_report_with_pictures_and_a_comparison_load_nothing_heavy(tmp_path: Path) -> None:
    shots = [Shot((95.0,), first=place, defense=("none", "prune:0.2")[place % 2], frames=6) for place in range(4)]
    for name in ("one", "two"):
        made = on_disk(shots, tmp_path / name, public={"prune:0.2": ()})
        write_header(tmp_path / name, made.header)
        for cell in made.cells:
            write_cell(tmp_path / name, cell, b"")
    lines = (("report", "one", "two"), ("compare", "one", "two"))
    assert _answers(tmp_path, lines) == dict.fromkeys(lines, (0, set()))
    assert b"data:image/png" in (tmp_path / "mixed.html").read_bytes()


def test_an_attack_loads_torch(tmp_path: Path) -> None:
    """The watch sees what is loaded."""
    ((code, names),) = _answers(tmp_path, [("recipes", "dlg")]).values()
    assert (code, "torch" in names) == (0, True)
