from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fedseal.audit import load
from fedseal.cli.app import run_command

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "examples" / "vit" / "README.md"


@pytest.mark.parametrize("side", [32, pytest.param(224, marks=pytest.mark.slow)])
def test_readme_s_command_reads_both_pictures(side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is written, and on a smaller model."""
    (line,) = re.findall(r"^    (fedseal audit .*)$", README.read_text(), re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    from examples.vit import audit

    if side == 32:
        facts = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
        small = audit.case(32, 4, **facts)
        monkeypatch.setattr(audit, "case", lambda: small)
    command = shlex.split(line)
    assert run_command(command[1:]) == 0
    record = load(tmp_path / command[command.index("--out") + 1])
    assert {cell.status for cell in record.cells} == {"exact"}
    assert all(cell.certain == (True,) for cell in record.cells)
