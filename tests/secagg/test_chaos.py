"""Both protocols on a network that loses, repeats, reorders, replays, misdirects, cuts and flips: never a wrong sum."""

from __future__ import annotations

from abc import abstractmethod
from functools import cache

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from fedseal.errors import FedsealError
from fedseal.secagg import SERVER, Opened, Outgoing
from fedseal.secagg.errors import BadMessage, OutOfPhase
from fedseal.secagg.role import Role
from secagg.rounds import Masking, Sharing, flipped, refused, terms, total, update

CLIENTS = 3
PLACES, BITS = st.integers(0, 10**6), st.integers(0, 10**9)


class Network(RuleBasedStateMachine):
    """What is under way, in `flight`; what was ever sent, in `sent`."""

    def __init__(self) -> None:
        super().__init__()
        self.flight: list[Outgoing] = []
        self.sent: list[Outgoing] = []
        self.opened: Opened | None = None
        self.smooth = True  # nothing was lost, and no phase was closed while messages were under way
        self.start()

    def send(self, messages: list[Outgoing]) -> None:
        self.flight += messages
        self.sent += messages

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def role(self, number: int) -> Role: ...

    @abstractmethod
    def parties(self) -> list[int]: ...

    @abstractmethod
    def step(self) -> None:
        """Close a phase, or open the sum; may raise what a role refuses."""

    @abstractmethod
    def foreign(self) -> tuple[Outgoing, ...]: ...

    def deliver(self, message: Outgoing) -> bool:
        """Whether it was taken; honest messages may come too early or too late and are then sent again."""
        try:
            self.send(self.role(message.to).receive(message.message))
        except (BadMessage, OutOfPhase):
            return False
        except FedsealError:
            assert self.role(message.to).ended
        return True

    @precondition(lambda self: self.flight)
    @rule(place=PLACES)
    def arrives(self, place: int) -> None:
        message = self.flight.pop(place % len(self.flight))
        if not self.deliver(message):
            self.flight.append(message)

    @precondition(lambda self: self.flight)
    @rule()
    def the_oldest_arrives(self) -> None:
        self.arrives(0)

    @precondition(lambda self: self.flight)
    @rule(place=PLACES)
    def is_lost(self, place: int) -> None:
        self.flight.pop(place % len(self.flight))
        self.smooth = False

    @precondition(lambda self: self.sent)
    @rule(place=PLACES)
    def comes_again(self, place: int) -> None:
        self.deliver(self.sent[place % len(self.sent)])

    @precondition(lambda self: self.sent)
    @rule(place=PLACES, bit=BITS)
    def is_flipped(self, place: int, bit: int) -> None:
        to, raw = self.sent[place % len(self.sent)]
        refused(lambda: self.role(to).receive(flipped(raw, bit % (8 * len(raw)))), FedsealError)

    @precondition(lambda self: self.sent)
    @rule(place=PLACES, length=PLACES)
    def is_cut(self, place: int, length: int) -> None:
        to, raw = self.sent[place % len(self.sent)]
        refused(lambda: self.role(to).receive(raw[: length % len(raw)]), FedsealError)

    @precondition(lambda self: self.sent)
    @rule(place=PLACES, other=PLACES)
    def goes_astray(self, place: int, other: int) -> None:
        to, raw = self.sent[place % len(self.sent)]
        others = [number for number in self.parties() if number != to]
        refused(lambda: self.role(others[other % len(others)]).receive(raw), FedsealError)

    @rule(place=PLACES)
    def comes_from_another_round(self, place: int) -> None:
        messages = self.foreign()
        to, raw = messages[place % len(messages)]
        refused(lambda: self.role(to).receive(raw), FedsealError)

    @rule()
    def time_is_up(self) -> None:
        self.smooth &= not self.flight
        try:
            self.step()
        except FedsealError:
            return
        self.check()

    def check(self) -> None:
        if self.opened is not None:
            assert len(self.opened.cohort) >= 2
            assert np.array_equal(self.opened.total(), total(self.opened.cohort))

    def teardown(self) -> None:
        """From here on the network is good: a round that lost nothing completes."""
        for _ in range(8):
            for _ in range(3):
                waiting, self.flight = self.flight, []
                self.flight = [message for message in waiting if not self.deliver(message)] + self.flight
            self.time_is_up()
        assert self.opened or not self.smooth


class SharingOnIt(Network):
    def start(self) -> None:
        self.round = Sharing(terms("sharing", CLIENTS))
        for number, client in self.round.clients.items():
            self.send(list(client.contribute(update(number))))

    def role(self, number: int) -> Role:
        return self.round.role(number)

    def parties(self) -> list[int]:
        return [*self.round.clients, *(party.number for party in self.round.aggregators), self.round.owner.number]

    def step(self) -> None:
        for party in self.round.aggregators:
            if party.agreed and not party._opened:
                self.send(list(party.open()))
            elif not party._closed:
                self.send(party.close_intake())
        if self.opened is None and self.round.owner.complete:
            self.opened = self.round.owner.result()

    def foreign(self) -> tuple[Outgoing, ...]:
        return _foreign_sharing()


class MaskingOnIt(Network):
    def start(self) -> None:
        self.round = Masking(terms(clients=CLIENTS, quorum=(1, 2)))
        for client in self.round.clients.values():
            self.send(client.advertise())

    def role(self, number: int) -> Role:
        return self.round.server if number == SERVER else self.round.clients[number]

    def parties(self) -> list[int]:
        return [*self.round.clients, SERVER]

    def deliver(self, message: Outgoing) -> bool:
        taken = super().deliver(message)
        client = self.round.clients.get(message.to)
        if client is not None and client._due[:1] == ["contribute"] and not client.ended:
            self.send(list(client.contribute(update(message.to))))
        return taken

    def step(self) -> None:
        if self.round.server.phase.name == "UNMASK":
            self.opened = self.round.server.result()
        else:
            self.send(self.round.server.advance())

    def foreign(self) -> tuple[Outgoing, ...]:
        return _foreign_masking()


@cache
def _foreign_sharing() -> tuple[Outgoing, ...]:
    other = Sharing(terms("sharing", CLIENTS, round=1))
    messages = [m for n, client in other.clients.items() for m in client.contribute(update(n))]
    other.carry(messages)
    return (*messages, *(m for party in other.aggregators for m in party.close_intake()))


@cache
def _foreign_masking() -> tuple[Outgoing, ...]:
    other = Masking(terms(clients=CLIENTS, round=1))
    messages = [m for client in other.clients.values() for m in client.advertise()]
    other.to_server(messages)
    keys = other.server.advance()
    return (*messages, *keys, *other.to_clients(keys))


STEPS = settings(
    max_examples=25,
    stateful_step_count=45,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestSharing = SharingOnIt.TestCase
TestSharing.settings = STEPS
TestMasking = MaskingOnIt.TestCase
TestMasking.settings = STEPS
