"""What a party answered in the present round, so that a question that comes again gets the same bytes once more.

A model owner that was killed in a round asks it again. New answers, with new masks and noise, would tell it more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from fedseal.federation.protocol.messages import Ask
from fedseal.secagg import Outgoing


class Replies:
    """Answers of one round, by question; those of the round before are dropped."""

    def __init__(self) -> None:
        self._round, self._found = -1, dict[bytes, tuple[Outgoing, ...]]()

    def once(self, ask: Ask, key: bytes, make: Callable[[], Iterable[Outgoing]]) -> tuple[Outgoing, ...]:
        """The messages that this question got in this round, or new ones; what raises leaves nothing behind.

        Args:
            key: what tells the question from others of its round, see `question_key`.
        """
        if ask.round == self._round and key in self._found:
            return self._found[key]
        messages = tuple(make())
        if ask.round != self._round:
            self._round, self._found = ask.round, {}
        self._found[key] = messages
        return messages


def question_key(ask: Ask) -> bytes:
    """SHA-256 of all that a question says; of the model its digest, which the party worked out by itself."""
    found = hashlib.sha256(repr((ask.step, ask.size, ask.digest, list(map(len, ask.messages)))).encode())
    for message in ask.messages:
        found.update(message)
    return found.digest()
