"""Flower's simulation on Ray against this process. It runs in a process of its own, since Ray leaves some open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROTOCOLS = ("sharing", "masking", "plain", "ring", "masked_ring", "gossip")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.slow
def test_the_simulation_gives_the_same_models_bit_for_bit_and_outlives_clients_that_fail() -> None:
    script = Path(__file__).with_name("simulated.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert {name: said[name] for name in PROTOCOLS} == dict.fromkeys(PROTOCOLS, "True")
    assert {line for name, line in said.items() if name.startswith("lies")} == {"0 True"}
    assert sum(name.startswith("lies") for name in said) == 4
    assert said["repeats"] == "4 0"
    assert said["failing"] == "3"
    assert "the minimum is 4" in said["strict"]
    assert "cannot be handed to another process" in said["locked"]
