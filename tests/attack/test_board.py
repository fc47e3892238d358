"""The quick ways to a misfit give what the plain one gives, and one token's equations tell who stands beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attack.cases import seeded
from fedseal.attack.text.compatibility import Board
from fedseal.attack.text.sentences import ROUNDS, neighbors

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


def _solvable(seed: int, *, places: int = 8, choices: int = 12, directions: int = 40) -> tuple[Board, list[int], int]:
    """A board, a sentence on it, and the token of the sentence whose equations it fulfills."""
    generator, count = seeded(seed), places * choices

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    token, place = torch.arange(choices).repeat(places), torch.arange(places).repeat_interleave(choices)
    query, key = normal(count, 4, SIZE), normal(count, 4, SIZE)
    mix, base, size = normal(count, 4, directions), normal(count, directions), torch.ones(count, dtype=torch.float64)
    chosen = torch.randint(choices, (places,), generator=generator)
    sentence = (torch.arange(places) * choices + chosen).tolist()
    anchor = sentence[places // 2]
    table = Board(token, place, query, key, base, mix, size, causal=False)
    shares = torch.einsum("hc,jhc->jh", query[anchor], key[sentence]).softmax(0)
    base[anchor] = -torch.einsum("jh,jhk->k", shares, mix[sentence])
    return replace(table, base=base), sentence, anchor


@pytest.mark.parametrize("seed", range(8))
def test_the_equations_of_one_token_tell_its_neighbors_though_its_softmax_is_unknown(seed: int) -> None:
    """With the softmax's sums put in from the round before, and not expanded, 5 of these 8 end elsewhere."""
    table, sentence, anchor = _solvable(seed)
    assert float(table.misfit(sentence)[len(sentence) // 2]) < 1e-12
    shares = neighbors(table, [anchor], torch.ones(len(table), dtype=torch.bool), rounds=ROUNDS)
    assert shares.view(8, 12).argmax(1).add(12 * torch.arange(8)).tolist() == sentence
    assert float(shares[sentence].min()) > 0.9
