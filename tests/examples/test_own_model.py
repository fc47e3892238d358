from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from fedseal.audit import load
from fedseal.cli.app import run_command

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "examples" / "own_model" / "README.md"


def _commands() -> list[list[str]]:
    """The command lines of the README."""
    text = README.read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^    (fedseal .*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("number", range(len(_commands())))
@pytest.mark.slow
def test_readme_runs_as_written_but_for_its_steps(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = _commands()[number]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    shorter = [argument.replace("steps=600", "steps=40") for argument in command[1:]]
    assert shorter != command[1:]
    assert run_command(shorter) == 0
    record = load(tmp_path / command[command.index("--out") + 1])
    assert record.complete
    assert record.header.config.case == "our scans"
    assert record.header.config.training["epochs"] == 3
    assert {cell.status for cell in record.cells} == {"budget"}


def test_case_feeds_normalized_grey_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from examples.own_model.audit import CLASSES, IMAGE, case

    made = case()
    assert made.batch.inputs.shape == (32, 1, 48, 48)
    assert made.batch.inputs.min() < 0  # normalized, so no longer pixels
    shown = IMAGE.decode(made.batch.inputs)
    assert torch.allclose(IMAGE.encode(shown), made.batch.inputs, atol=1e-5)
    assert int(made.batch.labels.max()) < CLASSES
