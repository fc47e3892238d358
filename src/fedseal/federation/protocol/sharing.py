"""Additive shares among aggregators who do not all collude: see `fedseal.secagg.sharing`. The model owner relays."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from fedseal.errors import EngineFailure
from fedseal.federation.ledger import ledger_of, ledger_text
from fedseal.federation.protocol.base import (
    Call,
    SecureView,
    Sum,
    SumProtocol,
    TrainedStep,
    trains_only,
)
from fedseal.federation.protocol.messages import LOG, Ask, Link, Memory, Reply, answer_of, known_kind
from fedseal.federation.protocol.replies import Replies, question_key
from fedseal.federation.secure import Pact
from fedseal.secagg import OWNER, Buffer, Identity, Ledger, Outgoing, Party, aggregator, sharing
from fedseal.secagg.errors import BadMessage, CohortTooSmall, OutOfPhase

PENDING = 1 << 26  # bytes that wait to be passed on to one aggregator


class SharingRole:
    """Sends all shares at once, and keeps nothing but its ledger."""

    def __init__(self, pact: Pact, number: int, identity: Identity, ledger: Ledger) -> None:
        self._pact, self._number, self._identity, self._ledger = pact, number, identity, ledger

    def answer(self, ask: Ask, train: Callable[[], TrainedStep]) -> Iterator[Outgoing]:
        """Shares of the step."""
        trains_only(ask)
        step, terms = train(), self._pact.terms(ask.round, ask.size, ask.digest)
        role = sharing.SharingClient(terms, self._number, self._identity, self._ledger)
        yield from role.contribute(*step)

    def dump(self) -> bytes | None:
        """Nothing."""
        return None

    def load(self, memory: bytes) -> None:
        """Nothing."""


class AggregatorMember:
    """One of several parties who add shares, and who open nothing before they agree on whose.

    Args:
        kept: whether it will be put aside between questions, for which it must keep all messages of a round.
        ledger: of its rounds so far; None for a new one.
    """

    def __init__(
        self, place: int, pact: Pact, identity: Identity, *, kept: bool = False, ledger: Ledger | None = None
    ) -> None:
        self._kept = kept
        self._place, self._pact, self._identity, self._ledger = place, pact, identity, ledger or Ledger()
        self._role: sharing.SharingAggregator | None = None
        self._asked: tuple[int, int, bytes] = (-1, 0, b"")  # round, size and digest of the model
        self._heard: Memory = {}
        self._replies = Replies()

    def answer(self, ask: Ask) -> Reply:
        """Do what is asked, or refuse it; what was asked before in this round is answered as before."""
        return answer_of(f"aggregator {self._place}", ask, lambda: self._once(ask))

    def _once(self, ask: Ask) -> tuple[Outgoing, ...]:
        if ask.step == "take":  # of no answer; what comes again changes nothing
            return tuple(self._answered(ask))
        # a list of clients is signed once, whatever more is handed in with the question
        key = b"" if ask.step == "close" else question_key(ask)
        return self._replies.once(ask, key, lambda: self._answered(ask))

    def dump(self) -> Memory:
        """The ledger, and all messages of the present round, from which it is put together again."""
        assert self._kept, "made for answering in one go"
        return {
            "ledger": [ledger_text(self._ledger).encode()],
            "asked": [json.dumps([*self._asked[:2], self._asked[2].hex()]).encode()],
            **self._heard,
        }

    def load(self, memory: Memory) -> None:
        """Go on where `dump` was called."""
        self._ledger = ledger_of(memory["ledger"][0])
        round, size, digest = json.loads(memory["asked"][0])
        self._asked, self._role = (round, size, bytes.fromhex(digest)), None
        self._heard = {name: list(memory[name]) for name in ("take", "close", "count", "open") if name in memory}
        if not self._heard or "open" in self._heard:
            return
        self._role = sharing.SharingAggregator(self._pact.terms(*self._asked), self._place, self._identity)
        self._take(self._heard.get("take", []))
        if "close" in self._heard:
            self._role.close_intake()
        for message in self._heard.get("count", []):
            self._role.receive(message)

    def _answered(self, ask: Ask) -> Iterator[Outgoing]:
        role = self._present(ask)
        if ask.step in ("take", "close"):
            self._heard["take"] = self._heard.get("take", []) + self._take(ask.messages)
        if ask.step == "take":
            return iter(())
        if ask.step == "close":
            self._heard["close"] = []
            return iter(role.close_intake())
        self._heard[ask.step] = [bytes(message) for message in ask.messages]
        if ask.step == "open":
            self._heard["take"] = []  # a sum is sent once
        answers = [out for message in ask.messages for out in role.receive(message)]
        return role.open() if ask.step == "open" else iter(answers)

    def _present(self, ask: Ask) -> sharing.SharingAggregator:
        begins = ask.step == "take" or (ask.step == "close" and ask.messages)
        if begins and self._asked[0] != ask.round:
            terms = self._pact.terms(ask.round, ask.size, ask.digest)
            self._ledger.arrived(terms.state, anew=True)  # clients alone know whether they draw anew
            self._ledger.enter(terms)  # the same round a second time could open a second sum
            self._role = sharing.SharingAggregator(terms, self._place, self._identity)
            self._asked, self._heard = (ask.round, ask.size, ask.digest), {}
        if self._role is None or self._asked[0] != ask.round or ask.step in self._heard.keys() - {"take"}:
            raise OutOfPhase(f"'{ask.step}' of round {ask.round} out of turn", "begin another round")
        return self._role

    def _take(self, messages: tuple[Buffer, ...] | list[bytes]) -> list[bytes]:
        """Those of the clients' messages that fit; one client's bad message must not stop the others."""
        assert self._role is not None
        kept = []
        for message in messages:
            try:
                self._role.receive(message)
            except (BadMessage, OutOfPhase) as error:
                LOG.warning("aggregator %d refuses a client's message: %s", self._place, error)
                continue
            kept += [bytes(message)] if self._kept else []
        return kept


def conduct_sharing(call: Call, link: Link) -> Sum:
    """Pass clients' shares on to the aggregators, let these agree, and open the sum of theirs.

    Raises:
        CohortTooSmall, Misbehavior, WrongSum: nothing was opened.
        EngineFailure: an aggregator does not answer.
    """
    relay = _Relay(call, link)
    for ask, reply in link.ask([call.to(number, "train") for number in call.clients]):
        relay.add(ask.to, reply.messages)
    if not relay.heard:
        least = call.pact.secure.minimum
        raise CohortTooSmall(f"no client answered with an update, and the minimum is {least}", "see the clients' logs")
    agreements = relay.all("count", relay.all("close", relay.rest()))
    owner = sharing.Owner(call.terms, call.identity)
    for to, message in relay.each("open", {number: agreements.get(number, []) for number in relay.places}):
        if to == OWNER:
            owner.receive(message)
    opened = owner.result()
    for number in relay.heard - set(opened.cohort):
        call.blame(number, BadMessage("an aggregator did not take its share", "see the aggregators' logs"))
    return Sum.of(opened)


class _Relay:
    """Passes messages on to aggregators, all of whom are needed."""

    def __init__(self, call: Call, link: Link) -> None:
        self._call, self._link = call, link
        self.places = [aggregator(place) for place in range(len(call.pact.roster.aggregators))]
        self._pending: dict[int, list[Buffer]] = {number: [] for number in self.places}
        self._bytes = dict.fromkeys(self.places, 0)
        self.heard: set[int] = set()

    def add(self, number: int, messages: Iterable[Outgoing]) -> None:
        """What a client sends."""
        for to, message in messages:
            if to in self._pending:
                self.heard.add(number)
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
                kind, least = known_kind(reply.refused), self._call.pact.secure.minimum
                if kind == CohortTooSmall.__name__:
                    raise CohortTooSmall(
                        f"all aggregators hold the shares of too few: the minimum is {least}", "ask again"
                    )
                raise EngineFailure(f"{Party.of(ask.to)} refuses ({kind}: see its log)", "start anew")
            del silent[ask.to]
            yield from reply.messages
        if silent:
            missing = Party("aggregator", min(Party.of(number).index for number in silent))
            raise EngineFailure(f"{missing} does not answer, and all are needed", "start it, and ask again")


SHARING = SumProtocol(secure=True, client=SharingRole, conduct=conduct_sharing, view=SecureView)
