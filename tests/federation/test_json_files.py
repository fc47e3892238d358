"""Files as earlier versions wrote them are read, and what is wrong with one is said without a word of its content."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.small import federation
from fedseal.errors import StorageFailure
from fedseal.federation import View
from fedseal.federation.deployment import place
from fedseal.federation.keys import read_identity, read_pact, write_keys
from fedseal.federation.secure import Keyring, Secure
from fedseal.federation.view import Entry
from fedseal.secagg import VectorFormat, aggregator
from fedseal.types import LocalTraining


def _pair(digit: str) -> list[str]:
    return [digit * 64, f"{digit}e" * 32]


SECURE = {
    "protocol": "sharing", "minimum": 2, "aggregators": 2, "bound": 8.0, "clip": None, "noise": None, "max_weight": 15,
    "metrics": {"loss": 16.0}, "bits": 32, "degree": 0, "quorum": [2, 3], "chunk": 131072,
}  # fmt: skip
ROSTER = {
    "clients": {"0": _pair("1"), "1": _pair("2")},
    "aggregators": [_pair("3"), _pair("4")],
    "opener": _pair("5"),
}
ENTRIES = [
    {"round": 0, "party": "the server", "sender": "1", "kind": "step", "file": "round-000/server-1.safetensors",
     "weight": 5, "cohort": []},
    {"round": 0, "party": "the owner", "sender": "cohort", "kind": "sum", "file": "round-000/owner-cohort.safetensors",
     "weight": None, "cohort": [0, 1]},
]  # fmt: skip
TRAINING = {"epochs": 1, "lr": 0.01, "batch_size": 2, "mode": "train", "loss": "cross_entropy", "optimizer": "adam",
            "betas": [0.5, 0.9]}  # fmt: skip
FILES: dict[str, dict[str, Any]] = {
    "client-0.key": {"version": 1, "signing": "a1" * 32, "opening": "b2" * 32},
    "pact.json": {"version": 1, "session": "c3" * 16, "secure": SECURE, "roster": ROSTER},
    "view.json": {
        "version": 1, "weights": [["0.weight", [5, 6]], ["0.bias", [5]]], "buffers": [["n", []]], "training": TRAINING,
        "defense": "none", "ring": {"bits": 32, "scale": 1048576.0, "chunk": 8}, "entries": ENTRIES,
    },
    "party.json": {
        "version": 1, "party": str(aggregator(1)), "address": "fl.example.org:9443", "listen": "0.0.0.0",
        "training": {"model": "zoo:mlp", "deep": {"a": [1, None, 2.5]}},
    },
    "nodes.json": {"version": 1, "nodes": {"0": "ecdsa-sha2-nistp384 AA", str(aggregator(0)): "ecdsa-sha2 BB"}},
}  # fmt: skip
READERS: dict[str, Callable[[Path], object]] = {
    "client-0.key": lambda folder: read_identity(folder / "client-0.key"),
    "pact.json": read_pact,
    "view.json": View.load,
    "party.json": place,
    "nodes.json": lambda folder: place(folder).nodes,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_files_of_earlier_versions_say_what_they_said(folder: Path) -> None:
    identity = read_identity(folder / "client-0.key")
    assert (identity.signing.hex(), identity.opening.secret.hex()) == ("a1" * 32, "b2" * 32)
    pact = read_pact(folder)
    assert pact.secure == Secure(minimum=2, aggregators=2, max_weight=15, metrics={"loss": 16.0}, chunk=131072)
    assert pact.secure.quorum == (2, 3)
    assert pact.session.hex() == "c3" * 16
    assert list(pact.roster.clients) == [0, 1]
    assert [pact.roster.clients[1].verifying.hex(), pact.roster.clients[1].sealing.hex()] == _pair("2")
    assert pact.roster.aggregators[1].verifying.hex() == "4" * 64
    assert pact.roster.opener.sealing.hex() == "5e" * 32
    view = View.load(folder)
    assert view.entries == (
        Entry(0, "the server", "1", "step", "round-000/server-1.safetensors", 5),
        Entry(0, "the owner", "cohort", "sum", "round-000/owner-cohort.safetensors", None, (0, 1)),
    )
    assert view.packing.size == 36
    assert view.packing.buffers == (("n", ()),)
    assert view.training == LocalTraining.fedavg(lr=0.01, batch_size=2, optimizer="adam", betas=(0.5, 0.9))
    assert view.ring == VectorFormat(32, 1048576.0, 8)
    own = place(folder)
    assert (own.number, own.address, own.listen) == (aggregator(1), "fl.example.org:9443", "0.0.0.0")
    assert own.training == {"model": "zoo:mlp", "deep": {"a": [1, None, 2.5]}}
    assert own.nodes == {0: "ecdsa-sha2-nistp384 AA", aggregator(0): "ecdsa-sha2 BB"}


def test_files_are_written_as_earlier_versions_read_them(tmp_path: Path) -> None:
    secure = Secure("sharing", aggregators=2).settled(2, 15, {"loss": 16.0})
    write_keys(tmp_path / "keys", Keyring.fresh(secure, 2), secure)
    pact = json.loads((tmp_path / "keys" / "pact.json").read_text())
    later: dict[str, Any] = {"chunk": 262144}
    later |= {"statistics": "none", "statistics_bound": 1000.0, "statistics_clip": None, "floor": 1e-4, "rounds": None}
    assert pact["secure"] == SECURE | later
    assert {name: type(value) for name, value in pact.items()} == {
        "version": int, "session": str, "secure": dict, "roster": dict,
    }  # fmt: skip
    assert [len(text) for text in pact["roster"]["clients"]["1"]] == [64, 64]
    key = json.loads((tmp_path / "keys" / "owner.key").read_text())
    assert {name: len(str(value)) for name, value in key.items()} == {"version": 1, "signing": 64, "opening": 64}
    federation("masking").fit(1, record=tmp_path / "seen")
    view = json.loads((tmp_path / "seen" / "view.json").read_text())
    assert list(view) == ["version", "weights", "buffers", "unit", "training", "defense", "ring", "entries"]
    assert list(view["ring"]) == ["bits", "scale", "chunk"]
    assert [set(entry) for entry in view["entries"]] == [set(ENTRIES[0])] * 5
    assert view["training"]["lr"] == 0.1


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_lacks_something_is_refused_in_one_sentence(name: str, folder: Path) -> None:
    versioned = [{**FILES[name], "version": 99}, {k: v for k, v in FILES[name].items() if k != "version"}]
    lacking = [{k: v for k, v in FILES[name].items() if k != left_out} for left_out in FILES[name]]
    wrong = [{**FILES[name], changed: {"x": "y"}} for changed in FILES[name]]
    contents = [*wrong, *versioned, *lacking]
    for content in ["{", "[]", '"x"', *map(json.dumps, contents)]:
        if content == json.dumps({**FILES[name], "training": {"x": "y"}}) and name == "party.json":
            continue  # whatever the command line needs
        (folder / name).write_text(content)
        with pytest.raises(StorageFailure, match=rf"{name if name != 'view.json' else 'record'}.*; \w+") as refused:
            READERS[name](folder)
        assert "\n" not in str(refused.value)


def test_an_option_that_is_unknown_here_is_not_passed_over(folder: Path) -> None:
    """A pact of a later version may ask for more than this one would do."""
    content = FILES["pact.json"] | {"secure": SECURE | {"audit": True}}
    (folder / "pact.json").write_text(json.dumps(content))
    with pytest.raises(StorageFailure, match=r"pact\.json' is no pact \(secure: .*there is no 'audit'"):
        read_pact(folder)
    for part in ("ring", "entries"):
        more = FILES["view.json"][part]
        changed = {**more, "more": 1} if isinstance(more, dict) else [{**more[0], "more": 1}]
        (folder / "view.json").write_text(json.dumps(FILES["view.json"] | {part: changed}))
        with pytest.raises(StorageFailure, match=r"no whole record \(.*there is no 'more'"):
            View.load(folder)


@pytest.mark.parametrize("signing", ["a1" * 31, "zz" * 32, "a1" * 33, ["a1" * 32]])
def test_what_is_wrong_with_a_key_is_said_without_the_key(signing: object, folder: Path) -> None:
    (folder / "client-0.key").write_text(json.dumps({**FILES["client-0.key"], "signing": signing}))
    with pytest.raises(StorageFailure, match=r"is no key \(signing") as refused:
        read_identity(folder / "client-0.key")
    assert not {"a1a1", "zzzz", "b2b2"} & {str(refused.value)[i : i + 4] for i in range(len(str(refused.value)))}
