"""What an owner's data is like, as terms to agree on: no example is in them, and ranges end at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedseal.errors import BadConfig, UnfitBatch, brief
from fedseal.federation.local import check_targets
from fedseal.modality import Categorical, Continuous
from fedseal.modality.columns import category_name
from fedseal.modality.schema import DECIMALS, column_of
from fedseal.setup.data import images, tables
from fedseal.setup.data.dataset import UNIT, Dataset
from fedseal.setup.data.load import data_kind, load_data
from fedseal.setup.data.terms import MOST, VERSION, ColumnTerms, DataTerms

if TYPE_CHECKING:
    import pandas as pd

DEPTHS = (10, 12, 14, 16)  # bits of devices that give more than 8


def proposal(
    source: str, *, size: Sequence[int] | None, label: str, span: tuple[float, float] | None
) -> tuple[DataTerms, tuple[str, ...]]:
    """Terms that an owner's data fits, and notes on what they tell of single rows.

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
    return _arrays(source, found, span) if kind == "arrays" else _pictures(source, found, bits, span), ()


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
        values=None if span or found.scale == UNIT else widened(float(values.min()), float(values.max())),
    )


def _table(path: Path, label: str) -> tuple[DataTerms, tuple[str, ...]]:
    frame = tables.frame_of(path, label)
    columns = tuple(_column(frame[name], path) for name in frame.columns if name != label)
    values = [category_name(value) for value in frame[label].tolist()]
    names = tables.category_names(frame[label])
    terms = DataTerms(
        version=VERSION, kind="table", classes=max(2, len(names)), names=names, label=label, columns=columns
    )
    rare = {column.name: _rare(frame[column.name]) for column in columns if column.kind == "texts"}
    notes = [
        f"values of '{brief(name)}' that stand in one row each, and are in the file: {count}"
        for name, count in ({label: sum(values.count(name) == 1 for name in names)} | rare).items()
        if count
    ]
    return terms, tuple(notes)


def _rare(values: pd.Series) -> int:
    return int((values.map(category_name).value_counts() == 1).sum())


def _column(values: pd.Series, path: Path) -> ColumnTerms:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    name = str(values.name)
    try:
        found = column_of(values)
    except UnfitBatch as error:
        raise UnfitBatch(f"in '{path}': {error.fact}", "leave the column out, or group its values") from None
    if not is_numeric_dtype(values) or is_bool_dtype(values):
        return ColumnTerms(name=name, kind="texts", values=tables.category_names(values))
    numbers = values.to_numpy(dtype=np.float64)
    if (most := float(np.abs(numbers).max())) > MOST:
        raise UnfitBatch(
            f"'{path}' has a number as large as {most:g} in '{brief(name)}'", "correct it, or change its unit"
        )
    low, high, whole = float(numbers.min()), float(numbers.max()), bool((numbers == numbers.round()).all())
    std = float(f"{numbers.std():.1e}")
    mean = round(float(numbers.mean()), _places(_power(std or abs(low)) / 10))
    if isinstance(found, Categorical) or (found is None and whole):
        names = tables.category_names(values)
        return ColumnTerms(name=name, kind="codes", values=names, low=low, high=high, mean=mean, std=std, digits=0)
    digits = found.digits if isinstance(found, Continuous) else _decimals(low)
    least, most = widened(low, high)
    return ColumnTerms(name=name, kind="numbers", low=least, high=most, mean=mean, std=std, digits=digits)


def _decimals(value: float) -> int | None:
    return next((digits for digits in range(DECIMALS + 1) if round(value, digits) == value), None)


def widened(low: float, high: float) -> tuple[float, float]:
    """A range that ends at round numbers, so that it says less of the rows that have the least and greatest value.

    >>> widened(17.0, 93.0), widened(0.31, 0.68), widened(-1024.0, 2873.0)
    ((10.0, 100.0), (0.3, 0.7), (-2000.0, 3000.0))
    """
    grid = _power(high - low or abs(high))
    least, most = (round(whole * grid, _places(grid)) for whole in (math.floor(low / grid), math.ceil(high / grid)))
    return min(low, least), max(high, most)


def _places(grid: float) -> int:
    """Of a power of ten, as `round` counts them."""
    return -round(math.log10(grid))


def _power(size: float) -> float:
    """The power of ten in it, 1 in 0."""
    return float(10.0 ** math.floor(math.log10(size))) if size > 1 / MOST else 1.0
