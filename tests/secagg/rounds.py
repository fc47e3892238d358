"""Parties for tests: identities that are made once, terms, and a carrier that runs a round as an engine would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np

from fedseal.secagg import (
    OWNER,
    SERVER,
    Identity,
    Ledger,
    Opened,
    Outgoing,
    Party,
    Roster,
    Terms,
    aggregator,
    masking,
    sharing,
    wire,
)
from fedseal.secagg.masking.directory import channel
from fedseal.secagg.role import Role

SESSION = bytes(range(16))
SIZE = 11


@cache
def identity(number: int) -> Identity:
    return Identity.fresh()


@cache
def roster(clients: int, aggregators: int) -> Roster:
    return Roster(
        {number: identity(number).public for number in range(clients)},
        identity(SERVER).public,
        tuple(identity(aggregator(place)).public for place in range(aggregators)),
    )


def terms(protocol: str = "masking", clients: int = 3, aggregators: int = 3, **changed: Any) -> Terms:
    return Terms(
        **{
            "protocol": protocol,
            "roster": roster(clients, aggregators if protocol == "sharing" else 0),
            "session": SESSION,
            "round": 0,
            "size": SIZE,
            "bound": 8.0,
            "minimum": 2,
            "chunk": 8,
            **changed,
        }
    )


def update(number: int, size: int = SIZE) -> np.ndarray:
    """Of multiples of 2^-16, so that every sum is exact."""
    return ((np.arange(size) * 7919 + 104729 * (number + 1)) % 1_000_003 / 2**16 - 7.5).astype(np.float32)


def total(numbers: Iterable[int], weights: Mapping[int, int] | None = None) -> np.ndarray:
    """What the sum must be, by numpy on the plain updates."""
    rows = [update(number).astype(np.float64) * (weights or {}).get(number, 1) for number in numbers]
    return np.asarray(np.sum(rows, axis=0))


class Sharing:
    """All roles of a round of sharing."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.clients = {n: sharing.SharingClient(terms, n, identity(n), Ledger()) for n in terms.roster.clients}
        self.aggregators = [
            sharing.SharingAggregator(terms, place, identity(aggregator(place)))
            for place in range(len(terms.roster.aggregators))
        ]
        self.owner = sharing.Owner(terms, identity(SERVER))

    def role(self, number: int) -> Role:
        party = Party.of(number)
        if party.is_client:
            return self.clients[number]
        return self.owner if number == OWNER else self.aggregators[party.index]

    def carry(self, messages: Iterable[Outgoing]) -> None:
        """Until nothing is left to carry."""
        pending = list(messages)
        while pending:
            to, message = pending.pop(0)
            pending += self.role(to).receive(message)

    def contribute(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.carry(self.clients[number].contribute(update(number)))

    def close(self) -> None:
        self.carry([message for party in self.aggregators for message in party.close_intake()])

    def open(self) -> Opened:
        for party in self.aggregators:
            self.carry(party.open())
        return self.owner.result()

    def run(self, numbers: Iterable[int]) -> Opened:
        self.contribute(numbers)
        self.close()
        return self.open()


class Masking:
    """All roles of a round of masking; a client is there until the phase at which it drops."""

    def __init__(self, terms: Terms, drops: Mapping[int, int] | None = None) -> None:
        self.terms, self.drops = terms, dict(drops or {})
        self.server = masking.Server(terms, identity(SERVER))
        self.clients = {n: masking.MaskingClient(terms, n, identity(n), Ledger()) for n in terms.roster.clients}
        opening = identity(SERVER).opening
        self.channels = {n: channel(terms, n, opening, client._channel.public) for n, client in self.clients.items()}
        self.phase = 0

    def said(self, kind: wire.Kind, to: int, body: bytes) -> bytes:
        """A message of a server that says what it likes."""
        return bytes(wire.signed_message(kind, self.terms.digest, SERVER, to, body, self.channels[to]).message)

    def there(self, number: int) -> bool:
        return self.drops.get(number, 99) > self.phase

    def to_server(self, messages: Iterable[Outgoing]) -> None:
        for _, message in messages:
            assert self.server.receive(message) == []

    def to_clients(self, messages: Iterable[Outgoing]) -> list[Outgoing]:
        """Their answers."""
        return [answer for to, raw in messages if self.there(to) for answer in self.clients[to].receive(raw)]

    def advance(self) -> list[Outgoing]:
        messages = self.server.advance()
        self.phase += 1
        return messages

    def until_survivors(self) -> list[Outgoing]:
        """The SURVIVORS messages, not yet delivered."""
        for number, client in self.clients.items():
            if self.there(number):
                self.to_server(client.advertise())
        self.to_server(self.to_clients(self.advance()))
        relays = self.advance()
        self.to_clients(relays)
        for to, _ in relays:
            if self.there(to):
                self.to_server(self.clients[to].contribute(update(to)))
        return self.advance()

    def run(self) -> Opened:
        self.to_server(self.to_clients(self.until_survivors()))
        self.to_server(self.to_clients(self.advance()))
        return self.server.result()


def flipped(message: Any, bit: int) -> bytes:
    """The message with one bit changed."""
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def refused(call: Callable[[], object], *kinds: type[Exception]) -> str:
    """The text of what the call raises, which is one of these."""
    try:
        call()
    except kinds as error:
        return str(error)
    raise AssertionError("nothing was refused")
