"""What a protocol is to a federation: how a client answers, how the model owner conducts a round, what a party sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from fedseal.errors import FedsealError
from fedseal.federation.packing import Vector, digest_of
from fedseal.federation.protocol.messages import LOG, Ask, Link, refusal_kind
from fedseal.federation.secure import READABLE, Pact
from fedseal.secagg import Buffer, Identity, Ledger, LedgerEntry, Opened, Outgoing, Party, Terms, Transcript
from fedseal.secagg.errors import OutOfPhase
from fedseal.types import Tensors


class TrainedStep(NamedTuple):
    """What a client's training gives: the vector `(size,)`, how much it counts, and metrics by name."""

    vector: Vector
    weight: int
    metrics: dict[str, float]


class ClientSide(Protocol):
    """One client in a protocol, from round to round."""

    def answer(self, ask: Ask, train: Callable[[], TrainedStep]) -> Iterator[Outgoing]:
        """What the client sends; it trains when this calls `train`.

        Raises:
            OutOfPhase: asked what is not due.
            BadMessage, Misbehavior, CohortTooSmall: messages that are refused.
            UnfitUpdate: a step that cannot be added up.
        """

    def dump(self) -> bytes | None:
        """The secrets of the present round, for the client's own storage; None if it keeps none between questions."""

    def load(self, memory: bytes) -> None:
        """Go on where `dump` was called."""


# what reading arrays out of another party's bytes raises, whatever these are
UNREADABLE = (SafetensorError, LookupError, TypeError, ValueError, OverflowError, AttributeError)


@dataclass(frozen=True)
class Call:
    """A round to conduct.

    Args:
        clients: who is asked.
        identity: the model owner's.
        faults: filled as the round goes: whose messages were refused, and for which kind of reason; also who is not
            asked for what it did in a round before.
    """

    pact: Pact
    identity: Identity
    clients: tuple[int, ...]
    round: int
    size: int
    state: Tensors
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def terms(self) -> Terms:
        """The round's terms, as all parties hold them."""
        return self.pact.terms(self.round, self.size, self.digest)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the model that clients are sent; empty where nobody holds anybody to it."""
        return b"" if self.pact.secure.protocol in READABLE else digest_of(self.state)

    def blame(self, number: int, error: FedsealError) -> None:
        """One party's bad message must not end the round for the others."""
        LOG.warning("what %s sends is refused: %s", Party.of(number), error)
        self.faults[number] = refusal_kind(error)

    def to(self, number: int, step: str, messages: Iterable[Buffer] = ()) -> Ask:
        """A question."""
        state = self.state if step == "train" else None
        return Ask(number, step, self.round, self.size, tuple(messages), state, self.digest)


@dataclass(frozen=True)
class Sum:
    """What a round opens: the sum of `weight * step` over a cohort, `(size,)` in float64."""

    total: NDArray[Any]
    weight: int
    metrics: dict[str, float]
    cohort: tuple[int, ...]

    @classmethod
    def of(cls, opened: Opened) -> Sum:
        """The sum that a secure protocol opened."""
        return cls(opened.total(), opened.weight, opened.metrics, opened.cohort)


class PartyReading(NamedTuple):
    """What a party reads of a client: its "step", its "masked" vector in signed elements, or a "seed" for a share.

    Of its neighbor in a ring it reads a "part" of a step or a "partial sum", in the clear or masked.

    Args:
        weight: of how many examples it is, where that can be read.
        start: the first entry of a part.
        cohort: whose sum it is; empty for one client's own.
    """

    client: int
    kind: Literal["step", "masked", "seed", "part", "partial sum", "masked part", "masked partial sum"]
    content: NDArray[Any]
    weight: int | None = None
    start: int = 0
    cohort: tuple[int, ...] = ()


class PartyView(Protocol):
    """What one party's key opens in one round."""

    def read(self, message: Buffer, carrier: int) -> list[PartyReading]:
        """What a message to this party says by itself.

        Args:
            carrier: who handed it in; who sent it, where the message does not say.

        Raises:
            BadMessage: it does not open.
        """

    def rest(self) -> list[PartyReading]:
        """What all messages of the round say together."""


class SecureView:
    """A party's view in a secure protocol."""

    def __init__(self, call: Call, number: int, identity: Identity) -> None:
        self._transcript = Transcript(call.terms, number, identity)

    def read(self, message: Buffer, carrier: int) -> list[PartyReading]:
        """A seed, if it is one."""
        share = self._transcript.read(message)
        return (
            []
            if share is None
            else [PartyReading(share.client, "seed", np.frombuffer(bytearray(share.seed), np.uint8))]
        )

    def rest(self) -> list[PartyReading]:
        """Masked vectors."""
        return [PartyReading(client, "masked", vector.copy()) for client, vector in self._transcript.vectors.items()]


@dataclass(frozen=True)
class SumProtocol:
    """One way to add clients' steps up.

    Args:
        secure: whether a step is hidden from who carries and adds it; such a round has terms.
        client: a client's side, from what was agreed, its number, its key and its ledger.
        conduct: the model owner's side of one round. It raises CohortTooSmall, Misbehavior or WrongSum if nothing was
            opened, and EngineFailure if a party that is needed does not answer.
        view: what a party sees of a round, from its number and its key.
        peers: whether clients are sent what other clients hand on.
    """

    secure: bool
    client: Callable[[Pact, int, Identity, Ledger], ClientSide]
    conduct: Callable[[Call, Link], Sum]
    view: Callable[[Call, int, Identity], PartyView]
    peers: bool = False


def received(ask: Ask) -> Ask:
    """The question with the digest of the model that came with it, worked out by the party itself."""
    return ask if ask.state is None else replace(ask, digest=digest_of(ask.state))


def note_readable(pact: Pact, ledger: Ledger, ask: Ask) -> None:
    """Note a round whose answer is read as it is, before it is sent: no terms hold it, and it counts all the same.

    Raises:
        OutOfPhase: this round or a later one was answered before.
        Overspent: as many as were agreed on.
    """
    ledger.check_due(pact.session, ask.round, pact.secure.rounds or 0)
    ledger.note(LedgerEntry(pact.session.hex(), ask.round, "", "", pact.release(ask.size)))


def trains_only(ask: Ask) -> None:
    """Raises OutOfPhase for a client that is asked anything but to train."""
    if ask.step != "train":
        raise OutOfPhase(f"a client is asked to '{ask.step}'", "ask it to train")
