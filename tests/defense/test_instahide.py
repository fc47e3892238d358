"""InstaHide: absolute values keep the mixture whose weights the labels tell, and signs are even coins."""

from __future__ import annotations

import pytest
import torch

from fedseal import Batch, LocalTraining, local_update, zoo
from fedseal.defense.instahide import HEAVIEST, instahide
from fedseal.errors import BadConfig, FedsealError, UnfitBatch

COUNT = 8
PICTURES = zoo.photos(size=8, num_classes=COUNT)[:COUNT]
BATCH = Batch(PICTURES.inputs, torch.arange(COUNT))  # each its own class, so that labels are weights


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("k", [1, 2, 4, COUNT])
def test_what_is_left_without_signs_is_the_mixture_that_the_labels_tell(k: int) -> None:
    hidden = instahide(k, classes=COUNT).on_batch(BATCH, seeded())
    expected = torch.einsum("ij,jchw->ichw", hidden.labels, BATCH.inputs)
    assert torch.allclose(hidden.inputs.abs(), expected, atol=1e-6)
    assert (hidden.labels > 0).sum(1).tolist() == [k] * COUNT
    assert torch.allclose(hidden.labels.sum(1), torch.ones(COUNT))
    assert bool((hidden.labels.diagonal() > 0).all())
    assert k == 1 or hidden.labels.max().item() <= HEAVIEST


def test_signs_are_even_and_differ_between_pictures() -> None:
    ones = Batch(torch.ones(20, 3, 16, 16), torch.arange(20))
    signs = instahide(3, classes=20).on_batch(ones, seeded()).inputs.sign()
    assert abs(signs.mean().item()) < 4 / signs.numel() ** 0.5
    assert not torch.equal(signs[0], signs[1])


def test_local_update_takes_the_classes_from_the_model() -> None:
    model = zoo.lenet(size=8, width=4, num_classes=COUNT)
    defended = local_update(model, BATCH, training=LocalTraining.fedsgd(), defense=instahide(2), generator=seeded(5))
    by_hand = instahide(2, classes=COUNT).on_batch(BATCH, seeded(5))
    plain = local_update(model, by_hand, training=LocalTraining.fedsgd())
    assert all(torch.equal(defended.tensors[name], plain.tensors[name]) for name in plain.tensors)


@pytest.mark.parametrize("k", [0, -2, 1.5, float("nan"), float("inf")])
def test_a_number_of_pictures_that_is_none(k: float) -> None:
    with pytest.raises(BadConfig, match="InstaHide mixes"):
        instahide(k)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch", "error", "says"),
    [
        (BATCH[:2], UnfitBatch, "the batch has 2"),
        (Batch(torch.ones(4, 5), torch.arange(4)), UnfitBatch, "pixels"),
        (Batch(torch.ones(4, 5, dtype=torch.long), torch.arange(4)), UnfitBatch, "tokens"),
    ],
)
def test_a_batch_that_cannot_be_hidden(batch: Batch, error: type[FedsealError], says: str) -> None:
    with pytest.raises(error, match=says):
        instahide(3, classes=COUNT).on_batch(batch, seeded())
