"""What all roles share: a role gets messages and gives messages; it opens no socket and reads no clock.

`receive` checks that a message is whole, of this round, for this party and signed by its sender. It raises what it
refuses and is then as it was before, except where the error says that the round ends. The same message a second time
changes nothing.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable
from functools import cached_property

from fedseal.secagg import wire
from fedseal.secagg.errors import BadMessage, CohortTooSmall, Misbehavior, OutOfPhase, WrongSum
from fedseal.secagg.hazmat.keys import Buffer, Identity, Public, Signer, Verifier
from fedseal.secagg.party import Party
from fedseal.secagg.terms import Roster, Terms
from fedseal.secagg.wire import Kind, Message, Outgoing

ENDING = (CohortTooSmall, Misbehavior, WrongSum)
SLACK, ENTRY = 4096, 256  # bytes of a message at most: beside lists and chunks, and for each client in a list


class Role:
    """A party of one round.

    Args:
        number: this party's, in the roster.
        identity: its secrets; their public part is in the roster.

    Raises:
        BadMessage: the roster has another key for this number.
    """

    def __init__(self, terms: Terms, number: int, identity: Identity) -> None:
        self.terms, self.number, self.ended = terms, number, ""
        self._identity = identity
        self._seen: set[bytes] = set()
        self._on: dict[Kind, Callable[[Message], list[Outgoing]]] = {}
        if public_of(terms.roster, number) != identity.public:
            raise BadMessage(f"the roster has another key for {Party.of(number)}", "hand in the identity of the roster")

    def receive(self, message: Buffer) -> list[Outgoing]:
        """What this party answers.

        Raises:
            BadMessage, OutOfPhase: refused, without a trace.
            Misbehavior, CohortTooSmall: the round ends at this party.
        """
        self._going()
        read = wire.read_message(message, self._limit)
        if read.terms != self.terms.digest:
            raise BadMessage("a message of another round or of other terms", "give all parties the same terms")
        if read.to != self.number:
            raise BadMessage(f"a message to {Party.of(read.to)} at {Party.of(self.number)}", "carry it to its address")
        if read.kind not in self._on:
            raise BadMessage(f"{Party.of(self.number)} takes no {read.kind.name} message", "carry it to its address")
        if read.kind is Kind.CHUNK:
            return self._on[read.kind](read)
        read.verify(self._verifier(read))
        digest = hashlib.sha256(message).digest()
        if digest in self._seen:
            return []
        with self._ending():
            answer = self._on[read.kind](read)
        self._seen.add(digest)
        return answer

    def _signed(self, kind: Kind, to: int, body: bytes) -> Outgoing:
        return wire.signed_message(kind, self.terms.digest, self.number, to, body, self._signer(kind, to))

    def _signer(self, kind: Kind, to: int) -> Signer:
        return self._identity

    def _verifier(self, message: Message) -> Verifier:
        return public_of(self.terms.roster, message.sender)

    @cached_property
    def _limit(self) -> int:
        """Bytes of the largest message of this round: a chunk, or a list of everybody's signed message."""
        most = len(self.terms.roster.clients) * (ENTRY + 4 * self.terms.degree)
        return SLACK + max(self.terms.chunk * self.terms.codec.ring.width, most)

    def _going(self) -> None:
        if self.ended:
            raise OutOfPhase(f"the round has ended here: {self.ended}", "start another round")

    def _ending(self) -> _Ending:
        return _Ending(self)

    def _forget(self) -> None:
        """Drop secrets once the round has ended."""


class _Ending:
    """Notes why a round ended, so that nothing can follow."""

    def __init__(self, role: Role) -> None:
        self._role = role

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ENDING):
            self._role.ended = error.fact
            self._role._forget()


def public_of(roster: Roster, number: int) -> Public:
    """A party's keys; raises BadMessage for one who is not in the roster."""
    party = Party.of(number)
    if party.opens:
        return roster.opener
    if party.is_aggregator and party.index < len(roster.aggregators):
        return roster.aggregators[party.index]
    if number not in roster.clients:
        raise BadMessage(f"a message of {party}, who is not in the roster", "invite it before the round")
    return roster.clients[number]


def from_client(message: Message) -> None:
    """Raises BadMessage if it is another party's."""
    sender = Party.of(message.sender)
    if not sender.is_client:
        raise BadMessage(f"a {message.kind.name} message of {sender}", "only clients send it")


def ascending(numbers: Iterable[int]) -> tuple[int, ...]:
    """The numbers as they came; raises BadMessage unless each is larger than the one before."""
    numbers = tuple(numbers)
    if any(a >= b for a, b in itertools.pairwise(numbers)):
        raise BadMessage("a list of parties that is not in order or names one twice", "send the original")
    return numbers
