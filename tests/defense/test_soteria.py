"""Soteria: a Jacobian taken whole says which columns fall; every other tensor stays bit by bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedseal import Batch, LocalTraining, defense, local_update, zoo
from fedseal.defense.soteria import soteria
from fedseal.errors import BadConfig, FedsealError, UnfitBatch, UnfitModel, UnknownName
from fedseal.types import Update

LENET = zoo.lenet(size=8, width=4, num_classes=5)
PICTURES = zoo.photos(size=8, num_classes=5)[:3]
FEDSGD = LocalTraining.fedsgd()


def _update(
    model: nn.Module, batch: Batch, strength: float, training: LocalTraining = FEDSGD, layer: str | None = None
) -> Update:
    return local_update(
        model,
        batch,
        training=training,
        defense=soteria(strength, layer=layer),
        generator=torch.Generator().manual_seed(0),
    )


def _score(batch: Batch) -> Tensor:
    """|r| / ||dr/dx|| by torch's whole Jacobian, example by example."""
    features = LENET[:-1]
    total = torch.zeros(16)
    for picture in batch.inputs:
        slopes = torch.autograd.functional.jacobian(lambda x: features(x[None])[0], picture)  # type: ignore[no-untyped-call]
        assert isinstance(slopes, Tensor)
        total += features(picture[None])[0].detach().abs() / slopes.flatten(1).norm(dim=1)
    return total


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("fraction", "columns"), [(0.25, 4), (0.5, 8), (0.9, 14), (0.01, 1)])
def test_the_columns_that_tell_most_are_zero_and_nothing_else_changes(
    fraction: float, columns: int, count: int
) -> None:
    batch = PICTURES[:count]
    plain, defended = local_update(LENET, batch, training=FEDSGD), _update(LENET, batch, fraction)
    zero = (defended.tensors["7.weight"] == 0).all(0)
    assert set(zero.nonzero().flatten().tolist()) == set(_score(batch).topk(columns).indices.tolist())
    assert torch.equal(defended.tensors["7.weight"][:, ~zero], plain.tensors["7.weight"][:, ~zero])
    assert all(torch.equal(defended.tensors[n], plain.tensors[n]) for n in plain.tensors if n != "7.weight")


def test_local_steps_train_on_the_pruned_gradient() -> None:
    training = LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=2)
    weights = {name: tensor.detach().clone() for name, tensor in LENET.named_parameters()}
    moved = {name: tensor.clone() for name, tensor in weights.items()}
    model = zoo.lenet(size=8, width=4, num_classes=5)
    for part in (PICTURES[:2], PICTURES[2:], PICTURES[:2], PICTURES[2:]):
        model.load_state_dict(moved)
        step = _update(model, part, 0.5)
        moved = {name: moved[name] - 0.1 * step.tensors[name] for name in moved}
    sent = _update(LENET, PICTURES, 0.5, training)
    for name, tensor in sent.tensors.items():
        assert torch.allclose(tensor, moved[name] - weights[name], atol=1e-6)


def test_batch_statistics_move_once() -> None:
    model = zoo.resnet(width=4, blocks=(1,), num_classes=5)
    plain, defended = local_update(model, PICTURES, training=FEDSGD), _update(model, PICTURES, 0.5)
    assert plain.buffers is not None
    assert defended.buffers is not None
    assert all(torch.equal(plain.buffers[name], defended.buffers[name]) for name in plain.buffers)


def test_another_layer_may_be_named_and_the_public_part_names_it() -> None:
    model = zoo.mlp(inputs=192, widths=(12,), num_classes=5, activation="tanh")
    chosen = soteria(0.5, layer="1").fit(model)
    assert (chosen.name, chosen.public[0].kind, chosen.public[0].where) == (
        "soteria:0.5,layer=1", "masked_layer", ("1.weight",)
    )  # fmt: skip
    plain, defended = local_update(model, PICTURES, training=FEDSGD), _update(model, PICTURES, 0.5, layer="1")
    brightest = PICTURES.inputs.flatten(1).sum(0).topk(96).values.min()  # the first layer's features are the pixels
    zero = (defended.tensors["1.weight"] == 0).all(0)
    assert bool((PICTURES.inputs.flatten(1).sum(0)[~zero] <= brightest).all())
    assert torch.equal(defended.tensors["3.weight"], plain.tensors["3.weight"])


def test_in_a_chain_it_runs_before_noise_on_the_update() -> None:
    both = defense.chain(defense.gaussian(1e-3), soteria(0.5))
    sent = local_update(
        LENET, PICTURES, training=FEDSGD, defense=both, generator=torch.Generator().manual_seed(0)
    ).tensors["7.weight"]
    columns = (sent.abs().amax(0) < 1e-2) & (sent != 0).all(0)
    assert int(columns.sum()) >= 8


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_that_is_none(fraction: float) -> None:
    with pytest.raises(BadConfig, match="Soteria"):
        soteria(fraction)


@pytest.mark.parametrize(
    ("model", "batch", "layer", "error", "says"),
    [
        (nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten()), PICTURES, None, UnfitModel, "no torch.nn.Linear"),
        (LENET, PICTURES, "5", UnknownName, "linear layer"),
        (nn.Sequential(nn.Linear(8, 1), nn.Flatten()), PICTURES, None, UnfitModel, "several rows"),
        (
            nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 5)),
            Batch(torch.ones(2, 2, dtype=torch.long), torch.tensor([0, 1])), None, UnfitBatch, "tokens",
        ),
    ],
    ids=["no linear layer", "foreign layer", "rows", "tokens"],
)  # fmt: skip
def test_what_cannot_be_defended(
    model: nn.Module, batch: Batch, layer: str | None, error: type[FedsealError], says: str
) -> None:
    with pytest.raises(error, match=says):
        _update(model, batch, 0.5, layer=layer)
