"""What passes at the model owner's door in a round: counted in bytes, and shown to whoever watches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedseal.federation.protocol import Ask, Call, Link, Reply, Sum, known_kind
from fedseal.secagg import Party


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
        self.refused: dict[int, str] = {}  # by party, the kind of its reason

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        """Ask through the inner link, and count the bytes."""
        for ask in asks:
            state = (ask.state or {}).values()
            self._count(ask, sum(map(len, ask.messages)) + sum(t.numel() * t.element_size() for t in state), "down")
            for watcher in self._watchers:
                watcher.asked(ask)
        for ask, reply in self._link.ask(asks):
            self._count(ask, sum(len(message) for _, message in reply.messages), "up")
            if reply.refused:
                self.refused[ask.to] = known_kind(reply.refused)
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

    def failed(self, call: Call) -> None:
        """The end of a round that opened nothing, whatever was sent in it."""
