"""Which chains keep a guarantee, which have none, and which are refused because one would be void."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedseal import Batch, LocalTraining, Update, defense, local_update, zoo
from fedseal.defense.accounting import Guarantee
from fedseal.errors import BadConfig
from fedseal.mechanism import Mechanism
from fedseal.types import Defense

MIX = defense.Hooks("mix:2", (Mechanism("mixed", {"examples": 2}),), batch=lambda batch, _: batch)
TURN = defense.Hooks("turn:1", (Mechanism("transformed"),), batch=lambda batch, _: batch)
STEP = defense.Hooks("step:1", (Mechanism("masked_layer", where=("w",)),), gradient=lambda grads, step, _: grads)
SINGLE = defense.Hooks("single:1", (Mechanism("clip_examples", {"norm": 1.0}),), example_grads=lambda grads, _: grads)
SECRET = defense.Hooks("secret:1", update=lambda update, _: update)
LAYER = defense.Hooks("layer:1", (Mechanism("bottleneck", where=("w",)),), model=lambda model: model)
PRIVATE = defense.dpsgd(1.0, clip=1.0)


def _parts(specification: str) -> list[Defense]:
    own = {part.name: part for part in (MIX, TURN, STEP, SINGLE, SECRET, LAYER)}
    return [own.get(word) or defense.parse(word) for word in specification.split("+")]


def _guarantee(specification: str) -> Guarantee | None:
    return defense.chain(*_parts(specification)).guarantee


@pytest.mark.parametrize(
    "specification",
    [
        *(f"dpsgd:1,clip=1+{after}" for after in ("prune:0.5", "int8", "sign", "float16", "clip:1", "gaussian:1")),
        "dpsgd:1,clip=1+topk:0.1,feedback=false",
        "dpsgd:1,clip=1+random_mask:0.5+bfloat16",
        *(f"{before}+dpsgd:1,clip=1" for before in ("gaussian:0.1", "random_mask:0.5", "clip:0.1", "none")),
        "layer:1+dpsgd:1,clip=1",
        "dpsgd:1,clip=1+layer:1",
    ],
)
def test_parts_that_use_the_noisy_update_alone_keep_the_guarantee(specification: str) -> None:
    assert _guarantee(specification) == PRIVATE.guarantee == Guarantee(1.0)


@pytest.mark.parametrize(
    ("specification", "reason"),
    [
        ("mix:2+dpsgd:1", "'mix:2' before 'dpsgd:1,clip=1' voids .* it mixes people's examples"),
        ("dpsgd:1+mix:2", "'mix:2' after 'dpsgd:1,clip=1' voids .* it mixes people's examples"),
        ("turn:1+dpsgd:1", "changes examples before they are clipped, and cannot be shown to treat each by itself"),
        ("dpsgd:1+single:1", "changes single gradients after they were clipped"),
        ("single:1+dpsgd:1", "cannot be shown to treat each by itself"),
        ("dpsgd:1+step:1", "by what the examples hold, after the clip and before the noise"),
        ("step:1+dpsgd:1", "by what the examples hold, after the clip and before the noise"),
        *((f"{name}+dpsgd:1", "runs before the noise") for name in ("prune:0.5", "int8", "float16", "sign")),
        ("dpsgd:1+dpsgd:2", "each account for their own noise alone"),
        ("dpsgd:1+topk:0.1", "error feedback beside 'dpsgd:1,clip=1'.* over rounds the noise cancels"),
        ("topk:0.1+gaussian:1", "error feedback beside 'gaussian:1'"),
        ("gaussian:1+clip:1", "gaussian noise before the clip.*clip first: clip:NORM"),
        ("laplace:1+prune:0.5+clip:1", "laplace noise before the clip"),
        ("prune:0.5+clip:1+gaussian:2+dpsgd:1", "runs before the noise"),
    ],
)
def test_orders_that_void_a_guarantee_are_refused_with_the_reason(specification: str, reason: str) -> None:
    with pytest.raises(BadConfig, match=reason):
        defense.chain(*_parts(specification))


def test_nested_chains_are_refused_as_flat_ones() -> None:
    whole = defense.chain(PRIVATE, defense.prune(0.5))
    assert defense.chain(whole, defense.sign()).guarantee == PRIVATE.guarantee
    with pytest.raises(BadConfig, match="voids its differential privacy"):
        defense.chain(defense.chain(defense.none(), defense.prune(0.5)), whole)


@pytest.mark.parametrize("specification", ["secret:1+dpsgd:1", "dpsgd:1+secret:1", "clip:1+secret:1+gaussian:1"])
def test_parts_that_say_nothing_leave_no_guarantee(specification: str) -> None:
    assert _guarantee(specification) is None


@pytest.mark.parametrize(
    ("specification", "multiplier"),
    [
        ("clip:1+gaussian:2", 1.0),
        ("clip:4+prune:0.5+clip:2+random_mask:0.1+gaussian:1", 0.25),
        ("mix:2+step:1+clip:1+gaussian:2+sign", 1.0),
    ],
)
def test_clip_then_gaussian_noise_hides_a_clients_data(specification: str, multiplier: float) -> None:
    assert _guarantee(specification) == Guarantee(multiplier, unit="client")


@pytest.mark.parametrize("specification", ["clip:1+laplace:1", "clip:1+sign+gaussian:1", "prune:0.5+gaussian:1"])
def test_noise_without_a_bound_on_the_length_has_no_guarantee(specification: str) -> None:
    assert _guarantee(specification) is None


def test_two_clients_differ_by_no_more_than_the_client_guarantee_reckons_with() -> None:
    """What stands before the noise is at most two norms apart for any two clients."""
    quiet = defense.chain(defense.clip(0.3), defense.prune(0.2))
    generator, gap = torch.Generator().manual_seed(0), 0.0
    for _ in range(50):
        one = torch.randn(9, generator=generator)
        two = -one + 0.1 * torch.randn(9, generator=generator)
        sent = [quiet.on_update(Update("gradient", {"w": w}), generator).tensors["w"] for w in (one, two)]
        gap = max(gap, float((sent[0] - sent[1]).norm()))
    assert 0.5 < gap <= 0.6 + 1e-6


def test_one_example_moves_the_sum_by_no_more_than_the_clip() -> None:
    """The sensitivity that the account rests on, on a real model: the noise aside."""
    model, batch = zoo.lenet(size=8, width=6, num_classes=5), zoo.photos(size=8, num_classes=5)[:5]

    def total(part: Batch) -> Tensor:
        shield, generator = defense.dpsgd(1e-9, clip=0.4), torch.Generator().manual_seed(0)
        sent = local_update(model, part, training=LocalTraining.fedsgd(), defense=shield, generator=generator)
        return len(part) * torch.cat([tensor.flatten() for tensor in sent.tensors.values()])

    whole = total(batch)
    moved = [float((whole - total(_without(batch, i))).norm()) for i in range(5)]
    assert max(moved) == pytest.approx(0.4, rel=1e-4)
    assert max(moved) <= 0.4 * (1 + 1e-5)


def _without(batch: Batch, i: int) -> Batch:
    rows = [k for k in range(len(batch)) if k != i]
    return Batch(batch.inputs[rows], batch.labels[rows])


def test_who_needs_the_batch() -> None:
    early = [MIX, TURN, STEP, SINGLE, PRIVATE, defense.chain(defense.prune(0.5), MIX)]
    late = [defense.none(), LAYER, SECRET, *map(defense.parse, ("prune:0.5", "clip:1+gaussian:1", "topk:0.1"))]
    assert all(defense.needs_batch(value) for value in early)
    assert not any(defense.needs_batch(value) for value in late)
