"""Questions and answers: the model owner asks, parties answer. Engines carry both, and know nothing of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedseal.secagg import Buffer, Outgoing
from fedseal.types import Tensors

Memory = dict[str, list[bytes]]
LOG = logging.getLogger("fedseal.federation")


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
    """Messages to carry on, or the kind of reason for which there are none."""

    messages: tuple[Outgoing, ...] = ()
    refused: str = ""


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
