"""Ring all-reduce (Patarasuk and Yuan, JPDC 69(2), 2009): every party hands parts of sums to the next one, until all
hold the sum of all; and pairwise masks that hide the parts on their way.

A vector is cut into as many segments as there are parties. In the first half of the hops a party adds its own values to
the segment that it was handed and hands it on; in the second half complete sums go around. There is no server, and no
dropout is made up for: whoever is missing ends the round. In the first hop a neighbor reads a segment of its sender
alone. Every two parties therefore agree on a mask, which one adds and the other subtracts: a part of an unfinished sum
is uniform to whoever lacks one of its masks, and parties who collude learn the sum of the others and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedseal.secagg import wire
from fedseal.secagg.errors import BadMessage, OutOfPhase
from fedseal.secagg.hazmat.keys import Buffer, Identity, open_once, seal_once
from fedseal.secagg.hazmat.prg import Masks
from fedseal.secagg.hazmat.ring import Elements, Reals
from fedseal.secagg.ledger import Ledger
from fedseal.secagg.terms import Terms
from fedseal.secagg.vector import Contribution, Layout, Opened

VERSION = 1  # of what `dump` gives


@dataclass(frozen=True)
class Circle:
    """Parties in a circle, and what each hands on when.

    Args:
        parties: their numbers, in order; the last hands on to the first.
        size: elements of the vector.

    >>> circle = Circle((0, 1, 2), 9)
    >>> [circle.summed(1, hop) for hop in range(circle.hops)]
    [(1,), (0, 1), (0, 1, 2), (0, 1, 2)]
    """

    parties: tuple[int, ...]
    size: int

    @property
    def hops(self) -> int:
        """How often everybody hands something on."""
        return 2 * (len(self.parties) - 1)

    @property
    def adding(self) -> int:
        """The first so many hops add; what is handed on after them is complete."""
        return len(self.parties) - 1

    def successor(self, party: int) -> int:
        """Whom a party hands on to."""
        return self.parties[(self._place(party) + 1) % len(self.parties)]

    def predecessor(self, party: int) -> int:
        """Whose parts a party is handed."""
        return self.parties[self._place(party) - 1]

    def segment(self, party: int, hop: int) -> slice:
        """Which elements a party hands on at a hop."""
        count = len(self.parties)
        number = (self._place(party) - hop) % count
        return slice(number * self.size // count, (number + 1) * self.size // count)

    def summed(self, party: int, hop: int) -> tuple[int, ...]:
        """Whose values are in what a party hands on at a hop, in ascending order."""
        place = self._place(party)
        return tuple(sorted(self.parties[place - back] for back in range(min(hop, self.adding) + 1)))

    def _place(self, party: int) -> int:
        return self.parties.index(party)


class RingSum:
    """One party's way around: its own vector becomes the sum of all.

    Args:
        vector: `(circle.size,)`, which is written to.
        hop: where it goes on.
    """

    def __init__(self, circle: Circle, party: int, vector: NDArray[Any], hop: int = 0) -> None:
        self.circle, self.vector, self.hop, self._party = circle, vector, hop, party

    @property
    def done(self) -> bool:
        """Whether the vector is the sum."""
        return self.hop == self.circle.hops

    def part(self) -> NDArray[Any]:
        """What is handed on next."""
        return self.vector[self.circle.segment(self._party, self.hop)].copy()

    def take(self, part: NDArray[Any]) -> None:
        """Add what the one before hands on, or take it over once it is complete.

        Raises:
            OutOfPhase: nothing is due any more.
            BadMessage: another length.
        """
        if self.done:
            raise OutOfPhase("a part is handed on after the last hop", "start another round")
        own = self.vector[self.circle.segment(self.circle.predecessor(self._party), self.hop)]
        if part.shape != own.shape or part.dtype != own.dtype:
            raise BadMessage(f"a part of {part.size} elements, and {own.size} are due", "run one version everywhere")
        if self.hop < self.circle.adding:
            own += part
        else:
            own[:] = part
        self.hop += 1


class MaskedRingClient:
    """`contribute`, then `receive` once for every hop; every part is sealed for the next party.

    Args:
        identity: the party's long-term secrets; masks and seals of a round follow from them and the round's terms.

    Raises:
        BadMessage: a party of the roster whose key is of low order.
    """

    def __init__(self, terms: Terms, number: int, identity: Identity, ledger: Ledger) -> None:
        self.terms, self._number, self._identity, self._ledger = terms, number, identity, ledger
        self.circle = circle_of(terms)
        self._exchange: RingSum | None = None

    def contribute(self, values: Reals, weight: int = 1, metrics: Mapping[str, float] | None = None) -> bytes:
        """The first part, for the next party.

        Raises:
            UnfitUpdate: before anything is sent; see `Contribution`.
            OutOfPhase: this client took part in this round or a later one.
        """
        contribution = Contribution(self.terms, values, weight, metrics or {})
        self._ledger.enter(self.terms)
        vector = np.concatenate([chunk.copy() for chunk in contribution.chunks()])
        others = [other for other in self.circle.parties if other != self._number]
        self._pairwise(others).add_to(vector, offset=0)
        self._exchange = RingSum(self.circle, self._number, vector)
        return self._sealed()

    def receive(self, message: Buffer) -> bytes | None:
        """The next part; None after the last hop.

        Raises:
            OutOfPhase: nothing is due.
            BadMessage: it was changed, or is not the one that is due.
        """
        exchange = self._going()
        if exchange.done:
            raise OutOfPhase("a part is handed on after the last hop", "start another round")
        exchange.take(self._content(message, exchange.hop))
        return None if exchange.done else self._sealed()

    def elements(self) -> Elements:
        """The sum of all, in which no mask is left.

        Raises:
            OutOfPhase: the round is not over.
        """
        exchange = self._going()
        if not exchange.done:
            raise OutOfPhase("the sum is not complete", "hand on all parts before")
        return exchange.vector

    def opened(self) -> Opened:
        """The same, read.

        Raises:
            WrongSum: the masks did not cancel.
        """
        return Opened(self.terms, self.elements(), self.circle.parties)

    def dump(self) -> bytes:
        """All that it knows of the round, so that another process goes on where this one ends."""
        exchange = self._going()
        facts = {
            "version": VERSION,
            "round": self.terms.round,
            "size": self.terms.size,
            "state": self.terms.state.hex(),
            "hop": exchange.hop,
        }
        return json.dumps(facts).encode() + b"\n" + exchange.vector.tobytes()

    @classmethod
    def load(
        cls, terms: Callable[[int, int, bytes], Terms], number: int, identity: Identity, ledger: Ledger, kept: bytes
    ) -> MaskedRingClient:
        """A client as it was when it was dumped.

        Args:
            terms: the agreed terms, by round, size and digest of the state.
        """
        line, _, content = kept.partition(b"\n")
        facts = json.loads(line)
        agreed = terms(facts["round"], facts["size"], bytes.fromhex(facts["state"]))
        client = cls(agreed, number, identity, ledger)
        vector = np.frombuffer(bytearray(content), agreed.codec.ring.dtype)
        client._exchange = RingSum(client.circle, number, vector, facts["hop"])
        return client

    def reading(self, message: Buffer, hop: int) -> tuple[int, NDArray[np.float64]]:
        """What a part says to the party that it came to: its first entry of the update, and the entries in their unit.

        For an audit: the masks that this party shares with the senders are taken off; what is left is masked by those
        with whom it does not collude.

        Raises:
            BadMessage: it was changed, or is of another hop.
        """
        before, ring = self.circle.predecessor(self._number), self.terms.codec.ring
        segment, whole = self.circle.segment(before, hop), ring.zeros(self.circle.size)
        senders = [other for other in self.circle.summed(before, hop) if other != self._number]
        self._pairwise(senders).add_to(whole, offset=0)  # this party's half of the masks: the senders have the other
        signed = ring.signed(self._content(message, hop) + whole[segment])
        elements = np.arange(segment.start, segment.stop)
        entries = elements - elements // self.terms.chunk
        kept = (elements % self.terms.chunk != self.terms.chunk - 1) & (entries < self.terms.size)
        first = int(entries[kept][0]) if kept.any() else self.terms.size
        return first, signed[kept].astype(np.float64) / self.terms.codec.scale

    def _content(self, message: Buffer, hop: int) -> Elements:
        before = self.circle.predecessor(self._number)
        content = open_once(self._key(before, b"part", before, self._number, hop), bytes(message))
        return np.frombuffer(bytearray(content), self.terms.codec.ring.dtype)

    def _sealed(self) -> bytes:
        exchange, after = self._going(), self.circle.successor(self._number)
        return seal_once(self._key(after, b"part", self._number, after, exchange.hop), exchange.part().tobytes())

    def _pairwise(self, others: Sequence[int]) -> Masks:
        """The masks that this party shares with these: of every pair the lower number adds, and the other subtracts."""
        seeds = {other: self._key(other, b"mask", *sorted((self._number, other))) for other in others}
        return Masks(
            [seed for other, seed in seeds.items() if self._number < other],
            [seed for other, seed in seeds.items() if other < self._number],
        )

    def _key(self, other: int, purpose: bytes, *facts: int) -> bytes:
        """32 bytes that this party and another alone can compute, of this round, for one purpose."""
        context = b"fedseal ring 1 " + purpose + self.terms.digest + b"".join(map(wire.party, facts))
        return self._identity.opening.derive(self.terms.roster.clients[other].sealing, context)

    def _going(self) -> RingSum:
        if self._exchange is None:
            raise OutOfPhase("a party hands nothing on before it contributed", "let it contribute first")
        return self._exchange


def circle_of(terms: Terms) -> Circle:
    """The circle of all clients of a round, in the order of their numbers."""
    return Circle(tuple(terms.roster.clients), Layout(terms).elements)
