"""A record of rounds in a file: what was written is read, and nothing else is."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from fedseal.errors import StorageFailure
from fedseal.federation.ledger import LEDGER, ledger_of, ledger_text, new_ledger, stored_ledger
from fedseal.secagg import Ledger
from fedseal.secagg.errors import OutOfPhase
from secagg.rounds import terms


def _filled(path: Path) -> Ledger:
    ledger = new_ledger(path)
    for number in range(3):
        ledger.arrived(bytes([number]) * 32, np.arange(4, dtype="<f4") + np.float32(number))
        ledger.enter(terms(round=number, state=bytes([number]) * 32, clip=1.0, bound=1.0, noise=0.5))
    return ledger


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = _filled(tmp_path / LEDGER)
    found = stored_ledger(tmp_path / LEDGER)
    assert (found.entries, found.secret, found.rounds) == (written.entries, written.secret, written.rounds)
    assert found.entries[2].place.tolist() == [2, 3, 4, 5]
    assert found.entries[0].release.deviation > 0
    with pytest.raises(OutOfPhase):
        found.enter(terms(round=2))
    found.enter(terms(round=3))
    assert len(stored_ledger(tmp_path / LEDGER).entries) == 4


def test_no_change_of_a_ledger_is_accepted(tmp_path: Path) -> None:
    """Bytes changed, cut and put in at 2,000 places, and numbers, texts and lists changed as JSON."""
    _filled(tmp_path / LEDGER)
    text = (tmp_path / LEDGER).read_bytes()
    whole, draw = ledger_of(text), random.Random(0)
    refused = 0
    for _ in range(2000):
        place, byte = draw.randrange(len(text)), bytes([draw.randrange(256)])
        cut = draw.choice([0, 1, 1, 5, 500])
        changed = text[:place] + draw.choice([b"", byte, byte]) + text[place + cut :]
        try:
            found = ledger_of(changed)
        except StorageFailure as error:
            refused += "\n" not in str(error)
        else:
            assert (found.entries, found.secret) == (whole.entries, whole.secret)  # a blank between two names
            refused += 1
    assert refused == 2000
    for round in (0.5, "0", -1, True, 10**30, None):
        content = json.loads(text)
        content["content"]["entries"][0]["round"] = round
        with pytest.raises(StorageFailure):
            ledger_of(json.dumps(content))
    for missing in (("version",), ("checksum",), ("content", "secret"), ("content", "entries")):
        content = part = json.loads(text)
        for name in missing[:-1]:
            part = part[name]
        del part[missing[-1]]
        with pytest.raises(StorageFailure):
            ledger_of(json.dumps(content))
    fewer = json.loads(text)
    fewer["content"]["entries"].pop()
    with pytest.raises(StorageFailure, match="checksum"):
        ledger_of(json.dumps(fewer))


def test_a_ledger_of_another_version_and_none_at_all(tmp_path: Path) -> None:
    for content in (
        json.dumps({"00" * 16: 3}),
        "{",
        "[]",
        json.dumps(json.loads(ledger_text(Ledger())) | {"version": 3}),
    ):
        (tmp_path / LEDGER).write_text(content)
        with pytest.raises(StorageFailure, match=r"ledger\.json' is no record of rounds.*; make a new deployment"):
            stored_ledger(tmp_path / LEDGER)
    with pytest.raises(StorageFailure, match=r"no record of rounds '.*missing\.json'"):
        stored_ledger(tmp_path / "missing.json")
