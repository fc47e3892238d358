"""What can be wrong with a batch, its labels or its local training: one line, and exit code 2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cli.conftest import Command
from fedseal import LocalTraining, Update, local_update, zoo

NET = ("--model", "zoo:convnet", "--size", 8)
NORMALIZED = ("--model", "zoo:resnet:width=4", "--size", 8)
STEPS = "fedavg:lr=0.1,epochs=2,batch_size=2,shuffle=true"


def _captured(model: nn.Module, path: Path, training: LocalTraining, **changed: object) -> None:
    batch = zoo.photos(size=8, num_classes=100)[:4]
    sent: Update = local_update(
        model, batch, training=replace(training, fresh_optimizer=True), generator=torch.Generator().manual_seed(0)
    )
    replace(sent, training=training, **changed).save(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", ["auto", "geng", "gradinversion", "inverting_gradients", "separation"])
def test_batch_size_that_contradicts_the_rank(fedseal: Command, tmp_path: Path, recipe: str) -> None:
    model = zoo.convnet(size=8, num_classes=100)
    _captured(model, tmp_path / "u.safetensors", LocalTraining.fedsgd())
    arguments = ("attack", *NET, "-q", "--update", "u.safetensors", "--recipe", recipe, "--examples")
    complaint = fedseal(*arguments, 2).complaint
    assert "was told of 2 examples, and the head's gradient has rank 4" in complaint
    assert "correct num_examples" in complaint


@pytest.mark.parametrize("count", [0, -3])
def test_number_of_examples_that_is_none(fedseal: Command, tmp_path: Path, count: int) -> None:
    _captured(
        zoo.convnet(size=8, num_classes=100), tmp_path / "u.safetensors", LocalTraining.fedsgd(), num_examples=count
    )
    complaint = fedseal("attack", *NET, "-q", "--update", "u.safetensors", "--recipe", "geng").complaint
    assert f"names {count} examples" in complaint


def test_head_that_cannot_be_found(fedseal: Command, own: str, tmp_path: Path) -> None:
    with (tmp_path / f"{own}.py").open("a") as file:
        file.write("\n\ndef conv():\n    return nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())\n")
    arguments = ("attack", "-q", "--model", f"{own}:conv", "--shape", "3,8,8", "--batch", 2)
    for recipe in ("geng", "inverting_gradients"):
        complaint = fedseal(*arguments, "--recipe", recipe).complaint
        assert "found no classification head" in complaint
        assert "nn.Linear" in complaint
    assert fedseal(*arguments, "--recipe", "auto:steps=2").code == 0  # it searches the labels along


@pytest.mark.parametrize("epochs", ["0", "-1"])
def test_local_steps_of_none(fedseal: Command, epochs: str) -> None:
    complaint = fedseal("attack", *NET, "-q", "--batch", 2, "--training", f"fedavg:lr=0.1,epochs={epochs}").complaint
    assert f"{epochs} local epochs" in complaint
    assert "fedsgd" in complaint


def test_local_batches_of_none(fedseal: Command) -> None:
    assert "at least 1" in fedseal("attack", *NET, "-q", "--training", "fedavg:lr=0.1,batch_size=0").complaint


def test_optimizer_whose_state_was_not_sent(fedseal: Command, tmp_path: Path) -> None:
    training = LocalTraining.fedavg(lr=0.01, epochs=2, optimizer="adam", fresh_optimizer=False)
    _captured(zoo.convnet(size=8, num_classes=100), tmp_path / "u.safetensors", training)
    arguments = ("attack", *NET, "-q", "--update", "u.safetensors", "--recipe")
    complaint = fedseal(*arguments, "coarse:steps=2,labels=joint").complaint
    assert "went on with its state from an earlier round" in complaint
    assert fedseal(*arguments, "sme:steps=2,labels=joint").code == 0
    assert fedseal(*arguments, "auto:steps=2").code == 0


def test_labels_that_adam_hides(fedseal: Command) -> None:
    training = ("--training", "fedavg:lr=0.01,epochs=2,optimizer=adam")
    complaint = fedseal("attack", *NET, "-q", "--batch", 3, *training, "--recipe", "coarse:steps=2").complaint
    assert "adam rescales every one" in complaint


def test_buffers_that_a_batchnorm_attack_misses(fedseal: Command, tmp_path: Path) -> None:
    recipe = ("--recipe", "gradinversion:steps=2,seeds=1,statistics=sent")
    _captured(zoo.resnet(width=4, num_classes=100), tmp_path / "u.safetensors", LocalTraining.fedsgd(), buffers=None)
    complaint = fedseal("attack", *NORMALIZED, "-q", "--update", "u.safetensors", *recipe).complaint
    assert "buffers that were not sent or are withheld" in complaint
    assert "statistics=public" in complaint
    for more, fact in (
        (("--mode", "eval"), "ran as in evaluation"),
        (("--training", "fedavg:lr=0.1,epochs=2"), "of several local steps"),
    ):
        assert fact in fedseal("attack", *NORMALIZED, "-q", "--batch", 2, *more, *recipe).complaint
    assert "no BatchNorm" in fedseal("attack", *NET, "-q", "--batch", 2, *recipe).complaint


@pytest.mark.parametrize("recipe", ["dimitrov", "coarse", "dlg"])
def test_memory_that_a_simulation_would_exceed(fedseal: Command, monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    monkeypatch.setattr("fedseal.attack.search.update_model.free_bytes", lambda device: 1000)
    complaint = fedseal("attack", *NET, "-q", "--batch", 4, "--training", STEPS, "--recipe", recipe).complaint
    assert "MB may be used" in complaint
    assert "sme" in complaint


def test_an_audit_names_the_same_faults(fedseal: Command, own: str) -> None:
    complaint = fedseal("audit", f"{own}:case", "-q", "--batch-size", 2, "--attacks", "geng:labels=gueng").complaint
    assert "no value of 'labels' named 'gueng'; did you mean 'geng'" in complaint


def test_all_examples_of_one_class_are_no_fault(fedseal: Command) -> None:
    arguments = ("attack", *NET, "-q", "--batch", 3, "--label", 2, "--recipe", "separation:steps=4")
    answer = fedseal(*arguments)
    assert answer.code == 0
    assert "2, 2, 2, all right" in answer.out
