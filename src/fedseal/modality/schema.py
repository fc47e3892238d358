"""What a column of a table is, told from its values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from fedseal.errors import BadConfig, UnfitBatch, brief
from fedseal.modality.columns import Categorical, Column, Continuous, by_size, category_name
from fedseal.modality.csv_dialect import TRUTH, plain

if TYPE_CHECKING:
    import pandas as pd

VOCABULARY = 500  # categories at most: each is a model input
CODES = 10  # different whole numbers up to which a column of them may hold codes
OFTEN = 5  # times that a code occurs, on average
MANY = 10  # rows from which on whole numbers without a gap are the rows' numbers
DECIMALS = 6  # up to which a column's values are looked at for a grid


def column_of(values: pd.Series, categorical: bool = False, continuous: bool = False) -> Column | None:
    """The column that these values fill, None if they are all the same.

    Args:
        values: without missing ones.
        categorical, continuous: what the user says it is.

    Raises:
        UnfitBatch: more categories than a model can have inputs for, or text where numbers are promised.
        BadConfig: declared both.

    >>> import pandas as pd
    >>> column_of(pd.Series([1.25, 3.5, 2.0], name="size")).digits
    2
    >>> column_of(pd.Series(["b", "a", "b"], name="kind")).values
    ('a', 'b')
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    name = str(values.name)
    if categorical and continuous:
        raise BadConfig(f"column '{name}' is declared both categorical and continuous", "declare it one of them")
    number = is_numeric_dtype(values) and not is_bool_dtype(values)
    if continuous and not number:
        raise UnfitBatch(
            f"column '{name}' is declared continuous and holds {brief(repr(str(values.iloc[0])))}",
            "declare it categorical",
        )
    distinct = values.nunique()
    if distinct < 2:
        return None
    if number and not categorical and (continuous or not _codes(values, distinct)):
        return _numbers(name, values.to_numpy(dtype=np.float64))
    if distinct > VOCABULARY:
        raise UnfitBatch(
            f"column '{name}' has {distinct:,} different texts, such as {brief(repr(str(values.iloc[0])))}",
            f"leave it out with drop=['{name}'], or group its values into at most {VOCABULARY} categories",
        )
    return Categorical(
        name, tuple(dict.fromkeys(category_name(value) for value in sorted(values.unique().tolist(), key=by_size)))
    )


def _codes(values: pd.Series, distinct: int) -> bool:
    """Whether numbers look like the names of categories: two values only, or few whole ones that come back often."""
    whole = bool((values == values.round()).all())
    return whole and (distinct == 2 or (distinct <= CODES and len(values) >= OFTEN * distinct))


def _numbers(name: str, values: np.ndarray) -> Continuous:
    scale = max(float(np.abs(values).max()), 1.0)
    digits = next(
        (d for d in range(DECIMALS + 1) if np.allclose(values, values.round(d), rtol=0, atol=1e-9 * scale)), None
    )
    return Continuous(name, float(values.min()), float(values.max()), float(values.mean()), float(values.std()), digits)


def counts_rows(values: pd.Series) -> bool:
    """Whether a column numbers the rows: whole numbers without a gap, each once, so that it says how many there are.

    >>> import pandas as pd
    >>> counts_rows(pd.Series(range(1, 40))), counts_rows(pd.Series([63, 65, 64, 68] * 10))
    (True, False)
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if len(values) < MANY or is_bool_dtype(values) or not is_numeric_dtype(values):
        return False
    return bool((np.diff(np.sort(values.to_numpy(dtype=np.float64))) == 1).all())


def as_number(name: str) -> float | None:
    """The finite number that a name is, None if it is a word.

    >>> as_number("250.00"), as_number("V45.81"), as_number("nan")
    (250.0, None, None)
    """
    try:
        found = float(name)
    except ValueError:
        return None
    return found if math.isfinite(found) and "_" not in name else None


def ordered(values: Iterable[object]) -> tuple[str, ...]:
    """The names of categories, each once: numbers by size, then words by letter, however they are stored.

    >>> ordered([10, "9", 2.0, "b", "a", 9])
    ('2', '9', '10', 'a', 'b')
    """

    def place(name: str) -> tuple[bool, float, str]:
        number = as_number(name)
        return number is None, number or 0.0, name

    return tuple(sorted({category_name(value) for value in values}, key=place))


def meaning_one(names: Iterable[str], *, words: bool = False) -> tuple[str, str] | None:
    """Two names of what is one thing: one number, a truth as word and as number, one word in two forms of Unicode.

    Args:
        words: whether numbers are words, as in names of folders.

    >>> meaning_one(["250.00", "250", "V45"]), meaning_one(["0", "1", "2"]), meaning_one(["1", "True"])
    (('250.00', '250'), None, ('1', 'True'))
    """
    found: dict[object, str] = {}
    for name in names:
        truth = {"True": 1.0, "False": 0.0}.get(TRUTH.get(name.lower(), ""))
        number = as_number(name) if truth is None else truth
        key: object = plain(name) if words or number is None else number
        if key in found:
            return found[key], name
        found[key] = name
    return None
