"""Whatever one client signs, it costs that client its place in the sum at most, and the others' sum is right."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from fedseal.errors import BadConfig, FedsealError
from fedseal.secagg import SERVER, Buffer, Identity, Outgoing, Public, Roster, aggregator, wire
from fedseal.secagg.errors import BadMessage, BrokenCommitment, OutOfPhase
from fedseal.secagg.hazmat.keys import LOW_ORDER, PRIME, Agreement, Channel, low_order
from fedseal.secagg.role import Role
from fedseal.secagg.wire import Kind
from secagg.rounds import Masking, Sharing, identity, terms, total, update

LONG = (pytest.mark.slow, pytest.mark.long)
LIAR, CLIENTS = 2, 4
ENCODINGS = [  # also beyond the prime, and with the highest bit, which is not read
    (value + high).to_bytes(32, "little")
    for point in sorted(LOW_ORDER)
    for value in (point, point + PRIME)
    if value < 2**255
    for high in (0, 2**255)
]


def _bent(raw: bytes, rng: random.Random) -> bytes:
    """A body with something wrong in it."""
    body = bytearray(raw)
    way = rng.randrange(5)
    if way == 0:
        return rng.randbytes(rng.randrange(300))
    if way == 1 or not body:
        return bytes(body) + rng.randbytes(1 + rng.randrange(9))
    if way == 2:
        return bytes(body[: rng.randrange(len(body))])
    place = rng.randrange(len(body))
    if way == 3:
        body[place] ^= 1 << rng.randrange(8)
    else:
        body[place : place + 4] = b"\xff" * 4
    return bytes(body)


def _resigned(role_terms: bytes, raw: Buffer, rng: random.Random, channel: Channel | None = None) -> bytes:
    """The liar's message with another body under its own signature or mark; a chunk with another content."""
    message = wire.read_message(raw, 10**7)
    if message.kind is Kind.CHUNK:
        return bytes(raw[:64]) + _bent(bytes(raw[64:]), rng)
    body = _bent(bytes(message.body), rng)
    signer = identity(LIAR) if channel is None or message.kind is Kind.ADVERTISE else channel
    return bytes(wire.signed_message(message.kind, role_terms, LIAR, message.to, body, signer).message)


def _told(role: Role, raw: bytes) -> None:
    try:
        assert role.receive(raw) == []
    except (BadMessage, OutOfPhase):
        assert not role.ended


def _masking(phase: int, rng: random.Random) -> None:
    """A round in which the liar's messages of one phase are bent."""
    round_ = Masking(terms(clients=CLIENTS, quorum=(1, 2)))

    def carry(messages: list[Outgoing], now: int) -> None:
        for message in messages:
            if wire.read_message(message.message, 10**7).sender == LIAR and now == phase:
                _told(round_.server, _resigned(round_.terms.digest, message.message, rng, round_.channels[LIAR]))
            else:
                try:
                    round_.server.receive(message.message)
                except (BadMessage, OutOfPhase):
                    assert wire.read_message(message.message, 10**7).sender == LIAR

    def answers(messages: list[Outgoing]) -> list[Outgoing]:
        """The liar's own role may end where the server repeats to it what it never said itself."""
        found = []
        for message in messages:
            try:
                found += round_.to_clients([message])
            except FedsealError:
                assert message.to == LIAR
                round_.drops[LIAR] = 0
        return found

    carry([m for client in round_.clients.values() for m in client.advertise()], 0)
    carry(answers(round_.advance()), 1)
    relays = round_.advance()
    answers(relays)
    carry([m for to, _ in relays if round_.there(to) for m in round_.clients[to].contribute(update(to))], 2)
    carry(answers(round_.advance()), 3)
    carry(answers(round_.advance()), 4)
    try:
        opened = round_.server.result()
    except BrokenCommitment:  # it committed to another seed than it signed later, and is named: see test_bad_parties
        assert phase == 1
        assert round_.server.false == (LIAR,)
        return
    assert set(opened.cohort) >= {0, 1, 3}
    assert np.array_equal(opened.total(), total(opened.cohort))


def _sharing(_: int, rng: random.Random) -> None:
    round_ = Sharing(terms("sharing", CLIENTS))
    for number, client in round_.clients.items():
        for message in client.contribute(update(number)):
            if number == LIAR and rng.random() < 0.5:
                _told(round_.role(message.to), _resigned(round_.terms.digest, message.message, rng))
            else:
                try:
                    round_.carry([message])
                except (BadMessage, OutOfPhase):
                    assert number == LIAR
    round_.close()
    opened = round_.open()
    assert set(opened.cohort) >= {0, 1, 3}
    assert np.array_equal(opened.total(), total(opened.cohort))


@pytest.mark.parametrize("tries", [6, pytest.param(30, marks=pytest.mark.slow), pytest.param(400, marks=LONG)])
@pytest.mark.parametrize(("run", "phase"), [(_sharing, 0), *((_masking, phase) for phase in range(5))])
def test_what_a_client_bends_costs_the_others_nothing(
    run: Callable[[int, random.Random], None], phase: int, tries: int
) -> None:
    for seed in range(tries):
        run(phase, random.Random(f"{phase} {seed}"))


# keys of low order


def test_keys_of_low_order_are_those_with_which_every_agreement_fails() -> None:
    assert len(ENCODINGS) >= 12
    for key in ENCODINGS:
        assert low_order(key)
        with pytest.raises(BadMessage, match="low order"):
            Agreement.fresh().derive(key, b"")
    for _ in range(300):
        key = Agreement.fresh().public
        assert not low_order(key)
        assert len(Agreement.fresh().derive(key, b"")) == 32


@pytest.mark.parametrize("place", [0, 1])
def test_a_client_that_advertises_one_is_named_and_left_out(place: int) -> None:
    """Its neighbors could not agree on a mask with it, and every one of them gave up."""
    round_ = Masking(terms(clients=CLIENTS), {LIAR: 0})
    keys = [Agreement.fresh().public, Agreement.fresh().public]
    keys[place] = ENCODINGS[3]
    bad = wire.signed_message(Kind.ADVERTISE, round_.terms.digest, LIAR, SERVER, b"".join(keys), identity(LIAR)).message
    with pytest.raises(BadMessage, match="client 2 advertises a key of low order"):
        round_.server.receive(bad)
    assert np.array_equal(round_.run().total(), total([0, 1, 3]))


def test_a_server_that_passes_one_on_is_refused() -> None:
    round_ = Masking(terms(clients=CLIENTS))
    good = [bytes(client.advertise()[0].message) for client in round_.clients.values()]
    bad = wire.signed_message(Kind.ADVERTISE, round_.terms.digest, LIAR, SERVER, bytes(64), identity(LIAR)).message
    body = wire.wire_number(4) + b"".join([*good[:2], bytes(bad), good[3]])
    raw = round_.said(Kind.KEYS, 0, body)
    with pytest.raises(BadMessage, match="client 2 advertises a key of low order"):
        round_.clients[0].receive(raw)


def test_a_roster_takes_none() -> None:
    parties = [Identity.fresh() for _ in range(3)]
    bad = Public(parties[0].public.verifying, ENCODINGS[5])
    with pytest.raises(BadConfig, match="low order"):
        Roster({0: bad, 1: parties[1].public}, parties[2].public)
    with pytest.raises(BadConfig, match="low order"):
        Roster({1: parties[1].public}, parties[2].public, (bad,))
    assert aggregator(0) not in Roster({1: parties[1].public}, parties[2].public).clients
