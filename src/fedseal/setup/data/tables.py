"""Rows of the user's own table, by their own schema or by one that was agreed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fedseal.errors import BadConfig, UnfitBatch, brief
from fedseal.modality import Tabular
from fedseal.modality.columns import by_size, category_name, some
from fedseal.modality.csv_dialect import plain
from fedseal.modality.frame import marked, read_frame
from fedseal.modality.table import LIMIT, Missing, Table, read_table, read_tables
from fedseal.setup.data.dataset import Dataset
from fedseal.setup.data.terms import ColumnTerms, DataTerms
from fedseal.types import Batch

if TYPE_CHECKING:
    import pandas as pd

NEAR = 1e-9  # share of a range by which a value may lie outside, as decimals become floats


def table(path: Path, *, label: str, missing: Missing = "refuse", like: Dataset | None = None) -> Dataset:
    """The rows of a CSV or parquet file, encoded; see `fedseal.modality.table.read_table`.

    Args:
        label: the column of the class.
        like: rows read before, whose schema and classes hold for these too.
    """
    schema = None
    if like is not None and isinstance(like.modality, Tabular):
        schema = Table(like.batch, like.modality, like.names, label, ())
    try:
        read = read_table(path, label=label, missing=missing, like=schema)
    except (UnfitBatch, BadConfig) as error:
        if like is None or str(path) in error.fact:
            raise
        raise type(error)(f"in '{path}': {error.fact}", error.remedy) from None
    return _dataset(read, path.stem)


def common(paths: Sequence[Path], *, label: str) -> Dataset:
    """All rows of several owners' tables as one, by whose schema and classes each of them is read."""
    return _dataset(read_tables(paths, label=label), "common")


def frame_of(path: Path, label: str, notes: list[str]) -> pd.DataFrame:
    """The rows of a table as they stand in the file, none of which lacks a value.

    Args:
        label: the column of the class.
        notes: what was found out in reading is appended.

    Raises:
        StorageFailure, MissingExtra: it cannot be read.
        BadConfig: it has no such column.
        UnfitBatch: a value is missing.
    """
    label = plain(label)
    frame = read_frame(path, LIMIT, notes, label)
    if label not in frame.columns:
        raise BadConfig(
            f"'{path}' has no column '{brief(label)}'", f"its columns are {some(list(frame.columns), quoted=False)}"
        )
    if len(frame.columns) < 2:
        raise UnfitBatch(f"'{path}' has no column but '{brief(label)}'", "give a table with more")
    absent = frame.replace([float("inf"), float("-inf")], float("nan")).isna()
    for name in frame.columns:
        if bool(absent[name].any()):
            row, mark = marked(frame).get(name, (_first(absent[name]), ""))
            stands = f", where {brief(repr(mark))} stands" if mark else ""
            raise UnfitBatch(
                f"'{path}' has no value in some rows of '{brief(name)}', the first of which is row {row}{stands}",
                "complete them, or leave them out; a category needs a name that does not stand for a missing value",
            )
    return frame


def category_names(values: pd.Series) -> tuple[str, ...]:
    """All values of a column as categories are named, numbers by size."""
    return tuple(dict.fromkeys(category_name(value) for value in sorted(values.unique().tolist(), key=by_size)))


def agreed_table(path: Path, terms: DataTerms) -> Dataset:
    """The rows of a table, encoded as was agreed on.

    Raises:
        UnfitBatch: another column, or a value that was not agreed on.
        StorageFailure, BadConfig, MissingExtra: as `frame_of`.
    """
    assert terms.label is not None
    notes: list[str] = []
    frame = frame_of(path, terms.label, notes)
    named = {terms.label, *(column.name for column in terms.columns)}
    if lacking := sorted(named - set(frame.columns)):
        raise UnfitBatch(f"'{path}' has no column '{brief(lacking[0])}', which was agreed on", "give such a table")
    if foreign := sorted(set(frame.columns) - named):
        raise UnfitBatch(f"'{path}' has the column '{brief(foreign[0])}', which was not agreed on", "leave it out")
    for column in terms.columns:
        _check_column(frame[column.name], column, path)
    classes = frame[terms.label].map(category_name)
    if bool((strange := ~classes.isin(terms.names)).any()):
        row = _first(strange)
        raise UnfitBatch(
            f"row {row} of '{path}' has the class '{brief(classes[row - 1])}', which was not agreed on",
            f"those are {some(terms.names, quoted=False)}",
        )
    schema = Table(Batch(torch.zeros(1, 1), torch.zeros(1)), terms.table(), terms.names, terms.label, ())
    read = read_table(frame, label=terms.label, like=schema)
    return _dataset(replace(read, notes=(*notes, *read.notes)), path.stem)


def _check_column(values: pd.Series, column: ColumnTerms, path: Path) -> None:
    from pandas.api.types import is_numeric_dtype

    if column.kind == "numbers":
        known = f"{column.low:g} to {column.high:g}"
        slack = NEAR * max(abs(column.low), abs(column.high))
        if is_numeric_dtype(values):
            strange = ~values.astype(float).between(column.low - slack, column.high + slack)
        else:  # one text makes texts of all
            strange = ~values.map(_reads_as_number)
            strange = strange if bool(strange.any()) else ~strange
    else:
        strange, known = ~values.map(category_name).isin(column.values), some(column.values)
    if bool(strange.any()):
        row = _first(strange)
        raise UnfitBatch(
            f"row {row} of '{path}' has {brief(repr(category_name(values[row - 1])))} in the column "
            f"'{brief(column.name)}', and {known} was agreed on",
            "correct it, or agree anew with a proposal of this table",
        )


def _first(marked: pd.Series) -> int:
    """The number in its file of the first row that is marked: of a long table not all rows are here."""
    return int(marked.index[int(marked.to_numpy().argmax())]) + 1


def _reads_as_number(value: object) -> bool:
    try:
        float(str(value).replace(",", "."))
    except ValueError:
        return False
    return True


def _dataset(read: Table, title: str) -> Dataset:
    return Dataset(read.batch, read.modality, title, len(read.classes), tuple(str(read).splitlines()), read.classes)
