"""Masks along a ring: they cancel in the sum of all, and in nothing less."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from fedseal.secagg import Ledger
from fedseal.secagg.errors import BadMessage, OutOfPhase, WrongSum
from fedseal.secagg.ring import MaskedRingClient
from secagg.rounds import SIZE, identity, terms, total, update


def clients(count: int = 4, **changed: object) -> list[MaskedRingClient]:
    facts: dict[str, Any] = {"minimum": count, "max_weight": 9, "bits": 64, **changed}
    agreed = terms("masked_ring", clients=count, **facts)
    return [MaskedRingClient(agreed, number, identity(number), Ledger()) for number in range(count)]


def begun(ring: list[MaskedRingClient]) -> dict[int, bytes]:
    """The parts of the first hop, by whom they are for."""
    return {
        one.circle.successor(number): one.contribute(update(number), weight=number + 1)
        for number, one in enumerate(ring)
    }


def through(ring: list[MaskedRingClient], parts: dict[int, bytes], hops: int | None = None) -> dict[int, bytes]:
    for _ in range(ring[0].circle.hops if hops is None else hops):
        answers = {number: one.receive(parts[number]) for number, one in enumerate(ring)}
        parts = {ring[0].circle.successor(n): answer for n, answer in answers.items() if answer is not None}
    return parts


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("bits", [32, 64])
def test_all_end_with_the_sum_of_all(count: int, bits: int) -> None:
    ring = clients(count, bits=bits)
    through(ring, begun(ring))
    expected = total(range(count), {number: number + 1 for number in range(count)})
    for one in ring:
        assert np.abs(one.opened().total() - expected).max() <= one.terms.error
        assert one.opened().weight == count * (count + 1) // 2


def test_a_part_is_read_with_all_other_owners_masks_and_not_with_one_less() -> None:
    """Whoever colludes hands its masks over; the receiver of the first hop has its own."""
    ring = clients(5, bits=32)
    part = begun(ring)[1]
    first, own = ring[1].reading(part, 0)  # what client 1 is left with after its own masks
    there = slice(first, first + own.size)
    elements = np.rint(own * ring[0].terms.codec.scale).astype(np.int64).astype(np.uint32)
    segment = ring[0].circle.segment(0, 0)
    for others in (set(those) for size in range(4) for those in combinations([2, 3, 4], size)):
        left = elements.copy()
        for other in others:
            whole = ring[0].terms.codec.ring.zeros(ring[0].circle.size)
            ring[other]._pairwise([0]).add_to(whole, offset=0)
            left += whole[segment][: left.size]
        found = left.view(np.int32).astype(np.float64) / ring[0].terms.codec.scale
        off = float(np.abs(found - update(0)[there]).max())
        assert (off < 1e-4) is (others == {2, 3, 4}), others


def test_what_was_changed_or_is_of_another_hop_or_round_is_refused() -> None:
    ring, later = clients(), clients(round=1)
    parts = begun(ring)
    begun(later)
    changed = bytearray(parts[1])
    changed[5] ^= 1
    for wrong in (bytes(changed), parts[2], begun(clients(session=bytes(16)))[1], b""):
        with pytest.raises(BadMessage, match="does not open"):
            ring[1].receive(wrong)
    with pytest.raises(BadMessage, match="does not open"):
        later[1].receive(parts[1])
    second = ring[1].receive(parts[1])
    assert second is not None
    with pytest.raises(BadMessage, match="does not open"):
        ring[1].receive(parts[1])


def test_a_client_contributes_once_a_round_and_in_turn() -> None:
    ring = clients(2)
    with pytest.raises(OutOfPhase, match="before it contributed"):
        ring[0].receive(b"")
    parts = begun(ring)
    with pytest.raises(OutOfPhase, match="answered round 0 already"):
        ring[0].contribute(update(0))
    with pytest.raises(OutOfPhase, match="the sum is not complete"):
        ring[0].opened()
    last = through(ring, parts, hops=1)
    through(ring, last, hops=1)
    with pytest.raises(OutOfPhase, match="after the last hop"):
        ring[0].receive(last[0])


def test_one_who_adds_another_vector_than_it_masked_spoils_the_sum() -> None:
    ring = clients(3)
    parts = begun(ring)
    assert ring[1]._exchange is not None
    ring[1]._exchange.vector += 1
    through(ring, parts)
    with pytest.raises(WrongSum, match="the masks did not cancel"):
        ring[0].opened()


def test_a_client_goes_on_in_another_process() -> None:
    ring = clients(3)
    parts = through(ring, begun(ring), hops=1)
    agreed = ring[0].terms
    again = [
        MaskedRingClient.load(lambda *_: agreed, number, identity(number), Ledger(), one.dump())
        for number, one in enumerate(ring)
    ]
    through(again, parts, hops=3)
    assert np.abs(again[2].opened().total() - total(range(3), {0: 1, 1: 2, 2: 3})).max() <= agreed.error


def test_only_entries_are_read_off_a_part() -> None:
    """No check, weight or metric passes for an entry, wherever a segment ends."""
    ring = clients(4, metrics={"loss": 4.0})
    places: list[int] = []
    for number, one in enumerate(ring):
        part = one.contribute(update(number), metrics={"loss": 1.0})
        first, entries = ring[one.circle.successor(number)].reading(part, 0)
        places += range(first, first + entries.size)
    assert sorted(places) == list(range(SIZE))
