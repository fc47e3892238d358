"""Help, tables, records and mistakes are answered before torch, transformers and Flower are loaded."""

from __future__ import annotations

import subprocess
import sys
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


def _loaded(folder: Path, *arguments: str) -> tuple[int, set[str]]:
    """The exit code of a command line, and which of the heavy packages it loaded."""
    script = (
        "import sys\n"
        "from fedseal.cli import main\n"
        f"sys.argv = ['fedseal', *{arguments!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    code = end.code or 0\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "open('loaded.txt', 'w').write(f'{code} ' + ' '.join(loaded))\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, check=True)
    code, *names = (folder / "loaded.txt").read_text().split()
    return int(code), set(names)


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), *((verb, "--help") for verb in VERBS), ("recipes",)]
)
def test_help_and_the_table_of_attacks_load_nothing_heavy(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert _loaded(tmp_path, *arguments) == (0, set())


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_what_was_typed_wrongly_is_answered_at_once(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert _loaded(tmp_path, *arguments) == (2, set())


def test_a_report_with_pictures_and_a_comparison_load_nothing_heavy(tmp_path: Path) -> None:
    shots = [Shot((95.0,), first=place, defense=("none", "prune:0.2")[place % 2], frames=6) for place in range(4)]
    for name in ("one", "two"):
        made = on_disk(shots, tmp_path / name, public={"prune:0.2": ()})
        write_header(tmp_path / name, made.header)
        for cell in made.cells:
            write_cell(tmp_path / name, cell, b"")
    assert _loaded(tmp_path, "report", "one", "two") == (0, set())
    assert b"data:image/png" in (tmp_path / "mixed.html").read_bytes()
    assert _loaded(tmp_path, "compare", "one", "two") == (0, set())


def test_an_attack_loads_torch(tmp_path: Path) -> None:
    """The watch sees what is loaded."""
    code, names = _loaded(tmp_path, "recipes", "dlg")
    assert (code, "torch" in names) == (0, True)
