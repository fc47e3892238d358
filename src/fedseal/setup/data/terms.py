"""Terms on the data of several owners: a small file without examples.

An owner's file says what its own data is like, the agreed one what all data is read as. Both have one form, so that the
terms of an owner who comes later are agreed with those that are there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from fedseal.errors import StorageFailure, UnfitBatch, brief
from fedseal.files import write_whole
from fedseal.json_file import JsonFile, read_model
from fedseal.modality import Categorical, Continuous, Tabular
from fedseal.modality.columns import Column, some
from fedseal.modality.schema import as_number
from fedseal.setup.data.dataset import UNSAID

MOST: Final = 1e100  # magnitude of a number, whose square is still one
Number = Annotated[float, Field(ge=-MOST, le=MOST)]
Span = tuple[Number, Number]
Side = Annotated[int, Field(ge=1)]
STRICT = ConfigDict(extra="forbid")
VERSION: Final = 1
NARROW: Final = 1e-6  # deviation, as a share of the range; an outlier among a million rows is a thousandth
MANY: Final = 100_000  # owners, at most
LARGEST = 2**29  # values of one example, such as a volume of 512 pixels a side; 2 GB stand for it where it is elsewhere
FOREIGN: Final[dict[str, dict[str, object]]] = {  # facts that a kind of data does not have, as they are left
    "pictures": {"values": None, "targets": "classes"},
    "arrays": {"bits": None, "names": ()},
    "table": {"values": None, "bits": None, "range": None, "scale": "", "channels": "", "targets": "classes"},
}
KINDS = {"pictures": "pictures", "arrays": "arrays of numbers", "table": "a table"}


def _exact(value: float) -> str:
    """A number with all of its digits.

    >>> _exact(10.0), _exact(0.1), _exact(1234567.25)
    ('10', '0.1', '1234567.25')
    """
    return f"{value:.15g}" if float(f"{value:.15g}") == value else repr(value)


def narrow(low: float, high: float) -> float:
    """The deviation up to which numbers in a range are taken for one number: divided by it others would be giants."""
    return NARROW * (high - low)


class ColumnTerms(JsonFile):
    """A column of a table.

    Args:
        kind: "texts"; "numbers"; or "codes", a few whole numbers that may be names of categories, or the one number
            that stands in all rows.
        values: of texts and codes, all that occur, and no more is said of these: the mean of two codes would be the
            share of one of them.
        low, high: of numbers, a range that their values are in.
        mean, std: by which numbers are normalized.
        digits: decimals of the numbers; None where there are more than a grid has.
        owners: how many owners' means and deviations are in these, so that merging in steps counts each alike; none
            where all had codes, and the two are those of the range.
    """

    model_config = STRICT

    name: str
    kind: Literal["numbers", "codes", "texts"]
    values: tuple[str, ...] = ()
    low: Number = 0.0
    high: Number = 0.0
    mean: Number = 0.0
    std: Annotated[Number, Field(ge=0)] = 0.0
    digits: Annotated[int, Field(ge=0, le=6)] | None = None
    owners: Annotated[int, Field(ge=0, le=MANY)] = 1

    @model_validator(mode="after")
    def _whole(self) -> Self:
        said = (self.low, self.high, self.mean, self.std, self.digits, self.owners)
        if self.kind != "numbers" and said != (0, 0, 0, 0, None, 1):
            raise ValueError("texts and codes have values, and no range, mean or deviation")
        if self.low > self.high:
            raise ValueError("the range ends before it begins")
        numbers = [as_number(value) for value in self.values]
        if self.kind == "codes" and any(number is None or abs(number) > MOST for number in numbers):
            raise ValueError("codes are numbers")
        if self.kind == "numbers" and not self.low <= self.mean <= self.high:
            raise ValueError("the mean is outside the range")
        if self.kind == "numbers" and not narrow(self.low, self.high) < self.std <= self.high - self.low:
            raise ValueError("the deviation is none of numbers in the range")
        if len(set(self.values)) < len(self.values) or (self.kind == "numbers") != (not self.values):
            raise ValueError("texts and codes have values, each once, and numbers have none")
        return self

    @property
    def column(self) -> Column | None:
        """How the column is fed to a model; None where all its values are the same."""
        if self.kind != "numbers":
            return Categorical(self.name, self.values) if len(self.values) > 1 else None
        return Continuous(self.name, self.low, self.high, self.mean, self.std, self.digits)

    def __str__(self) -> str:
        if self.column is None:
            return f"{some(self.values)} alone, so far"
        return str(self.column)

    @property
    def in_full(self) -> str:
        """All that the file says of the column."""
        if self.kind != "numbers":
            what = "value" if self.kind == "codes" else "text"
            return f"{len(self.values)} {what}{'s' * (len(self.values) > 1)}: {', '.join(map(repr, self.values))}"
        grid = "no grid" if self.digits is None else f"{self.digits} decimals"
        return (
            f"number, {_exact(self.low)} to {_exact(self.high)}, mean {_exact(self.mean)}, deviation "
            f"{_exact(self.std)}, both of {self.owners} owner{'s' * (self.owners != 1)}, {grid}"
        )


class DataTerms(JsonFile):
    """What data is like, or has to be like.

    Args:
        kind: "pictures" in files, "arrays" of numbers, or a "table".
        classes: how many there are.
        names: of the classes, where they have any, in the order of their numbers.
        targets: "classes", or "probabilities" of them.
        shape: of one example; none of a table, whose columns say it.
        channels: as of a `Dataset`.
        scale: which stored values become 0 and 1, as of a `Dataset`.
        bits: that the values of pictures deeper than 8 bits take; None where none is deeper.
        range: stored values that become 0 and 1, of arrays and of pictures deeper than 8 bits.
        values: least and greatest of numbers that are not scaled.
        label: the column of a table that holds the class.
        columns: of a table, those that never change included.
    """

    model_config = STRICT

    version: Literal[1]
    kind: Literal["pictures", "arrays", "table"]
    classes: Annotated[int, Field(ge=2)]
    names: tuple[str, ...] = ()
    targets: Literal["classes", "probabilities"] = "classes"
    shape: tuple[Side, ...] = ()
    channels: str = ""
    scale: str = ""
    bits: Annotated[int, Field(ge=9, le=16)] | None = None
    range: Span | None = None
    values: Span | None = None
    label: str | None = None
    columns: tuple[ColumnTerms, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        columns = [column.name for column in self.columns]
        for names in (self.names, columns):
            if len(set(names)) < len(names):
                raise ValueError("a name stands twice")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError("the range ends before it begins")
        if self.names and max(2, len(self.names)) != self.classes:
            raise ValueError("there are more or fewer names than classes")
        if (self.kind == "table") != (self.label is not None and bool(columns)) or self.label in columns:
            raise ValueError("a table has a label and other columns, and nothing else has")
        if (self.kind == "table") == bool(self.shape):
            raise ValueError("pictures and arrays have a shape, and a table has columns")
        if self.values is not None and self.values[0] > self.values[1]:
            raise ValueError("the values end before they begin")
        for kind, facts in FOREIGN.items():
            if self.kind == kind and (said := [name for name, usual in facts.items() if getattr(self, name) != usual]):
                raise ValueError(f"{KINDS[kind]} have no '{said[0]}'")
        if math.prod(self.shape) > LARGEST:
            raise ValueError("one example is larger than any that is read")
        return self

    def table(self) -> Tabular:
        """The schema of a table.

        Raises:
            UnfitBatch: every column holds one value.
        """
        found = tuple(column.column for column in self.columns)
        varying = tuple(column for column in found if column is not None)
        if not varying:
            raise UnfitBatch("no column of the tables has two values", "agree with an owner whose rows differ")
        return Tabular(varying)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Shape of an example as the model is fed it."""
        return self.table().shape if self.kind == "table" else self.shape

    def words(self, *, whole: bool = False) -> list[str]:
        """Sentences on the terms.

        Args:
            whole: name every class and category, and write every number as it stands.
        """
        named = f"{self.classes} classes by number"
        if self.names:
            named = f"the classes {', '.join(self.names) if whole else some(self.names, quoted=False)}"
        if self.targets == "probabilities":
            named = f"probabilities of {named}"
        if self.kind == "table":
            label = self.label or ""
            head = f"a table of {len(self.columns)} columns, of which '{label if whole else brief(label)}' says {named}"
            told = [(c.name, c.in_full) if whole else (brief(c.name), str(c)) for c in self.columns]
            return [head, *[f"  {name}: {column}" for name, column in told]]
        sides = " x ".join(map(str, self.shape))
        order = {"": "", UNSAID: ", the order of their channels not said"}.get(self.channels, f", {self.channels}")
        return [f"{KINDS[self.kind]} of {sides}{order}, with {named}{self._scaled()}"]

    def _scaled(self) -> str:
        said = ""
        if self.range is not None:
            deep = " of pictures deeper than 8 bits" if self.kind == "pictures" else ""
            said += f"; the values {_exact(self.range[0])} and {_exact(self.range[1])}{deep} become 0 and 1"
        if self.values is not None:
            said += f"; numbers from {_exact(self.values[0])} to {_exact(self.values[1])} as they are"
        elif self.scale:
            said += f"; scaled from {self.scale}"
        deeper = "" if self.bits is None else f", and from {self.bits} bits where files have more than 8"
        return said + deeper


def read_terms(path: Path) -> DataTerms:
    """The terms in a file.

    Raises:
        StorageFailure: it holds none.
    """
    return read_model(path, DataTerms, f"'{path}' holds no terms on data", "write them with fedseal train --propose")


def terms_of(facts: object) -> DataTerms | None:
    """Terms from a file that holds more than these; None where it has none.

    Raises:
        StorageFailure: it holds something else.
    """
    if facts is None or isinstance(facts, DataTerms):
        return facts
    try:
        return DataTerms.model_validate(facts)
    except ValidationError as error:
        why = error.errors(include_input=False, include_url=False, include_context=False)[0]["msg"]
        raise StorageFailure(f"the terms on data are damaged ({why})", "copy the file again") from None


def write_terms(path: Path, terms: DataTerms) -> None:
    """Write a file of terms, without what they leave open.

    Raises:
        StorageFailure: it cannot be written.
    """
    write_whole(path, terms.model_dump_json(indent=1, exclude_defaults=True).encode() + b"\n")
