"""Additive shares for two or more aggregators who do not all collude; a client sends once and may then vanish.

    client       SHARE (and chunks) -> every aggregator
    aggregator   ROLL  -> the others   whose contributions it holds; the cohort is whom all hold
    aggregator   AGREE -> the others   a signature over the cohort
    aggregator   SUM (and chunks) -> owner, once all agree

A client's vector x is split into x - G(s_1) - ... and G(s_1), ..., where G stretches a seed: aggregator 0 gets the
first, the others get a seed. Any of them but one learn nothing of x. The sums that go to the owner are shares too.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence

from fedseal.secagg import wire
from fedseal.secagg.errors import BadMessage, CohortTooSmall, Misbehavior, OutOfPhase
from fedseal.secagg.hazmat.keys import KEY, SIGNATURE, TAG, Agreement, Identity
from fedseal.secagg.hazmat.prg import SEED, Masks, fresh_seed
from fedseal.secagg.hazmat.ring import Elements, Reals
from fedseal.secagg.intake import Intake
from fedseal.secagg.ledger import Ledger
from fedseal.secagg.party import OWNER, Party, aggregator
from fedseal.secagg.role import Role, ascending, from_client, public_of
from fedseal.secagg.terms import Terms
from fedseal.secagg.vector import Contribution, Layout, Opened
from fedseal.secagg.wire import ChunkWriter, Kind, Message, Outgoing, Reader

TICKET = 16  # bytes that name one contribution at all aggregators


class SharingClient(Role):
    """A data owner: `contribute` once."""

    def __init__(self, terms: Terms, number: int, identity: Identity, ledger: Ledger) -> None:
        super().__init__(terms, number, identity)
        self._ledger = ledger

    def contribute(
        self, values: Reals, weight: int = 1, metrics: Mapping[str, float] | None = None
    ) -> Iterator[Outgoing]:
        """All that this client sends, a chunk at a time.

        Args:
            values: `(size,)`, the update; see `Contribution`.

        Raises:
            UnfitUpdate: before anything is sent.
            OutOfPhase: this client took part in this round or a later one.
        """
        contribution = Contribution(self.terms, values, weight, metrics or {})
        self._ledger.enter(self.terms)
        return self._share(contribution)

    def _share(self, contribution: Contribution) -> Iterator[Outgoing]:
        ticket, seeds, digest, ephemeral = secrets.token_bytes(TICKET), [], self.terms.digest, Agreement.fresh()
        first, *others = self.terms.roster.aggregators
        for place, public in enumerate(others, 1):
            seeds.append(fresh_seed())
            to = aggregator(place)
            key, _ = wire.announcement(digest, self.number, to, public.sealing, ticket + seeds[-1], ephemeral)
            yield self._signed(Kind.SHARE, to, key)
        key, sealer = wire.announcement(digest, self.number, aggregator(0), first.sealing, ticket, ephemeral)
        yield self._signed(Kind.SHARE, aggregator(0), key)
        writer = ChunkWriter(digest, self.number, aggregator(0), sealer, Layout(self.terms).sent)
        offset, masks = 0, Masks(subtracted=seeds)
        for elements in contribution.chunks():
            masks.add_to(elements, offset=offset)
            offset += elements.size
            yield writer.chunk(elements)


class SharingAggregator(Role):
    """Holds shares, agrees with the others on whose are added, and sends their sum to the owner.

    `receive` clients' messages, `close_intake` when their time is up, `receive` the others' until `agreed`, `open`.
    """

    def __init__(self, terms: Terms, place: int, identity: Identity) -> None:
        super().__init__(terms, aggregator(place), identity)
        self.cohort: tuple[int, ...] | None = None
        self._place, self._closed, self._opened = place, False, False
        self._intake = Intake(terms)
        self._tickets: dict[int, bytes] = {}
        self._seeds: dict[int, bytes] = {}
        self._rolls: dict[int, dict[int, bytes]] = {}
        self._agreements: dict[int, bytes] = {}
        self._on = {Kind.SHARE: self._share, Kind.ROLL: self._roll, Kind.AGREE: self._agree}
        if place == 0:
            self._on[Kind.CHUNK] = self._chunk

    @property
    def agreed(self) -> bool:
        """Whether all aggregators signed this one's cohort."""
        return self.cohort is not None and len(self._agreements) == len(self.terms.roster.aggregators)

    def close_intake(self) -> list[Outgoing]:
        """Take no more contributions, and tell the others whose are here."""
        self._going()
        if self._closed:
            raise OutOfPhase("the intake is closed already", "receive what the other aggregators send")
        self._closed = True
        complete = self._intake.complete if self._place == 0 else sorted(self._seeds)
        roll = {client: self._tickets[client] for client in complete}
        self._rolls[self.number] = roll
        body = wire.wire_number(len(roll)) + b"".join(wire.party(client) + ticket for client, ticket in roll.items())
        return [self._signed(Kind.ROLL, to, body) for to in self._others()] + self._counted()

    def open(self) -> Iterator[Outgoing]:
        """The sum of the cohort's shares, sealed for the owner, a chunk at a time. Once.

        Raises:
            OutOfPhase: not all aggregators agreed, or it is done.
        """
        self._going()
        if not self.agreed or self._opened:
            raise OutOfPhase("a sum is sent once, and only when all aggregators agreed", "receive their AGREE messages")
        self._opened = True
        return self._sum()

    def _share(self, message: Message) -> list[Outgoing]:
        from_client(message)
        client = message.sender
        if self._closed:
            raise OutOfPhase(f"client {client} comes after the intake closed", "take part in the next round")
        if client in self._tickets:
            raise BadMessage(f"client {client} contributes a second time", "send one contribution a round")
        if len(message.body) != KEY + TAG + TICKET + (SEED if self._place else 0):
            raise BadMessage("a share of another length than the protocol's", "send the original")
        key, own = bytes(message.body), self._identity.opening
        secret, opener = wire.announced(self.terms.digest, client, self.number, key, own)
        if self._place:
            self._seeds[client] = secret[TICKET:]
        else:
            self._intake.announce(client, opener)
        self._tickets[client] = secret[:TICKET]
        return []

    def _chunk(self, message: Message) -> list[Outgoing]:
        if self._closed:
            raise OutOfPhase(
                f"a chunk of {Party.of(message.sender)} after the intake closed", "take part in the next round"
            )
        self._intake.take(message)
        return []

    def _roll(self, message: Message) -> list[Outgoing]:
        self._from_other(message)
        reader = Reader(message.body)
        entries = [(reader.party(), reader.take(TICKET)) for _ in reader.count(len(self.terms.roster.clients))]
        reader.end()
        ascending(client for client, _ in entries)
        if message.sender in self._rolls:
            raise Misbehavior(f"{Party.of(message.sender)} signed two lists of clients", "replace it, and start anew")
        self._rolls[message.sender] = dict(entries)
        return self._counted()

    def _counted(self) -> list[Outgoing]:
        """Once all rolls are here: the cohort, and this aggregator's signature over it."""
        if not self._closed or len(self._rolls) < len(self.terms.roster.aggregators):
            return []
        mine = self._rolls[self.number]
        both = [c for c, ticket in mine.items() if all(roll.get(c) == ticket for roll in self._rolls.values())]
        with self._ending():
            if len(both) < self.terms.minimum:
                raise CohortTooSmall(
                    f"all aggregators hold the shares of {len(both)} clients, and the minimum is {self.terms.minimum}",
                    "nothing is opened; start another round",
                )
            self.cohort = tuple(both)
            statement = cohort_statement(self.terms, self.cohort)
            self._agreements[self.number] = self._identity.sign(statement)
            for sender in self._agreements.keys() - {self.number}:
                self._check(sender, statement)
        body = hashlib.sha256(statement).digest() + self._agreements[self.number]
        return [self._signed(Kind.AGREE, to, body) for to in self._others()]

    def _agree(self, message: Message) -> list[Outgoing]:
        self._from_other(message)
        if len(message.body) != KEY + SIGNATURE:
            raise BadMessage("an agreement of another length than the protocol's", "send the original")
        if message.sender in self._agreements:
            raise Misbehavior(f"{Party.of(message.sender)} signed two cohorts", "replace it, and start anew")
        self._agreements[message.sender] = bytes(message.body[KEY:])
        if self.cohort is not None:
            self._check(message.sender, cohort_statement(self.terms, self.cohort))
        return []

    def _check(self, sender: int, statement: bytes) -> None:
        try:
            public_of(self.terms.roster, sender).verify(self._agreements[sender], statement)
        except BadMessage:
            raise Misbehavior(
                f"{Party.of(sender)} signed another cohort than this aggregator holds",
                "nothing is opened; find out which of the two lies",
            ) from None

    def _sum(self) -> Iterator[Outgoing]:
        assert self.cohort is not None
        layout, owner = Layout(self.terms), self.terms.roster.opener
        key, sealer = wire.announcement(self.terms.digest, self.number, OWNER, owner.sealing)
        writer = ChunkWriter(self.terms.digest, self.number, OWNER, sealer, layout.sent)
        signatures = b"".join(
            self._agreements[aggregator(place)] for place in range(len(self.terms.roster.aggregators))
        )
        yield self._signed(Kind.SUM, OWNER, key + wire.parties(self.cohort) + signatures)
        spans = [layout.span(chunk) for chunk in range(layout.chunks)]
        parts = self._streams(spans) if self._place else self._vectors(spans)
        yield from map(writer.chunk, parts)
        self._forget()

    def _vectors(self, spans: Sequence[tuple[int, int]]) -> Iterator[Elements]:
        """The sum of the vectors that the cohort sent."""
        assert self.cohort is not None
        vectors = self._intake.settle(self.cohort)
        return (vectors[start:end] for start, end in spans)

    def _streams(self, spans: Sequence[tuple[int, int]]) -> Iterator[Elements]:
        """The sum of the cohort's streams; the memory is the caller's until the next part is asked for."""
        assert self.cohort is not None
        masks = Masks(added=[self._seeds[client] for client in self.cohort])
        buffer = self.terms.codec.ring.zeros(spans[0][1])
        for start, end in spans:
            elements = buffer[: end - start]
            elements[:] = 0
            masks.add_to(elements, offset=start)
            yield elements

    def _from_other(self, message: Message) -> None:
        if message.sender not in self._others():
            raise BadMessage(f"a {message.kind.name} message of {Party.of(message.sender)}", "only aggregators send it")

    def _others(self) -> list[int]:
        return [aggregator(place) for place in range(len(self.terms.roster.aggregators)) if place != self._place]

    def _forget(self) -> None:
        self._seeds.clear()
        self._intake.close()


class Owner(Role):
    """The model owner: `receive` the aggregators' sums until `complete`, then `result`."""

    def __init__(self, terms: Terms, identity: Identity) -> None:
        super().__init__(terms, OWNER, identity)
        self._intake = Intake(terms, final=True)
        self._agreements = b""
        self._cohort: tuple[int, ...] | None = None
        self._on = {Kind.SUM: self._sum, Kind.CHUNK: self._chunk}

    @property
    def complete(self) -> bool:
        """Whether all sums are here."""
        return len(self._intake.complete) == len(self.terms.roster.aggregators)

    def result(self) -> Opened:
        """The sum of the cohort. Once.

        Raises:
            OutOfPhase: an aggregator's sum is missing, or it was opened.
            WrongSum: the shares do not add up.
        """
        self._going()
        if not self.complete:
            raise OutOfPhase("not all aggregators sent their sum", "receive what is missing, or start another round")
        assert self._cohort is not None
        with self._ending():
            opened = Opened(self.terms, self._intake.settle(self._intake.complete), self._cohort)
        self.ended = "its sum is opened"
        return opened

    def _sum(self, message: Message) -> list[Outgoing]:
        if not Party.of(message.sender).is_aggregator:
            raise BadMessage(f"a sum of {Party.of(message.sender)}", "only aggregators send it")
        if message.sender in self._intake.announced:
            raise Misbehavior(f"{Party.of(message.sender)} sends two sums", "replace it, and start anew")
        reader = Reader(message.body)
        key = reader.take(KEY + TAG)
        cohort = ascending(reader.party() for _ in reader.count(len(self.terms.roster.clients)))
        everybody = self.terms.roster.aggregators
        agreements = reader.take(SIGNATURE * len(everybody))
        reader.end()
        if (cohort, agreements) != (self._cohort, self._agreements):
            for index, public in enumerate(everybody):
                signature = agreements[index * SIGNATURE : (index + 1) * SIGNATURE]
                public.verify(signature, cohort_statement(self.terms, cohort))
        if len(cohort) < self.terms.minimum or (self._cohort or cohort) != cohort:
            raise Misbehavior(f"the aggregators agreed on two cohorts, or on {len(cohort)} clients", "start anew")
        _, opener = wire.announced(self.terms.digest, message.sender, self.number, key, self._identity.opening)
        self._intake.announce(message.sender, opener)
        self._cohort, self._agreements = cohort, agreements
        return []

    def _chunk(self, message: Message) -> list[Outgoing]:
        self._intake.take(message)
        return []


def cohort_statement(terms: Terms, cohort: tuple[int, ...]) -> bytes:
    """What an aggregator signs."""
    return b"fedseal cohort 1" + terms.digest + wire.parties(cohort)
