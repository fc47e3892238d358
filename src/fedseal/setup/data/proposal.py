"""What an owner's data is like, as terms to agree on: no example is in them, and ranges are wider than the rows'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from fedseal.errors import BadConfig, UnfitBatch, brief
from fedseal.federation.local import check_targets
from fedseal.modality import Categorical, Continuous, Tabular
from fedseal.modality.columns import Column, category_name
from fedseal.modality.csv_dialect import plain
from fedseal.modality.schema import column_of, counts_rows, meaning_one, ordered
from fedseal.modality.table import CLASSES
from fedseal.setup.data import images, tables
from fedseal.setup.data.dataset import UNIT, Dataset
from fedseal.setup.data.load import data_kind, load_data
from fedseal.setup.data.terms import MOST, VERSION, ColumnTerms, DataTerms

if TYPE_CHECKING:
    import pandas as pd

NEAR = 1e-9  # by which a logarithm may be off
FEW = 10  # rows below which a mean tells much of each; of two, mean and deviation tell both
ROOM = 10  # values that a column may take, at least, from one end of a range to the next
DEPTHS = (10, 12, 14, 16)  # bits of devices that give more than 8


class Proposal(NamedTuple):
    """Terms that an owner's data fits.

    Args:
        tells: what they tell of single rows.
        notes: how the data was read, where that is not usual.
    """

    terms: DataTerms
    tells: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def proposal(source: str, *, size: Sequence[int] | None, label: str, span: tuple[float, float] | None) -> Proposal:
    """Terms that an owner's data fits.

    Args:
        size: of one example, where it is asked for.
        label: the column of a table that holds the class.
        span: the stored values that become 0 and 1.

    Raises:
        FedsealError: the data does not exist, or is nothing to train on.
    """
    kind = data_kind(source)
    if kind == "table":
        return _table(Path(source), label)
    deep = images.deepest(Path(source)) if kind == "pictures" and source not in images.BUNDLED else None
    bits = None if deep is None else next(bits for bits in DEPTHS if deep[1] < 2**bits)
    own = (0.0, 2.0**bits - 1) if bits is not None else None
    found = load_data(source, size=size, span=span or own)
    check_targets(found.batch, "cross_entropy", where=f" in '{source}'")
    return Proposal(_arrays(source, found, span) if kind == "arrays" else _pictures(source, found, bits, span))


def _pictures(source: str, found: Dataset, bits: int | None, span: tuple[float, float] | None) -> DataTerms:
    if source not in images.BUNDLED and not found.names:
        raise BadConfig(
            f"'{source}' holds pictures without classes, which every owner would number for itself",
            "put every picture in the folder of its class",
        )
    return DataTerms(
        version=VERSION,
        kind="pictures",
        classes=max(2, len(found.names)) if found.names else found.classes,
        names=found.names,
        shape=found.shape,
        channels=found.channels,
        scale=found.scale,
        bits=bits,
        range=span,
    )


def _arrays(source: str, found: Dataset, span: tuple[float, float] | None) -> DataTerms:
    values, soft = found.batch.inputs, found.batch.labels.is_floating_point()
    if not bool(values.isfinite().all()) or not values.numel():
        raise UnfitBatch(f"'{source}' holds values that are no finite numbers", "leave these examples out")
    return DataTerms(
        version=VERSION,
        kind="arrays",
        classes=found.classes,
        targets="probabilities" if soft else "classes",
        shape=found.shape,
        channels=found.channels,
        scale=found.scale,
        range=span,
        values=None if span or found.scale == UNIT else _widened_values(values),
    )


def _widened_values(values: Tensor) -> tuple[float, float]:
    whole = bool((values == values.round()).all())
    return widened(float(values.min()), float(values.max()), 0 if whole else None)


def _table(path: Path, label: str) -> Proposal:
    notes: list[str] = []
    label = plain(label)
    frame = tables.frame_of(path, label, notes)
    names = ordered(frame[label].tolist())
    if len(names) > CLASSES:
        raise UnfitBatch(
            f"the label column '{brief(label)}' has {len(names):,} different values in '{path}'",
            f"name a column of up to {CLASSES} classes: --label",
        )
    if same := meaning_one(names):
        raise UnfitBatch(
            f"the classes '{brief(same[0])}' and '{brief(same[1])}' in '{path}' mean the same", "write it alike"
        )
    columns = tuple(_column(frame[name], path) for name in frame.columns if name != label)
    terms = DataTerms(
        version=VERSION, kind="table", classes=max(2, len(names)), names=names, label=label, columns=columns
    )
    named = [label, *(column.name for column in columns if column.values)]
    rare = {name: int((frame[name].map(category_name).value_counts() == 1).sum()) for name in named}
    tells = [
        f"values of '{brief(name)}' that stand in one row each, and are in the file: {count}"
        for name, count in rare.items()
        if count
    ]
    if len(frame) < FEW and any(column.kind == "numbers" for column in columns):
        tells.append(f"mean and deviation of as few as {len(frame)} rows tell much of each, and are in the file")
    return Proposal(terms, tuple(tells), tuple(notes))


def pooled_terms(paths: Sequence[Path], found: Dataset, label: str, held: Path | None = None) -> DataTerms:
    """The terms on tables of which all rows are here: those that all rows together have, in ranges as wide as proposed
    ones, since every party is handed them.

    Args:
        found: all rows as one.
        held: rows for validation, which are within the ranges as well.
    """
    assert isinstance(found.modality, Tabular)
    label = plain(label)
    rows = None if held is None else tables.frame_of(held, label, [])
    columns = {column.name: _pooled(column, rows) for column in found.modality.columns}
    frame = tables.frame_of(paths[0], label, [])
    for name in frame.columns:
        if name not in columns and name != label:  # constant in all of them
            columns[name] = ColumnTerms(name=name, kind="texts", values=tables.category_names(frame[name]))
    order = tuple(columns[name] for name in frame.columns if name != label)
    return DataTerms(
        version=VERSION,
        kind="table",
        classes=max(2, len(found.names)),
        names=found.names,
        label=label,
        columns=order,
    )


def _pooled(column: Column, held: pd.DataFrame | None) -> ColumnTerms:
    from pandas.api.types import is_numeric_dtype

    if isinstance(column, Categorical):
        return ColumnTerms(name=column.name, kind="texts", values=column.values)
    low, high = column.low, column.high
    if held is not None and column.name in held and is_numeric_dtype(held[column.name]):  # else reading complains
        numbers = held[column.name].astype(float)
        low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
    low, high = widened(low, high, _grid(column))
    return ColumnTerms(kind="numbers", **{**asdict(column), "low": low, "high": high})


def _grid(column: Continuous) -> int | None:
    """The decimals of a column's numbers, unless all of them lie within one step of these."""
    return column.digits if column.digits is not None and column.high - column.low >= 10.0**-column.digits else None


def _column(values: pd.Series, path: Path) -> ColumnTerms:
    from pandas.api.types import is_numeric_dtype

    name = str(values.name)
    if counts_rows(values):
        raise UnfitBatch(
            f"the column '{brief(name)}' of '{path}' numbers the rows, so that its range and mean would tell how many "
            "there are",
            "leave the column out",
        )
    try:
        found = column_of(values)
    except UnfitBatch as error:
        raise UnfitBatch(f"in '{path}': {error.fact}", "leave the column out, or group its values") from None
    if not is_numeric_dtype(values):
        return ColumnTerms(name=name, kind="texts", values=tables.category_names(values))
    numbers = values.to_numpy(dtype=np.float64)
    if (most := float(np.abs(numbers).max())) > MOST:
        raise UnfitBatch(
            f"'{path}' has a number as large as {most:g} in '{brief(name)}'", "correct it, or change its unit"
        )
    if not isinstance(found, Continuous):
        return ColumnTerms(name=name, kind="codes", values=ordered(values.tolist()))
    digits = _grid(found)
    least, most = widened(found.low, found.high, digits)
    std = float(f"{found.std:.1e}")
    mean = min(max(round(found.mean, _places(_power(std) / 10)), least), most)
    return ColumnTerms(name=name, kind="numbers", low=least, high=most, mean=mean, std=std, digits=digits)


def widened(low: float, high: float, digits: int | None) -> tuple[float, float]:
    """A range that begins below the least value and ends above the greatest, both at the next round number.

    Round is the power of ten that the spread has, and no less than ten steps of the decimals: an end stands for eight
    values or more that a column may take, and does not say which of them is the rows' own.

    >>> widened(17.0, 93.0, 0), widened(63.0, 69.0, 0), widened(0.31, 0.68, 2), widened(60.0, 70.0, 0)
    ((10.0, 100.0), (60.0, 70.0), (0.3, 0.7), (50.0, 80.0))
    """
    step = ROOM * (math.ulp(max(abs(low), abs(high))) if digits is None else 10.0**-digits)
    grid = max(_power(high - low or abs(high)), 10.0 ** math.ceil(math.log10(step) - NEAR))
    places = _places(grid)
    least = round((math.ceil(low / grid) - 1) * grid, places)
    most = round((math.floor(high / grid) + 1) * grid, places)
    least = least if least < low else round(least - grid, places)  # a product of floats may be off by one step
    most = most if most > high else round(most + grid, places)
    return max(least, -MOST), min(most, MOST)


def _places(grid: float) -> int:
    """Of a power of ten, as `round` counts them."""
    return -round(math.log10(grid))


def _power(size: float) -> float:
    """The power of ten in it, 1 in 0."""
    return float(10.0 ** math.floor(math.log10(size))) if size > 1 / MOST else 1.0
