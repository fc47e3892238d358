"""Pruning, masks and top-k: exactly so many entries go, the right ones, and what stays is as it was."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedseal import Update, defense
from fedseal.errors import BadConfig

SHAPES = st.lists(st.integers(1, 12), min_size=1, max_size=4)
FRACTIONS = st.integers(1, 99).map(lambda percent: percent / 100)


def _update(sizes: list[int], seed: int) -> Update:
    """Entries all different from each other and from 0, of sizes that differ much between tensors."""
    generator = torch.Generator().manual_seed(seed)
    sign = [torch.randint(2, (size,), generator=generator) * 2 - 1 for size in sizes]
    ranks = torch.split((torch.randperm(sum(sizes), generator=generator) + 1).float(), sizes)
    return Update("gradient", {str(k): s * r * 10.07**k for k, (s, r) in enumerate(zip(sign, ranks, strict=True))})


def _sent(specification: str, update: Update, seed: int = 0) -> Update:
    return defense.parse(specification).on_update(update, torch.Generator().manual_seed(seed))


def _assert_kept_as_they_were(sent: Update, update: Update) -> None:
    for name, tensor in sent.tensors.items():
        assert bool(((tensor == update.tensors[name]) | (tensor == 0)).all())


@given(sizes=SHAPES, fraction=FRACTIONS, seed=st.integers(0, 9))
def test_pruning_drops_exactly_the_smallest_of_each_tensor(sizes: list[int], fraction: float, seed: int) -> None:
    update = _update(sizes, seed)
    sent = _sent(f"prune:{fraction}", update)
    _assert_kept_as_they_were(sent, update)
    for name, tensor in sent.tensors.items():
        dropped, true = tensor == 0, update.tensors[name].abs()
        assert int(dropped.sum()) == round(100 * fraction) * tensor.numel() // 100
        if dropped.any():
            assert true[dropped].max() < true[~dropped].min()


@given(sizes=SHAPES, fraction=FRACTIONS, seed=st.integers(0, 9))
def test_global_pruning_drops_exactly_the_smallest_of_all(sizes: list[int], fraction: float, seed: int) -> None:
    update = _update(sizes, seed)
    sent = _sent(f"prune:{fraction},scope=global", update)
    _assert_kept_as_they_were(sent, update)
    flat, true = (torch.cat(list(u.tensors.values())) for u in (sent, update))
    assert int((flat == 0).sum()) == round(100 * fraction) * flat.numel() // 100
    if (flat == 0).any():
        assert true[flat == 0].abs().max() < true[flat != 0].abs().min()


@given(sizes=SHAPES, fraction=FRACTIONS, seed=st.integers(0, 9))
def test_top_k_keeps_exactly_the_largest_of_all(sizes: list[int], fraction: float, seed: int) -> None:
    update = _update(sizes, seed)
    sent = _sent(f"topk:{fraction}", update)
    _assert_kept_as_they_were(sent, update)
    flat, true = (torch.cat(list(u.tensors.values())) for u in (sent, update))
    assert int((flat != 0).sum()) == max(1, round(fraction * flat.numel()))
    if (flat == 0).any():
        assert true[flat == 0].abs().max() < true[flat != 0].abs().min()


@given(sizes=SHAPES, fraction=FRACTIONS, seed=st.integers(0, 9))
def test_a_mask_drops_exactly_so_many_of_each_tensor(sizes: list[int], fraction: float, seed: int) -> None:
    update = _update(sizes, seed)
    sent = _sent(f"random_mask:{fraction}", update)
    _assert_kept_as_they_were(sent, update)
    counts = [int((tensor == 0).sum()) for tensor in sent.tensors.values()]
    assert counts == [round(100 * fraction) * size // 100 for size in sizes]


def test_a_mask_does_not_look_at_the_entries() -> None:
    update = Update("gradient", {"w": torch.arange(1.0, 5.0)})
    generator = torch.Generator().manual_seed(0)
    mask = defense.random_mask(0.5)
    dropped = torch.stack([mask.on_update(update, generator).tensors["w"] == 0 for _ in range(2000)]).double().mean(0)
    assert float((dropped - 0.5).abs().max()) < 4 * 0.5 / 2000**0.5


def test_only_top_k_asks_for_feedback_and_can_do_without() -> None:
    assert defense.topk(0.1).feedback
    assert not defense.parse("topk:0.1,feedback=false").feedback
    assert not any(defense.parse(name).feedback for name in ("prune:0.9", "prune:0.9,scope=global", "random_mask:0.9"))


@pytest.mark.parametrize("name", ["prune", "random_mask", "topk"])
@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, 20.0, float("nan"), float("inf")])
def test_shares_of_nothing_everything_and_nonsense_are_refused(name: str, share: float) -> None:
    with pytest.raises(BadConfig, match="give a number above 0 and below 1"):
        defense.DEFENSES[name](share)


def test_a_scope_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadConfig, match="write scope=tensor or scope=global"):
        defense.prune(0.5, scope="layer")  # type: ignore[arg-type]
