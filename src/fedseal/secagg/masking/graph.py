"""Who shares masks with whom: everybody, or the nearest on a circle in an order that a digest shuffles.

Bell, Bonawitz, Gascon, Lepoint, Raykova, Secure single-server aggregation with (poly)logarithmic overhead, CCS 2020,
ePrint 2020/704. The digest is of all keys advertised; a server that leaves clients out can try orders, and every
doubling of its trials costs one bit of `certainty`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from math import ceil, comb

from fedseal.errors import BadConfig


class Graph:
    """Neighbors of every client.

    Args:
        clients: their numbers.
        degree: neighbors of each; 0 for all others.
        digest: what shuffles them.

    >>> Graph([4, 5, 6], 0, b"").holders(5)
    (4, 5, 6)
    """

    def __init__(self, clients: Sequence[int], degree: int, digest: bytes) -> None:
        self._half = degree // 2 if 0 < degree < len(clients) - 1 else 0
        self._clients = tuple(sorted(clients))
        self._circle = sorted(clients, key=lambda who: hashlib.sha256(digest + who.to_bytes(8, "little")).digest())
        self._place = {who: place for place, who in enumerate(self._circle)}

    def holders(self, client: int) -> tuple[int, ...]:
        """A client and its neighbors, ascending: who holds shares of its secrets."""
        if not self._half:
            return self._clients
        place, size = self._place[client], len(self._circle)
        return tuple(sorted(self._circle[(place + step) % size] for step in range(-self._half, self._half + 1)))

    def neighbors(self, client: int) -> tuple[int, ...]:
        """Ascending, without the client."""
        return tuple(who for who in self.holders(client) if who != client)


def degree_for(
    clients: int, *, corrupt: float, dropping: float, quorum: tuple[int, int] = (2, 3), certainty: int = 40
) -> int:
    """The smallest degree that keeps secrets and loses none, or 0 (everybody) if none does.

    Args:
        corrupt: share of clients that collude with the server. If it also lies, the quorum holds it off only while the
            share stays below 2 * quorum - 1.
        dropping: share of clients that may vanish.
        certainty: privacy fails with probability below 2^-certainty, and the round below 2^-20.

    >>> degree_for(1000, corrupt=0.05, dropping=0.05) % 2
    0
    """
    if not (corrupt >= 0 and dropping >= 0 and corrupt + dropping < 1):
        raise BadConfig(f"{corrupt:g} corrupt and {dropping:g} dropping", "give shares that add up to less than one")
    bad, gone = ceil(corrupt * clients), ceil(dropping * clients)
    for degree in range(4, clients - 1, 2):
        holders = degree + 1
        threshold = holders * quorum[0] // quorum[1] + 1
        leaks = clients * (_tail(clients, bad, holders, threshold) + (Fraction(bad + gone, clients)) ** (degree // 2))
        fails = clients * _tail(clients, gone, holders, holders - threshold + 1)
        if leaks * 2**certainty <= 1 and fails * 2**20 <= 1:
            return degree
    return 0


def _tail(population: int, marked: int, drawn: int, least: int) -> Fraction:
    """Probability that at least so many of those drawn without replacement are marked."""
    ways = sum(
        comb(marked, hit) * comb(population - marked, drawn - hit) for hit in range(least, min(marked, drawn) + 1)
    )
    return Fraction(ways, comb(population, drawn))
