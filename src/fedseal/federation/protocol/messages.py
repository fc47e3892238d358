"""Questions and answers: the model owner asks, parties answer. Engines carry both, and know nothing of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedseal import errors
from fedseal.errors import FedsealError, shown_record
from fedseal.secagg import Buffer, Outgoing
from fedseal.secagg import errors as sum_errors
from fedseal.types import Tensors

Memory = dict[str, list[bytes]]
LOG = logging.getLogger("fedseal.federation")
LOG.addFilter(shown_record)
CRASH = "Crash"  # of code that is not fedseal's, such as a rule of the owner's own
KINDS = frozenset(
    {CRASH} | {kind.__name__ for kind in (*vars(errors).values(), *vars(sum_errors).values())
               if isinstance(kind, type) and issubclass(kind, FedsealError)}
)  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """What the model owner asks of a party.

    Args:
        to: the party's number.
        step: which of its duties.
        round: of the training, from 0; one that failed is not asked for again under its number.
        size: entries of a step.
        messages: for the party.
        state: the model's tensors, where the step needs them.
        digest: of these tensors, as the model owner says it; parties that train work it out themselves.
    """

    to: int
    step: str
    round: int
    size: int
    messages: tuple[Buffer, ...] = ()
    state: Tensors | None = None
    digest: bytes = b""


@dataclass(frozen=True)
class Reply:
    """Messages to carry on, or the kind of reason for which there are none: one of `KINDS`, and no word more."""

    messages: tuple[Outgoing, ...] = ()
    refused: str = ""


def refusal_kind(error: Exception) -> str:
    """What others are told of an error: its kind, since its text may quote a value.

    >>> refusal_kind(errors.UnfitUpdate("entry 3 is 0.25", "train")), refusal_kind(ValueError("0.25"))
    ('UnfitUpdate', 'Crash')
    """
    names = [kind.__name__ for kind in type(error).__mro__]
    return next((name for name in names if name in KINDS), CRASH)


def known_kind(reason: object) -> str:
    """What another party says of its reason, if it is a kind at all; else that the message is bad.

    >>> known_kind("UnfitUpdate"), known_kind("label 7 of row 3")
    ('UnfitUpdate', 'BadMessage')
    """
    return reason if isinstance(reason, str) and reason in KINDS else sum_errors.BadMessage.__name__


def answer_of(who: str, ask: Ask, work: Callable[[], Iterable[Outgoing]]) -> Reply:
    """What a party answers: what its work gives, or the kind of error for which that is nothing.

    The whole reason stays in the party's own log. Whatever a rule of the owner's own raises, the party is there for the
    next question.
    """
    try:
        return Reply(tuple(work()))
    except FedsealError as error:
        LOG.warning("%s refuses '%s' of round %s: %s", who, ask.step, ask.round, error)
        return Reply(refused=refusal_kind(error))
    except Exception as error:
        LOG.exception("%s fails at '%s' of round %s", who, ask.step, ask.round)
        return Reply(refused=refusal_kind(error))


class Member(Protocol):
    """Answers questions, and can be put aside in between."""

    def answer(self, ask: Ask) -> Reply:
        """Do what is asked."""

    def dump(self) -> Memory:
        """What to keep between two questions: this party's secrets, for its own storage."""

    def load(self, memory: Memory) -> None:
        """Go on where `dump` was called."""


class Link(Protocol):
    """Carries questions to parties and their answers back; what it carries it cannot read."""

    def ask(self, asks: Sequence[Ask]) -> Iterable[tuple[Ask, Reply]]:
        """Answers in the order of the questions; who does not answer is left out."""
