"""A party's ledger as a file: on disk before anything of a round is sent, and refused if a byte of it was changed.

A party that is started again refuses a round that it answered: two sums that hold the same update say what it is.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from fedseal.errors import StorageFailure
from fedseal.files import make_folder, write_whole
from fedseal.json_file import Hex, JsonFile, parsed_model, read_model
from fedseal.secagg import Ledger, LedgerEntry, SumRelease

LEDGER = "ledger.json"
VERSION: Final = 2  # the first one had neither a version nor a checksum
REMEDY = "make a new deployment; without the record, this party could be made to answer a round twice"
Text = Annotated[str, Field(strict=True)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Real = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Strict(JsonFile):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, extra="forbid")


class SumReleaseFile(_Strict):
    """As `secagg.SumRelease`."""

    sensitivity: Real
    deviation: Real
    minimum: Whole
    entries: Whole


class EntryFile(_Strict):
    """As `secagg.LedgerEntry`."""

    session: Text
    round: Whole
    state: Text
    sketch: Text
    release: SumReleaseFile


class LedgerContent(_Strict):
    """What the checksum is of: the secret of the sketches, and the rounds so far."""

    secret: Hex
    entries: tuple[EntryFile, ...]


class LedgerFile(_Strict):
    """`ledger.json`."""

    version: Literal[2]
    checksum: Hex
    content: LedgerContent


def ledger_text(ledger: Ledger) -> str:
    """A ledger as the content of a file."""
    entries = tuple(
        EntryFile(
            session=entry.session,
            round=entry.round,
            state=entry.state,
            sketch=entry.sketch,
            release=SumReleaseFile(**vars(entry.release)),
        )
        for entry in ledger.entries
    )
    content = LedgerContent(secret=ledger.secret, entries=entries)
    return LedgerFile(version=VERSION, checksum=_checksum(content), content=content).text()


def ledger_of(text: str | bytes) -> Ledger:
    """What `ledger_text` wrote.

    Raises:
        StorageFailure: it did not write this.
    """
    return _checked(parsed_model(text, LedgerFile, "a record of rounds is damaged", REMEDY), "a record of rounds")


def stored_ledger(path: Path) -> Ledger:
    """The ledger of a file, which has every further round before `enter` returns.

    Raises:
        StorageFailure: there is none, or it is damaged.
    """
    if not path.exists():
        raise StorageFailure(f"there is no record of rounds '{path}'", REMEDY)
    found = _checked(read_model(path, LedgerFile, f"'{path}' is no record of rounds", REMEDY), f"'{path}'")
    return _kept(path, found)


def new_ledger(path: Path) -> Ledger:
    """A ledger without a round, in a file from now on.

    Raises:
        StorageFailure: it cannot be written.
    """
    make_folder(path.parent)
    write_whole(path, ledger_text(ledger := Ledger()).encode())
    return _kept(path, ledger)


def _kept(path: Path, ledger: Ledger) -> Ledger:
    return Ledger(ledger.entries, secret=ledger.secret, keep=lambda grown: _write(path, grown))


def _write(path: Path, ledger: Ledger) -> None:
    try:
        write_whole(path, ledger_text(ledger).encode())
    except StorageFailure as error:  # another place, as the remedy may be, would not know the rounds so far
        raise StorageFailure(error.fact, "make room, or mend the disk") from None


def _checked(file: LedgerFile, name: str) -> Ledger:
    if file.checksum != _checksum(file.content):
        raise StorageFailure(f"{name} was changed: its checksum is another one's", REMEDY)
    entries = [
        LedgerEntry(entry.session, entry.round, entry.state, entry.sketch, SumRelease(**entry.release.model_dump()))
        for entry in file.content.entries
    ]
    return Ledger(entries, secret=file.content.secret)


def _checksum(content: LedgerContent) -> bytes:
    return hashlib.sha256(content.model_dump_json().encode()).digest()
