"""Reading a table: CSV, parquet or a pandas frame, its schema inferred, and a note for everything that was changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch

from fedseal.errors import BadConfig, UnfitBatch, brief
from fedseal.modality.columns import Column, category_name, some
from fedseal.modality.csv_dialect import plain
from fedseal.modality.frame import marked, read_frame
from fedseal.modality.schema import as_number, column_of, counts_rows, meaning_one, ordered
from fedseal.modality.tabular import Tabular
from fedseal.types import Batch

if TYPE_CHECKING:
    import pandas as pd

Missing = Literal["refuse", "drop", "fill"]
LIMIT = 50_000  # rows that are drawn from a larger table
CLASSES = 100  # classes at most
MISSING = "(missing)"  # the category that stands for a missing value where it is filled in


@dataclass(frozen=True)
class Table:
    """A table that was read: encoded rows with labels, the schema, the names of the classes, and notes.

    `print(table)` shows the schema and the notes.
    """

    batch: Batch
    modality: Tabular
    classes: tuple[str, ...]
    label: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{len(self.batch):,} rows; label '{self.label}' with the classes {some(self.classes, quoted=False)}"
        return "\n".join([head, str(self.modality), *[f"note: {note}" for note in self.notes]])


def read_table(
    source: str | Path | pd.DataFrame,
    *,
    label: str,
    missing: Missing = "refuse",
    categorical: Sequence[str] = (),
    continuous: Sequence[str] = (),
    drop: Sequence[str] = (),
    like: Table | None = None,
    limit: int = LIMIT,
) -> Table:
    """Read rows with labels, and infer the schema unless a table with one is given.

    Texts are categories. Numbers are continuous, unless they are whole, of few values, each of which occurs often:
    then they are codes. Classes are named as they are written. Constant columns and those without a name are left out
    with a note. Of more than `limit` rows so many are drawn, always the same.

    Args:
        source: a `.csv` (`.tsv`) or `.parquet` file, or a frame.
        label: the column of the class.
        missing: "refuse" a table with missing values; "drop" the rows that have any; "fill" the median in for a
            number and the category "(missing)" for a text.
        categorical, continuous: columns that are so whatever they look like.
        drop: columns to leave out.
        like: a table whose schema and classes hold for this one too.
        limit: rows to keep.

    Raises:
        StorageFailure: the file cannot be read.
        UnfitBatch: missing values, no label column, one row or one class where a schema is to be inferred,
            values that do not fit the schema given, one class written in two ways.
        BadConfig: columns that do not exist.
        MissingExtra: pandas, or pyarrow for parquet, is not installed.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"age": [17.5, 30.0, 41.0], "sex": ["f", "m", "f"], "sick": ["no", "yes", "no"]})
    >>> print(read_table(frame, label="sick"))
    3 rows; label 'sick' with the classes no, yes
    2 columns, 3 model inputs
      age  number, 17.5 to 41, mean 29.5, 1 decimals
      sex  2 categories: 'f', 'm'
    """
    if missing not in ("refuse", "drop", "fill"):
        raise BadConfig(f"missing values are to be treated by '{missing}'", "use 'refuse', 'drop' or 'fill'")
    if limit < 2:
        raise BadConfig(f"{limit} rows are to be kept", "keep at least 2")
    notes: list[str] = []
    label, categorical, continuous, drop = (
        plain(label),
        *(tuple(map(plain, names)) for names in (categorical, continuous, drop)),
    )
    frame = read_frame(source, limit, notes, label)
    _check_names(frame, label, (*categorical, *continuous, *drop))
    frame = frame.drop(columns=list(drop))
    frame = _without_missing(frame, label, missing, set(categorical), notes)
    inputs = frame.drop(columns=label)
    notes += [f"column '{brief(name)}' numbers the rows" for name in inputs.columns if counts_rows(inputs[name])]
    modality = _schema(inputs, set(categorical), set(continuous), notes) if like is None else like.modality
    classes, labels = _labels(frame, label, None if like is None else like.classes)
    absent = [column.name for column in modality.columns if column.name not in inputs]
    if absent:
        raise UnfitBatch(f"the table has no column '{absent[0]}', which the schema names", "give such a table")
    encoded = modality.encode_columns(lambda name: cast("list[object]", inputs[name].tolist()))
    return Table(Batch(encoded, labels), modality, classes, label, tuple(notes))


def read_tables(sources: Sequence[str | Path], *, label: str) -> Table:
    """The rows of several tables as those of one, such as several owners' for a schema that fits all.

    Raises:
        UnfitBatch: columns that not all have, or that hold numbers in one table and text in another, a class
            that two tables write in two ways.
        StorageFailure, BadConfig, MissingExtra: as `read_table`.
    """
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    label = plain(label)
    frames = [read_frame(source, LIMIT, [], label) for source in sources]
    for source, frame in zip(sources[1:], frames[1:], strict=True):
        different = sorted(set(frame.columns) ^ set(frames[0].columns))
        if different:
            has, lacks = (source, sources[0]) if different[0] in frame.columns else (sources[0], source)
            raise UnfitBatch(
                f"'{has}' has the column '{brief(different[0])}', and '{lacks}' has not",
                "give tables of the same columns",
            )
        for name in frame.columns:
            one, other = frames[0][name], frame[name]
            if is_numeric_dtype(one) != is_numeric_dtype(other) and name != label:
                words, numbers = (other, sources[0]) if is_numeric_dtype(one) else (one, source)
                text = next((value for value in words.tolist() if as_number(str(value)) is None), words.iloc[0])
                raise UnfitBatch(
                    f"the column '{brief(str(name))}' holds numbers in '{numbers}', and {brief(repr(text))} in "
                    f"'{source if words is other else sources[0]}'",
                    "write it alike in all tables",
                )
    if label in frames[0]:
        _check_classes(
            [(source, ordered(frame[label].dropna())) for source, frame in zip(sources, frames, strict=True)]
        )
    whole = pd.concat(frames, ignore_index=True)
    return read_table(whole, label=label, limit=max(2, len(whole)))  # each is drawn: no row is without its category


def _check_classes(named: Sequence[tuple[str | Path, tuple[str, ...]]]) -> None:
    """Refuse a class that two tables write in two ways."""
    found = {name: source for source, names in named for name in names}
    if same := meaning_one(found):
        one, other = same
        raise UnfitBatch(
            f"the class '{brief(one)}' in '{found[one]}' and the class '{brief(other)}' in '{found[other]}' mean the "
            "same",
            "write it alike in all tables",
        )


def _check_names(frame: pd.DataFrame, label: str, named: Sequence[str]) -> None:
    names = list(frame.columns)
    for name in (label, *named):
        if name not in names:
            raise BadConfig(f"the table has no column '{name}'", f"its columns are {some(names, quoted=False)}")
    if label in named:
        raise BadConfig(f"'{label}' is the label and cannot be an input too", "leave it out of the columns' lists")


def _without_missing(
    frame: pd.DataFrame, label: str, missing: Missing, categorical: set[str], notes: list[str]
) -> pd.DataFrame:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    marks = {
        name: f" ('{mark}' in row {row})" if mark else f" (row {row})" for name, (row, mark) in marked(frame).items()
    }
    frame = frame.replace([float("inf"), float("-inf")], float("nan"))
    counts = {str(name): int(n) for name, n in frame.isna().sum().items() if n > 0}
    if not counts:
        return frame
    listed = ", ".join(f"{n} in '{name}'{marks.get(name, '')}" for name, n in counts.items())
    if missing == "refuse":
        raise UnfitBatch(
            f"the table has missing values: {listed}",
            "say what to do: missing='drop' leaves those rows out, missing='fill' puts in the median or '(missing)'",
        )
    if missing == "drop":
        kept = frame.dropna()
        if len(kept) == 0:
            raise UnfitBatch(f"every row has a missing value: {listed}", "drop the emptiest columns, or fill values in")
        notes.append(f"{len(frame) - len(kept):,} rows with missing values were left out ({listed})")
        return kept.reset_index(drop=True)
    if label in counts:
        raise UnfitBatch(f"{counts[label]} rows have no label", "use missing='drop', or complete the labels")
    for name in counts:
        column = frame[name]
        if column.isna().all():
            continue  # constant, and left out as such
        number = is_numeric_dtype(column) and not is_bool_dtype(column) and name not in categorical
        filling: object = column.median() if number else MISSING
        frame[name] = column.fillna(filling) if number else column.astype(object).where(column.notna(), filling)
    notes.append(f"missing values were filled in ({listed})")
    return frame


def _labels(frame: pd.DataFrame, label: str, known: tuple[str, ...] | None) -> tuple[tuple[str, ...], torch.Tensor]:
    """The names of the classes, and the rows' classes `(N,)`."""
    values = [category_name(value) for value in frame[label].tolist()]
    distinct = ordered(values)
    if known is None and (same := meaning_one(distinct)):
        raise UnfitBatch(
            f"the label column '{label}' has the classes '{brief(same[0])}' and '{brief(same[1])}', which mean the "
            "same",
            "write it alike in all rows",
        )
    if known is not None:
        foreign = [name for name in distinct if name not in known]
        if foreign:
            raise UnfitBatch(
                f"the label column '{label}' has the unknown class '{brief(foreign[0])}'",
                f"known are {some(known, quoted=False)}",
            )
    elif not 1 < len(distinct) <= CLASSES:
        raise UnfitBatch(
            f"the label column '{label}' has {len(distinct)} different value{'s' if len(distinct) > 1 else ''}",
            f"name a column of 2 to {CLASSES} classes, or cut this one into bins first",
        )
    classes = distinct if known is None else known
    places = {name: place for place, name in enumerate(classes)}
    return classes, torch.tensor([places[value] for value in values])


def _schema(inputs: pd.DataFrame, categorical: set[str], continuous: set[str], notes: list[str]) -> Tabular:
    if len(inputs) == 1:
        raise UnfitBatch(
            "the table has one row, which shows neither ranges nor vocabularies",
            "give a larger table of the kind beside it: like=read_table(...)",
        )
    columns: list[Column] = []
    constant: list[str] = []
    for name in inputs.columns:
        column = column_of(inputs[name], name in categorical, name in continuous)
        if column is None:
            constant.append(str(name))
        else:
            columns.append(column)
    if constant:
        notes.append(f"constant columns were left out: {', '.join(constant)}")
    if not columns:
        raise UnfitBatch("every column of the table is constant", "give a table whose rows differ")
    return Tabular(tuple(columns))
