"""The quick ways to a misfit give what the plain one gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attack.cases import seeded
from fedseal.attack.exact.board import Board

ENTRIES, HEADS, SIZE, DIRECTIONS = 12, 2, 3, 5


def _board(seed: int, *, causal: bool = False) -> Board:
    generator = seeded(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Board(
        token=torch.arange(ENTRIES),
        place=torch.zeros(ENTRIES, dtype=torch.long),
        query=normal(ENTRIES, HEADS, SIZE),
        key=normal(ENTRIES, HEADS, SIZE),
        base=normal(ENTRIES, DIRECTIONS),
        mix=normal(ENTRIES, HEADS, DIRECTIONS),
        size=normal(ENTRIES).abs() + 0.1,
        causal=causal,
    )


@given(
    st.integers(0, 5),
    st.lists(st.integers(0, ENTRIES - 1), min_size=1, max_size=6, unique=True),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_an_exchange_is_the_misfit_of_the_exchanged_sentence(
    seed: int, sentence: list[int], data: st.DataObject
) -> None:
    table, at = _board(seed), data.draw(st.integers(0, len(sentence) - 1))
    others = torch.tensor([other for other in range(ENTRIES) if other not in sentence or other == sentence[at]])
    quick = table.exchange(sentence, at, others)
    for row, other in zip(quick, others.tolist(), strict=True):
        torch.testing.assert_close(row, table.misfit([*sentence[:at], other, *sentence[at + 1 :]]))


@pytest.mark.parametrize("seed", range(3))
def test_a_row_at_the_end_of_a_prefix_is_the_last_of_the_longer_sentence(seed: int) -> None:
    table, prefix = _board(seed, causal=True), [3, 1, 4]
    last = torch.tensor([5, 9, 2])
    for value, token in zip(table.last_misfit(prefix, last), last.tolist(), strict=True):
        torch.testing.assert_close(value, table.misfit([*prefix, token])[-1])


def test_what_comes_later_does_not_change_a_causal_row() -> None:
    table = _board(0, causal=True)
    torch.testing.assert_close(table.misfit([3, 1, 4])[:2], table.misfit([3, 1, 8])[:2])
