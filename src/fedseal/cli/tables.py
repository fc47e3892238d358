"""The private examples as rows of the user's own table."""

from __future__ import annotations

import yaml

from fedseal.audit.table_data import table_model
from fedseal.cli.options import pairs
from fedseal.cli.request import ZOO, Aim, Request, Source, captured, simulated
from fedseal.errors import BadConfig
from fedseal.modality.table import Table, read_table


def aim(request: Request) -> Aim:
    """Read the table and build the model that the request names.

    Raises:
        FedsealError: whatever of it does not exist or does not fit.
    """
    assert request.table is not None
    if not isinstance(request.label, str):
        raise BadConfig("--table is given without the column of the class", "name it: --label COLUMN")
    table = read_table(request.table, label=request.label, missing=request.missing)
    name, options = request.model, {}
    if name.startswith(ZOO):
        name, _, rest = name.removeprefix(ZOO).partition(":")
        name, options = ZOO + name, {option: yaml.safe_load(value) for option, value in pairs(rest)}
    model = table_model(name, table, options, seed=request.seed).to(request.device)
    notes = tuple(str(table).splitlines())
    if request.update is not None:
        return captured(request, request.update, model, table.modality)
    return simulated(request, model, table.modality, _source(request, table, notes))


def _source(request: Request, table: Table, notes: tuple[str, ...]) -> Source:
    assert request.table is not None
    first, count = request.index or 0, request.batch or 1
    if first + count > len(table.batch):
        raise BadConfig(
            f"'{request.table}' holds {len(table.batch)} rows, and {first} to {first + count - 1} are asked for",
            "give a smaller --index or --batch",
        )
    last = f"-{first + count - 1}" if count > 1 else ""
    return Source(table.batch, first, count, f"{request.table.stem}{first}{last}", notes)
