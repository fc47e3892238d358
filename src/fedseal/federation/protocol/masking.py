"""Pairwise masks and one server, who is the model owner: see `fedseal.secagg.masking`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from fedseal.federation.protocol.base import Call, SecureView, Sum, SumProtocol, TrainedStep
from fedseal.federation.protocol.messages import Ask, Link, Reply
from fedseal.federation.secure import Pact
from fedseal.secagg import Buffer, Identity, Ledger, Outgoing, masking
from fedseal.secagg.errors import BadMessage, BrokenCommitment, OutOfPhase


class MaskingRole:
    """Goes through the phases of a round, and keeps its secrets in between."""

    def __init__(self, pact: Pact, number: int, identity: Identity, ledger: Ledger) -> None:
        self._pact, self._number, self._identity, self._ledger = pact, number, identity, ledger
        self._role: masking.MaskingClient | None = None

    def answer(self, ask: Ask, train: Callable[[], TrainedStep]) -> Iterator[Outgoing]:
        """The messages of the phase that is due."""
        if ask.step == "advertise":
            terms = self._pact.terms(ask.round, ask.size, ask.digest)
            self._role = masking.MaskingClient(terms, self._number, self._identity, self._ledger)
            yield from self._role.advertise()
            return
        role = self._present(ask)
        answers = [out for message in ask.messages for out in role.receive(message)]
        if ask.step == "train":
            if ask.state is None or ask.digest != role.terms.state:
                raise OutOfPhase("the model that was sent is not the one announced", "send all clients one model")
            yield from role.contribute(*train())
        else:
            yield from answers

    def dump(self) -> bytes | None:
        """The present round's secrets."""
        return None if self._role is None else self._role.dump()

    def load(self, memory: bytes) -> None:
        """Go on where `dump` was called."""
        self._role = masking.MaskingClient.load(self._pact.terms, self._number, self._identity, self._ledger, memory)

    def _present(self, ask: Ask) -> masking.MaskingClient:
        if self._role is None or self._role.terms.round != ask.round:
            raise OutOfPhase(f"round {ask.round} did not begin at this client", "let it advertise first")
        return self._role


def conduct_masking(call: Call, link: Link) -> Sum:
    """Lead the clients who are left from phase to phase.

    Raises:
        CohortTooSmall, WrongSum: nothing was opened.
    """
    server = masking.Server(call.terms, call.identity)

    def heard(answers: Iterable[tuple[Ask, Reply]]) -> list[Outgoing]:
        for ask, reply in answers:
            for _, message in reply.messages:
                _receive(call, server, ask.to, message)
        return server.advance()

    out = heard(link.ask([call.to(number, "advertise") for number in call.clients]))
    for step in ("back up", "train", "confirm"):
        out = heard(link.ask([call.to(number, step, [message]) for number, message in out]))
    for ask, reply in link.ask([call.to(number, "unmask", [message]) for number, message in out]):
        for _, message in reply.messages:
            _receive(call, server, ask.to, message)
    try:
        return Sum.of(server.result())
    except BrokenCommitment as error:
        for number in server.false:
            call.blame(number, error)
        raise


def _receive(call: Call, server: masking.Server, number: int, message: Buffer) -> None:
    """Take what a client sends."""
    try:
        server.receive(message)
    except (BadMessage, OutOfPhase) as error:
        if server.ended:
            raise
        call.blame(number, error)


MASKING = SumProtocol(secure=True, client=MaskingRole, conduct=conduct_masking, view=SecureView)
