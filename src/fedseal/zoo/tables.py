"""Small public tables of people's records, from scikit-learn and statsmodels; nothing is downloaded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

from fedseal.errors import MissingExtra
from fedseal.modality.table import Table, read_table
from fedseal.modality.tabular import Tabular
from fedseal.types import Batch

if TYPE_CHECKING:
    import pandas as pd


class ZooRows(NamedTuple):
    """Encoded rows with labels, in an order drawn once, so that any prefix is a sample; and their schema."""

    batch: Batch
    modality: Tabular


def breast_cancer() -> ZooRows:
    """569 tumors, 30 measurements each, malignant (0) or benign (1) (Wolberg, Street and Mangasarian 1993).

    >>> batch, table = breast_cancer()
    >>> batch.inputs.shape, table.rows(batch.inputs[:1])[0]["mean radius"]
    (torch.Size([569, 30]), 13.05)
    """
    return _rows("breast_cancer")


def wine() -> ZooRows:
    """178 wines of three growers, 13 measurements each (Forina et al. 1988).

    >>> batch, table = wine()
    >>> batch.inputs.shape, batch.labels.unique().tolist()
    (torch.Size([178, 13]), [0, 1, 2])
    """
    return _rows("wine")


def diabetes() -> ZooRows:
    """442 patients: age, sex and 8 measurements; the class is whether the disease went on faster than at the median.

    Efron, Hastie, Johnstone and Tibshirani, Annals of Statistics 2004.

    >>> batch, table = diabetes()
    >>> batch.inputs.shape, table.rows(batch.inputs[:1])[0]["age"]
    (torch.Size([442, 11]), 51)
    """
    return _rows("diabetes")


def fair() -> ZooRows:
    """6366 women's answers on their marriage, 5 of 8 columns categorical; the class is whether they had an affair.

    Fair, Journal of Political Economy 1978.

    >>> batch, table = fair()
    >>> batch.inputs.shape, table.rows(batch.inputs[:1])[0]["religious"]
    (torch.Size([6366, 30]), '3')
    """
    return _rows("fair")


TABLES: dict[str, Callable[[], ZooRows]] = {f.__name__: f for f in (breast_cancer, diabetes, fair, wine)}


def _rows(name: str) -> ZooRows:
    table = _table(name)
    order = torch.randperm(len(table.batch), generator=torch.Generator().manual_seed(0))
    return ZooRows(Batch(table.batch.inputs[order], table.batch.labels[order]), table.modality)


@functools.cache
def _table(name: str) -> Table:
    try:
        frame, label = _FRAMES[name]()
    except ImportError as error:
        raise MissingExtra(
            f"the table '{name}' comes with {(error.name or 'a package').split('.')[0]}, which is not installed",
            "pip install 'fedseal[tables]'",
        ) from None
    return read_table(frame, label=label)


def _breast_cancer() -> tuple[pd.DataFrame, str]:
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(as_frame=True).frame, "target"


def _wine() -> tuple[pd.DataFrame, str]:
    from sklearn.datasets import load_wine

    return load_wine(as_frame=True).frame, "target"


def _diabetes() -> tuple[pd.DataFrame, str]:
    from sklearn.datasets import load_diabetes

    frame = load_diabetes(as_frame=True, scaled=False).frame
    fast = (frame["target"] > frame["target"].median()).astype(int)
    return frame.assign(target=fast), "target"


def _fair() -> tuple[pd.DataFrame, str]:
    from statsmodels.datasets import fair as source

    frame = source.load_pandas().data
    return frame.assign(affairs=(frame["affairs"] > 0).astype(int)), "affairs"


_FRAMES: dict[str, Callable[[], tuple[pd.DataFrame, str]]] = {
    "breast_cancer": _breast_cancer,
    "diabetes": _diabetes,
    "fair": _fair,
    "wine": _wine,
}
