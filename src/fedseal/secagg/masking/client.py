"""The data owner of the masking protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fedseal.secagg import wire
from fedseal.secagg.errors import BadMessage, CohortTooSmall, Misbehavior, OutOfPhase
from fedseal.secagg.hazmat import shamir
from fedseal.secagg.hazmat.keys import (
    KEY,
    SIGNATURE,
    TAG,
    Agreement,
    Channel,
    Identity,
    Sealer,
    Signer,
    Verifier,
    open_once,
    seal_once,
)
from fedseal.secagg.hazmat.prg import Masks, fresh_seed
from fedseal.secagg.hazmat.ring import Reals
from fedseal.secagg.ledger import Ledger
from fedseal.secagg.masking.directory import Directory, Keys, answer_key, channel, stream_key
from fedseal.secagg.masking.graph import Graph, drawn_holders
from fedseal.secagg.party import SERVER
from fedseal.secagg.role import Role, ascending
from fedseal.secagg.terms import Terms
from fedseal.secagg.vector import Contribution, Layout
from fedseal.secagg.wire import ChunkWriter, Kind, Message, Outgoing, Reader

SHARE = 2 * shamir.SECRET  # of the seed and of the masking key
VERSION = 6  # of what `dump` gives


class MaskingClient(Role):
    """`advertise`, `receive` KEYS and RELAY, `contribute`, `receive` SURVIVORS and CONFIRMED.

    It answers each once. A second, different question ends the round here: the answers to two could unmask its update.
    """

    def __init__(self, terms: Terms, number: int, identity: Identity, ledger: Ledger) -> None:
        super().__init__(terms, number, identity)
        self._ledger = ledger
        self._channel, self._masking, self._seed = Agreement.fresh(), Agreement.fresh(), fresh_seed()
        self._server = channel(terms, number, self._channel, terms.roster.opener.sealing)
        self._steps = {
            Kind.KEYS: self._back_up,
            Kind.RELAY: self._relayed,
            Kind.SURVIVORS: self._confirm,
            Kind.CONFIRMED: self._unmask,
        }
        self._on = dict.fromkeys(self._steps, self._in_turn)
        self._due: list[Kind | str] = ["advertise", Kind.KEYS, Kind.RELAY, "contribute", Kind.SURVIVORS, Kind.CONFIRMED]
        self._shares: dict[int, bytes] = {}  # of others' secrets, and its own
        self._agreed: dict[int, bytes] = {}  # by client, between the channels' keys

    def advertise(self) -> list[Outgoing]:
        """The first message of the round."""
        self._turn("advertise")
        return [self._signed(Kind.ADVERTISE, SERVER, self._channel.public + self._masking.public)]

    def contribute(
        self, values: Reals, weight: int = 1, metrics: Mapping[str, float] | None = None
    ) -> Iterator[Outgoing]:
        """The masked vector, a chunk at a time, once RELAY was received.

        Raises:
            UnfitUpdate: before anything is sent; see `Contribution`.
            OutOfPhase: out of turn, or this client took part in this round or a later one.
        """
        if self._due[:1] != ["contribute"]:
            raise OutOfPhase("a client contributes once a round, after the others' shares", "receive RELAY before")
        contribution = Contribution(self.terms, values, weight, metrics or {})
        self._ledger.enter(self.terms)
        self._turn("contribute")
        return self._masked(contribution)

    def dump(self) -> bytes:
        """All that it knows of the round, so that another process goes on where this one ends.

        As secret as the update itself. A client that answered must not be loaded from before its answer: whoever keeps
        the bytes keeps the newest only.
        """
        facts: dict[str, Any] = {
            "version": VERSION,
            "round": self.terms.round,
            "size": self.terms.size,
            "state": self.terms.state.hex(),
            "ended": self.ended,
            "due": [int(step) if isinstance(step, Kind) else step for step in self._due],
            "seen": [digest.hex() for digest in sorted(self._seen)],
            "secrets": [secret.hex() for secret in (self._channel.secret, self._masking.secret, self._seed)],
            "server": [self._server.key.hex(), self._server.marking.hex()],
            "shares": {str(who): share.hex() for who, share in self._shares.items()},
        }
        if Kind.KEYS not in self._due:
            keys = self._told.keys.items()
            facts["keys"] = {str(who): [known.channel.hex(), known.masking.hex()] for who, known in keys}
            facts["holders"] = list(self._drawn)
        if Kind.RELAY not in self._due:
            facts |= {"sharing": list(self._sharing), "drawn": self._graph.drawn}
        if Kind.SURVIVORS not in self._due:
            facts["survivors"] = list(self._survivors)
        return json.dumps(facts).encode()

    @classmethod
    def load(
        cls, terms: Callable[[int, int, bytes], Terms], number: int, identity: Identity, ledger: Ledger, kept: bytes
    ) -> MaskingClient:
        """A client as it was when it was dumped.

        Args:
            terms: the agreed terms, by round, size and digest of the state.
        """
        facts = json.loads(kept)
        agreed = terms(facts["round"], facts["size"], bytes.fromhex(facts["state"]))
        client = cls(agreed, number, identity, ledger)
        client.ended = facts["ended"]
        client._due = [Kind(step) if isinstance(step, int) else step for step in facts["due"]]
        client._seen = {bytes.fromhex(digest) for digest in facts["seen"]}
        channel, mask, client._seed = (bytes.fromhex(secret) for secret in facts["secrets"])
        client._channel, client._masking = Agreement(channel), Agreement(mask)
        client._server = Channel(*map(bytes.fromhex, facts["server"]))
        client._shares = {int(who): bytes.fromhex(share) for who, share in facts["shares"].items()}
        if "keys" in facts:
            keys = {int(who): Keys(*map(bytes.fromhex, pair)) for who, pair in facts["keys"].items()}
            client._told, client._drawn = Directory(client.terms, keys), tuple(facts["holders"])
        if "sharing" in facts:
            client._sharing = tuple(facts["sharing"])
            drawn = {int(who): tuple(row) for who, row in (facts["drawn"] or {}).items()}
            client._graph = client._told.graph(drawn)
        if "survivors" in facts:
            client._survivors = tuple(facts["survivors"])
        return client

    def _signer(self, kind: Kind, to: int) -> Signer:
        return self._identity if kind is Kind.ADVERTISE else self._server

    def _verifier(self, message: Message) -> Verifier:
        if message.sender != SERVER:
            raise BadMessage(f"a {message.kind.name} message that is not the server's", "only the server sends it")
        return self._server

    def _turn(self, step: Kind | str) -> None:
        self._going()
        if self._due[:1] != [step]:
            raise OutOfPhase(f"{step} is not what this client does now", "go through the phases in order")
        self._due.pop(0)

    def _in_turn(self, message: Message) -> list[Outgoing]:
        if message.kind not in self._due:
            raise Misbehavior(f"the server sends a second {message.kind.name}", "nothing more is answered this round")
        if self._due[0] is not message.kind:
            raise OutOfPhase(f"a {message.kind.name} message before its turn", "send it again in its turn")
        answer = self._steps[message.kind](message)
        self._due.pop(0)
        return answer

    def _back_up(self, message: Message) -> list[Outgoing]:
        told = Directory.read(self.terms, message)
        if told.keys.get(self.number) != Keys(self._channel.public, self._masking.public):
            raise Misbehavior("the server lists other keys for this client than it advertised", "change the server")
        if len(told.keys) < self.terms.minimum:
            raise CohortTooSmall(f"{len(told.keys)} clients, and the minimum is {self.terms.minimum}", "invite more")
        drawn = drawn_holders(tuple(told.keys), self.number, self.terms.degree)
        holders = tuple(sorted((*drawn, self.number)))
        threshold = self.terms.threshold(len(holders))
        pairs = zip(
            shamir.split_secret(self._seed, threshold, len(holders)),
            shamir.split_secret(self._masking.secret, threshold, len(holders)),
            strict=True,
        )
        shares = dict(zip(holders, (a + b for a, b in pairs), strict=True))
        self._told, self._drawn, self._shares[self.number] = told, drawn, shares.pop(self.number)
        body = told.digest + told.commitment(self.number, self._seed) + wire.wire_number(len(shares))
        for holder, share in shares.items():
            key = told.share_key(self._agreed_with(holder), self.number, holder)
            body += wire.party(holder) + seal_once(key, share)
        return [self._signed(Kind.BACKUP, SERVER, body)]

    def _agreed_with(self, other: int) -> bytes:
        """Worked out once for the share that goes there and the one that comes."""
        if other not in self._agreed:
            self._agreed[other] = self._channel.agreed(self._told.keys[other].channel)
        return self._agreed[other]

    def _relayed(self, message: Message) -> list[Outgoing]:
        reader, told = Reader(message.body), self._told
        sharing = ascending(reader.party() for _ in reader.count(len(told.keys)))
        if not set(sharing) <= set(told.keys) or self.number not in sharing:
            raise Misbehavior("the server says that others shared than could have", "change the server")
        graph = Graph.read(tuple(told.keys), sharing, self.terms.degree, reader)
        if graph.drawn is not None and graph.drawn[self.number] != self._drawn:
            raise Misbehavior("the server says that this client drew other holders than it did", "change the server")
        sealed = {reader.party(): reader.take(SHARE + TAG) for _ in reader.count(len(told.keys))}
        reader.end()
        shared = set(sharing)
        if list(sealed) != [who for who in graph.kept(self.number) if who in shared]:
            raise Misbehavior("the shares that the server relays are not those of this client's neighbors", "change it")
        self._enough(len(sharing), "share")
        self._held(sharing, "hold")
        for who, share in sealed.items():
            try:
                self._shares[who] = open_once(told.share_key(self._agreed_with(who), who, self.number), share)
            except BadMessage:
                continue  # others may hold theirs: nobody can shut this client out by one bad share
        self._agreed.clear()
        self._sharing, self._graph = sharing, graph
        return []

    def _masked(self, contribution: Contribution) -> Iterator[Outgoing]:
        sealer = Sealer(stream_key(self._server, self.terms, self.number), 1)
        writer = ChunkWriter(self.terms.digest, self.number, SERVER, sealer, Layout(self.terms).sent)
        yield self._signed(Kind.MASKED, SERVER, b"")
        sharing = set(self._sharing)
        pairs = [who for who in self._graph.neighbors(self.number) if who in sharing]
        seeds = {who: self._told.mask_seed(self._masking, self.number, who) for who in pairs}
        added = [seed for who, seed in seeds.items() if self.number < who]
        masks = Masks([self._seed, *added], [seed for who, seed in seeds.items() if who < self.number])
        offset = 0
        for elements in contribution.chunks():
            masks.add_to(elements, offset=offset)
            offset += elements.size
            yield writer.chunk(elements)

    def _confirm(self, message: Message) -> list[Outgoing]:
        reader = Reader(message.body)
        survivors = ascending(reader.party() for _ in reader.count(len(self._sharing)))
        reader.end()
        if not set(survivors) <= set(self._sharing):
            raise Misbehavior("the server says that a client survived who did not share", "change the server")
        if self.number not in survivors:
            raise Misbehavior("the server says that this client dropped", "it may try again in the next round")
        self._enough(len(survivors), "survived")
        self._held(survivors, "survived of those who hold")
        self._survivors = survivors
        statement = self._told.statement(self._sharing, self._graph, survivors)
        return [self._signed(Kind.CONFIRM, SERVER, self._identity.sign(statement))]

    def _unmask(self, message: Message) -> list[Outgoing]:
        reader = Reader(message.body)
        statement = self._told.statement(self._sharing, self._graph, self._survivors)
        entries = [(reader.party(), reader.take(SIGNATURE)) for _ in reader.count(len(self._survivors))]
        reader.end()
        signers = ascending(who for who, _ in entries)
        if not set(signers) <= set(self._survivors):
            raise Misbehavior("a client confirms who did not survive", "change the server")
        needed = self.terms.threshold(len(self._told.keys))
        if len(signers) < needed:
            raise CohortTooSmall(f"{len(signers)} clients confirm, and {needed} must", "start another round")
        for who, signature in entries:
            try:
                self.terms.roster.clients[who].verify(signature, statement)
            except BadMessage:
                raise Misbehavior(
                    f"client {who} did not sign what this client was told: the server told them different things",
                    "nothing is unmasked; change the server",
                ) from None
        answer = self._answer()
        self._forget()
        return [answer]

    def _answer(self) -> Outgoing:
        """Seeds of survivors, keys of the others: a client is one or the other, as all who confirmed see it."""
        survived = {who: share[: SHARE // 2] for who, share in self._shares.items() if who in self._survivors}
        dropped = {who: share[SHARE // 2 :] for who, share in self._shares.items() if who not in self._survivors}
        body = self._seed
        for shares in (survived, dropped):
            body += wire.wire_number(len(shares)) + b"".join(
                wire.party(who) + share for who, share in sorted(shares.items())
            )
        return self._signed(Kind.UNMASK, SERVER, seal_once(answer_key(self._server, self.terms, self.number), body))

    def _enough(self, count: int, what: str) -> None:
        if count < self.terms.minimum:
            raise CohortTooSmall(f"{count} clients {what}, and the minimum is {self.terms.minimum}", "invite more")

    def _held(self, among: tuple[int, ...], what: str) -> None:
        """Nobody may be left alone with the colluding ones: its own seed would then say all of its update."""
        there, holders = set(among) & set(self._drawn), len(self._drawn) + 1
        if len(there) + 1 < self.terms.threshold(holders):
            raise CohortTooSmall(
                f"{len(there)} others {what} this client's shares, and it takes {self.terms.threshold(holders) - 1}",
                "invite more, or raise the degree",
            )

    def _forget(self) -> None:
        self._shares.clear()
        self._agreed.clear()
        self._seed, self._masking, self._channel = bytes(KEY), Agreement(bytes(KEY)), Agreement(bytes(KEY))
        self._server = self._server.closed()
