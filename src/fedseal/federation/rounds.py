"""One round as the model owner conducts it, protocol by protocol; whoever does not answer is not in the sum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedseal.errors import EngineFailure
from fedseal.federation.party import LOG, Ask, Reply, read_plain
from fedseal.federation.secure import Pact
from fedseal.secagg import OWNER, Buffer, Identity, Opened, Outgoing, Party, Terms, aggregator, masking, sharing
from fedseal.secagg.errors import BadMessage, CohortTooSmall, OutOfPhase
from fedseal.types import Tensors

PENDING = 1 << 26  # bytes that wait to be passed on to one aggregator


class Link(Protocol):
    """Carries questions to parties and their answers back; what it carries it cannot read."""

    def ask(self, asks: Sequence[Ask]) -> Iterable[tuple[Ask, Reply]]:
        """Answers in the order of the questions; who does not answer is left out."""


@dataclass(frozen=True)
class Sum:
    """What a round opens: the sum of `weight * step` over a cohort, `(size,)` in float64."""

    total: NDArray[Any]
    weight: int
    metrics: dict[str, float]
    cohort: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """A round to conduct.

    Args:
        clients: who is asked.
        identity: the model owner's.
    """

    pact: Pact
    identity: Identity
    clients: tuple[int, ...]
    round: int
    size: int
    state: Tensors

    @property
    def terms(self) -> Terms:
        """As all parties hold them."""
        return self.pact.terms(self.round, self.size)

    def to(self, number: int, step: str, messages: Iterable[Buffer] = ()) -> Ask:
        """A question."""
        state = self.state if step == "train" else None
        return Ask(number, step, self.round, self.size, tuple(messages), state)


def conduct(call: Call, link: Link) -> Sum:
    """Run the round.

    Raises:
        CohortTooSmall, Misbehavior, WrongSum: nothing was opened.
        EngineFailure: an aggregator does not answer.
    """
    return {"plain": _plain, "sharing": _sharing, "masking": _masking}[call.pact.secure.protocol](call, link)


def _plain(call: Call, link: Link) -> Sum:
    total, weights, cohort = np.zeros(call.size), 0, []
    sums: dict[str, float] = defaultdict(float)
    for ask, reply in link.ask([call.to(number, "train") for number in call.clients]):
        for _, message in reply.messages:
            step, weight, metrics = read_plain(message)
            total += weight * step.astype(np.float64)
            weights += weight
            cohort.append(ask.to)
            for name, value in metrics.items():
                sums[name] += weight * value
    least = call.pact.secure.minimum or 1
    if len(cohort) < least:
        raise CohortTooSmall(f"{len(cohort)} clients answered, and the minimum is {least}", "ask again")
    return Sum(total, weights, {name: value / weights for name, value in sums.items()}, tuple(cohort))


def _sharing(call: Call, link: Link) -> Sum:
    relay = _Relay(call, link)
    for _, reply in link.ask([call.to(number, "train") for number in call.clients]):
        relay.add(reply.messages)
    if not relay.heard:
        least = call.pact.secure.minimum
        raise CohortTooSmall(f"no client answered with an update, and the minimum is {least}", "see the clients' logs")
    agreements = relay.all("count", relay.all("close", relay.rest()))
    owner = sharing.Owner(call.terms, call.identity)
    for to, message in relay.each("open", {number: agreements.get(number, []) for number in relay.places}):
        if to == OWNER:
            owner.receive(message)
    return _sum(owner.result())


class _Relay:
    """Passes messages on to aggregators, all of whom are needed."""

    def __init__(self, call: Call, link: Link) -> None:
        self._call, self._link = call, link
        self.places = [aggregator(place) for place in range(len(call.pact.roster.aggregators))]
        self._pending: dict[int, list[Buffer]] = {number: [] for number in self.places}
        self._bytes = dict.fromkeys(self.places, 0)
        self.heard = False

    def add(self, messages: Iterable[Outgoing]) -> None:
        """What a client sends."""
        for to, message in messages:
            if to in self._pending:
                self.heard = True
                self._pending[to].append(message)
                self._bytes[to] += len(message)
        self.flush()

    def flush(self) -> None:
        """Hand over what waits, where it is much."""
        full = [number for number in self.places if self._bytes[number] > PENDING]
        if full:
            self.all("take", {number: self._pending[number] for number in full})
        for number in full:
            self._pending[number], self._bytes[number] = [], 0

    def rest(self) -> dict[int, list[Buffer]]:
        """What waits still."""
        rest, self._pending = self._pending, {}
        return rest

    def all(self, step: str, messages: dict[int, list[Buffer]]) -> dict[int, list[Buffer]]:
        """What aggregators answer, by recipient."""
        answers: dict[int, list[Buffer]] = defaultdict(list)
        for to, message in self.each(step, messages):
            answers[to].append(message)
        return answers

    def each(self, step: str, messages: dict[int, list[Buffer]]) -> Iterator[Outgoing]:
        """What aggregators answer, one after the other: a sum is as long as the model."""
        silent = dict.fromkeys(messages)
        for ask, reply in self._link.ask([self._call.to(number, step, parts) for number, parts in messages.items()]):
            if reply.refused:
                raise EngineFailure(f"{Party.of(ask.to)} refuses ({reply.refused})", "start anew")
            del silent[ask.to]
            yield from reply.messages
        if silent:
            missing = Party("aggregator", min(Party.of(number).index for number in silent))
            raise EngineFailure(f"{missing} does not answer, and all are needed", "start it, and ask again")


def _masking(call: Call, link: Link) -> Sum:
    server = masking.Server(call.terms, call.identity)

    def heard(answers: Iterable[tuple[Ask, Reply]]) -> list[Outgoing]:
        for _, reply in answers:
            for _, message in reply.messages:
                _receive(server, message)
        return server.advance()

    out = heard(link.ask([call.to(number, "advertise") for number in call.clients]))
    for step in ("back up", "train", "confirm"):
        out = heard(link.ask([call.to(number, step, [message]) for number, message in out]))
    for _, reply in link.ask([call.to(number, "unmask", [message]) for number, message in out]):
        for _, message in reply.messages:
            _receive(server, message)
    return _sum(server.result())


def _receive(server: masking.Server, message: Buffer) -> None:
    """One client's bad message must not end the round for the others."""
    try:
        server.receive(message)
    except (BadMessage, OutOfPhase) as error:
        if server.ended:
            raise
        LOG.warning("the server refuses a client's message: %s", error)


def _sum(opened: Opened) -> Sum:
    return Sum(opened.total(), opened.weight, opened.metrics, opened.cohort)


@dataclass
class Traffic:
    """Bytes of a round: from clients, to clients, and between the model owner and aggregators."""

    uploaded: int = 0
    downloaded: int = 0
    relayed: int = 0


class Metered:
    """A link that counts bytes and shows everything to whoever watches."""

    def __init__(self, link: Link, watchers: Sequence[Watcher] = ()) -> None:
        self._link, self._watchers, self.traffic = link, watchers, Traffic()

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        """As the link below."""
        for ask in asks:
            state = (ask.state or {}).values()
            self._count(ask, sum(map(len, ask.messages)) + sum(t.numel() * t.element_size() for t in state), "down")
            for watcher in self._watchers:
                watcher.asked(ask)
        for ask, reply in self._link.ask(asks):
            self._count(ask, sum(len(message) for _, message in reply.messages), "up")
            for watcher in self._watchers:
                watcher.answered(ask, reply)
            yield ask, reply

    def _count(self, ask: Ask, count: int, way: str) -> None:
        if Party.of(ask.to).is_aggregator:
            self.traffic.relayed += count
        elif way == "up":
            self.traffic.uploaded += count
        else:
            self.traffic.downloaded += count


class Watcher(Protocol):
    """Sees what passes at the model owner's door."""

    def begins(self, call: Call) -> None:
        """A round."""

    def asked(self, ask: Ask) -> None:
        """A question on its way to a party."""

    def answered(self, ask: Ask, reply: Reply) -> None:
        """An answer on its way back."""

    def opened(self, call: Call, found: Sum) -> None:
        """The sum of a round."""
