"""Rows of the user's own table."""

from __future__ import annotations

from pathlib import Path

from fedseal.modality import Tabular
from fedseal.modality.table import Missing, Table, read_table
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
    read = read_table(path, label=label, missing=missing, like=schema)
    return Dataset(read.batch, read.modality, path.stem, len(read.classes), tuple(str(read).splitlines()), read.classes)
