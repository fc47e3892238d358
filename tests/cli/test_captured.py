"""`fedseal attack --update FILE`: whatever was captured, taken for what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cli.conftest import Command
from fedseal import LocalTraining, Update, local_update, zoo

STEPS = LocalTraining.fedavg(lr=0.1)
TRAINED = ("--training", "fedavg:lr=0.1", "--examples", 1)


def weights() -> dict[str, Tensor]:
    return {
        name: tensor.clone()
        for name, tensor in zoo.mlp(inputs=192, widths=(16,), num_classes=4, seed=1).state_dict().items()
    }


def sent(training: LocalTraining = STEPS, shift: float = 0.0) -> Update:
    model = zoo.mlp(inputs=192, widths=(16,), num_classes=4, seed=1)
    with torch.no_grad():
        model.get_parameter("3.bias").add_(shift)
    return local_update(model, zoo.photos(size=8, num_classes=4)[:1], training=training)


def attack(own: str, *more: object) -> list[object]:
    return ["attack", "--model", f"{own}:build", "--shape", "3,8,8", "--out", "out", *more]


def read(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "out" / "result.json").read_text())
    return found


@pytest.mark.parametrize("form", ["safetensors", "npz", "pt"])
def test_weights_after_training_are_refused_as_an_update_and_read_as_weights(
    fedseal: Command, own: str, tmp_path: Path, form: str
) -> None:
    before = weights()
    after = {name: before[name] + tensor for name, tensor in sent().tensors.items()}
    path = tmp_path / f"w.{form}"
    if form == "safetensors":
        save_file(after, path)
    elif form == "npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in after.items()}
        np.savez(path, **arrays)
    else:
        torch.save(after, path)
    complaint = fedseal(*attack(own, "-q", "--update", path.name, *TRAINED)).complaint
    assert "nearer to the model's own weights than to 0" in complaint
    assert "--kind weights" in complaint
    answer = fedseal(*attack(own, "--update", path.name, "--kind", "weights", *TRAINED))
    assert answer.code == 0, answer.err
    assert "linear" in answer.out


def test_weights_before_and_after(fedseal: Command, own: str, tmp_path: Path) -> None:
    """The ones before are what the client was sent, whatever the function that builds the model gives."""
    before = weights()
    before["3.bias"] += 0.5
    after = {f"module.{name}": before[name] + tensor for name, tensor in sent(shift=0.5).tensors.items()}
    torch.save(before, tmp_path / "before.pt")
    torch.save({"state_dict": after, "epoch": 1}, tmp_path / "after.pt")
    answer = fedseal(*attack(own, "--before", "before.pt", "--after", "after.pt", *TRAINED, "--json"))
    assert answer.code == 0, answer.err
    found = read(tmp_path)
    assert "wrapper (module)" in str(found["notes"])
    said = fedseal(*attack(own, "--before", "before.pt", "--after", "after.pt", *TRAINED))
    assert "wrapper (module)" in said.err


def test_half_precision_is_said_to_be_a_rounding(fedseal: Command, own: str, tmp_path: Path) -> None:
    torch.save({n: t.to(torch.bfloat16) for n, t in sent(LocalTraining.fedsgd()).tensors.items()}, tmp_path / "u.pt")
    answer = fedseal(*attack(own, "--update", "u.pt", "--training", "fedsgd", "--examples", 1, "--recipe", "linear"))
    assert answer.code == 0, answer.err
    assert "sent as bfloat16" in answer.err


BAD: dict[str, tuple[tuple[object, ...], str]] = {
    "kind without a file": (("--kind", "weights"), "--kind weights is given without a captured file"),
    "before without a file": (("--before", "w.pt"), "--before 'w.pt' is given without a captured file"),
    "two files": (("--update", "w.pt", "--after", "w.pt"), "--update 'w.pt' is given too"),
    "two kinds": (("--after", "w.pt", "--kind", "gradient"), "--kind gradient is given too"),
    "no training": (("--update", "w.pt", "--kind", "weights", "--before", "b.pt"), "which local training made it"),
    "no step": (("--after", "w.pt", "--before", "b.pt", "--training", "fedsgd"), "training named makes a gradient"),
    "another model before": (("--after", "w.pt", "--before", "o.pt", *TRAINED), "the weights are not this model's"),
    "missing before": (("--after", "w.pt", "--before", "none.pt", *TRAINED), "no update file 'none.pt'"),
    "a gradient": (("--update", "g.pt", "--kind", "weights", *TRAINED), "called weights, and lies nearer to 0"),
    "the same twice": (("--after", "w.pt", "--before", "w.pt", *TRAINED), "zero everywhere"),
    "damaged": (("--update", "d.pt", *TRAINED), "not a whole"),
    "another kind of file": (("--update", "n.npz", *TRAINED), "of numpy's type"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_one_line(fedseal: Command, own: str, tmp_path: Path, case: str) -> None:
    before = weights()
    torch.save(before, tmp_path / "b.pt")
    torch.save({name: before[name] + tensor for name, tensor in sent().tensors.items()}, tmp_path / "w.pt")
    torch.save({"other": torch.ones(3)}, tmp_path / "o.pt")
    torch.save({n: 0.1 * t for n, t in sent(LocalTraining.fedsgd()).tensors.items()}, tmp_path / "g.pt")
    (tmp_path / "d.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:900])
    np.savez(tmp_path / "n.npz", w=np.array(["text"]))
    arguments, said = BAD[case]
    assert said in fedseal(*attack(own, "-q", *arguments)).complaint
