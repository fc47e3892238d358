"""A column of a table: how its values become model inputs, and how inputs become values again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from fedseal.errors import BadConfig, UnfitBatch, brief

SHOWN = 8  # categories or names that an error or a schema spells out
BITS = 6  # significant digits of a number whose column names no decimals; float32 holds a little more


@dataclass(frozen=True)
class Continuous:
    """A column of numbers, fed to the model as `(value - mean) / std`.

    Args:
        name: of the column.
        low, high: the range of its values, public as the normalization is.
        mean, std: the normalization.
        digits: decimals that its values have, to which a reading is rounded; None for no such grid.

    Raises:
        BadConfig: no range, or a standard deviation that is not positive.

    >>> age = Continuous("age", low=17, high=90, mean=40, std=10, digits=0)
    >>> age.encode([50, 17]).flatten().tolist(), age.value(torch.tensor(1.04))
    ([1.0, -2.299999952316284], 50)
    """

    name: str
    low: float
    high: float
    mean: float = 0.0
    std: float = 1.0
    digits: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, self.mean, self.std)
        if not all(math.isfinite(n) for n in numbers) or self.low >= self.high or self.std <= 0:
            raise BadConfig(
                f"column '{self.name}' has the range {self.low} to {self.high}, the mean {self.mean} and the standard "
                f"deviation {self.std}",
                "give finite numbers, low below high, and a positive deviation",
            )

    @property
    def width(self) -> int:
        """Model inputs of a value."""
        return 1

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest model input."""
        return (self.low - self.mean) / self.std, (self.high - self.mean) / self.std

    def encode(self, values: list[object]) -> Tensor:
        """Values as model inputs `(N, 1)`, float32.

        Raises:
            UnfitBatch: a value that is no finite number.
        """
        numbers = []
        for row, value in enumerate(values):
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise UnfitBatch(
                    f"row {row + 1} has {brief(repr(value))} in column '{brief(self.name)}', which holds numbers",
                    "give a finite number, or declare the column categorical",
                )
            numbers.append((number - self.mean) / self.std)
        return torch.tensor(numbers, dtype=torch.float64).unsqueeze(1).float()

    def nearest(self, inputs: Tensor) -> Tensor:
        """The nearest valid model inputs of `(N, 1)`."""
        numbers = inputs.double() * self.std + self.mean
        if self.digits is not None:
            numbers = (numbers * 10.0**self.digits).round() / 10.0**self.digits
        return ((numbers.clamp(self.low, self.high) - self.mean) / self.std).to(inputs.dtype)

    def decode(self, inputs: Tensor) -> Tensor:
        """Model inputs `(N, 1)` as numbers in the column's own unit, `(N,)`."""
        numbers = self.nearest(inputs.double())[:, 0] * self.std + self.mean
        return numbers if self.digits is None else (numbers * 10.0**self.digits).round() / 10.0**self.digits

    def value(self, inputs: Tensor) -> object:
        """What a table shows for one model input."""
        number = float(self.decode(inputs.reshape(1, 1)))
        if self.digits is None:
            return float(f"{number:.{BITS}g}")
        return round(number) if self.digits == 0 else round(number, self.digits)

    def describe(self) -> dict[str, object]:
        """All fields as plain values, for records."""
        return {"kind": "continuous", **asdict(self)}

    def __str__(self) -> str:
        grid = "" if self.digits is None else ", whole numbers" if self.digits == 0 else f", {self.digits} decimals"
        return f"number, {self.low:.{BITS}g} to {self.high:.{BITS}g}, mean {self.mean:.4g}{grid}"


@dataclass(frozen=True)
class Categorical:
    """A column of names, fed to the model one-hot.

    Args:
        name: of the column.
        values: its vocabulary, public, in the order of the model's inputs.

    Raises:
        BadConfig: fewer than two values, or one twice.

    >>> color = Categorical("color", ("blue", "green", "red"))
    >>> color.encode(["red"]).tolist(), color.value(torch.tensor([0.2, 0.9, 0.1]))
    ([[0.0, 0.0, 1.0]], 'green')
    """

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise BadConfig(
                f"the vocabulary of column '{brief(self.name)}' is {some(self.values)}",
                "give two or more different values",
            )

    @property
    def width(self) -> int:
        """Model inputs of a value."""
        return len(self.values)

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest model input."""
        return 0.0, 1.0

    def encode(self, values: list[object]) -> Tensor:
        """Values as model inputs `(N, width)`, float32.

        Raises:
            UnfitBatch: a value that the vocabulary lacks.
        """
        places = {value: place for place, value in enumerate(self.values)}
        encoded = torch.zeros(len(values), self.width)
        for row, value in enumerate(values):
            if category_name(value) not in places:
                strange = brief(repr(category_name(value)))
                raise UnfitBatch(
                    f"row {row + 1} has the unknown category {strange} in column '{brief(self.name)}'",
                    f"known are {some(self.values)}; leave the row out, or make the vocabulary from a table with it",
                )
            encoded[row, places[category_name(value)]] = 1.0
        return encoded

    def nearest(self, inputs: Tensor) -> Tensor:
        """The nearest valid model inputs of `(N, width)`."""
        return torch.nn.functional.one_hot(inputs.argmax(1), self.width).to(inputs.dtype)

    def decode(self, inputs: Tensor) -> Tensor:
        """Model inputs `(N, width)` as places in the vocabulary, `(N,)`, float64."""
        return inputs.argmax(1).double()

    def value(self, inputs: Tensor) -> object:
        """What a table shows for the model inputs `(width,)` of one value."""
        return self.values[int(inputs.argmax())]

    def describe(self) -> dict[str, object]:
        """All fields as plain values, for records."""
        return {"kind": "categorical", "name": self.name, "values": list(self.values)}

    def __str__(self) -> str:
        return f"{len(self.values)} categories: {some(self.values)}"


Column = Continuous | Categorical


def category_name(value: object) -> str:
    """A category's name; a whole number has no decimals, however it is stored.

    >>> category_name(2.0), category_name("a "), category_name(True)
    ('2', 'a', 'True')
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def by_size(value: object) -> tuple[bool, float, str]:
    """A key that sorts numbers by size, and before all else, which it sorts by letter."""
    number = isinstance(value, (int, float))
    return not number, float(value) if isinstance(value, (int, float)) else 0.0, str(value)


def some(values: Sequence[str], *, quoted: bool = True) -> str:
    """The first of several names or categories, and how many more there are.

    >>> some(["a", "b"]), some([str(n) for n in range(10)], quoted=False)
    ("'a', 'b'", '0, 1, 2, 3, 4, 5, 6, 7 and 2 more')
    """
    shown = ", ".join(brief(repr(value) if quoted else value) for value in values[:SHOWN])
    return shown + (f" and {len(values) - SHOWN} more" if len(values) > SHOWN else "")
