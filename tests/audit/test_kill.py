from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from audit.fakes import Guess, small_case, timeless
from fedseal import audit


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.slow
def test_a_run_killed_at_every_place_loses_nothing_and_computes_nothing_twice(tmp_path: Path, workers: int) -> None:
    script = Path(__file__).with_name("killed.py")
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, script, folder, str(workers)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15

    finished: set[str] = set()
    reached = set()
    for line in folder.with_suffix(".log").read_text().splitlines():
        word, *names = line.split()
        if word == "start":
            assert finished <= set(names)
            finished = set(names)
            reached.add(len(names))
        else:
            assert names[0] not in finished

    assert reached >= {0, 1, 2, 3} if workers == 1 else len(reached) > 1

    whole = audit.run(small_case(2), attacks=[Guess(), Guess("other")], out=tmp_path / "whole")
    killed = audit.load(folder)
    assert timeless(killed) == timeless(whole)
    assert not list(folder.rglob("*.part"))
    for path in (tmp_path / "whole" / "cells").glob("*.safetensors"):
        assert (folder / "cells" / path.name).read_bytes() == path.read_bytes()
