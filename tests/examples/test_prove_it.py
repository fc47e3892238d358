from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "prove_it" / "prove.py"


@pytest.mark.slow
def test_plain_gives_the_pictures_away_and_no_secure_protocol_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specification = importlib.util.spec_from_file_location("prove", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "prove", module)
    specification.loader.exec_module(module)
    rows = {row.protocol: row for row in module.prove(tmp_path, owners=4, attacked=2, steps=40, sums=False)}
    assert rows["plain"].kind == "step"
    assert min(rows["plain"].psnr) > 60
    assert rows["plain"].identified == 2
    for protocol in ("sharing", "masking"):
        row = rows[protocol]
        assert row.kind == "masked"
        assert max(score - blind for score, blind in zip(row.psnr, row.blind, strict=True)) < 1
        assert row.identified < 2
