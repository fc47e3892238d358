"""How a CSV file is written: what separates its columns, what its decimal sign is, told from its first lines."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from fedseal.errors import UnfitBatch, brief

LOOKED_AT = 65_536  # bytes at the beginning
ROWS = 50
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
POINT, COMMA = re.compile(r"[+-]?\d*\.\d+"), re.compile(r"[+-]?\d*,\d+")
MIXED = re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d+|[+-]?\d{1,3}(,\d{3})+\.\d+")
MARK = b"\xef\xbb\xbf"  # of UTF-8, as spreadsheets write it


@dataclass(frozen=True)
class Dialect:
    """What separates columns, the decimal sign, and notes on what is not usual."""

    separator: str
    decimal: str
    notes: tuple[str, ...] = ()


def dialect(path: Path) -> Dialect:
    """The dialect of a file; what cannot be told is taken for the usual one of its name.

    Raises:
        OSError: the file cannot be read.
        UnfitBatch: numbers with decimal points and commas, or with signs between thousands.
    """
    with path.open("rb") as file:
        begin = file.read(LOOKED_AT)
    lines = begin.decode("utf-8-sig", "replace").splitlines()[: ROWS + (len(begin) < LOOKED_AT)]
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = {sign: list(csv.reader(lines, delimiter=sign, skipinitialspace=True)) for sign in SEPARATORS}
    width = {sign: len(found[0]) if _even(found) else 1 for sign, found in rows.items()}
    separator = max(SEPARATORS, key=lambda sign: (width[sign], sign == usual)) if max(width.values()) > 1 else usual
    decimal = _decimal([field.strip() for row in rows[separator][1:] for field in row], path)
    notes = []
    if separator != usual:
        notes.append(f"columns are separated by {SEPARATORS[separator]}")
    if decimal != ".":
        notes.append("numbers have decimal commas")
    if begin.startswith(MARK):
        notes.append("began with a byte-order mark")
    return Dialect(separator, decimal, tuple(notes))


def _even(rows: list[list[str]]) -> bool:
    """Whether all rows have as many fields as the first; the last one may be cut off."""
    full = [row for row in rows[:-1] or rows if row]
    return bool(full) and len({len(row) for row in full}) == 1


def _decimal(fields: list[str], path: Path) -> str:
    thousands = next((field for field in fields if MIXED.fullmatch(field)), None)
    commas = next((field for field in fields if COMMA.fullmatch(field)), None)
    points = next((field for field in fields if POINT.fullmatch(field)), None)
    if thousands is not None:
        raise UnfitBatch(f"'{path}' writes a number as '{brief(thousands)}'", "leave out signs between thousands")
    if commas is not None and points is not None:
        raise UnfitBatch(
            f"'{path}' has numbers with decimal commas ('{brief(commas)}') and with points ('{brief(points)}')",
            "write all numbers alike",
        )
    return "," if commas is not None else "."
