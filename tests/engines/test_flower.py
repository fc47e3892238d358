"""Flower's simulation on Ray against this process. It runs in a process of its own, since Ray leaves some open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROTOCOLS = ("sharing", "masking", "plain", "ring", "masked_ring", "gossip")
LONGEST = 280  # seconds, within what a test may take
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def _simulated(what: str) -> dict[str, str]:
    """Ray's workers are the last to be given a processor, so that each of these takes minutes beside other tests."""
    script = Path(__file__).with_name("simulated.py")
    command = [sys.executable, str(script), what]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=LONGEST)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.slow
def test_the_simulation_gives_the_same_models_bit_for_bit() -> None:
    assert _simulated("alike") == dict.fromkeys(PROTOCOLS, "True")


@pytest.mark.slow
def test_the_simulation_opens_nothing_of_owners_that_were_sent_other_models_or_one_twice() -> None:
    ways = [f"{protocol}-{told}" for protocol in ("sharing", "masking") for told in (False, True)]
    assert _simulated("lies") == dict.fromkeys(ways, "0 True") | {"repeats": "4 0"}


@pytest.mark.slow
def test_the_simulation_outlives_clients_that_fail() -> None:
    found = _simulated("fails")
    assert found["failing"] == "3"
    assert "the minimum is 4" in found["strict"]
    assert "cannot be handed to another process" in found["locked"]
