"""Vectors on their way in: sealed chunks of several senders in any order, added as they come.

Whose vectors belong in the sum is known only later. Until then the chunks are kept as sealed as they came, and those of
senders who do not belong are opened once more and subtracted. So what everybody costs is one pass.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container
from typing import IO

import numpy as np

from fedseal.secagg import wire
from fedseal.secagg.errors import BadMessage
from fedseal.secagg.hazmat.keys import Buffer, Opener
from fedseal.secagg.hazmat.ring import Elements
from fedseal.secagg.party import Party
from fedseal.secagg.terms import Terms
from fedseal.secagg.vector import Layout
from fedseal.secagg.wire import Message, open_chunk

IN_MEMORY = 1 << 26  # bytes of all that waits; the rest waits in a file without a name


class Intake:
    """The sum of some senders' vectors.

    Args:
        final: every sender belongs in the sum, so that nothing is kept.
    """

    def __init__(self, terms: Terms, *, final: bool = False) -> None:
        self._final = final
        self._layout, self._room = Layout(terms), IN_MEMORY
        self._scratch = np.empty(min(terms.chunk, self._layout.elements), terms.codec.ring.dtype)
        self._openers: dict[int, Opener] = {}
        self._kept: dict[
            int, dict[int, Buffer | int]
        ] = {}  # by sender and chunk: the message, or its place in the file
        self._file: IO[bytes] | None = None
        self._begun: set[int] = set()  # chunks that hold anybody's already
        self.elements = terms.codec.ring.zeros(self._layout.elements)

    def announce(self, sender: int, opener: Opener) -> None:
        """Expect a sender's vector, of which this opens the chunks."""
        self._openers[sender], self._kept[sender] = opener, {}

    def take(self, message: Message) -> None:
        """Add a chunk; the same one again changes nothing.

        Raises:
            BadMessage: nobody announced it, it was changed, or it is none of this vector's.
        """
        chunk, kept = wire.number_of(message), self._kept.get(message.sender)
        if kept is None:
            raise BadMessage(
                f"a chunk of {Party.of(message.sender)}, who announced none", "send the announcement first"
            )
        if chunk >= self._layout.chunks:
            raise BadMessage(f"chunk {chunk} of {self._layout.chunks}", "send the vector that the terms describe")
        start, end = self._layout.span(chunk)
        own, empty = self.elements[start:end], chunk not in self._begun
        part = own if empty else self._scratch[: end - start]
        try:
            open_chunk(self._openers[message.sender], message, part)
        except BadMessage:
            if empty:
                own[:] = 0  # what does not open may have been written all the same
            raise
        if chunk in kept:
            return
        kept[chunk] = b"" if self._final else self._keep(message.raw)
        self._begun.add(chunk)
        if not empty:
            own += part

    @property
    def announced(self) -> frozenset[int]:
        """Senders whose vectors are expected."""
        return frozenset(self._openers)

    @property
    def complete(self) -> tuple[int, ...]:
        """Senders of whom nothing is missing."""
        return tuple(sorted(sender for sender, kept in self._kept.items() if len(kept) == self._layout.chunks))

    def settle(self, senders: Container[int]) -> Elements:
        """The sum of these senders' vectors: what came of others is taken out again. It is handed over, not kept."""
        for sender, kept in self._kept.items():
            if sender not in senders:
                for chunk, waiting in kept.items():
                    self._take_out(sender, chunk, waiting)
        settled, self.elements = self.elements, self.elements[:0].copy()
        self.close()
        return settled

    def close(self) -> None:
        """Take no more, and forget what was kept."""
        if self._file is not None:
            self._file.close()
        self._file, self._openers, self._kept = None, {}, {}

    def _take_out(self, sender: int, chunk: int, waiting: Buffer | int) -> None:
        start, end = self._layout.span(chunk)
        part = self._scratch[: end - start]
        size = wire.HEADER.size + wire.BESIDE + part.nbytes
        open_chunk(self._openers[sender], wire.read_message(self._fetched(waiting, size), size), part)
        self.elements[start:end] -= part

    def _keep(self, raw: Buffer) -> Buffer | int:
        if len(raw) <= self._room:
            self._room -= len(raw)
            return raw
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        place = self._file.seek(0, 2)
        self._file.write(raw)
        return place

    def _fetched(self, waiting: Buffer | int, size: int) -> Buffer:
        if not isinstance(waiting, int):
            return waiting
        assert self._file is not None
        self._file.seek(waiting)
        return self._file.read(size)
