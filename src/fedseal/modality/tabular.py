"""Rows of a table as model inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedseal.errors import BadConfig, UnfitBatch, brief
from fedseal.modality.columns import Categorical, Column, Continuous

__all__ = ["Categorical", "Column", "Continuous", "Tabular"]


@dataclass(frozen=True)
class Tabular:
    """Rows of a table: numbers scaled, categories one-hot, the columns side by side in one vector `(width,)`.

    The schema is public: whoever trains together has agreed on columns, ranges and vocabularies.

    Args:
        columns: of the table, in the order of the model's inputs.

    Raises:
        BadConfig: no column, or two of one name.

    >>> table = Tabular(columns=(Continuous("age", 0, 100, mean=40, std=20, digits=0), Categorical("sex", ("f", "m"))))
    >>> inputs = table.encode([{"age": 30, "sex": "m"}])
    >>> inputs.tolist(), table.rows(inputs)
    ([[-0.5, 0.0, 1.0]], [{'age': 30, 'sex': 'm'}])
    """

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if not names or len(set(names)) < len(names):
            raise BadConfig(f"the columns are {names}", "give one or more, each with a name of its own")

    @cached_property
    def places(self) -> tuple[slice, ...]:
        """Where each column's inputs stand in a row."""
        ends = torch.tensor([column.width for column in self.columns]).cumsum(0).tolist()
        return tuple(slice(end - column.width, end) for end, column in zip(ends, self.columns, strict=True))

    @property
    def shape(self) -> tuple[int]:
        """Shape of one encoded row, `(width,)`."""
        return (self.places[-1].stop,)

    @property
    def kind(self) -> str:
        """What attacks, metrics and reports treat it as."""
        return "tabular"

    def start(self, noise: Tensor) -> Tensor:
        """The noise itself: published attacks start from standard normal model inputs."""
        return noise

    def forward(self, candidate: Tensor) -> Tensor:
        """Candidates are encoded rows already, `(N, width)`; a relaxation is an attack's own affair."""
        return candidate

    def project(self, candidate: Tensor) -> Tensor:
        """Clamp encoded rows `(N, width)` to the columns' ranges, and each category's input to [0, 1]."""
        low, high = self._bounds
        return torch.minimum(torch.maximum(candidate, low.to(candidate)), high.to(candidate))

    def nearest(self, inputs: Tensor) -> Tensor:
        """The encoded rows nearest to `(N, width)` that a table can hold: one category each, numbers on their grid."""
        return torch.cat([c.nearest(inputs[:, p]) for c, p in zip(self.columns, self.places, strict=True)], 1)

    def decode(self, inputs: Tensor) -> Tensor:
        """Encoded rows `(N, width)` as values `(N, columns)`, float64: numbers in their own units, places in the
        vocabularies.
        """
        return torch.stack([c.decode(inputs[:, p]) for c, p in zip(self.columns, self.places, strict=True)], 1)

    def rows(self, inputs: Tensor) -> list[dict[str, object]]:
        """Encoded rows `(N, width)` as a table shows them, by the columns' names."""
        pairs = list(zip(self.columns, self.places, strict=True))
        return [{c.name: c.value(row[p]) for c, p in pairs} for row in inputs.detach().cpu()]

    def encode(self, rows: Sequence[Mapping[str, object]]) -> Tensor:
        """Rows of values by the columns' names as model inputs `(N, width)`, float32; other names are left aside.

        Raises:
            UnfitBatch: no row, a column that is missing, a value that is no number or is not in the vocabulary.
        """
        for number, row in enumerate(rows):
            missing = [column.name for column in self.columns if column.name not in row]
            if missing:
                raise UnfitBatch(f"row {number + 1} has no column '{missing[0]}'", "give a value for every column")
        if not rows:
            raise UnfitBatch("the table has no rows", "give at least one")
        return self.encode_columns({c.name: [row[c.name] for row in rows] for c in self.columns}.__getitem__)

    def encode_columns(self, values: Callable[[str], list[object]]) -> Tensor:
        """The same from whole columns: `values` gives those of the column of a name."""
        return torch.cat([column.encode(values(column.name)) for column in self.columns], 1)

    def describe(self) -> dict[str, object]:
        """All fields as plain values, for records."""
        return {"kind": self.kind, "columns": [column.describe() for column in self.columns]}

    @classmethod
    def from_description(cls, description: Mapping[str, object]) -> Tabular:
        """What `describe` wrote.

        Raises:
            BadConfig: it is no such description.

        >>> table = Tabular(columns=(Categorical("sex", ("f", "m")),))
        >>> Tabular.from_description(table.describe()) == table
        True
        """
        kinds = {"continuous": Continuous, "categorical": Categorical}
        try:
            columns = [dict(column) for column in description["columns"]]  # type: ignore[attr-defined]
            built = [
                kinds[c.pop("kind")](**{k: tuple(v) if k == "values" else v for k, v in c.items()}) for c in columns
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise BadConfig(f"this describes no table ({error!r})", "give what Tabular.describe() wrote") from None
        return cls(tuple(built))

    def __str__(self) -> str:
        """The schema, a line a column."""
        names = [brief(column.name) for column in self.columns]
        lines = [f"{len(self.columns)} columns, {self.shape[0]} model inputs"]
        widest = max(map(len, names))
        told = [f"  {name:<{widest}}  {column}" for name, column in zip(names, self.columns, strict=True)]
        return "\n".join([*lines, *told])

    @cached_property
    def _bounds(self) -> tuple[Tensor, Tensor]:
        low = [bound for column in self.columns for bound in [column.bounds[0]] * column.width]
        high = [bound for column in self.columns for bound in [column.bounds[1]] * column.width]
        return torch.tensor(low), torch.tensor(high)
