from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from fedseal.audit import summarize

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
    audits = module.prove(tmp_path, owners=4, attacked=2, steps=40)
    groups = {(protocol, group.threat): group for protocol, one in audits.items() for group in summarize(one)}
    plain = groups["plain", "the server: updates"]
    assert plain.certified == plain.cells == plain.identification.hits == 2
    secure = {key: group for key, group in groups.items() if key[0] in ("sharing", "masking") and "sums" not in key[1]}
    assert {threat for _, threat in secure} == {
        "the server: masked vectors",
        "aggregator 0: masked vectors",
        "aggregator 1: shares from seeds",
        "aggregator 2: shares from seeds",
    }
    control = groups["control", "nobody: updates"]
    assert control.mean is not None
    for group in secure.values():
        assert group.mean == pytest.approx(control.mean, abs=1)
        assert (group.certified, group.cells) == (0, 2)
        assert group.worst is not None
        assert group.worst < min(value for name, value in group.baselines if "best of" in name)
