"""Rows of the user's own table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedseal.errors import BadConfig, UnfitBatch
from fedseal.modality import Tabular
from fedseal.modality.table import Missing, Table, read_table, read_tables
from fedseal.setup.data.dataset import Dataset


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


def _dataset(read: Table, title: str) -> Dataset:
    return Dataset(read.batch, read.modality, title, len(read.classes), tuple(str(read).splitlines()), read.classes)
