"""How a CSV file is written, and what stands in it: separators by its first lines, numbers by all rows that are kept.

Every field is read as text. What a column is, and which sign its decimals have, is decided over all of these at once,
so that it hangs neither on where in the file a value stands nor on what the first rows happen to be.
"""

from __future__ import annotations

import codecs
import csv
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedseal.errors import StorageFailure, UnfitBatch, brief

if TYPE_CHECKING:
    import pandas as pd

LOOKED_AT = 65_536  # bytes at the beginning
ROWS = 50
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MARK = b"\xef\xbb\xbf"  # of UTF-8, as spreadsheets write it
LONG = 18  # digits of a whole number that int64 holds
WHOLE = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?|inf(?:inity)?)", re.IGNORECASE)
PARTED = re.compile(r"[+-]?[0-9]{1,3}(?:[ '\u2019\u00a0\u202f][0-9]{3})+(?:[.,][0-9]+)?")  # by what is no decimal sign
GROUPS = re.compile(r"[+-]?[0-9]{1,3}(?:(?:\.[0-9]{3})+(?:,[0-9]+|\.[0-9]{3})|(?:,[0-9]{3})+(?:\.[0-9]+|,[0-9]{3}))")
EITHER = re.compile(r"[+-]?[1-9][0-9]{0,2}[.,][0-9]{3}")  # thousands, or three decimals
NOTHING = frozenset({"", "?"})  # the tables of the UCI repository mark a missing value by ?
INDEFINITE = {"-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"}
NO_VALUE = NOTHING | INDEFINITE | {"NaN", "nan", "-NaN", "-nan", "NULL", "null"}
NO_VALUE |= {"NA", "<NA>", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA"}  # with the above, those that pandas knows
NO_NUMBER = NO_VALUE | {"None"}  # among words it is one of them: no allergy, no smoker
TRUTH = {"true": "True", "false": "False"}


@dataclass(frozen=True)
class Dialect:
    """What separates columns, and notes on what is not usual."""

    separator: str
    notes: tuple[str, ...] = ()


def dialect(path: Path) -> Dialect:
    """The dialect of a file; what cannot be told is taken for the usual one of its name.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        begin = file.read(LOOKED_AT)
    lines = begin.decode("utf-8-sig", "replace").splitlines()[: ROWS + (len(begin) < LOOKED_AT)]
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = {sign: list(csv.reader(lines, delimiter=sign, skipinitialspace=True)) for sign in SEPARATORS}
    width = {sign: len(found[0]) if _even(found) else 1 for sign, found in rows.items()}
    separator = max(SEPARATORS, key=lambda sign: (width[sign], sign == usual)) if max(width.values()) > 1 else usual
    notes = []
    if separator != usual:
        notes.append(f"columns are separated by {SEPARATORS[separator]}")
    if begin.startswith(MARK):
        notes.append("began with a byte-order mark")
    return Dialect(separator, tuple(notes))


def _even(rows: list[list[str]]) -> bool:
    """Whether all rows have as many fields as the first; the last one may be cut off."""
    full = [row for row in rows[:-1] or rows if row]
    return bool(full) and len({len(row) for row in full}) == 1


def pieces_of(path: Path, separator: str, size: int) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The names in the first line, and up to `size` rows at a time, all as texts; a table without rows has one piece.

    Raises:
        StorageFailure: a row that has another number of fields than there are names, which would shift its values, or
            text that is not UTF-8.
        OSError, csv.Error: what is no such file.
    """
    try:
        yield from _pieces(path, separator, size)
    except UnicodeDecodeError:
        raise _no_utf8(path) from None


def _no_utf8(path: Path) -> StorageFailure:
    """What is wrong with a file that is not in UTF-8: where it first is not, and what stands there."""
    why = "it is not in UTF-8"
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                why = "it is in UTF-16"
                break
            if b"\0" in line:
                why = f"line {number} holds a byte of 0, as UTF-16 does and what is no text"
                break
            try:
                line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                near = line[max(0, error.start - 10) : error.start + 10].decode("latin-1").strip()
                why = f"line {number} is not in UTF-8, and in Latin-1 it would say {brief(repr(near))}"
                break
    return StorageFailure(
        f"'{path}' cannot be read as a table ({why})", "save it as UTF-8 (in a spreadsheet: CSV UTF-8), or give parquet"
    )


def _pieces(path: Path, separator: str, size: int) -> Iterator[tuple[list[str], list[list[str]]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = (row for row in csv.reader(file, delimiter=separator, skipinitialspace=True) if row)
        names = next(lines, None)
        if names is None:
            raise StorageFailure(f"'{path}' cannot be read as a table (it is empty)", "give a CSV or parquet file")
        if any("\0" in name for name in names):
            raise _no_utf8(path)
        number = 0
        while (rows := list(islice(lines, size))) or number == 0:
            for row in rows:
                number += 1
                if len(row) != len(names):
                    raise StorageFailure(
                        f"'{path}' cannot be read as a table (row {number} has {len(row)} fields, and its line of "
                        f"names has {len(names)})",
                        "give every row as many fields as there are names, a field with a separator in quotes",
                    )
            yield names, rows
            if not rows:
                return


def plain(text: str) -> str:
    """A name as it is compared: without spaces around it, and in one of the forms that Unicode has for a letter.

    >>> plain(" o\\u0308 ") == "\\u00f6"
    True
    """
    return unicodedata.normalize("NFC", text.strip())


def word(text: str) -> str:
    """A category as it is compared; spreadsheets write TRUE what others write True.

    >>> word("TRUE "), word("Unknown"), word("250.00")
    ('True', 'Unknown', '250.00')
    """
    found = plain(text)
    return TRUTH.get(found.lower(), found)


def typed(fields: pd.DataFrame, label: str, where: str, semicolons: bool, notes: list[str]) -> pd.DataFrame:
    """Columns of texts as what they are: numbers where every value is one, else words; the label as it is written.

    Missing values become nan, and `attrs["missing"]` says by column where the first stands, and as what.

    Args:
        where: the table is, for errors.
        semicolons: separate its columns, as where the decimal sign is a comma.
        notes: what was found out is appended.

    Raises:
        UnfitBatch: numbers with decimal points and commas, or with signs between thousands.
    """
    import pandas as pd

    texts = {str(name): [field.strip() for field in fields[name].tolist()] for name in fields.columns}
    numbers = {name for name, column in texts.items() if _numeric(column)}
    rows = [int(row) + 1 for row in fields.index]
    among = {name: column for name, column in texts.items() if name in numbers - {label}}
    comma = _decimal(among, rows, where, semicolons)
    if comma:
        notes.append("numbers have decimal commas")
    columns: dict[str, pd.Series] = {}
    missing: dict[str, tuple[int, str]] = {}
    for name, column in texts.items():
        marks = NO_NUMBER if name in numbers else NO_VALUE
        absent = next((row for row, field in enumerate(column) if field in marks), None)
        if absent is not None:
            missing[name] = int(fields.index[absent]) + 1, column[absent]
        if name in numbers and name != label:
            columns[name] = pd.Series(_numbers(column, comma), index=fields.index)
            continue
        made = [None if field in marks else word(field) for field in column]
        columns[name] = pd.Series(made, index=fields.index, dtype=object)
        if name != label and (some := next((f for f in column if f not in marks and NUMBER.fullmatch(f)), None)):
            other = next(field for field in column if field not in marks and not NUMBER.fullmatch(field))
            notes.append(
                f"column '{brief(name)}' is read as words, since {brief(repr(other))} is no number as "
                f"{brief(repr(some))} is"
            )
    frame = pd.DataFrame(columns, index=fields.index)
    frame.attrs["missing"] = missing
    return frame


def _numeric(column: Sequence[str]) -> bool:
    """Whether all that has a value is a number, however its decimals and thousands are written."""
    there = set(column) - NO_NUMBER
    return bool(there) and all(NUMBER.fullmatch(f) or GROUPS.fullmatch(f) or PARTED.fullmatch(f) for f in there)


def _decimal(columns: dict[str, list[str]], rows: Sequence[int], where: str, semicolons: bool) -> bool:
    """Whether the decimal sign is a comma.

    Args:
        rows: their numbers in the file.
    """
    fields = [
        (row, name, field)
        for name, column in columns.items()
        for row, field in zip(rows, column, strict=True)
        if field not in NO_NUMBER and not WHOLE.fullmatch(field)
    ]
    if certain := next((field for field in fields if not NUMBER.fullmatch(field[2])), None):
        raise UnfitBatch(
            f"{where} writes a number as '{brief(certain[2])}' (row {certain[0]}, column '{brief(certain[1])}')",
            "leave out signs between thousands",
        )
    commas, points = (next((field for field in fields if sign in field[2]), None) for sign in ",.")
    if commas and points:
        raise UnfitBatch(
            f"{where} has numbers with decimal commas ('{brief(commas[2])}') and with points ('{brief(points[2])}')",
            "write all numbers alike, without signs between thousands",
        )
    signed = commas or (points if semicolons else None)
    if signed and all(EITHER.fullmatch(field) for _, _, field in fields if "," in field or "." in field):
        raise UnfitBatch(
            f"{where} writes a number as '{signed[2]}' (row {signed[0]}, column '{brief(signed[1])}'), which may be "
            "thousands or three decimals",
            "leave out signs between thousands, or separate columns by commas and write decimals with points",
        )
    return commas is not None


def _numbers(column: Sequence[str], comma: bool) -> np.ndarray:
    """Fields as whole numbers where all are, else as floats with nan for what is missing."""
    if all(WHOLE.fullmatch(field) and len(field) <= LONG for field in column):
        return np.array([int(field) for field in column], np.int64)
    signed = (field.replace(",", ".") if comma else field for field in column)
    return np.array([float("nan") if field in NO_NUMBER else float(field) for field in signed], np.float64)
