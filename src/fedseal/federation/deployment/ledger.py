"""The rounds that a party took part in, on disk before anything of a round is sent.

A node that is started again refuses a round that it answered before: two sums that hold the same update say what it is.
"""

from __future__ import annotations

import json
from pathlib import Path

from fedseal.errors import StorageFailure
from fedseal.files import write_whole
from fedseal.secagg import Ledger, Terms

LEDGER = "ledger.json"


class StoredLedger(Ledger):
    """A ledger in a file that outlives its process.

    Raises:
        StorageFailure: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            known = json.loads(path.read_text()) if path.exists() else {}
            super().__init__({str(session): int(round) for session, round in known.items()})
        except (OSError, ValueError, AttributeError) as error:
            raise StorageFailure(
                f"'{path}' is no record of rounds ({error})",
                "make a new deployment; without the record, this party could be made to answer a round twice",
            ) from None

    def enter(self, terms: Terms) -> None:
        """As its base; the file has it when this returns.

        Raises:
            OutOfPhase: this round, or a later one of its session, was entered before.
            StorageFailure: the file cannot be written, and nothing may be sent of this round.
        """
        super().enter(terms)
        try:
            write_whole(self._path, json.dumps(self.rounds).encode())
        except StorageFailure as error:  # another place, as the remedy may be, would not know the rounds so far
            raise StorageFailure(error.fact, "make room, or mend the disk") from None
