"""A model for the rows of the user's own table."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import nn

from fedseal import zoo
from fedseal.audit.factory import build_object
from fedseal.errors import BadConfig, UnknownName
from fedseal.modality.table import Table

ZOO = "zoo:"
WIDTHS = (100, 100)  # of a model that nobody describes: TabLeak's


def table_model(name: str, table: Table, options: Mapping[str, object] | None = None, *, seed: int = 0) -> nn.Module:
    """A model of the zoo that fits the table, or what "package.module:function" returns.

    Args:
        options: for the function that builds it; they go before what fits.

    Raises:
        UnknownName: no such model, or option.
        BadConfig: a model that takes pictures.
    """
    if not name.startswith(ZOO):
        return build_object(name, nn.Module, options)
    name = name.removeprefix(ZOO)
    if name not in zoo.MODELS:
        raise UnknownName("model in the zoo", name, [*zoo.MODELS, "package.module:function"])
    known = inspect.signature(zoo.MODELS[name]).parameters
    if "inputs" not in known:
        raise BadConfig(
            f"the model '{name}' takes pictures, and a table has rows", "leave the model out, or use zoo:mlp"
        )
    fitting: dict[str, object] = {
        "inputs": table.modality.shape[0],
        "num_classes": len(table.classes),
        "widths": WIDTHS,
        "seed": seed,
    }
    return zoo.build(name, **{**{k: v for k, v in fitting.items() if k in known}, **(options or {})})
