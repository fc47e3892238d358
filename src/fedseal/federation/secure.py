"""What all parties of a federation agree on before it starts, and the terms of a round that follow from it."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from fedseal.errors import BadConfig, UnknownName
from fedseal.secagg import Identity, Party, Roster, SumRelease, Terms

NAMES = ("sharing", "masking", "plain", "ring", "masked_ring")
READABLE = ("plain", "ring")  # whoever is sent a step or a part of a sum reads it
RINGS = ("ring", "masked_ring")
STATISTICS = ("shared", "local", "none")
STATISTICS_CLIP = 1.0


@dataclass(frozen=True)
class Secure:
    """How updates are added up; what is left None is settled for a federation by `settled`.

    Args:
        protocol: "sharing" among several aggregators, "masking" with one server, "masked_ring" without any; or, without
            protection and for comparison, "plain" and "ring".
        minimum: the fewest clients whose sum may be opened; more than two thirds of them unless given.
        aggregators: how many, for "sharing".
        bound: largest magnitude of an entry of a step; a larger one is refused at the client.
        clip: Euclidean norm to which a client scales down a longer step.
        noise: standard deviation of the noise on the sum of `minimum` clients, in units of the norm to which all that a
            client sends is clipped: of weights and, where they are sent, statistics. Weights of clients are then alike
            and no metrics are sent.
        max_weight: largest number of examples that a client may count for; 1 lets all clients count alike.
        bits: of a sent entry, 32 or 64.
        degree: neighbors of a client, for "masking" with many clients; 0 for all.
        quorum: for "masking", see `secagg.Terms`.
        statistics: of BatchNorm and the like: "shared", averaged inside the sum; "local", which stay at their owner;
            "none", for a model without any.
        statistics_bound: largest change of one in a round; a larger one is refused at the client.
        statistics_clip: Euclidean norm to which a client scales down their changes where it clips weights; 1 unless
            given.
        floor: share of its norm by which the model must move between rounds: an owner answers no model that is nearer
            to one that it answered, unless it draws its examples anew and adds noise.
        rounds: the most that an owner answers; None for any number.

    Raises:
        UnknownName: no such protocol, or nothing to do with statistics.
        BadConfig: noise without a clip, or clip and noise where nothing is added securely.
    """

    protocol: str = "sharing"
    minimum: int | None = None
    aggregators: int = 3
    bound: float = 8.0
    clip: float | None = None
    noise: float | None = None
    max_weight: int | None = None
    metrics: Mapping[str, float] | None = None
    bits: int = 32
    degree: int = 0
    quorum: tuple[int, int] = (2, 3)
    chunk: int = Terms.chunk
    statistics: str = "shared"
    statistics_bound: float = 1000.0
    statistics_clip: float | None = None
    floor: float = 1e-4
    rounds: int | None = None

    def __post_init__(self) -> None:
        if self.protocol not in NAMES:
            raise UnknownName("protocol", self.protocol, NAMES)
        if self.statistics not in STATISTICS:
            raise UnknownName("way with statistics", self.statistics, STATISTICS)
        for what, figure in (("bound", self.statistics_bound), ("clip", self.statistics_clip)):
            if figure is not None and not (math.isfinite(figure) and figure > 0):
                raise BadConfig(f"a {what} of {figure:g} on statistics", "give a positive number")
        if self.noise is not None and self.clip is None:
            raise BadConfig("noise on steps without a clip protects nobody", "set clip too")
        if self.protocol in READABLE and (self.clip is not None or self.noise is not None):
            raise BadConfig("clip and noise belong to a secure sum", "choose one: 'sharing' or 'masking'")
        if self.clip is not None and not (math.isfinite(self.clip) and self.clip > 0):
            raise BadConfig(f"a clip to the norm {self.clip}", "give a positive number")
        if not 0 <= self.floor < 1:
            raise BadConfig(f"a model that moves by {self.floor:g} of its norm", "give 0 or a share such as 1e-4")
        if self.rounds is not None and self.rounds < 1:
            raise BadConfig(f"{self.rounds} rounds that an owner answers", "allow at least 1")

    @property
    def parties_who_add(self) -> int:
        """How many aggregators take part: only shares need some.

        >>> Secure("sharing", aggregators=2).parties_who_add, Secure("masking", aggregators=2).parties_who_add
        (2, 0)
        """
        return self.aggregators if self.protocol == "sharing" else 0

    @property
    def colluders(self) -> int:
        """The fewest parties beside the server who can read an owner's update if all hand over what they hold.

        Of `masking` it is for the fewest owners who may take part, and 0 where two quorums need not meet.

        Raises:
            BadConfig: it is not settled how many owners take part at least.

        >>> Secure("sharing", aggregators=3).colluders, Secure("masking", minimum=7).colluders
        (3, 3)
        """
        if self.protocol != "masking":
            return self.parties_who_add
        if self.minimum is None:
            raise BadConfig("no minimum is settled yet", "ask `settled` first")
        holders, (part, whole) = self.degree + 1 if self.degree else self.minimum, self.quorum
        return max(0, -(-holders * (2 * part - whole) // whole))

    @property
    def largest_entry(self) -> float:
        """The largest magnitude of an entry of a step in the clear: of weights or, where that is larger, of statistics.

        >>> Secure("plain").largest_entry
        1000.0
        """
        return max(self.bound, self.statistics_bound)

    @property
    def statistics_unit(self) -> float:
        """How much of a statistic counts as 1 of a weight: a power of two, so that nothing is rounded.

        >>> Secure(bound=8.0, statistics_bound=1000.0).statistics_unit
        128.0
        """
        if self.protocol in READABLE or not 0 < self.bound < math.inf:  # which a round's terms refuse
            return 1.0
        return 2.0 ** math.ceil(math.log2(self.statistics_bound / self.bound))

    @property
    def whole_clip(self) -> float | None:
        """Euclidean norm of all that a client sends at most, in the weights' unit; None without a clip."""
        if self.clip is None or self.statistics != "shared" or self.statistics_clip is None:
            return self.clip
        return math.hypot(self.clip, self.statistics_clip / self.statistics_unit)

    def settled(self, clients: int, most: int, metrics: Mapping[str, float], *, statistics: bool = False) -> Secure:
        """Without anything left None.

        Args:
            clients: of the federation.
            most: largest number of examples of a client in a round.
            metrics: names and largest magnitudes of what clients can measure.
            statistics: whether the model has any.

        Raises:
            BadConfig: a minimum of more clients than there are, or of fewer in a ring.
        """
        alike, clip = self.noise is not None, self.statistics_clip
        if self.clip is not None and clip is None:
            clip = STATISTICS_CLIP
        largest = math.inf if self.clip is None or clip is None else clip  # beyond it nothing is sent
        return replace(
            self,
            minimum=self._minimum(clients),
            max_weight=self.max_weight or (1 if alike else most),
            metrics={} if alike else dict(metrics if self.metrics is None else self.metrics),
            bound=self.bound if self.clip is None else min(self.bound, self.clip),
            statistics=self.statistics if statistics else "none",
            statistics_bound=min(self.statistics_bound, largest),
            statistics_clip=clip,
        )

    def _minimum(self, clients: int) -> int:
        if self.protocol in RINGS:
            if self.minimum not in (None, clients):
                raise BadConfig(f"a minimum of {self.minimum} owners in a ring, which needs all {clients}", "give none")
            return clients
        if self.minimum is None:
            return min(clients, max(2, 2 * clients // 3 + 1))
        if self.minimum > clients:
            raise BadConfig(f"{self.minimum} clients are asked for and {clients} invited", "invite more")
        return self.minimum


@dataclass(frozen=True)
class Pact:
    """What a party is handed before a federation starts, out of band: whom it trusts, and on what terms.

    Args:
        secure: settled.
        roster: the parties' public keys.
        session: names the federation, 16 bytes.
    """

    secure: Secure
    roster: Roster
    session: bytes

    def terms(self, round: int, size: int, state: bytes = b"") -> Terms:
        """The terms of one round.

        Args:
            size: entries of a step.
            state: digest of the model that clients start from, as whoever asks for the terms knows it.

        Raises:
            BadConfig: figures that do not fit together.
        """
        asked = (round, size, state)
        found = self._latest.get(asked)
        if found is None:
            found = self._terms(*asked)
            self._latest.clear()
            self._latest[asked] = found
        return found

    @cached_property
    def _latest(self) -> dict[tuple[int, int, bytes], Terms]:
        """The terms that were asked for last: all parties of a process ask for the same ones."""
        return {}

    def _terms(self, round: int, size: int, state: bytes) -> Terms:
        secure = self.secure
        assert secure.minimum is not None
        assert secure.max_weight is not None
        clip = secure.whole_clip
        noise = None if secure.noise is None or clip is None else secure.noise * clip
        return Terms(
            protocol=secure.protocol,
            roster=self.roster,
            session=self.session,
            round=round,
            size=size,
            bound=secure.bound,
            minimum=secure.minimum,
            bits=secure.bits,
            max_weight=secure.max_weight,
            metrics=secure.metrics or {},
            clip=clip,
            noise=noise,
            quorum=secure.quorum,
            degree=secure.degree,
            chunk=secure.chunk,
            state=state,
            floor=secure.floor,
            rounds=secure.rounds or 0,
        )

    def release(self, size: int) -> SumRelease:
        """What the sum of a round of so many entries lets out of one owner."""
        if self.secure.noise is None:  # also where nothing is added securely
            return SumRelease(0.0, 0.0, self.secure.minimum or 1, size)
        return SumRelease.of(self.terms(0, size))


@dataclass(frozen=True)
class Keyring:
    """Every party's secrets, where one process plays them all."""

    clients: Mapping[int, Identity] = field(repr=False)
    aggregators: tuple[Identity, ...] = field(repr=False)
    opener: Identity = field(repr=False)

    @classmethod
    def fresh(cls, secure: Secure, clients: int) -> Keyring:
        """New keys for all parties, from the operating system's randomness."""
        return cls(
            {number: Identity.fresh() for number in range(clients)},
            tuple(Identity.fresh() for _ in range(secure.parties_who_add)),
            Identity.fresh(),
        )

    @property
    def roster(self) -> Roster:
        """The public parts."""
        return Roster(
            {number: identity.public for number, identity in self.clients.items()},
            self.opener.public,
            tuple(identity.public for identity in self.aggregators),
        )

    def copied(self) -> Keyring:
        """The same keys, so far unused."""
        return Keyring(
            {number: identity.copied() for number, identity in self.clients.items()},
            tuple(identity.copied() for identity in self.aggregators),
            self.opener.copied(),
        )

    def identity(self, number: int) -> Identity:
        """The identity of one party."""
        party = Party.of(number)
        if party.opens:
            return self.opener
        return self.aggregators[party.index] if party.is_aggregator else self.clients[number]

    def pact(self, secure: Secure) -> Pact:
        """A new session of these parties."""
        return Pact(secure, self.roster, secrets.token_bytes(16))
