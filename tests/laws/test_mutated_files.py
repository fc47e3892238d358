"""Whatever is wrong with a file, its reader says so in a sentence: no exception but fedseal's own, and no second line.

Every reader of files that come from elsewhere is a row. A mutation flips, cuts, doubles or overwrites bytes, or changes
a value of a JSON file to another kind.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save

from federation.test_json_files import FILES
from fedseal.audit import store
from fedseal.captured import read_tensors
from fedseal.errors import FedsealError
from fedseal.federation import View
from fedseal.federation.checkpoint import load_checkpoint
from fedseal.federation.deployment import place
from fedseal.federation.deployment.floors import Floors
from fedseal.federation.keys import read_identity, read_pact
from fedseal.federation.ledger import ledger_text, stored_ledger
from fedseal.federation.protocol.plain import read_step, write_step
from fedseal.secagg import Ledger, LedgerEntry, SumRelease
from fedseal.setup.audit import load_config
from fedseal.setup.data.agreement import agreed
from fedseal.setup.data.load import load_data
from fedseal.setup.data.terms import read_terms
from fedseal.setup.deployment import PartySpec
from fedseal.types import Update

LONG = (pytest.mark.slow, pytest.mark.long)
RUN = Path(__file__).parents[1] / "report" / "fixtures" / "table" / "record.json"
PLAN = {
    "data": [], "model": "zoo:mlp", "owners": 3, "split": "iid", "validation": None, "validation_split": 0.2,
    "shape": None, "label": "label", "protocol": "sharing", "aggregators": 2, "minimum": 2, "learning_rate": None,
    "local_learning_rate": None, "epochs": 1, "reptile": False, "iterations": 3, "batch_size": 40, "dp": None,
    "clip": None, "bound": 8.0, "bits": 32, "seed": 0, "threads": 1,
}  # fmt: skip
TRAINING = {
    "plan": PLAN, "shape": [1, 28, 28], "classes": 10, "owners": 3, "rounds": 2, "evaluate_every": 1, "timeout": 9.0,
    "bundled": "fashion_mnist", "own": None,
}  # fmt: skip
TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(2, dtype=torch.int64)}


class Row(NamedTuple):
    """A file and who reads it."""

    name: str
    content: Callable[[], bytes]
    read: Callable[[Path], object]


def _json(name: str) -> Callable[[], bytes]:
    return lambda: json.dumps(FILES[name]).encode()


def _ledger() -> bytes:
    """Of one round."""
    entry = LedgerEntry("00" * 16, 3, "ab" * 32, "00" * 8, SumRelease(1.0, 2.0, 3, 4))
    return ledger_text(Ledger([entry], secret=bytes(32))).encode()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, images=np.arange(48, dtype=np.uint8).reshape(3, 4, 4), labels=np.array([0, 1, 2]))
    return file.getvalue()


def _pt() -> bytes:
    file = io.BytesIO()
    torch.save(TENSORS, file)
    return file.getvalue()


def _frame() -> pd.DataFrame:
    return pd.DataFrame({"age": [20, 30, 41, 50], "job": ["a", "b", "a", "c"], "label": ["y", "n", "y", "n"]})


def _parquet() -> bytes:
    file = io.BytesIO()
    _frame().to_parquet(file)
    return file.getvalue()


@cache
def _checkpoint() -> bytes:
    from fedseal.federation.checkpoint import KEY

    header = {"version": 1, "mark": "m", "history": [{"round": 0, "clients": 2, "weight": 3, "metrics": {"loss": 1.5}}]}
    return save(TENSORS, {KEY: json.dumps(header)})


def _terms() -> bytes:
    """Of a table, agreed on."""
    column = {"name": "age", "kind": "numbers", "low": 10, "high": 100, "mean": 44.5, "std": 12.0, "digits": 0}
    texts = {"name": "job", "kind": "texts", "values": ["a", "b"]}
    facts = {"version": 1, "kind": "table", "classes": 2, "names": ["n", "y"], "label": "label"}
    return json.dumps(facts | {"columns": [column, texts]}).encode()


def _agreed(path: Path) -> object:
    terms = agreed({"own": read_terms(path), "again": read_terms(path)})
    return terms.inputs, terms.words()


def _mutated_step(path: Path) -> object:
    return read_step(path.read_bytes())


ROWS = (
    Row("client-0.key", _json("client-0.key"), read_identity),
    Row("pact.json", _json("pact.json"), lambda path: read_pact(path.parent)),
    Row("view.json", _json("view.json"), lambda path: View.load(path.parent)),
    Row("nodes.json", _json("nodes.json"), lambda path: _placed(path.parent).nodes),
    Row(
        "party.json",
        lambda: json.dumps(FILES["party.json"] | {"training": TRAINING}).encode(),
        lambda path: PartySpec.of(dict(place(path.parent).training)),
    ),
    Row("ledger.json", _ledger, stored_ledger),
    Row("record.json", RUN.read_bytes, lambda path: store.read_header(path.parent)),
    Row("owner.yaml", lambda: b"minimum: 5\nnoise: 1.5\nprotocols: [masking]\n", lambda path: Floors.of(path.parent)),
    Row(
        "audit.yaml",
        lambda: b"data: photos\nsize: 8\nmodel: zoo:mlp:widths=[8]\nattacks: [auto]\nseeds: [0]\nsamples: 2\n",
        load_config,
    ),
    Row("checkpoint.st", _checkpoint, lambda path: load_checkpoint(path, "m")),
    Row("step.bin", lambda: write_step(np.ones(5, np.float32), 3, {"loss": 1.0}), _mutated_step),
    Row("terms.json", _terms, _agreed),
    Row("data.npz", _npz, load_data),
    Row("data.parquet", _parquet, lambda path: load_data(path, label="label")),
    Row("data.csv", lambda: _frame().to_csv(index=False).encode(), lambda path: load_data(path, label="label")),
    Row("update.safetensors", lambda: save(TENSORS), read_tensors),
    Row("update.npz", _npz, read_tensors),
    Row("update.pt", _pt, read_tensors),
    Row("loaded.safetensors", lambda: save(TENSORS), Update.load),
)
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**63, 10**40, -(10**40), 0.5, 1e308, float("nan"), float("inf"), "", "x", "1", "0" * 99,
    "\x1b[2J", [], [0], {}, {"x": 1}, [[[]]],
)  # fmt: skip


def _placed(folder: Path) -> Any:
    (folder / "party.json").write_text(json.dumps(FILES["party.json"]))
    return place(folder)


def _spots(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a value, with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [spot for key in keys for spot in _spots(value[key])]


def _bent_value(content: bytes, rng: random.Random) -> bytes:
    value = json.loads(content)
    holder, key = rng.choice(_spots(value))
    way = rng.randrange(4)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[str(rng.choice(VALUES))] = holder.pop(key)
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(value).encode()


def _bent_bytes(content: bytes, rng: random.Random) -> bytes:
    raw = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 3])):
        at, way = rng.randrange(len(raw) + 1), rng.randrange(6)
        if way == 0 and at < len(raw):
            raw[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            del raw[at:]
        elif way == 2:
            raw[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif way == 3:
            raw[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, b"9" * 8, rng.randbytes(8)])
        elif way == 4:
            raw[at:at] = raw[rng.randrange(len(raw) + 1) :][: rng.randrange(1, 40)]
        else:
            del raw[at : at + rng.randrange(1, 9)]
    return bytes(raw)


def _wrong(row: Row, path: Path, content: bytes) -> str:
    """What is wrong with how a content was refused; nothing where it was taken, or refused in a sentence."""
    path.write_bytes(content)
    try:
        row.read(path)
    except FedsealError as error:
        return "" if "\n" not in str(error) and "; " in str(error) else f"{error!r}"
    except Exception as error:  # noqa: BLE001 - which is what is looked for
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.filterwarnings("ignore")  # of pandas and zipfile, about what is mutated
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("tries", [40, pytest.param(400, marks=pytest.mark.slow), pytest.param(10_000, marks=LONG)])
def test_a_mutated_file_is_refused_in_a_sentence_or_read(row: Row, tries: int, tmp_path: Path) -> None:
    good, path, found = row.content(), tmp_path / row.name, dict[str, bytes]()
    assert _wrong(row, path, good) == ""
    values = row.name.endswith(".json") or row.name.endswith(".key")
    for seed in range(tries):
        rng = random.Random(f"{row.name} {seed}")
        content = _bent_value(good, rng) if values and seed % 2 else _bent_bytes(good, rng)
        if wrong := _wrong(row, path, content):
            found.setdefault(wrong.split(":")[0], content)
    assert not found, {kind: content[:300] for kind, content in found.items()}
