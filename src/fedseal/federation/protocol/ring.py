"""Ring all-reduce among data owners, without a server: see `fedseal.secagg.ring`.

Every owner trains the same model, and moves it by the same sum. Who conducts a round carries parts from owner to
owner, as Flower's ServerApp must, which has no line between nodes: it adds nothing, and is told the sum that all hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from fedseal.federation.packing import ROUNDING
from fedseal.federation.protocol.base import (
    UNREADABLE,
    Call,
    PartyReading,
    Sum,
    SumProtocol,
    TrainedStep,
    note_readable,
)
from fedseal.federation.protocol.messages import Ask, Link, Reply
from fedseal.federation.protocol.plain import check_step
from fedseal.federation.secure import Pact, Secure
from fedseal.secagg import SERVER, Buffer, Identity, Ledger, Opened, Outgoing, Party
from fedseal.secagg.errors import BadMessage, CohortTooSmall, OutOfPhase, WrongSum
from fedseal.secagg.ring import Circle, MaskedRingClient, RingSum, circle_of

DIGEST = 32  # bytes


class RingClient:
    """Hands parts of sums on in the clear: float64, and of how many examples each is."""

    def __init__(self, pact: Pact, number: int, identity: Identity, ledger: Ledger) -> None:
        self._clients, self._number = tuple(pact.roster.clients), number
        self._pact, self._ledger = pact, ledger
        self._metrics = sorted(pact.secure.metrics or {})
        self._exchange: RingSum | None = None
        self._own, self._handed, self._round = 0, 0, -1  # weights: this owner's, and of the part that goes next

    def answer(self, ask: Ask, train: Callable[[], TrainedStep]) -> Iterator[Outgoing]:
        """The first part, or the one that follows from the one that came; after the last hop the sum.

        Raises:
            UnfitUpdate: see `check_step`.
            OutOfPhase, Overspent: as `note_readable`.
        """
        if ask.step == "train":
            self._begin(ask.round, train())
            note_readable(self._pact, self._ledger, ask)
        else:
            self._take(_only_part(ask))
        exchange = self._going(ask.round)
        if exchange.done:
            yield Outgoing(SERVER, _ending(self._number == self._clients[0], self._whole(exchange)))
        else:
            part = {"part": exchange.part(), "weight": np.array([self._handed])}
            yield Outgoing(exchange.circle.successor(self._number), safetensors.numpy.save(part))

    def dump(self) -> bytes | None:
        """The vector on its way around."""
        if self._exchange is None:
            return None
        facts = np.array([self._round, self._exchange.hop, self._own, self._handed])
        return safetensors.numpy.save({"vector": self._exchange.vector, "facts": facts})

    def load(self, memory: bytes) -> None:
        """Go on where `dump` was called."""
        kept = safetensors.numpy.load(memory)
        vector = kept["vector"].copy()
        self._round, hop, self._own, self._handed = map(int, kept["facts"])
        self._exchange = RingSum(Circle(self._clients, vector.size), self._number, vector, hop)

    def _begin(self, round: int, step: TrainedStep) -> None:
        check_step(step.vector, self._pact.secure.largest_entry)
        metrics = np.array([step.metrics[name] for name in self._metrics])
        vector = step.weight * np.concatenate([step.vector.astype(np.float64), metrics])
        self._exchange = RingSum(Circle(self._clients, vector.size), self._number, vector)
        self._round, self._own, self._handed = round, step.weight, step.weight

    def _take(self, message: Buffer) -> None:
        exchange = self._going(self._round)
        part, weight = read_part(message)
        adds = exchange.hop < exchange.circle.adding
        if not exchange.done:
            self._check(exchange, part, weight)
        exchange.take(part)
        self._handed = weight + self._own if adds else weight

    def _check(self, exchange: RingSum, part: NDArray[Any], weight: int) -> None:
        circle, hop = exchange.circle, exchange.hop
        before = circle.predecessor(self._number)
        owners, segment = len(circle.summed(before, hop)), circle.segment(before, hop)
        due = part.shape == (segment.stop - segment.start,)  # else `RingSum.take` says what is due
        size = circle.size - len(self._metrics)
        if due and not _may_be_sum(part, segment.start, size, weight, owners, self._pact.secure):
            raise BadMessage(
                f"what client {before} hands on is no sum of {owners} owners of {weight} examples within the bounds",
                "ask that owner, and those before it, what they send",
            )

    def _whole(self, exchange: RingSum) -> bytes:
        return safetensors.numpy.save({"sum": exchange.vector, "weight": np.array([self._handed])})

    def _going(self, round: int) -> RingSum:
        if self._exchange is None or self._round != round:
            raise OutOfPhase(f"round {round} did not begin at this client", "let it train first")
        return self._exchange


class MaskedRingRole:
    """Hands masked parts on, each sealed for the next owner."""

    def __init__(self, pact: Pact, number: int, identity: Identity, ledger: Ledger) -> None:
        self._pact, self._number, self._identity, self._ledger = pact, number, identity, ledger
        self._client: MaskedRingClient | None = None

    def answer(self, ask: Ask, train: Callable[[], TrainedStep]) -> Iterator[Outgoing]:
        """The first part, or the one that follows from the one that came; after the last hop the sum.

        Raises:
            OutOfPhase: another model than was announced, or out of turn.
        """
        if ask.step == "train":
            terms = self._pact.terms(ask.round, ask.size, ask.digest)
            if ask.state is None or ask.digest != terms.state:
                raise OutOfPhase("the model that was sent is not the one announced", "send all clients one model")
            client = MaskedRingClient(terms, self._number, self._identity, self._ledger)
            part: bytes | None = client.contribute(*train())
            self._client = client
        else:
            client = self._present(ask)
            part = client.receive(_only_part(ask))
        if part is None:
            first = self._number == client.circle.parties[0]
            yield Outgoing(SERVER, _ending(first, client.elements().tobytes()))
        else:
            yield Outgoing(client.circle.successor(self._number), part)

    def dump(self) -> bytes | None:
        """The masked vector on its way around."""
        return None if self._client is None else self._client.dump()

    def load(self, memory: bytes) -> None:
        """Go on where `dump` was called."""
        self._client = MaskedRingClient.load(self._pact.terms, self._number, self._identity, self._ledger, memory)

    def _present(self, ask: Ask) -> MaskedRingClient:
        if self._client is None or self._client.terms.round != ask.round:
            raise OutOfPhase(f"round {ask.round} did not begin at this client", "let it train first")
        return self._client


def conduct_ring(call: Call, link: Link) -> Sum:
    """Carry parts around, in the clear.

    Raises:
        CohortTooSmall: a party is missing.
        WrongSum: the parties do not end with one sum, or with one of another length, or that no steps within the bounds
            add up to.
        BadMessage: with what cannot be read.
    """
    secure = call.pact.secure
    total, weight = _read(_carried(call, link), "sum")
    names = sorted(secure.metrics or {})
    fits = total.shape == (call.size + len(names),)
    if not fits or not _may_be_sum(total, 0, call.size, weight, len(call.clients), secure):
        raise WrongSum("the parties end with no sum of what was asked for", "run one version at all parties")
    metrics = dict(zip(names, (total[call.size :] / weight).tolist(), strict=True))
    return Sum(total[: call.size], weight, metrics, call.clients)


def conduct_masked_ring(call: Call, link: Link) -> Sum:
    """Carry sealed parts around.

    Raises:
        CohortTooSmall: a party is missing.
        WrongSum: the masks did not cancel, or the parties do not end with one sum, or with one of another length.
    """
    content, ring = _carried(call, link), call.terms.codec.ring
    if len(content) != circle_of(call.terms).size * ring.width:
        raise WrongSum("the parties end with no sum of what was asked for", "run one version at all parties")
    elements = np.frombuffer(bytearray(content), ring.dtype)
    return Sum.of(Opened(call.terms, elements, call.clients))


def _carried(call: Call, link: Link) -> bytes:
    """The sum with which all parties end."""
    sent = _from_all(call, link.ask([call.to(number, "train") for number in call.clients]))
    for _ in range(Circle(call.clients, call.size).hops):
        due = dict(sent)
        if due.keys() != set(call.clients):
            raise CohortTooSmall("a part is not handed to the next party", "run one version at all parties")
        sent = _from_all(call, link.ask([call.to(number, "hand on", [due[number]]) for number in call.clients]))
    content = bytes(sent[0][1][DIGEST:])
    if {bytes(message[:DIGEST]) for _, message in sent} != {hashlib.sha256(content).digest()}:
        raise WrongSum("the parties do not end with one sum", "start another round")
    return content


def _from_all(call: Call, answers: Iterable[tuple[Ask, Reply]]) -> list[Outgoing]:
    sent = [outgoing for _, reply in answers for outgoing in reply.messages]
    if len(sent) < len(call.clients):
        raise CohortTooSmall(f"{len(sent)} of {len(call.clients)} parties answer", "a ring needs all: ask again")
    return sent


def _may_be_sum(part: NDArray[Any], start: int, size: int, weight: int, owners: int, secure: Secure) -> bool:
    """Whether so many owners' steps and metrics within the bounds, each times its weight, can add up to this.

    Args:
        start: the part's first element in the vector.
        size: entries of a step, after which metrics stand in the vector.
    """
    bounds = secure.metrics or {}
    metrics = np.array([bounds[name] for name in sorted(bounds)])
    entries, beside = part[: max(0, size - start)], part[max(0, size - start) :]
    most = metrics[max(0, start - size) :][: len(beside)]
    scale = weight * (1 + ROUNDING)
    return (
        part.dtype == np.float64
        and owners <= weight <= owners * (secure.max_weight or weight)
        and bool((np.abs(entries) <= secure.largest_entry * scale).all())
        and bool((np.abs(beside) <= most * scale).all())  # what is no number is within no bound
    )


def _only_part(ask: Ask) -> Buffer:
    if ask.step != "hand on" or len(ask.messages) != 1:
        raise OutOfPhase(f"a client is asked to '{ask.step}' with {len(ask.messages)} parts", "hand it one to go on")
    return ask.messages[0]


def _ending(first: bool, content: bytes) -> bytes:
    """What a party says at its end: the digest of the sum, and the first party the sum as well."""
    return hashlib.sha256(content).digest() + (content if first else b"")


def read_part(message: Buffer) -> tuple[NDArray[np.float64], int]:
    """A part in the clear, and of how many examples it is.

    Raises:
        BadMessage: it is none.
    """
    return _read(message, "part")


def _read(message: Buffer, name: str) -> tuple[NDArray[np.float64], int]:
    try:
        found = safetensors.numpy.load(bytes(message))
        return found[name].copy(), int(found["weight"][0])
    except UNREADABLE as error:
        raise BadMessage(f"a {name} that cannot be read ({error})", "run one version at all parties") from None


class RingView:
    """What an owner reads of those before it."""

    def __init__(self, call: Call, number: int, identity: Identity) -> None:
        self._call, self._number, self._hop = call, number, 0
        self._circle = Circle(call.clients, call.size + len(call.pact.secure.metrics or {}))

    def read(self, message: Buffer, carrier: int) -> list[PartyReading]:
        """A part, until sums are complete."""
        hop, self._hop = self._hop, self._hop + 1
        if not Party.of(self._number).is_client or hop >= self._circle.adding:
            return []
        sender = self._circle.predecessor(self._number)
        part, weight = read_part(message)
        start = self._circle.segment(sender, hop).start
        part = part[: max(0, self._call.size - start)]  # without metrics
        return _readings(self._circle, sender, hop, part, start, weight)

    def rest(self) -> list[PartyReading]:
        """Nothing more."""
        return []


class MaskedRingView:
    """What an owner reads of those before it, less the masks that it shares with them."""

    def __init__(self, call: Call, number: int, identity: Identity) -> None:
        self._number, self._hop = number, 0
        self._client = MaskedRingClient(call.terms, number, identity, Ledger())

    def read(self, message: Buffer, carrier: int) -> list[PartyReading]:
        """A part, until sums are complete."""
        hop, self._hop, circle = self._hop, self._hop + 1, self._client.circle
        if not Party.of(self._number).is_client or hop >= circle.adding:
            return []
        start, part = self._client.reading(message, hop)
        return _readings(circle, circle.predecessor(self._number), hop, part, start, masked=True)

    def rest(self) -> list[PartyReading]:
        """Nothing more."""
        return []


def _readings(
    circle: Circle,
    sender: int,
    hop: int,
    part: NDArray[np.float64],
    start: int,
    weight: int | None = None,
    *,
    masked: bool = False,
) -> list[PartyReading]:
    if not part.size:
        return []
    if hop == 0:
        return [PartyReading(sender, "masked part" if masked else "part", part, weight, start)]
    kind: Literal["partial sum", "masked partial sum"] = "masked partial sum" if masked else "partial sum"
    return [PartyReading(sender, kind, part, weight, start, circle.summed(sender, hop))]


RING = SumProtocol(secure=False, client=RingClient, conduct=conduct_ring, view=RingView, peers=True)
MASKED_RING = SumProtocol(
    secure=True, client=MaskedRingRole, conduct=conduct_masked_ring, view=MaskedRingView, peers=True
)
