"""`fedseal audit` of what the parties of a federation could read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.conftest import Command
from fedseal import audit
from fedseal.errors import StorageFailure
from fedseal.federation import View
from fedseal.federation.view import Entry, Shelf
from fedseal.json_file import read_model
from fedseal.setup.federation import FederationSpec, OwnersData
from fedseal.setup.manifest import FILE, Manifest, keep, known_federation
from fedseal.types import Batch

MODEL = "zoo:mlp:widths=[16]"
QUICK = ("--model", MODEL, "--batch-size", "1", "--rounds", "1", "--validation-split", "0", "-q")
PLAN = FederationSpec(
    data=("own.npz",),
    model=MODEL,
    owners=3,
    split="iid",
    validation=None,
    validation_split=0.0,
    shape=None,
    label="label",
    protocol="plain",
    aggregators=3,
    minimum=None,
    learning_rate=None,
    local_learning_rate=None,
    epochs=None,
    reptile=False,
    iterations=3,
    batch_size=1,
    dp=None,
    clip=None,
    bound=8.0,
    bits=32,
    seed=0,
    threads=1,
)

OWN = """
import torch
import fedseal as fs
from fedseal.federation import DataOwner, Federation, ModelOwner, gradient_step

def federation():
    data = fs.zoo.photos(size=8, num_classes=4)[:3]
    owners = [DataOwner.holding(data[place : place + 1], gradient_step()) for place in range(3)]
    return Federation(ModelOwner(fs.zoo.mlp(inputs=192, widths=(16,), num_classes=4)), owners, "plain")
"""


@pytest.fixture
def seen(fedseal: Command, tmp_path: Path) -> str:
    """Two pictures for each of three owners, who each draw one for a round; everything read under "plain"."""
    return trained(fedseal, tmp_path, "plain")


def trained(fedseal: Command, folder: Path, protocol: str, *more: str) -> str:
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(6, 8, 8, generator=generator) * 255).byte().numpy()
    np.savez(folder / "own.npz", images=images, labels=np.arange(6) % 3)
    options = ("--data", "own.npz", "--owners", "3", "--protocol", protocol, "--record", "seen", *more)
    assert fedseal("train", *QUICK, *options).code == 0
    keep(folder / "seen", PLAN, PLAN.read())
    return "seen"


def outcome(folder: str | Path) -> dict[str, tuple[int, int]]:
    """For each party and what it held, how many cells are certified, of how many."""
    groups = audit.summarize(audit.load(folder))
    return {group.threat: (group.certified, group.cells) for group in groups}


def psnr(folder: str | Path, threat: str) -> tuple[float, float]:
    (group,) = (group for group in audit.summarize(audit.load(folder)) if group.threat == threat)
    assert group.median is not None
    return group.median, max(value for _, value in group.baselines)


def test_with_plain_the_pictures_come_out(fedseal: Command, seen: str, tmp_path: Path) -> None:
    answer = fedseal("audit", seen, "--attacks", "auto:steps=20", "--workers", "1")
    assert answer.code == 0, answer.err
    assert "attacking 3 of 4 recorded messages" in answer.err
    assert "the server: updates" in answer.out
    assert outcome("runs/seen")["the server: updates"] == (2, 2)
    score, blind = psnr("runs/seen", "the server: updates")
    assert score > blind + 40
    assert (tmp_path / "runs/seen/report.html").read_text().count("the server: updates") > 0
    record = audit.load("runs/seen")
    assert record.header.config.case == "what was recorded in seen"
    assert record.header.given["recorded"] == "seen"


@pytest.mark.parametrize(
    ("protocol", "holds"),
    [
        ("sharing", ["aggregator 0: masked vectors", "aggregator 1: shares from seeds"]),
        ("masking", ["the server: masked vectors"]),
    ],
)
def test_with_a_protocol_nobody_is_above_the_blind_guess(
    protocol: str, holds: list[str], fedseal: Command, tmp_path: Path
) -> None:
    trained(fedseal, tmp_path, protocol)
    answer = fedseal(
        "audit", "seen", "--attacks", "auto:steps=20", "--samples", "1", "--out", "out", "--workers", "1", "-q"
    )
    assert answer.code == 0, answer.err
    found = outcome("out")
    assert {*holds, "the owner: opened sums"} <= set(found)
    for threat in holds:
        assert found[threat] == (0, 1)
        score, blind = psnr("out", threat)
        assert score < blind


def test_it_goes_on_and_gates(fedseal: Command, seen: str) -> None:
    call = ("audit", seen, "--attacks", "auto:steps=20", "--workers", "1")
    before = fedseal(*call, "--json")
    again = fedseal(*call, "--json", "--fail-above", "psnr=60")
    assert (before.code, again.code) == (0, 1)
    assert json.loads(before.out)["cells"] == json.loads(again.out)["cells"]
    assert "[" not in again.err.split("finding")[0]  # nothing was attacked again
    assert "the server: updates" in again.err


def test_a_function_says_whose_record_it_is(fedseal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_federation.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    from own_federation import federation  # type: ignore[import-not-found]

    federation().fit(1, record="seen")
    answer = fedseal(
        "audit", "seen", "--federation", "own_federation:federation", "--samples", "3", "--attacks", "auto:steps=20"
    )
    assert answer.code == 0, answer.err
    assert outcome("runs/seen")["the server: updates"] == (3, 3)


def test_without_a_truth_the_attacks_own_certificate_is_shown(fedseal: Command, seen: str, tmp_path: Path) -> None:
    (tmp_path / seen / FILE).unlink()
    options = ("--model", MODEL, "--shape", "1,8,8", "--attacks", "auto:steps=20", "--samples", "1")
    answer = fedseal("audit", seen, *options)
    assert answer.code == 0, answer.err
    assert "[1/2] auto:steps=20, the server, round 0, step of 0: exact" in answer.err
    assert "there is nothing to compare with" in answer.out
    guesses = json.loads((tmp_path / "runs/seen/guesses.json").read_text())
    assert [guess["status"] for guess in guesses][:1] == ["exact"]
    assert guesses[0]["scores"] is None
    assert (tmp_path / guesses[0]["folder"] / "reconstruction.png").is_file()
    assert json.loads(fedseal("audit", seen, *options, "--json").out)[0]["status"] == "exact"


def test_a_crash_without_a_truth_is_one_line_and_exit_code_1(
    fedseal: Command, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise TypeError("a fault of our own")

    (tmp_path / seen / FILE).unlink()
    monkeypatch.setattr("fedseal.attack.layers.linear.LinearFirstLayer.__call__", crash)
    options = ("--shape", "1,8,8", "--model", MODEL, "--attacks", "linear,auto:steps=2", "--samples", "1", "--json")
    answer = fedseal("audit", seen, *options)
    assert answer.code == 1
    assert "Traceback" not in answer.err
    found = json.loads(answer.out)
    failed = [guess for guess in found if guess["attack"] == "linear"]
    assert failed
    assert all(guess["status"] == "failed" for guess in failed)
    assert all(
        "TypeError: a fault of our own" in (tmp_path / g["folder"] / "traceback.txt").read_text() for g in failed
    )
    assert "'linear' crashed on" in answer.err


def test_foreign_frameworks_record(fedseal: Command, tmp_path: Path) -> None:
    """What one line in a ServerApp keeps: nodes with long numbers, and no word of how clients train."""
    view = _foreign(fedseal, tmp_path)
    answer = fedseal("audit", view, "--model", MODEL, "--shape", "1,8,8", "--attacks", "auto:steps=20")
    assert answer.code == 0, answer.err
    assert "123456789012" in answer.out
    named = ("--training", "fedavg:lr=0.5")
    answer = fedseal("audit", view, "--model", MODEL, "--shape", "1,8,8", "--attacks", "auto:steps=20", *named)
    assert "exact" in answer.out


def _foreign(fedseal: Command, folder: Path) -> str:
    view = View.load(trained(fedseal, folder, "plain"))
    (entry,) = view.of(0, "step")[:1]
    tensors = view.update(entry).tensors
    shelf = Shelf(folder / "flower", view.packing, None)
    shelf.model(1, view.state(0))
    step = torch.cat([-0.5 * tensors[name].flatten() for name, _ in view.packing.weights])
    shelf.keep(1, "the server", "123456789012", "step", {"step": step}, weight=1)
    shelf.close()
    return "flower"


def test_what_does_not_fit_is_refused(fedseal: Command, seen: str, tmp_path: Path) -> None:
    assert "--defenses means nothing to a record" in fedseal("audit", seen, "--defenses", "none").complaint
    assert "--model means nothing here" in fedseal("audit", "--model", "zoo:mlp").complaint
    assert "of another model" in fedseal("audit", seen, "--model", "zoo:mlp:widths=[3]", "--workers", "1").complaint
    np.savez(tmp_path / "own.npz", images=np.zeros((6, 8, 8), np.uint8), labels=np.arange(6) % 3)
    assert "is not what was trained on" in fedseal("audit", seen).complaint
    (tmp_path / seen / FILE).write_text("{")
    assert "not as fedseal wrote it" in fedseal("audit", seen).complaint
    (tmp_path / seen / FILE).unlink()
    named = ("--model", MODEL, "--shape", "1,8,8")
    assert "does not say which model" in fedseal("audit", seen).complaint
    assert "needs a score" in fedseal("audit", seen, *named, "--fail-above", "psnr=1").complaint
    (tmp_path / seen / "view.json").write_text("{}")
    assert "no whole record" in fedseal("audit", seen, "--model", MODEL).complaint


def test_entries_are_chosen_party_by_party() -> None:
    from fedseal.audit.recording import chosen

    step = Entry(0, "the server", "10", "step", "f")
    entries = (
        replace(step, round=1, sender="2"),
        step,
        replace(step, sender="2"),
        replace(step, kind="sum", cohort=(2, 10)),
    )
    view = View(Path("x"), entries, None, None, None)  # type: ignore[arg-type]
    assert [(e.round, e.sender, e.kind) for e in chosen(view, 2)] == [
        (0, "2", "step"),
        (0, "10", "step"),
        (0, "10", "sum"),
    ]
    assert len(chosen(view, None)) == 4


def test_a_manifest_comes_back_as_it_was_also_from_before(tmp_path: Path) -> None:
    batch = Batch(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    keep(tmp_path, PLAN, OwnersData((batch,), None, 2))
    written = json.loads((tmp_path / FILE).read_text())
    flat = {**written["plan"], "digest": written["digest"]}  # as files of 0.2.0 are
    for content in (written, flat):
        (tmp_path / FILE).write_text(json.dumps(content))
        assert read_model(tmp_path / FILE, Manifest, "no", "do").plan == replace(PLAN, data=("own.npz",))
    wrong: tuple[object, ...] = (
        {**flat, "owners": "many"}, {**flat, "foreign": 1}, {"digest": 1}, [], {**flat, "digest": None},
    )  # fmt: skip
    for damaged in wrong:
        (tmp_path / FILE).write_text(json.dumps(damaged))
        with pytest.raises(StorageFailure, match=r"is not as fedseal wrote it \(.*\); train and record anew"):
            known_federation(tmp_path, None)
