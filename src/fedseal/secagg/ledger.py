"""Which rounds a client took part in, so that nobody can have it take part in one twice.

Two sums of one round, one with a client and one without, differ by that client's update.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedseal.secagg.errors import OutOfPhase
from fedseal.secagg.terms import Terms


class Ledger:
    """The last round of every session. A client keeps it over restarts: `rounds` is what to store.

    >>> Ledger({"00" * 16: 3}).rounds["00" * 16]
    3
    """

    def __init__(self, rounds: Mapping[str, int] | None = None) -> None:
        self._rounds = dict(rounds or {})

    @property
    def rounds(self) -> dict[str, int]:
        """The last round by session, in hexadecimal."""
        return dict(self._rounds)

    def enter(self, terms: Terms) -> None:
        """Note a round before anything of it is sent.

        Raises:
            OutOfPhase: this round, or a later one of its session, was entered before.
        """
        session = terms.session.hex()
        last = self._rounds.get(session, -1)
        if terms.round <= last:
            raise OutOfPhase(
                f"this client contributed to round {last} already, and is asked for round {terms.round}",
                "start a round with a higher number",
            )
        self._rounds[session] = terms.round
