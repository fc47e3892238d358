"""MixUp: every label's mass is the weight of its picture, and the weights have Beta's moments."""

from __future__ import annotations

import pytest
import torch

from fedseal import Batch, LocalTraining, local_update, zoo
from fedseal.defense.compose import chain
from fedseal.defense.mixup import mixup
from fedseal.errors import BadConfig, FedsealError, UnfitBatch, UnfitModel

COUNT = 6
MARKED = Batch(torch.eye(COUNT).view(COUNT, 1, 2, 3), torch.arange(COUNT))  # picture i is lit at i alone


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_label_mass_is_the_share_of_the_picture() -> None:
    mixed = mixup(1.0, classes=COUNT).on_batch(MARKED, seeded(0))
    assert torch.equal(mixed.inputs.flatten(1), mixed.labels)
    assert torch.allclose(mixed.labels.sum(1), torch.ones(COUNT))
    own = mixed.labels.diagonal()
    assert torch.allclose(own, own[0].expand(COUNT))  # one weight for the batch
    assert (mixed.labels > 0).sum(0).tolist() == [2] * COUNT  # each is partner once, none its own


@pytest.mark.parametrize("alpha", [0.01, 0.5, 20.0])
def test_the_weight_is_beta_distributed(alpha: float) -> None:
    generator, defense = seeded(1), mixup(alpha, classes=2)
    pair = MARKED[:2]
    own = torch.tensor([defense.on_batch(pair, generator).labels[0, 0].item() for _ in range(1500)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert own.mean().item() == pytest.approx(0.5, abs=4 * (variance / 1500) ** 0.5)
    assert own.var().item() == pytest.approx(variance, rel=0.15)


def test_probabilities_are_mixed_as_they_are() -> None:
    soft = Batch(MARKED.inputs, torch.eye(COUNT).roll(1, 1))
    mixed = mixup(1.0).on_batch(soft, seeded(0))
    assert torch.equal(mixed.labels.roll(-1, 1), mixed.inputs.flatten(1))


def test_the_model_tells_the_number_of_classes() -> None:
    model, batch = zoo.lenet(size=8, width=4, num_classes=7), zoo.photos(size=8, num_classes=5)[:3]
    defended = local_update(
        model, batch, training=LocalTraining.fedsgd(), defense=chain(mixup(1.0)), generator=seeded(3)
    )
    by_hand = mixup(1.0, classes=7).on_batch(batch, seeded(3))
    plain = local_update(model, by_hand, training=LocalTraining.fedsgd())
    assert all(torch.equal(defended.tensors[name], plain.tensors[name]) for name in plain.tensors)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_none(alpha: float) -> None:
    with pytest.raises(BadConfig, match="alpha"):
        mixup(alpha)


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        (MARKED[:1], UnfitBatch),
        (Batch(torch.ones(3, 4, dtype=torch.long), torch.arange(3)), UnfitBatch),
        (Batch(torch.ones(3, 4), torch.ones(3, 4, dtype=torch.long)), UnfitBatch),
        (Batch(torch.ones(3, 4), torch.tensor([0, 1, 9])), UnfitBatch),
    ],
    ids=["one example", "tokens", "labels of positions", "foreign label"],
)
def test_a_batch_that_cannot_be_mixed(batch: Batch, error: type[FedsealError]) -> None:
    with pytest.raises(error):
        mixup(1.0, classes=COUNT).on_batch(batch, seeded(0))


def test_classes_must_be_known_and_there_must_be_some() -> None:
    with pytest.raises(BadConfig, match="number of classes"):
        mixup(1.0).on_batch(MARKED, seeded(0))
    with pytest.raises(BadConfig, match="0 classes"):
        mixup(1.0, classes=0)
    with pytest.raises(UnfitModel, match="class scores"):
        mixup(1.0).fit(torch.nn.Identity()).on_batch(MARKED, seeded(0))
