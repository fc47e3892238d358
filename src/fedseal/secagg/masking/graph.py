"""Who holds shares of whose secrets, and who shares masks with whom: everybody, or those whom each client drew itself.

Bell, Bonawitz, Gascon, Lepoint, Raykova, Secure single-server aggregation with (poly)logarithmic overhead, CCS 2020,
ePrint 2020/704, in the variant for a malicious server: each client draws its holders after it has seen all keys, from
randomness of its own, so that nobody can choose keys for a place beside it. Two clients share a mask if one drew the
other. All are told the whole graph, and sign it.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from fedseal.errors import BadConfig
from fedseal.secagg.errors import BadMessage
from fedseal.secagg.role import ascending
from fedseal.secagg.wire import Reader

Floats = NDArray[np.float64]
SMALL = 1 << 16  # clients that two bytes tell apart


class Graph:
    """Holders and neighbors of every client.

    Args:
        clients: their numbers.
        drawn: whom each of some drew, ascending; None where everybody holds everybody's shares.

    >>> graph = Graph([4, 5, 6, 7], {4: (5,), 5: (6,), 6: (5,)})
    >>> graph.holders(4), graph.neighbors(5), graph.kept(5)
    ((4, 5), (4, 6), (4, 6))
    """

    def __init__(self, clients: Sequence[int], drawn: Mapping[int, tuple[int, ...]] | None = None) -> None:
        self._clients, self.drawn = tuple(sorted(clients)), drawn
        self._kept: dict[int, list[int]] = {}
        for who, holders in sorted((drawn or {}).items()):
            for holder in holders:
                self._kept.setdefault(holder, []).append(who)

    def holders(self, client: int) -> tuple[int, ...]:
        """A client and whom it drew, ascending: who holds shares of its secrets."""
        return self._clients if self.drawn is None else tuple(sorted((client, *self.drawn[client])))

    def kept(self, client: int) -> tuple[int, ...]:
        """Who drew the client, ascending: of whose secrets it holds shares beside its own."""
        if self.drawn is None:
            return tuple(who for who in self._clients if who != client)
        return tuple(self._kept.get(client, ()))

    def neighbors(self, client: int) -> tuple[int, ...]:
        """Ascending, without the client: with whom it shares a mask."""
        if self.drawn is None:
            return self.kept(client)
        return tuple(sorted({*self.drawn.get(client, ()), *self.kept(client)}))

    def written(self) -> bytes:
        """For all: whom each of those who shared drew, as places among the clients; nothing where all hold all."""
        place = {who: number for number, who in enumerate(self._clients)}
        rows = [[place[holder] for holder in holders] for _, holders in sorted((self.drawn or {}).items())]
        return b"".join(struct.pack(f"<{len(row)}{_letter(len(place))}", *row) for row in rows)

    @property
    def digest(self) -> bytes:
        """SHA-256 of it."""
        return hashlib.sha256(b"fedseal graph 1" + self.written()).digest()

    @classmethod
    def read(cls, clients: Sequence[int], sharing: Sequence[int], degree: int, reader: Reader) -> Graph:
        """What `written` wrote; raises BadMessage if it ends early, or is nothing that clients drew."""
        if not drawing(len(clients), degree):
            return cls(clients)
        clients, letter = sorted(clients), _letter(len(clients))
        width = struct.calcsize(f"<{degree}{letter}")
        drawn: dict[int, tuple[int, ...]] = {}
        for who in sharing:
            row = struct.unpack(f"<{degree}{letter}", reader.take(width))
            if max(row) >= len(clients):
                raise BadMessage("a graph with a client that nobody knows", "send what the clients drew")
            drawn[who] = ascending(clients[place] for place in row)
            if who in drawn[who]:
                raise BadMessage("a graph in which a client drew itself", "send what the clients drew")
        return cls(clients, drawn)


def drawing(clients: int, degree: int) -> bool:
    """Whether clients draw their holders: not where the degree is 0, or as many as there are others."""
    return 0 < degree < clients - 1


def drawn_holders(clients: Sequence[int], me: int, degree: int) -> tuple[int, ...]:
    """The others who will hold a client's shares, ascending: all, or so many from the operating system's randomness."""
    others = [who for who in clients if who != me]
    if not drawing(len(clients), degree):
        return tuple(sorted(others))
    return tuple(sorted(secrets.SystemRandom().sample(others, degree)))


def degree_for(
    clients: int, *, corrupt: float, dropping: float, quorum: tuple[int, int] = (2, 3), certainty: int = 40
) -> int:
    """The smallest number of holders to draw that keeps secrets and loses none, or 0 (everybody) if none does.

    Privacy fails if colluding clients hold a threshold of shares, or if the honest ones who are added up fall into two
    sets without a mask between them. A server that lies chooses who drops after it has seen the graph; what it cannot
    choose is that a threshold of each client's holders is there, which the client checks. So all clients of the smaller
    set would have drawn that many among itself and the colluding ones, and the bound is the sum over all such sets. For
    a server that follows the protocol, those who drop are as if drawn beforehand.

    Args:
        clients: the fewest who take part in a round.
        corrupt: share of them that collude with the server. The quorum holds off a server that also lies only while
            that share is below 2 * quorum - 1; at or above it, the server is taken to follow the protocol.
        dropping: share of clients that may vanish.
        certainty: privacy fails with probability below 2^-certainty in a round, and the round below 2^-20. A server
            that begins n rounds has n tries.

    >>> 10 < degree_for(1000, corrupt=0.05, dropping=0.05) < 100
    True
    """
    if not (corrupt >= 0 and dropping >= 0 and corrupt + dropping < 1):
        raise BadConfig(f"{corrupt:g} corrupt and {dropping:g} dropping", "give shares that add up to less than one")
    bad, gone = ceil(corrupt * clients), ceil(dropping * clients)
    lying = corrupt < 2 * quorum[0] / quorum[1] - 1
    odds = _Odds(clients)
    for degree in range(4, clients - 1):
        threshold = (degree + 1) * quorum[0] // quorum[1] + 1
        if threshold > degree:
            continue  # of its drawn holders alone, nobody could be recovered
        fails = odds.least(np.array([gone]), degree, degree - threshold + 1)
        held = odds.least(np.array([bad]), degree, threshold)
        split = (
            odds.split(clients - bad, bad, degree, threshold - 1)
            if lying
            else odds.split(clients - bad - gone, bad + gone, degree, degree)
        )
        leaks = np.logaddexp2(held[0] + np.log2(clients), split)
        if leaks <= -certainty and fails[0] + np.log2(clients) <= -20:
            return degree
    return 0


class _Odds:
    """Logarithms to base 2 of probabilities, where a client draws among the others."""

    def __init__(self, clients: int) -> None:
        self._others = clients - 1
        self._factorial: Floats = np.concatenate([[0.0], np.cumsum(np.log2(np.arange(1, clients + 1)))])

    def choose(self, of: NDArray[np.int64], count: NDArray[np.int64]) -> Floats:
        """Of binomial coefficients; minus infinity where there is no way."""
        possible = (count >= 0) & (count <= of)
        of, count = np.where(possible, of, 0), np.where(possible, count, 0)
        ways = self._factorial[of] - self._factorial[count] - self._factorial[of - count]
        return np.where(possible, ways, -np.inf)

    def least(self, marked: NDArray[np.int64], degree: int, hits: int) -> Floats:
        """That at least so many of the drawn are marked, for each number of marked ones."""
        marked = np.minimum(marked, self._others)[:, None]
        hit = np.arange(hits, degree + 1)[None, :]
        every = self.choose(np.array([self._others]), np.array([degree]))
        ways = self.choose(marked, hit) + self.choose(self._others - marked, degree - hit) - every
        found: Floats = np.minimum(np.logaddexp2.reduce(ways, axis=1), 0.0)
        return found

    def split(self, honest: int, beside: int, degree: int, hits: int) -> float:
        """That some set of at most half of the honest drew at least so many among itself and those beside, each."""
        size = np.arange(1, honest // 2 + 1)
        sets = self.choose(np.full(size.size, honest), size)
        return float(np.logaddexp2.reduce(sets + size * self.least(size - 1 + beside, degree, hits), initial=-np.inf))


def _letter(clients: int) -> str:
    return "H" if clients <= SMALL else "I"
