"""Rows of the user's own table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedseal.errors import BadConfig, StorageFailure, UnfitBatch
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
        with _decoded(path):
            read = read_table(path, label=label, missing=missing, like=schema)
    except (UnfitBatch, BadConfig) as error:
        if like is None or str(path) in error.fact:
            raise
        raise type(error)(f"in '{path}': {error.fact}", error.remedy) from None
    return _dataset(read, path.stem)


def common(paths: Sequence[Path], *, label: str) -> Dataset:
    """All rows of several owners' tables as one, by whose schema and classes each of them is read."""
    with _decoded(*paths):
        return _dataset(read_tables(paths, label=label), "common")


@contextmanager
def _decoded(*paths: Path) -> Iterator[None]:
    """Says what pyarrow raises of texts that it decodes late: when they are used, and not when the file is read.

    Raises:
        StorageFailure: it raised something.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "pyarrow":
            raise
        named = ", ".join(f"'{path}'" for path in paths)
        why = " ".join(str(error).split())
        raise StorageFailure(f"{named} holds what is no text ({why})", "copy it anew, or write it in UTF-8") from None


def _dataset(read: Table, title: str) -> Dataset:
    return Dataset(read.batch, read.modality, title, len(read.classes), tuple(str(read).splitlines()), read.classes)
