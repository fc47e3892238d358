"""The same name and data give the same model in every verb, and an update of it fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import nn

from fedseal import LocalTraining, local_update
from fedseal.client import state_of
from fedseal.errors import BadConfig, UnknownName
from fedseal.setup import build_model, load_config, load_data
from fedseal.setup.attack import AttackSpec, target
from fedseal.setup.data.images import BUNDLED
from fedseal.setup.federation import FederationSpec
from fedseal.setup.models import outputs_in
from fedseal.zoo import MODELS

SIDE = 16


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Data of a kind, by name or path."""
    monkeypatch.chdir(tmp_path)
    if request.param in BUNDLED:
        return str(request.param)
    if request.param == "folder":
        for place, name in enumerate(("ant", "bee", "cat")):
            Path("mine", name).mkdir(parents=True)
            for number in range(2):
                Picture.new("RGB", (SIDE, SIDE), (20 * place, 10 * number, 99)).save(
                    Path("mine", name, f"{number}.png")
                )
        return "mine"
    draws = np.random.default_rng(0)
    np.savez("mine.npz", images=draws.random((6, 3, SIDE, SIDE)), labels=np.arange(6) % 5)
    return "mine.npz"


def spec(source: str, model: str) -> FederationSpec:
    """`fedseal train` with its defaults."""
    return FederationSpec(
        data=(source,),
        model=model,
        owners=2,
        split="iid",
        validation=None,
        validation_split=0.0,
        shape=f"3,{SIDE},{SIDE}",
        label="label",
        protocol="plain",
        aggregators=3,
        minimum=None,
        learning_rate=None,
        local_learning_rate=None,
        epochs=None,
        reptile=False,
        iterations=3,
        batch_size=2,
        dp=None,
        clip=None,
        bound=8.0,
        bits=32,
        seed=0,
        threads=1,
    )


def alike(model: nn.Module, state: Mapping[str, torch.Tensor] | None) -> bool:
    first, second = state_of(model), state or {}
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("source", [*BUNDLED, "folder", "arrays"], indirect=True)
@pytest.mark.parametrize("name", ["zoo:lenet", "zoo:mlp", "zoo:convnet:width=4"])
def test_one_name_is_one_model_in_all_verbs(source: str, name: str) -> None:
    Path("a.yaml").write_text(f"model: '{name}'\ndata: {source}\nsize: [3, {SIDE}, {SIDE}]\n")
    case = load_config("a.yaml").case
    asked = AttackSpec(data=source, model=name, shape=(3, SIDE, SIDE))
    attacked = target(asked)
    federation = spec(source, name)
    found = federation.read()
    trained = federation.model_owner(found).model
    assert alike(case.model, state_of(trained))
    assert alike(case.model, attacked.observation.state)
    assert len(list(trained.parameters())[-1]) == {"mine": 3, "mine.npz": 5, "photos": 100, "fashion_mnist": 10}[source]
    # What a data owner sends is of the model that `fedseal attack --update` builds of the same name.
    local_update(trained, found.owners[0], training=LocalTraining.fedsgd()).save("u.safetensors")
    captured = target(AttackSpec(update=Path("u.safetensors"), model=name, shape=(3, SIDE, SIDE)))
    assert alike(case.model, captured.observation.state)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_read_off_an_update_of_any_model(name: str) -> None:
    model = build_model(f"zoo:{name}", shape=(3, 8, 8), classes=7)
    tensors = {key: torch.zeros_like(parameter) for key, parameter in model.named_parameters()}
    assert outputs_in(f"zoo:{name}", tensors, shape=(3, 8, 8), classes=100) == 7
    wrapped = {f"module.{key}": tensor for key, tensor in tensors.items()}
    assert outputs_in(f"zoo:{name}", wrapped, shape=(3, 8, 8), classes=100) == 7
    assert outputs_in(f"zoo:{name}", {}, shape=(3, 8, 8), classes=100) == 100
    assert outputs_in("own.module:build", tensors, shape=(3, 8, 8), classes=100) == 100


def test_options_go_before_what_fits() -> None:
    model = build_model("zoo:mlp:num_classes=4,widths=[5, 6]", shape=(3,), classes=9)
    assert [tuple(p.shape) for p in model.parameters()][0::2] == [(5, 3), (6, 5), (4, 6)]
    assert build_model("zoo:mlp", shape=(3,), classes=2, options={"widths": (2,)}).state_dict()["1.bias"].shape == (2,)


@pytest.mark.parametrize(
    ("name", "shape", "error", "fact"),
    [
        ("zoo:lent", (3, 8, 8), UnknownName, "did you mean 'lenet'"),
        ("zoo:lenet:widht=2", (3, 8, 8), UnknownName, "did you mean 'width'"),
        ("zoo:lenet:width=two", (3, 8, 8), BadConfig, "give a whole number"),
        ("zoo:lenet", (4,), BadConfig, "takes pictures, and these are rows"),
        ("lenet", (3, 8, 8), BadConfig, "names no object"),
    ],
)
def test_a_model_that_cannot_be_built_is_said(
    name: str, shape: tuple[int, ...], error: type[Exception], fact: str
) -> None:
    with pytest.raises(error, match=fact):
        build_model(name, shape=shape, classes=3)


def test_the_digest_tells_examples_apart() -> None:
    assert load_data("photos", size=4).digest == load_data("photos", size=4).digest
    assert load_data("photos", size=4).digest != load_data("photos", size=5).digest
