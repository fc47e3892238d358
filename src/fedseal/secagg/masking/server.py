"""The server of the masking protocol: relays, adds, and opens what survivors let it."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator, Mapping
from math import comb
from typing import NamedTuple

from fedseal.secagg import wire
from fedseal.secagg.errors import BadMessage, BrokenCommitment, CohortTooSmall, OutOfPhase, WrongSum
from fedseal.secagg.hazmat import shamir
from fedseal.secagg.hazmat.keys import (
    KEY,
    SIGNATURE,
    TAG,
    Agreement,
    Buffer,
    Channel,
    Identity,
    Opener,
    Signer,
    Verifier,
    open_once,
)
from fedseal.secagg.hazmat.prg import Masks
from fedseal.secagg.intake import Intake
from fedseal.secagg.masking.client import SHARE
from fedseal.secagg.masking.directory import Directory, Keys, answer_key, channel, stream_key
from fedseal.secagg.masking.graph import drawing
from fedseal.secagg.party import SERVER
from fedseal.secagg.role import Role, ascending, from_client, public_of
from fedseal.secagg.terms import Terms
from fedseal.secagg.vector import Layout, Opened
from fedseal.secagg.wire import Kind, Message, Outgoing, Reader

PHASES = (Kind.ADVERTISE, Kind.BACKUP, Kind.MASKED, Kind.CONFIRM, Kind.UNMASK)
ATTEMPTS = 64  # subsets of shares to try when some are wrong


class Backup(NamedTuple):
    """A client's commitment to its seed, and its sealed shares by holder."""

    commitment: bytes
    shares: dict[int, bytes]


class Answer(NamedTuple):
    """What a client hands over: its seed, shares of survivors' seeds, shares of dropped clients' keys."""

    seed: bytes
    seeds: dict[int, bytes]
    keys: dict[int, bytes]


class Server(Role):
    """`receive` clients' messages and `advance` when their time is up, five times; then `result`."""

    def __init__(self, terms: Terms, identity: Identity) -> None:
        super().__init__(terms, SERVER, identity)
        self.phase = PHASES[0]
        self._intake = Intake(terms)
        self._adverts: dict[int, tuple[Buffer, Keys]] = {}
        self._channels: dict[int, Channel] = {}
        self._backups: dict[int, Backup] = {}
        self._confirmations: dict[int, bytes] = {}
        self._answers: dict[int, Answer] = {}
        self.survivors: tuple[int, ...] = ()
        self.false: tuple[int, ...] = ()  # clients who handed over a seed that is not the one that they committed to
        takes = (self._advertised, self._backed_up, self._masked, self._confirmed, self._answered)
        self._takes = dict(zip(PHASES, takes, strict=True))
        self._on = {**dict.fromkeys(PHASES, self._in_phase), Kind.CHUNK: self._chunk}

    def advance(self) -> list[Outgoing]:
        """Close the phase: what is late is refused. Gives what the clients who are left need for the next.

        Raises:
            CohortTooSmall: too few are left. The round ends here.
        """
        self._going()
        closing = {
            Kind.ADVERTISE: self._list_keys,
            Kind.BACKUP: self._relay,
            Kind.MASKED: self._list_survivors,
            Kind.CONFIRM: self._pass_confirmations,
        }
        if self.phase not in closing:
            raise OutOfPhase("the last phase ends with the result", "ask for result()")
        with self._ending():
            out = closing[self.phase]()
        self.phase = PHASES[PHASES.index(self.phase) + 1]
        return out

    def result(self) -> Opened:
        """The survivors' sum.

        Raises:
            OutOfPhase: not in the last phase.
            CohortTooSmall: too few shares of a secret. The round ends here.
            WrongSum: the shares or vectors that clients sent do not fit together. The round ends here.
        """
        self._going()
        if self.phase is not Kind.UNMASK:
            raise OutOfPhase("the sum is opened in the last phase", "advance through the others")
        with self._ending():
            masks, layout = self._masks(), Layout(self.terms)
            elements = self._intake.settle(self.survivors)
            for chunk in range(layout.chunks):
                start, end = layout.span(chunk)
                masks.add_to(elements[start:end], offset=start)
            opened = Opened(self.terms, elements, self.survivors)
        self.ended = "its sum is opened"
        self._forget()
        return opened

    def _signer(self, kind: Kind, to: int) -> Signer:
        return self._channels[to]

    def _verifier(self, message: Message) -> Verifier:
        """Nobody but the server checks what comes after the keys, which it passes on."""
        public = public_of(self.terms.roster, message.sender)
        if message.kind is Kind.ADVERTISE:
            return public
        self._member(message, self._channels)
        return self._channels[message.sender]

    def _in_phase(self, message: Message) -> list[Outgoing]:
        from_client(message)
        if message.kind is not self.phase:
            raise OutOfPhase(
                f"a {message.kind.name} message in the phase of {self.phase.name}", "come in time, or next round"
            )
        self._takes[message.kind](message)
        return []

    def _advertised(self, message: Message) -> None:
        self._first(message, self._adverts)
        keys = Keys.read(message)
        self._channels[message.sender] = channel(self.terms, message.sender, self._identity.opening, keys.channel)
        self._adverts[message.sender] = (bytes(message.raw), keys)

    def _list_keys(self) -> list[Outgoing]:
        self._enough(len(self._adverts), "advertised")
        self._told = Directory(self.terms, {who: keys for who, (_, keys) in sorted(self._adverts.items())})
        clients = len(self._told.keys)
        self._holders = self.terms.degree if drawing(clients, self.terms.degree) else clients - 1
        body = wire.wire_number(len(self._adverts)) + b"".join(
            bytes(raw) for _, (raw, _) in sorted(self._adverts.items())
        )
        return [self._signed(Kind.KEYS, who, body) for who in self._told.keys]

    def _backed_up(self, message: Message) -> None:
        self._member(message, self._told.keys)
        self._first(message, self._backups)
        reader = Reader(message.body)
        digest, commitment = reader.take(KEY), reader.take(KEY)
        shares = {reader.party(): reader.take(SHARE + TAG) for _ in reader.count(len(self._told.keys))}
        reader.end()
        holders = ascending(shares)
        known = set(holders) <= self._told.keys.keys() - {message.sender}
        if digest != self._told.digest or len(holders) != self._holders or not known:
            raise BadMessage("shares for other keys or other holders than the round's", "back up what KEYS listed")
        self._backups[message.sender] = Backup(commitment, shares)

    def _relay(self) -> list[Outgoing]:
        self._enough(len(self._backups), "shared")
        sharing, out = tuple(sorted(self._backups)), []
        self._graph = self._told.graph({who: tuple(backup.shares) for who, backup in self._backups.items()})
        common = wire.parties(sharing) + self._graph.written()
        for who in sharing:
            mine = [other for other in self._graph.kept(who) if other in self._backups]
            body = common + wire.wire_number(len(mine))
            body += b"".join(wire.party(other) + self._backups[other].shares[who] for other in mine)
            out.append(self._signed(Kind.RELAY, who, body))
        return out

    def _masked(self, message: Message) -> None:
        self._member(message, self._backups)
        Reader(message.body).end()
        if message.sender in self._intake.announced:
            raise BadMessage(f"client {message.sender} sends a second vector", "send one a round")
        key = stream_key(self._channels[message.sender], self.terms, message.sender)
        self._intake.announce(message.sender, Opener(key))

    def _chunk(self, message: Message) -> list[Outgoing]:
        if self.phase is not Kind.MASKED:
            raise OutOfPhase(f"a chunk in the phase of {self.phase.name}", "come in time, or next round")
        self._intake.take(message)
        return []

    def _list_survivors(self) -> list[Outgoing]:
        self.survivors = self._intake.complete
        self._enough(len(self.survivors), "sent their vectors")
        self._statement = self._told.statement(tuple(sorted(self._backups)), self._graph, self.survivors)
        body = wire.parties(self.survivors)
        return [self._signed(Kind.SURVIVORS, who, body) for who in self.survivors]

    def _confirmed(self, message: Message) -> None:
        self._member(message, self.survivors)
        self._first(message, self._confirmations)
        if len(message.body) != SIGNATURE:
            raise BadMessage("a confirmation of another length", "send the original")
        self.terms.roster.clients[message.sender].verify(message.body, self._statement)
        self._confirmations[message.sender] = bytes(message.body)

    def _pass_confirmations(self) -> list[Outgoing]:
        needed = self.terms.threshold(len(self._told.keys))
        if len(self._confirmations) < needed:
            raise CohortTooSmall(
                f"{len(self._confirmations)} clients confirmed, and {needed} must", "start another round"
            )
        body = wire.wire_number(len(self._confirmations))
        body += b"".join(wire.party(who) + signature for who, signature in sorted(self._confirmations.items()))
        return [self._signed(Kind.CONFIRMED, who, body) for who in sorted(self._confirmations)]

    def _answered(self, message: Message) -> None:
        self._member(message, self._confirmations)
        self._first(message, self._answers)
        key = answer_key(self._channels[message.sender], self.terms, message.sender)
        reader = Reader(open_once(key, bytes(message.body)))
        seed, tables = reader.take(KEY), []
        for _ in range(2):
            tables.append({reader.party(): reader.take(KEY) for _ in reader.count(len(self._told.keys))})
        reader.end()
        known = {message.sender, *self._graph.kept(message.sender)} & set(self._backups)
        survivors = set(self.survivors)
        if not (set(tables[0]) <= known & survivors and set(tables[1]) <= known - survivors):
            raise BadMessage("shares of other clients' secrets than those asked for", "answer what SURVIVORS said")
        self._answers[message.sender] = Answer(seed, *tables)

    def _masks(self) -> Masks:
        """Everything that is in the sum beside the vectors, with its sign turned."""
        told = self._told
        added: list[bytes] = []
        subtracted = [self._seed_of(who) for who in self.survivors]
        for gone in sorted(set(self._backups) - set(self.survivors)):
            key = self._key_of(gone)
            for who in self._graph.neighbors(gone):
                if who in self.survivors:
                    (subtracted if who < gone else added).append(told.mask_seed(key, gone, who))
        return Masks(added, subtracted)

    def _seed_of(self, who: int) -> bytes:
        def right(seed: bytes) -> bool:
            return self._told.commitment(who, seed) == self._backups[who].commitment

        if who in self._answers and right(self._answers[who].seed):
            return self._answers[who].seed
        shares = {holder: answer.seeds[who] for holder, answer in self._answers.items() if who in answer.seeds}
        try:
            return self._recovered(who, shares, right)
        except WrongSum as error:
            if who not in self._answers:  # of one who is gone, others may have handed over what is wrong
                raise
            self.false = (who,)
            raise BrokenCommitment(error.fact, error.remedy) from None

    def _key_of(self, who: int) -> Agreement:
        def right(secret: bytes) -> bool:
            return Agreement(secret).public == self._told.keys[who].masking

        shares = {holder: answer.keys[who] for holder, answer in self._answers.items() if who in answer.keys}
        return Agreement(self._recovered(who, shares, right))

    def _recovered(self, who: int, shares: Mapping[int, bytes], right: Callable[[bytes], bool]) -> bytes:
        """A secret from its holders' shares, of which some may be wrong."""
        places = {holder: place for place, holder in enumerate(self._graph.holders(who), 1)}
        threshold = self.terms.threshold(len(places))
        if len(shares) < threshold:
            raise CohortTooSmall(
                f"{len(shares)} shares of client {who}'s secret came, and it takes {threshold}", "start another round"
            )
        for chosen in _subsets(sorted(shares), threshold):
            secret = shamir.combine({places[holder]: shares[holder] for holder in chosen}, threshold)
            if right(secret):
                return secret
        raise WrongSum(f"the shares of client {who}'s secret do not fit together", "start another round without it")

    def _first(self, message: Message, table: Mapping[int, object]) -> None:
        if message.sender in table:
            raise BadMessage(f"client {message.sender} sends a second {message.kind.name}", "send one a round")

    def _member(self, message: Message, members: Mapping[int, object] | tuple[int, ...]) -> None:
        if message.sender not in members:
            raise OutOfPhase(f"client {message.sender} was not in the phase before", "take part in the next round")

    def _enough(self, count: int, what: str) -> None:
        if count < self.terms.minimum:
            raise CohortTooSmall(f"{count} clients {what}, and the minimum is {self.terms.minimum}", "invite more")

    def _forget(self) -> None:
        self._intake.close()
        self._answers.clear()
        self._channels.clear()


def _subsets(holders: list[int], size: int) -> Iterator[tuple[int, ...]]:
    """Of so many holders each: all where they are few, else some that are drawn, so that one holder is not in all."""
    if comb(len(holders), size) <= ATTEMPTS:
        yield from itertools.combinations(holders, size)
        return
    yield tuple(holders[:size])
    for _ in range(ATTEMPTS - 1):
        yield tuple(secrets.SystemRandom().sample(holders, size))
