"""Key directory and digests, computed identically by client and server, and the statement that survivors sign."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from fedseal.secagg import wire
from fedseal.secagg.errors import BadMessage
from fedseal.secagg.hazmat.keys import KEY, Agreement, Channel, hkdf, low_order
from fedseal.secagg.masking.graph import Graph, drawing
from fedseal.secagg.party import SERVER, Party
from fedseal.secagg.role import from_client, public_of
from fedseal.secagg.terms import Terms
from fedseal.secagg.wire import Kind, Message, Reader

ADVERTISEMENT = wire.HEADER.size + 2 * KEY + 64  # bytes of the whole message


@dataclass(frozen=True)
class Keys:
    """What a client advertises.

    Args:
        channel: seals shares for it.
        masking: agrees on masks with it.
    """

    channel: bytes
    masking: bytes

    @classmethod
    def read(cls, message: Message) -> Keys:
        """The keys in an ADVERTISE message.

        Raises:
            BadMessage: no two keys, or one of low order, with which none of its neighbors could agree on anything.
        """
        from_client(message)
        reader = Reader(message.body)
        keys = cls(reader.take(KEY), reader.take(KEY))
        reader.end()
        if low_order(keys.channel) or low_order(keys.masking):
            raise BadMessage(f"{Party.of(message.sender)} advertises a key of low order", "ask it for another")
        return keys


def channel(terms: Terms, client: int, own: Agreement, peer: bytes) -> Channel:
    """By which a client and the server know each other's messages in a round, once its keys are advertised."""
    return Channel.between(own, peer, terms.digest + wire.party(client))


def stream_key(between: Channel, terms: Terms, client: int) -> bytes:
    """What seals the chunks of a client's masked vector."""
    return between.sealing(wire.stream_context(terms.digest, client, SERVER))


def answer_key(between: Channel, terms: Terms, client: int) -> bytes:
    """What seals a client's answer, once."""
    return between.sealing(b"fedseal unmask 2" + terms.digest + wire.party(client))


@dataclass(frozen=True)
class Directory:
    """All that advertised, and what follows from it."""

    terms: Terms
    keys: Mapping[int, Keys]

    @classmethod
    def read(cls, terms: Terms, message: Message) -> Directory:
        """The directory in a KEYS message, with every signature checked."""
        reader = Reader(message.body)
        keys: dict[int, Keys] = {}
        for _ in reader.count(len(terms.roster.clients)):
            inner = wire.read_message(reader.take(ADVERTISEMENT), ADVERTISEMENT)
            if inner.kind is not Kind.ADVERTISE or inner.terms != terms.digest or inner.to != SERVER:
                raise BadMessage("a list of keys with something else in it", "send the clients' messages")
            inner.verify(public_of(terms.roster, inner.sender))
            if inner.sender <= max(keys, default=-1):
                raise BadMessage("a list of keys that is not in order or has one twice", "send it in order")
            keys[inner.sender] = Keys.read(inner)
        reader.end()
        return cls(terms, keys)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the terms and all keys."""
        lines = [wire.party(who) + keys.channel + keys.masking for who, keys in sorted(self.keys.items())]
        return hashlib.sha256(b"fedseal keys 1" + self.terms.digest + b"".join(lines)).digest()

    def graph(self, drawn: Mapping[int, tuple[int, ...]]) -> Graph:
        """Who shares masks with whom, where clients drew these holders."""
        return Graph(tuple(self.keys), drawn if drawing(len(self.keys), self.terms.degree) else None)

    def mask_seed(self, own: Agreement, me: int, other: int) -> bytes:
        """What the pair's mask grows from; the same for both."""
        pair = wire.party(min(me, other)) + wire.party(max(me, other))
        return own.derive(self.keys[other].masking, b"fedseal mask 1" + self.digest + pair)

    def share_key(self, agreed: bytes, source: int, holder: int) -> bytes:
        """What seals the share that `source` gives `holder`, from what their channels' keys agree on."""
        return hkdf(agreed, b"fedseal share 1" + self.digest + wire.party(source) + wire.party(holder))

    def commitment(self, client: int, seed: bytes) -> bytes:
        """Binds a client to its own seed and says nothing of it."""
        return hashlib.sha256(b"fedseal seed 1" + self.digest + wire.party(client) + seed).digest()

    def statement(self, sharing: tuple[int, ...], graph: Graph, survivors: tuple[int, ...]) -> bytes:
        """What survivors sign: the keys, who shared and with whom, who survived."""
        return b"fedseal survivors 2" + self.digest + wire.parties(sharing) + graph.digest + wire.parties(survivors)
