"""What a party's key opens of a round, and that reading it again later gives what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pytest

from fedseal.secagg import OWNER, SERVER, Outgoing, Transcript, VectorFormat, aggregator, wire
from fedseal.secagg.errors import BadMessage
from fedseal.secagg.hazmat.keys import Agreement
from secagg.rounds import SIZE, Masking, Sharing, flipped, identity, refused, terms, update


def _sent(round_: Sharing, client: int) -> list[Outgoing]:
    return list(round_.clients[client].contribute(update(client)))


def _read(number: int, messages: Iterable[Outgoing], of: Sharing | Masking) -> tuple[Transcript, dict[int, bytes]]:
    transcript, seeds = Transcript(of.terms, number, identity(number)), {}
    for to, message in messages:
        share = transcript.read(message) if to == number else None
        if share is not None:
            seeds[share.client] = share.seed
    return transcript, seeds


@pytest.mark.parametrize("bits", [32, 64])
def test_the_shares_of_all_aggregators_are_the_update_and_fewer_are_not(bits: int) -> None:
    round_ = Sharing(terms("sharing", bits=bits))
    messages = _sent(round_, 1)
    masked, none = _read(aggregator(0), messages, round_)
    assert none == {}
    seeds = [_read(aggregator(place), messages, round_) for place in (1, 2)]
    assert all(transcript.vectors == {} for transcript, _ in seeds)
    shares = [found[1] for _, found in seeds]
    form = VectorFormat.of(round_.terms)
    assert np.array_equal(form.entries(SIZE, masked.vectors[1], shares), update(1).astype(np.float64))
    for some in ([], shares[:1], shares[1:]):
        assert float(np.abs(form.entries(SIZE, masked.vectors[1], some) - update(1)).min()) > 0
    alone = [form.entries(SIZE, seeds=[share]) for share in shares]
    span = 2.0**bits / form.scale
    off = form.entries(SIZE, masked.vectors[1]) + alone[0] + alone[1] - update(1)
    if bits == 32:  # 64 bits do not fit a float exactly
        assert float(np.abs((off + span / 2) % span - span / 2).max()) == 0


def test_a_masking_server_has_masks_off_that_clients_hand_over_themselves() -> None:
    round_ = Masking(terms())
    transcript, form = Transcript(round_.terms, SERVER, identity(SERVER)), VectorFormat.of(round_.terms)
    receive = round_.server.receive
    for number, digest in ((2, round_.terms.digest), (1, terms(round=1).digest)):  # by another client; of another round
        keys = b"".join(Agreement.fresh().public for _ in range(2))
        foreign = wire.signed_message(wire.Kind.ADVERTISE, digest, 1, SERVER, keys, identity(number)).message
        refused(partial(transcript.read, foreign), BadMessage)

    def shown(message: bytes) -> list[Outgoing]:
        for _ in range(2):  # a message that is carried twice changes nothing
            assert transcript.read(message) is None
        return receive(message)

    round_.server.receive = shown  # type: ignore[method-assign,assignment]
    opened = round_.run()
    vectors = [transcript.vectors[client] for client in range(3)]
    for client, vector in enumerate(vectors):
        assert float(np.abs(form.entries(SIZE, vector) - update(client)).max()) > 1
    both = np.sum(vectors, axis=0, dtype=vectors[0].dtype)  # pairwise masks cancel, and no others are left
    assert np.array_equal(form.entries(SIZE, both), opened.total())


def test_nothing_is_opened_of_other_parties_messages() -> None:
    round_ = Sharing(terms("sharing"))
    messages = _sent(round_, 0)
    first, second = (next(m for m in messages if m.to == aggregator(place)) for place in (1, 2))
    other = Transcript(round_.terms, aggregator(2), identity(aggregator(2)))
    later = Transcript(terms("sharing", round=1), aggregator(1), identity(aggregator(1)))
    mine = Transcript(round_.terms, aggregator(1), identity(aggregator(1)))
    calls: list[Callable[[], object]] = [
        lambda: other.read(first.message),
        lambda: later.read(first.message),
        lambda: mine.read(flipped(first.message, 64 * 8)),
        lambda: mine.read(b"x" * 200),
    ]
    for call in calls:
        refused(call, BadMessage)
    assert mine.read(first.message) is not None
    assert mine.read(first.message) is None
    assert other.read(second.message) is not None


def test_an_answer_of_another_protocol_is_passed_over() -> None:
    round_ = Sharing(terms("sharing"))
    reader = Transcript(round_.terms, aggregator(0), identity(aggregator(0)))
    for to, message in _sent(round_, 0):
        if to == aggregator(0):
            reader.read(message)
    before = reader.vectors[0].copy()
    foreign = wire.signed_message(
        wire.Kind.UNMASK, round_.terms.digest, 0, aggregator(0), b"x" * 80, identity(0)
    ).message
    assert reader.read(foreign) is None
    assert np.array_equal(reader.vectors[0], before)


def test_sums_on_their_way_to_the_owner_are_no_clients_vectors() -> None:
    round_ = Sharing(terms("sharing"))
    round_.contribute(range(3))
    round_.close()
    owner = Transcript(round_.terms, OWNER, identity(SERVER))
    for party in round_.aggregators:
        for _, message in party.open():
            assert owner.read(message) is None
    assert owner.vectors == {}


def test_a_chunk_of_no_place_in_the_vector_is_refused() -> None:
    round_ = Sharing(terms("sharing"))
    messages = [message for to, message in _sent(round_, 0) if to == aggregator(0)]
    reader = Transcript(round_.terms, aggregator(0), identity(aggregator(0)))
    assert reader.read(messages[1]) is None  # nobody announced it
    assert reader.vectors == {}
    reader.read(messages[0])
    far = bytearray(messages[1])
    far[64] = 99
    refused(lambda: reader.read(far), BadMessage)
    before = reader.vectors[0].copy()
    refused(lambda: reader.read(flipped(messages[1], 8 * 80)), BadMessage)
    reader.read(messages[1])
    assert not np.array_equal(before, reader.vectors[0])
