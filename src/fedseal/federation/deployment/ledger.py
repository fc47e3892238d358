"""The rounds that a party took part in, on disk before anything of a round is sent.

A node that is started again refuses a round that it answered before: two sums that hold the same update say what it is.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import RootModel

from fedseal.errors import StorageFailure
from fedseal.files import write_whole
from fedseal.json_file import read_model
from fedseal.secagg import Ledger, Terms

LEDGER = "ledger.json"


class LedgerFile(RootModel[dict[str, int]]):
    """The last round by session, in hexadecimal."""


class StoredLedger(Ledger):
    """A ledger in a file that outlives its process.

    Raises:
        StorageFailure: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(_read(path).root if path.exists() else {})

    def enter(self, terms: Terms) -> None:
        """As its base; the file has it when this returns.

        Raises:
            OutOfPhase: this round, or a later one of its session, was entered before.
            StorageFailure: the file cannot be written, and nothing may be sent of this round.
        """
        super().enter(terms)
        try:
            write_whole(self._path, LedgerFile(self.rounds).model_dump_json().encode())
        except StorageFailure as error:  # another place, as the remedy may be, would not know the rounds so far
            raise StorageFailure(error.fact, "make room, or mend the disk") from None


def _read(path: Path) -> LedgerFile:
    return read_model(
        path,
        LedgerFile,
        f"'{path}' is no record of rounds",
        "make a new deployment; without the record, this party could be made to answer a round twice",
    )
