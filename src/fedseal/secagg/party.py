"""Who a message is from or for: parties as numbers, as they stand in messages, and what a number stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

CLIENTS = 2**63  # clients have the numbers below
SERVER, OWNER = 2**64 - 1, 2**64 - 2
FIRST_AGGREGATOR = 2**64 - 100  # and the others count down from there
MOST_AGGREGATORS = 64


class Names(NamedTuple):
    """What one kind of party is called; "{}" is its index."""

    text: str  # by the protocols, in errors and in recorded views
    role: str  # by those who take part in a federation
    key: str  # the stem of its key's file
    folder: str  # of a deployment


NAMES = {
    "client": Names("client {}", "data owner {}", "client-{}", "owner-{}"),
    "aggregator": Names("aggregator {}", "aggregator {}", "aggregator-{}", "aggregator-{}"),
    # the roster has one opener, who is called by the protocol's name of it and holds one key
    "owner": Names("the owner", "the model owner", "owner", "model-owner"),
    "server": Names("the server", "the model owner", "owner", "model-owner"),
    "nobody": Names("nobody (number {})", "nobody (number {})", "nobody-{}", "nobody-{}"),
}


@dataclass(frozen=True)
class Party:
    """One party of a round.

    Args:
        kind: "nobody" for a number that no party can have.
        index: which client or which aggregator; 0 where there is one of the kind. Aggregator 0 gets the masked vectors.

    >>> str(Party.of(3)), str(Party("aggregator", 1)), Party.of(SERVER).role
    ('client 3', 'aggregator 1', 'the model owner')
    >>> Party.of(Party("aggregator", 1).number) == Party("aggregator", 1)
    True
    """

    kind: Literal["client", "aggregator", "owner", "server", "nobody"]
    index: int = 0

    @classmethod
    def of(cls, number: int) -> Party:
        """Whose number it is; nothing is refused, since numbers come from others' messages."""
        if 0 <= number < CLIENTS:
            return cls("client", number)
        if number in (OWNER, SERVER):
            return cls("owner" if number == OWNER else "server")
        place = FIRST_AGGREGATOR - number
        return cls("aggregator", place) if 0 <= place < MOST_AGGREGATORS else cls("nobody", number)

    @property
    def number(self) -> int:
        """The party's number in messages, 8 bytes."""
        fixed = {"owner": OWNER, "server": SERVER, "aggregator": FIRST_AGGREGATOR - self.index}
        return fixed.get(self.kind, self.index)

    @property
    def is_client(self) -> bool:
        """Whether the party is a client, who contributes an update."""
        return self.kind == "client"

    @property
    def is_aggregator(self) -> bool:
        """Whether the party is an aggregator, who holds shares."""
        return self.kind == "aggregator"

    @property
    def opens(self) -> bool:
        """Whether the sum is opened to it: the owner of `sharing` or the server of `masking`, one key in the roster."""
        return self.kind in ("owner", "server")

    def __str__(self) -> str:
        return NAMES[self.kind].text.format(self.index)

    @property
    def role(self) -> str:
        """What those who take part in a federation call it."""
        return NAMES[self.kind].role.format(self.index)

    @property
    def key_file(self) -> str:
        """The name of the file with its key.

        >>> Party.of(3).key_file, Party.of(SERVER).key_file
        ('client-3.key', 'owner.key')
        """
        return f"{NAMES[self.kind].key.format(self.index)}.key"

    @property
    def folder(self) -> str:
        """The name of its folder in a deployment.

        >>> Party.of(2).folder, Party.of(SERVER).folder
        ('owner-2', 'model-owner')
        """
        return NAMES[self.kind].folder.format(self.index)


def aggregator(index: int) -> int:
    """The number of the aggregator at this place; number 0 gets the masked vectors."""
    return Party("aggregator", index).number
