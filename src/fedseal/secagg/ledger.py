"""Which rounds a party answered, from which models, and with how much noise, so that nobody can have it answer twice.

Two sums of one round, one with a client and one without, differ by that client's update. So do two sums of two rounds
that start from one model, unless the client draws its examples anew and adds noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedseal.secagg.accounting import SumRelease
from fedseal.secagg.errors import KnownState, OutOfPhase, Overspent
from fedseal.secagg.hazmat.prg import fresh_seed
from fedseal.secagg.sketch import sketch_of
from fedseal.secagg.terms import Terms

Reals32 = NDArray[np.float32]
NOTHING: Reals32 = np.zeros(0, "<f4")


@dataclass(frozen=True)
class LedgerEntry:
    """One round that was answered.

    Args:
        session: in hexadecimal.
        state: SHA-256 of the model it started from, in hexadecimal; empty where there was none.
        sketch: of that model's parameters, float32 in hexadecimal; empty where none was made.
        release: what its sum lets out.
    """

    session: str
    round: int
    state: str
    sketch: str
    release: SumRelease

    @cached_property
    def place(self) -> Reals32:
        """The sketch as numbers."""
        return np.frombuffer(bytes.fromhex(self.sketch), "<f4")


class _Arrival(NamedTuple):
    state: bytes
    sketch: Reals32
    anew: bool


class Ledger:
    """All rounds so far.

    Args:
        entries: in the order in which they were answered.
        secret: 32 bytes from which this party's sketches are made; drawn if left out.
        keep: called with the ledger whenever it has grown, before anything of the round is sent; what it raises is
            raised by `enter`.

    >>> Ledger().rounds
    {}
    """

    def __init__(
        self,
        entries: Iterable[LedgerEntry] = (),
        *,
        secret: bytes | None = None,
        keep: Callable[[Ledger], None] = lambda ledger: None,
    ) -> None:
        self.entries, self.secret = tuple(entries), secret or fresh_seed()
        self._keep, self._arrival = keep, _Arrival(b"", NOTHING, anew=False)

    @property
    def rounds(self) -> dict[str, int]:
        """The last round by session, in hexadecimal."""
        found: dict[str, int] = {}
        for entry in self.entries:
            found[entry.session] = max(entry.round, found.get(entry.session, -1))
        return found

    def sketch(self, arrays: Iterable[Reals32]) -> Reals32:
        """A sketch of a model's parameters, as only this party makes it."""
        return sketch_of(arrays, self.secret)

    def arrived(self, state: bytes, sketch: Reals32 | None = None, *, anew: bool = False) -> None:
        """What is known of the model from which the next round to be entered starts.

        Args:
            state: its digest.
            sketch: of its parameters.
            anew: whether this party draws its examples anew, so that the same model gives it another update.
        """
        self._arrival = _Arrival(state, NOTHING if sketch is None else sketch, anew)

    def admit(self, terms: Terms) -> None:
        """Whether a round may be entered.

        Raises:
            OutOfPhase: this round, or a later one of its session, was entered before.
            Overspent: as many as were agreed on.
            KnownState: it starts from a model that a round entered before started from, or from one nearer to that than
                the terms' floor, or from one of which that cannot be told, and the party does not both draw anew and
                add noise.
        """
        self.check_due(terms.session, terms.round, terms.rounds)
        arrival = self._here(terms)
        if not terms.state or (arrival.anew and terms.noise is not None):
            return
        if any(entry.state == terms.state.hex() for entry in self.entries):
            raise KnownState("this party answered a round from the same model", "move the model, or end the training")
        if not np.isfinite(arrival.sketch).all():
            raise KnownState(
                "a weight of the model is no number, or so large that nobody can tell how far the model moved",
                "send weights of common size",
            )
        change = self.nearest(arrival.sketch)
        if change < terms.floor:
            raise KnownState(
                f"the model moved by {change:.1e} of its norm since this party answered it, and at least "
                f"{terms.floor:g} was agreed on",
                "move it further, end the training, or agree on a lower floor",
            )

    def check_due(self, session: bytes, round: int, rounds: int) -> None:
        """Whether a round comes after all that were answered, and is not one too many.

        Args:
            rounds: most of the session; 0 for any number.

        Raises:
            OutOfPhase, Overspent: as `admit`.
        """
        mine = [entry.round for entry in self.entries if entry.session == session.hex()]
        if mine and round <= max(mine):
            raise OutOfPhase(
                f"this party answered round {max(mine)} already, and is asked for round {round}",
                "start a round with a higher number",
            )
        if rounds and len(mine) >= rounds:
            raise Overspent(f"this party answered {len(mine)} rounds, as many as were agreed on", "agree on more first")

    def enter(self, terms: Terms) -> None:
        """Note a round before anything of it is sent.

        Raises:
            OutOfPhase, Overspent, KnownState: as `admit`.
        """
        self.admit(terms)
        self.note(entry_of(terms, self._here(terms).sketch))

    def note(self, entry: LedgerEntry) -> None:
        """Add an entry, unless it is here, whatever it says."""
        if entry not in self.entries:
            self.entries = (*self.entries, entry)
            self._keep(self)

    def nearest(self, sketch: Reals32) -> float:
        """How far parameters of this sketch are from the nearest that were answered, as a share of the larger norm.

        Infinite where there is nothing to compare.
        """
        own = sketch.astype(np.float64)
        answered = [entry.place for entry in self.entries if len(entry.place) == own.size > 0]
        answered = [place for place in answered if np.isfinite(place).all()]  # else there is no distance
        if not answered:
            return float("inf")
        places = np.array(answered, np.float64)
        larger = np.maximum(np.linalg.norm(own), np.linalg.norm(places, axis=1))
        larger[larger == 0] = 1.0
        return float((np.linalg.norm(own - places, axis=1) / larger).min())

    def _here(self, terms: Terms) -> _Arrival:
        if self._arrival.state == terms.state:
            return self._arrival
        return _Arrival(terms.state, NOTHING, anew=False)


def entry_of(terms: Terms, sketch: Reals32) -> LedgerEntry:
    """The entry of a round."""
    release = SumRelease.of(terms)
    return LedgerEntry(terms.session.hex(), terms.round, terms.state.hex(), sketch.tobytes().hex(), release)
