from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from cli.conftest import OWN, Command
from fedseal.cli.app import run_command


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one case: with strong noise on the updates and without."""
    folder = tmp_path_factory.mktemp("audited")
    (folder / "own_reported.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        for name, defense in (("noisy", "gaussian:0.5"), ("open", "none")):
            options = ["--samples", "2", "--defenses", defense, "--attacks", "linear", "--out", name, "-q"]
            assert run_command(["audit", "own_reported:case", *options]) == 0
    sys.modules.pop("own_reported")
    return folder


@pytest.fixture
def runs(audited: Path, tmp_path: Path) -> tuple[str, str]:
    """Those runs in a folder of the test's own."""
    for name in ("noisy", "open"):
        shutil.copytree(audited / name, tmp_path / name)
    return "noisy", "open"


def test_report_is_written_from_the_record_alone(fedseal: Command, runs: tuple[str, str], tmp_path: Path) -> None:
    cells = {path: path.read_bytes() for path in (tmp_path / "open" / "cells").iterdir()}
    before = (tmp_path / "open" / "report.html").read_text()
    (tmp_path / "open" / "report.html").unlink()
    answer = fedseal("report", "open")
    assert answer.code == 0
    assert "Verdict" in answer.out
    assert "Report: open/report.html" in answer.out
    assert (tmp_path / "open" / "report.html").read_text() == before
    assert {path: path.read_bytes() for path in cells} == cells


def test_report_goes_where_it_is_told(fedseal: Command, runs: tuple[str, str], tmp_path: Path) -> None:
    fedseal("report", "open", "--html", "pages/one.html")
    assert (tmp_path / "pages" / "one.html").is_file()


def test_report_as_json_is_the_record(fedseal: Command, runs: tuple[str, str], tmp_path: Path) -> None:
    record = json.loads(fedseal("report", "open", "--json").out)
    assert record["complete"] is True
    assert len(record["cells"]) == 2


def test_unfinished_run_has_a_report(fedseal: Command, runs: tuple[str, str], tmp_path: Path) -> None:
    next((tmp_path / "open" / "cells").glob("*.json")).unlink()
    answer = fedseal("report", "open")
    assert answer.code == 0
    assert json.loads(fedseal("report", "open", "--json").out)["complete"] is False


def test_comparison_counts_and_fails_on_worse_only(fedseal: Command, runs: tuple[str, str]) -> None:
    noisy, opened = runs
    same = fedseal("compare", opened, opened, "--fail-on-worse")
    assert same.code == 0
    changes = json.loads(fedseal("compare", noisy, opened, "--json").out)
    assert {change["verdict"] for change in changes} <= {"appeared", "gone"}  # two defenses are two settings
    assert fedseal("compare", noisy, opened, "--fail-on-worse").code == 0


def test_something_leakier_fails(fedseal: Command, runs: tuple[str, str], tmp_path: Path) -> None:
    for cell in (tmp_path / "noisy" / "cells").glob("*.json"):
        cell.unlink()
    record = (tmp_path / "open" / "record.json").read_text()
    worse, better = tmp_path / "worse", tmp_path / "better"
    for folder, share in ((worse, True), (better, False)):
        (folder / "cells").mkdir(parents=True)
        (folder / "record.json").write_text(record)
        for cell in (tmp_path / "open" / "cells").glob("*.json"):
            content = json.loads(cell.read_text())
            content["scores"]["samples"][0]["identification"]["hit"] = share
            (folder / "cells" / cell.name).write_text(json.dumps(content))
    assert fedseal("compare", "worse", "better", "--fail-on-worse").code == 0
    assert fedseal("compare", "better", "worse").code == 0
    answer = fedseal("compare", "better", "worse", "--fail-on-worse")
    assert answer.code == 1
    assert "worse" in answer.out
    changes = json.loads(fedseal("compare", "better", "worse", "--json").out)
    assert [change["measure"] for change in changes if change["verdict"] == "worse"] == ["identification"]


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["report", "none"], "no run folder 'none'"),
        (["report", "."], "holds no record.json"),
        (["report", "open", "--html", "."], "is a folder"),
        (["report", "open", "--html", "open/record.json/x.html"], "cannot write to the folder"),
        (["report", "broken"], "no whole JSON"),
        (["report", "future"], "version 99"),
        (["compare", "open", "none"], "no run folder 'none'"),
        (["compare", "broken", "open"], "no whole JSON"),
    ],
)
def test_bad_run_is_one_line(
    fedseal: Command, runs: tuple[str, str], tmp_path: Path, arguments: list[str], fact: str
) -> None:
    for name, content in (("broken", '{"version": 1'), ("future", '{"version": 99}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(content)
    assert fact in fedseal(*arguments).complaint
