"""What one party's key opens of a round's messages, and how to read that again later without the terms.

For an audit of who could have read what: a `Transcript` is shown the messages that reach a party and opens as much as
its key does. It takes no part in the round and answers nothing. Of signatures it checks those of the keys from which
it reads on; what does not open under them is refused by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedseal.secagg import wire
from fedseal.secagg.errors import BadMessage
from fedseal.secagg.hazmat.keys import Buffer, Channel, Identity, Opener, open_once
from fedseal.secagg.hazmat.prg import SEED, Masks
from fedseal.secagg.hazmat.ring import Elements, Ring
from fedseal.secagg.masking.directory import Keys, answer_key, channel, stream_key
from fedseal.secagg.party import Party, aggregator
from fedseal.secagg.role import public_of
from fedseal.secagg.terms import Terms
from fedseal.secagg.vector import Layout, element_of
from fedseal.secagg.wire import Kind, Message

ANY_LENGTH = 1 << 62  # bytes: what is recorded was carried already


class Share(NamedTuple):
    """A client's seed, which stretches to this party's share of its vector."""

    client: int
    seed: bytes


class Transcript:
    """One party's view of one round.

    Args:
        number: the party's.
        identity: its key.
    """

    def __init__(self, terms: Terms, number: int, identity: Identity) -> None:
        self._terms, self._number, self._identity, self._layout = terms, number, identity, Layout(terms)
        self._channels: dict[int, Channel] = {}
        self._openers: dict[int, Opener] = {}
        self._elements: dict[int, Elements] = {}
        self._taken_off: set[int] = set()

    def read(self, raw: Buffer) -> Share | None:
        """Open what the key opens of a message to this party; a seed comes back, vectors fill `vectors`.

        Raises:
            BadMessage: it was changed, or is none of this round's.
        """
        message = wire.read_message(raw, ANY_LENGTH)
        if message.kind is Kind.SHARE:
            return self._shared(message)
        if message.kind is Kind.ADVERTISE and message.sender not in self._channels:
            self._advertised(message)
        elif message.kind is Kind.MASKED and message.sender in self._channels.keys() - self._openers.keys():
            key = stream_key(self._channels[message.sender], self._terms, message.sender)
            self._expect(message.sender, Opener(key))
        elif message.kind is Kind.CHUNK and message.sender in self._openers.keys() - self._taken_off:
            self._chunk(message)
        elif message.kind is Kind.UNMASK and message.sender in self._channels.keys() & self._elements.keys():
            self._take_off_own_mask(message)
        return None

    @property
    def vectors(self) -> dict[int, NDArray[Any]]:
        """By client: its masked vector as signed elements, less the mask that the client itself handed over."""
        return {client: self._terms.codec.ring.signed(elements) for client, elements in self._elements.items()}

    def _advertised(self, message: Message) -> None:
        if message.terms != self._terms.digest:
            raise BadMessage("keys that were advertised for another round", "show it this round's messages")
        message.verify(public_of(self._terms.roster, message.sender))
        peer = Keys.read(message).channel
        self._channels[message.sender] = channel(self._terms, message.sender, self._identity.opening, peer)

    def _shared(self, message: Message) -> Share | None:
        client = message.sender
        if not Party.of(client).is_client or client in self._openers:
            return None
        key, own = bytes(message.body), self._identity.opening
        secret, opener = wire.announced(self._terms.digest, client, message.to, key, own)
        if self._number == aggregator(0):
            self._expect(client, opener)
            return None
        self._openers[client] = opener
        return Share(client, secret[-SEED:])

    def _expect(self, client: int, opener: Opener) -> None:
        self._openers[client] = opener
        self._elements[client] = self._terms.codec.ring.zeros(self._layout.elements)

    def _chunk(self, message: Message) -> None:
        chunk = wire.number_of(message)
        if message.sender not in self._elements or chunk >= self._layout.chunks:
            raise BadMessage(f"chunk {chunk} of {Party.of(message.sender)}, who sends none", "send the original")
        start, end = self._layout.span(chunk)
        wire.open_chunk(self._openers[message.sender], message, self._elements[message.sender][start:end])

    def _take_off_own_mask(self, message: Message) -> None:
        key = answer_key(self._channels[message.sender], self._terms, message.sender)
        own = open_once(key, bytes(message.body))[:SEED]
        if message.sender not in self._taken_off:
            self._taken_off.add(message.sender)
            Masks(subtracted=[own]).add_to(self._elements[message.sender], offset=0)


@dataclass(frozen=True)
class VectorFormat:
    """How an update's entries stand in the vectors of a transcript: as much of the terms as reading them takes.

    Args:
        bits: of the ring.
        scale: elements a unit of an entry.
        chunk: elements a message.
    """

    bits: int
    scale: float
    chunk: int

    @classmethod
    def of(cls, terms: Terms) -> VectorFormat:
        """The format of a round's vectors."""
        return cls(terms.bits, terms.codec.scale, terms.chunk)

    def entries(
        self, size: int, vector: NDArray[Any] | None = None, seeds: Sequence[bytes] = ()
    ) -> NDArray[np.float64]:
        """`(size,)`: the update's entries in a vector.

        Args:
            vector: signed elements; None for zeros, so that the seeds' shares alone are read.
            seeds: what they stretch to is added before.
        """
        ring, places = Ring(self.bits), element_of(np.arange(size), self.chunk)
        elements: Elements = ring.zeros(int(places[-1]) + 1) if vector is None else vector.copy().view(ring.dtype)
        Masks(added=seeds).add_to(elements, offset=0)
        found: NDArray[np.float64] = ring.signed(elements[places].copy()).astype(np.float64) / self.scale
        return found
