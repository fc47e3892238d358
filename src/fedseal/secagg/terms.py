"""What all parties of one round hold alike before it starts, and its digest, which every message carries.

Parties with other terms, another roster or other keys in it do not understand each other: their messages are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import index

from fedseal.errors import BadConfig
from fedseal.secagg.hazmat.keys import Public, low_order
from fedseal.secagg.hazmat.ring import FixedPoint, Ring
from fedseal.secagg.party import MOST_AGGREGATORS, OWNER, Party, aggregator

LARGEST_CHUNK = 1 << 22
LEAST_NOISE = 2.0**-64  # of the bound: below an element of any ring
PROTOCOLS = ("sharing", "masking", "masked_ring")
WHOLE = ("round", "size", "minimum", "bits", "max_weight", "degree", "chunk", "rounds")  # fields that are whole numbers


@dataclass(frozen=True)
class Roster:
    """Who may take part, known to all before the round: nobody else's message is read.

    Args:
        clients: by number below 2^63.
        aggregators: two or more for `sharing`, none for `masking`.
        opener: who opens the sum: the model owner of `sharing`, the server of `masking`.
    """

    clients: Mapping[int, Public]
    opener: Public
    aggregators: tuple[Public, ...] = ()

    def __post_init__(self) -> None:
        if not all(Party.of(number).is_client for number in self.clients):
            raise BadConfig("a client's number is not between 0 and 2^63", "number the clients from 0")
        keys = [*self.clients.values(), self.opener, *self.aggregators]
        for what in ("verifying", "sealing"):
            if len({getattr(key, what) for key in keys}) < len(keys):
                raise BadConfig("two parties of the roster have one key", "give every party an identity of its own")
        if any(low_order(key.sealing) for key in keys):
            raise BadConfig(
                "a key of the roster is of low order: everyone could open what is sealed for it", "ask for another"
            )
        object.__setattr__(self, "clients", dict(sorted(self.clients.items())))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all keys, in order."""
        everyone = [*self.clients.items(), (OWNER, self.opener)]
        everyone += [(aggregator(place), public) for place, public in enumerate(self.aggregators)]
        data = b"".join(who.to_bytes(8, "little") + key.verifying + key.sealing for who, key in everyone)
        return hashlib.sha256(data).digest()


@dataclass(frozen=True)
class Terms:
    """One round: who, what is added, and what makes the sum safe to open.

    Args:
        protocol: `sharing`, `masking` or `masked_ring`.
        session: names the training, 16 bytes that are drawn once for it.
        round: counts within the session; a client takes part in each at most once.
        size: entries of an update.
        bound: largest magnitude of an entry, after clipping. Larger ones are refused at the client.
        minimum: the fewest clients whose sum may be opened, at least 2.
        bits: of the ring, 32 or 64.
        max_weight: largest weight (number of examples) of a client. The entries of the sum are weighted, so that a
            larger one costs bits after the point: see `error`.
        metrics: names of numbers that are averaged beside the update, with the largest magnitude of each.
        clip: Euclidean norm to which a client scales down a longer update.
        noise: standard deviation of the discrete Gaussian noise on every entry of the sum of `minimum` clients, in the
            update's unit; each client adds its share, so that a larger cohort has more.
        quorum: share (numerator, denominator) of holders that must act together, `masking` only: at least a half.
        degree: others that a client draws to hold shares of its secrets, `masking` only; 0 for all. It shares masks
            with them and with those who drew it.
        chunk: ring elements a message.
        state: SHA-256 of what the clients start from, 32 bytes; empty where they start from nothing. Parties that hold
            other states do not understand each other, so that nobody is given one of its own and added up with others.
        floor: by which share of its norm the model must have moved from every one that a client answered; see `Ledger`.
        rounds: most of this session that a client answers; 0 for any number.

    Raises:
        BadConfig: figures that mean nothing, or that do not fit the ring.
    """

    protocol: str
    roster: Roster
    session: bytes
    round: int
    size: int
    bound: float
    minimum: int
    bits: int = 32
    max_weight: int = 1
    metrics: Mapping[str, float] = field(default_factory=dict)
    clip: float | None = None
    noise: float | None = None
    quorum: tuple[int, int] = (2, 3)
    degree: int = 0
    chunk: int = 1 << 18
    state: bytes = b""
    floor: float = 0.0
    rounds: int = 0

    def __post_init__(self) -> None:
        exact = {
            "metrics": {name: float(most) for name, most in sorted(self.metrics.items())},
            "bound": float(self.bound),
            "floor": float(self.floor),
        }
        exact |= {name: float(getattr(self, name)) for name in ("clip", "noise") if getattr(self, name) is not None}
        exact |= {name: index(getattr(self, name)) for name in WHOLE}
        for name, value in exact.items():  # 8 and 8.0 are the same terms and must have one digest
            object.__setattr__(self, name, value)
        for wrong, fact, remedy in self._wrong():
            if wrong:
                raise BadConfig(fact, remedy)
        _ = self.codec

    def _wrong(self) -> list[tuple[bool, str, str]]:
        clients, (part, whole) = len(self.roster.clients), self.quorum
        figures = [self.bound, *self.metrics.values(), *([self.clip] if self.clip is not None else [])]
        sharing = self.protocol == "sharing"
        return [
            (self.protocol not in PROTOCOLS, f"there is no protocol '{self.protocol}'", f"choose of {PROTOCOLS}"),
            (len(self.session) != 16, "a session's name is not 16 bytes", "draw it with secrets.token_bytes(16)"),
            (len(self.state) not in (0, 32), "a state's digest is not 32 bytes", "hand in its SHA-256, or nothing"),
            (
                not 0 <= self.floor < 1,
                f"a model that moves by {self.floor:g} of its norm",
                "ask for 0 or a small share",
            ),
            (self.rounds < 0, f"{self.rounds} rounds to answer", "allow 1 or more, or 0 for any number"),
            (not 0 <= self.round < 2**32, f"there is no round {self.round}", "count the rounds from 0"),
            (not 1 <= self.size < 2**40, f"an update of {self.size} entries", "send one with entries"),
            (self.minimum < 2, "a sum of one client is its update", "ask for a cohort of 2 or more"),
            (self.minimum > clients, f"{self.minimum} clients are asked for and {clients} invited", "invite more"),
            (
                not all(math.isfinite(figure) and figure > 0 for figure in figures),
                "a bound or a norm is not above zero",
                "declare finite ones",
            ),
            (self.max_weight < 1, f"no weight is at most {self.max_weight}", "allow 1 or more"),
            (
                self.noise is not None and (not math.isfinite(self.noise) or self.noise <= 0 or self.clip is None),
                "noise on updates without a clip, or none",
                "set clip and a noise above zero",
            ),
            (
                self.noise is not None and 0 < self.noise < LEAST_NOISE * self.bound,
                f"noise of {self.noise} on values up to {self.bound:g} leaves all of them as they are",
                "set a larger noise, or none",
            ),
            (
                self.noise is not None and self.max_weight > 1,
                "noise protects a client's update, and its weight would be opened beside it",
                "leave max_weight at 1",
            ),
            (
                sharing and not 2 <= len(self.roster.aggregators) <= MOST_AGGREGATORS,
                f"{len(self.roster.aggregators)} aggregators",
                f"name 2 to {MOST_AGGREGATORS}, who do not all collude",
            ),
            (not sharing and bool(self.roster.aggregators), f"{self.protocol} has no aggregators", "name none"),
            (not part < whole <= 2 * part, f"a quorum of {part}/{whole}", "ask for at least a half and less than all"),
            (
                bool(self.degree) and not 4 <= self.degree < clients,
                f"{self.degree} neighbors of {clients} clients",
                "take 4 or more, or 0 for all",
            ),
            (
                not 8 <= self.chunk <= LARGEST_CHUNK or self.chunk % 8 != 0,
                f"a chunk of {self.chunk} elements",
                f"take a multiple of 8 up to {LARGEST_CHUNK}",
            ),
        ]

    @cached_property
    def codec(self) -> FixedPoint:
        """How numbers stand in the ring."""
        deviation = self.noise / math.sqrt(self.minimum) if self.noise else 0.0
        clients = len(self.roster.clients)
        ring = Ring(self.bits)
        if self.max_weight * clients > ring.largest:
            raise BadConfig(f"weights up to {self.max_weight} do not fit {self.bits} bits", "choose bits=64")
        return FixedPoint(ring, self.bound * self.max_weight, clients, deviation)

    @property
    def error(self) -> float:
        """Largest rounding error of an entry of the weighted sum; divided by the weights' sum, of the mean."""
        return self.codec.error

    @property
    def deviation(self) -> float:
        """Standard deviation of one client's share of the noise, in elements."""
        return self.codec.deviation * self.codec.scale

    def threshold(self, holders: int) -> int:
        """More than the quorum's share of them, so that two thresholds of one set always meet."""
        part, whole = self.quorum
        return holders * part // whole + 1

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that stand for these terms in every message."""
        facts = {name: value for name, value in vars(self).items() if name in self.__dataclass_fields__}
        facts |= {
            "roster": self.roster.digest.hex(),
            "session": self.session.hex(),
            "state": self.state.hex(),
            "metrics": list(self.metrics.items()),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
