from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cli.conftest import Command
from fedseal import LocalTraining, Update, local_update, zoo


@pytest.fixture
def update(tmp_path: Path) -> Update:
    model = zoo.mlp(inputs=192, widths=(16,), num_classes=4, seed=1)
    made = local_update(model, zoo.photos(size=8, num_classes=4)[:1], training=LocalTraining.fedsgd())
    made.save(tmp_path / "good.safetensors")
    return made


def test_good_update_is_accepted(fedseal: Command, own: str, update: Update) -> None:
    assert fedseal(*_attack(own, "good.safetensors")).code == 0


def test_missing_file(fedseal: Command, own: str) -> None:
    assert "no update file 'none.safetensors'" in fedseal(*_attack(own, "none.safetensors")).complaint


@pytest.mark.parametrize("length", [0, 5, 300, -1])
def test_truncated_file(fedseal: Command, own: str, tmp_path: Path, update: Update, length: int) -> None:
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "good.safetensors").read_bytes()[:length])
    assert "not a whole safetensors file" in fedseal(*_attack(own, "cut.safetensors")).complaint


OTHERS = {
    b"GIF89a" + bytes(64): "safetensors",
    b"\x80\x04pickle": "safetensors",
    b"PK\x03\x04" + bytes(200): ".npz or .pt",
}


@pytest.mark.parametrize("content", OTHERS)
def test_file_of_another_kind(fedseal: Command, own: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.safetensors").write_bytes(content)
    assert f"not a whole {OTHERS[content]} file" in fedseal(*_attack(own, "other.safetensors")).complaint


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]

CHANGES: dict[str, tuple[Change, str]] = {
    "a name too few": (lambda t: {n: v for n, v in t.items() if n != "1.bias"}, "lacks '1.bias'"),
    "a name too many": (lambda t: {**t, "extra": torch.ones(1)}, "foreign 'extra'"),
    "another shape": (lambda t: {**t, "1.bias": torch.ones(17)}, "shape (17,), the model's (16,)"),
    "another dtype": (lambda t: {**t, "1.bias": torch.ones(16, dtype=torch.int32)}, "torch.int32"),
    "NaN": (lambda t: {**t, "1.bias": torch.full((16,), torch.nan)}, "'1.bias' holds NaN or infinity"),
    "infinity": (lambda t: {**t, "3.bias": torch.full((4,), -torch.inf)}, "'3.bias' holds NaN or infinity"),
    "zero": (lambda t: {n: torch.zeros_like(v) for n, v in t.items()}, "zero everywhere"),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_tensors_that_do_not_fit(fedseal: Command, own: str, tmp_path: Path, update: Update, change: str) -> None:
    alter, fact = CHANGES[change]
    save_file(alter(dict(update.tensors)), tmp_path / "bad.safetensors")
    assert fact in fedseal(*_attack(own, "bad.safetensors", "--training", "fedsgd")).complaint


def test_plain_tensors_need_the_training_named(fedseal: Command, own: str, tmp_path: Path, update: Update) -> None:
    save_file(dict(update.tensors), tmp_path / "plain.safetensors")
    assert "--training fedsgd" in fedseal(*_attack(own, "plain.safetensors")).complaint
    assert fedseal(*_attack(own, "plain.safetensors", "--training", "fedsgd", "--examples", 1)).code == 0


def test_plain_difference_is_told_by_its_training(fedseal: Command, own: str, tmp_path: Path) -> None:
    model = zoo.mlp(inputs=192, widths=(16,), num_classes=4, seed=1)
    training = LocalTraining.fedavg(lr=0.1)
    moved = local_update(model, zoo.photos(size=8, num_classes=4)[:1], training=training)
    save_file(dict(moved.tensors), tmp_path / "plain.safetensors")
    answer = fedseal(*_attack(own, "plain.safetensors", "--training", "fedavg:lr=0.1", "--examples", 1))
    assert answer.code == 0
    assert "linear" in answer.out


def test_training_of_another_kind_than_the_files(fedseal: Command, own: str, update: Update) -> None:
    complaint = fedseal(*_attack(own, "good.safetensors", "--training", "fedavg:lr=0.1")).complaint
    assert "the update is a gradient" in complaint


@pytest.mark.parametrize("source", [[], ["--index", "0"]])
@pytest.mark.parametrize(
    ("factory", "fact"),
    [
        ("weightless", "no trainable parameters"),
        ("headless", "has no classification head: for two pictures it gives (2, 4, 6, 6)"),
        ("case", "Module is needed"),
        ("SHAPE", "cannot be called"),
    ],
)
def test_model_that_cannot_be_attacked(
    fedseal: Command, own: str, update: Update, source: list[str], factory: str, fact: str
) -> None:
    source = source or ["--update", "good.safetensors"]
    assert fact in fedseal("attack", "-q", *source, "--model", f"{own}:{factory}", "--shape", "3,8,8").complaint


def test_model_of_another_shape(fedseal: Command, own: str, update: Update) -> None:
    complaint = fedseal("attack", "-q", "--update", "good.safetensors", "--model", f"{own}:build").complaint
    assert "does not take pictures of shape 3,32,32" in complaint
    assert "--shape" in complaint


def _attack(own: str, file: str, *more: object) -> list[object]:
    return ["attack", "-q", "--update", file, "--model", f"{own}:build", "--shape", "3,8,8", *more]
