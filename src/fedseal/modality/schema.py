"""What a column of a table is, told from its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedseal.errors import BadConfig, UnfitBatch, brief
from fedseal.modality.columns import Categorical, Column, Continuous, by_size, category_name

if TYPE_CHECKING:
    import pandas as pd

VOCABULARY = 500  # categories at most: each is a model input
CODES = 10  # different whole numbers up to which a column of them may hold codes
OFTEN = 5  # times that a code occurs, on average
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
