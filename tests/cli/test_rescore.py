from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cli.conftest import Command

OLD = Path(__file__).parents[1] / "report" / "fixtures"


@pytest.fixture
def old(fedseal: Command, tmp_path: Path) -> str:
    """A run of a table, of an earlier fedseal, with its table beside it."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    return "table"


def test_a_run_is_scored_anew_beside_itself(fedseal: Command, old: str, tmp_path: Path) -> None:
    answer = fedseal("rescore", f"{old}/")
    assert answer.code == 0, answer.err
    assert "Nothing leaks more or less than before" in answer.out
    assert "The scores of 4 cells were computed anew by fedseal" in answer.out
    assert "Rescored: table-rescored" in answer.out
    assert fedseal("compare", "table", "table-rescored", "--fail-on-worse").code == 0
    again = fedseal("report", "table-rescored")
    assert "The scores of 4 cells were computed anew" in again.out
    assert "The scores of 4 cells were computed anew" in (tmp_path / "table-rescored" / "report.html").read_text()


def test_json_is_the_new_record_and_nothing_else(fedseal: Command, old: str) -> None:
    answer = fedseal("rescore", old, "--json", "--out", "new")
    record = json.loads(answer.out)
    assert (record["folder"], record["changes"], record["complete"]) == ("new", [], True)
    assert record["header"]["rescored"]["cells"] == 4
    assert answer.err == ""


def test_quiet_prints_nothing_but_what_stayed(fedseal: Command, old: str, tmp_path: Path) -> None:
    answer = fedseal("rescore", old, "--quiet")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    cell = next((tmp_path / old / "cells").glob("*.json"))
    content = json.loads(cell.read_text())
    content["content"]["found"] = None
    cell.write_text(json.dumps(content))
    answer = fedseal("rescore", old, "--quiet", "--out", "new")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.splitlines() == ["1 of 4 cells: their rows are not there"]


def test_a_run_from_python_needs_its_case(fedseal: Command, own: str, tmp_path: Path) -> None:
    assert fedseal("audit", f"{own}:case", "--samples", 1, "--attacks", "linear", "--out", "mine", "-q").code == 0
    record = tmp_path / "mine" / "record.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "given": content["config"]}))  # as `audit.run` itself writes it
    assert "started from Python" in fedseal("rescore", "mine").complaint
    assert "attacked another case" in fedseal("rescore", "mine", "--case", f"{own}:other").complaint
    assert fedseal("rescore", "mine", "--case", f"{own}:case").code == 0


def test_what_the_record_names_must_still_be_there(fedseal: Command, old: str, tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text(table.read_text().replace("39,40", "39,41"))
    assert "attacked another case" in fedseal("rescore", old).complaint
    table.unlink()
    assert "people.csv" in fedseal("rescore", old).complaint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "there is no run folder 'nowhere'"),
        (("table", "--out", "text"), "there is something in 'text' already"),
        (("table", "--out", "people.csv"), "there is something in 'people.csv' already"),
        (("table", "--out", "people.csv/new"), "cannot write 'people.csv/new'"),
        (("table", "--case", "nothing"), "is no configuration file"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    fedseal: Command, old: str, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert words in fedseal("rescore", *arguments).complaint
    assert sorted(tmp_path.rglob("*")) == before


def test_a_record_of_a_federation_says_what_to_do(fedseal: Command, old: str, tmp_path: Path) -> None:
    record = tmp_path / old / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "given": {"recorded": "seen"}}))
    assert "attack the record again" in fedseal("rescore", old).complaint
