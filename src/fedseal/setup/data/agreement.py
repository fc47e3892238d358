"""How the terms of several owners become one: what they have together, or a contradiction with both files' names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from fedseal.errors import BadConfig, UnfitBatch, brief
from fedseal.modality.columns import some
from fedseal.modality.schema import CODES, DECIMALS, VOCABULARY, meaning_one, ordered
from fedseal.modality.table import CLASSES
from fedseal.setup.data.dataset import UNIT
from fedseal.setup.data.terms import KINDS, MANY, MOST, ColumnTerms, DataTerms, Span, narrow


def agreed(parts: Mapping[str, DataTerms]) -> DataTerms:
    """The terms that hold for all: every class and category, the widest range.

    Args:
        parts: by the file that says them.

    Raises:
        UnfitBatch: two that contradict each other.
        BadConfig: classes by name and by number.
    """
    first = next(iter(parts.values()))
    _same(parts, "kind", lambda terms: KINDS[terms.kind], "give data of one kind")
    _same(parts, "targets", lambda terms: f"{terms.targets} for targets", "give targets of one kind")
    names = _names(parts)
    facts: dict[str, object] = {"names": names, "classes": max(2, len(names), *(one.classes for one in parts.values()))}
    if first.kind == "table":
        return first.model_copy(update=facts | _table(parts))
    _same(
        parts,
        "shape",
        lambda terms: f"examples of the shape {terms.shape}",
        "give all of one shape, channels in the same place: --shape 3,64,64",
    )
    _same(
        parts,
        "channels",
        lambda terms: f"channels in the order {terms.channels}",
        "store beside the images an array 'channels' that is 'RGB' or 'BGR'",
    )
    found = _pictures(parts) if first.kind == "pictures" else _arrays(parts)
    return first.model_copy(update=facts | found)


def _same(parts: Mapping[str, DataTerms], field: str, told: Callable[[DataTerms], str], remedy: str) -> None:
    (first, one), *others = parts.items()
    for name, other in others:
        if getattr(other, field) != getattr(one, field):
            raise UnfitBatch(f"'{name}' has {told(other)}, and '{first}' has {told(one)}", remedy)


def _names(parts: Mapping[str, DataTerms]) -> tuple[str, ...]:
    named = next((name for name, one in parts.items() if one.names), None)
    numbered = next((name for name, one in parts.items() if not one.names), None)
    if named is not None and numbered is not None:
        raise BadConfig(
            f"'{numbered}' has classes by number, and '{named}' by name ({some(parts[named].names, quoted=False)})",
            "give all of one kind",
        )
    table = next(iter(parts.values())).kind == "table"
    found = _union((one.names for one in parts.values()), sized=table)
    firsts: dict[str, str] = {}  # the first file that has a class
    for file, terms in parts.items():
        firsts |= {name: file for name in terms.names if name not in firsts}
    if same := meaning_one(firsts, words=not table):
        one, other = (f"'{brief(name)}' in '{firsts[name]}'" for name in same)
        raise UnfitBatch(
            f"the class {one} and the class {other} mean the same", "write it alike in all of them, and propose anew"
        )
    if table and not 1 < len(found) <= CLASSES:
        files = ", ".join(f"'{name}'" for name in parts)
        raise UnfitBatch(
            f"the label column has {len(found)} different value{'s' * (len(found) > 1)} in {files}",
            f"agree with all owners on a column of 2 to {CLASSES} classes",
        )
    return found


def _union(several: Iterable[tuple[str, ...]], *, sized: bool) -> tuple[str, ...]:
    """All values, numbers by size where that is asked for, else by letter."""
    found = {value for values in several for value in values}
    return ordered(found) if sized else tuple(sorted(found))


def _pictures(parts: Mapping[str, DataTerms]) -> dict[str, object]:
    """One scale of the deeper pictures: what was declared for any, else the depth that all have."""
    spans = {name: one.range for name, one in parts.items() if one.range is not None}
    widest = _widest(spans.values())
    depths = {name: one.bits for name, one in parts.items() if one.bits is not None and one.range is None}
    for name, bits in depths.items():
        span = (0.0, 2.0**bits - 1)
        if widest is not None and span != widest:
            other, held = next(iter(spans.items()))
            raise UnfitBatch(
                f"deeper pictures of '{name}' take {bits} bits, 0 to {span[1]:g}, and those of '{other}' go from "
                f"{held[0]:g} to {held[1]:g}",
                "let each owner of such pictures propose with the range that its device has: --range 0,4095",
            )
        widest = spans[name] = span
    deep = [one.bits for one in parts.values() if one.bits is not None]
    return {"range": widest, "bits": max(deep, default=None), "scale": UNIT}


def _arrays(parts: Mapping[str, DataTerms]) -> dict[str, object]:
    unranged = next((name for name, one in parts.items() if one.range is None), None)
    ranged = next((name for name, one in parts.items() if one.range is not None), None)
    if unranged is not None and ranged is not None:
        span = parts[ranged].range or (0.0, 1.0)
        raise UnfitBatch(
            f"'{ranged}' is scaled from {span[0]:g} to {span[1]:g}, and '{unranged}' from "
            f"{parts[unranged].scale or 'nothing'}",
            "let every owner propose with the same --range, or none",
        )
    _same(parts, "scale", lambda one: f"values{_between(one)}, scaled from {one.scale or 'nothing'}", "store all alike")
    spans = [one.range for one in parts.values() if one.range is not None]
    values = [one.values for one in parts.values() if one.values is not None]
    return {"range": _widest(spans), "values": _widest(values)}


def _between(terms: DataTerms) -> str:
    low, high = terms.values or (0.0, 1.0)
    return f" from {low:g} to {high:g}"


def _widest(spans: Iterable[Span]) -> Span | None:
    found = list(spans)
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def _table(parts: Mapping[str, DataTerms]) -> dict[str, object]:
    _same(parts, "label", lambda terms: f"the label '{brief(terms.label or '')}'", "name one column: --label")
    (first, one), *others = parts.items()
    for name, other in others:
        own, here = ({column.name for column in terms.columns} for terms in (one, other))
        if different := sorted(own ^ here):
            has, lacks = (name, first) if different[0] in here else (first, name)
            raise UnfitBatch(
                f"'{has}' has the column '{brief(different[0])}', and '{lacks}' has not",
                "give tables of the same columns",
            )
    by_file = {name: {column.name: column for column in terms.columns} for name, terms in parts.items()}
    names = sorted(column.name for column in one.columns)  # whatever the order of files, models are fed the same inputs
    return {"columns": tuple(_column(name, {file: found[name] for file, found in by_file.items()}) for name in names)}


def _column(name: str, parts: Mapping[str, ColumnTerms]) -> ColumnTerms:
    texts = {file: one for file, one in parts.items() if one.kind == "texts"}
    numbers = [file for file in parts if file not in texts]
    if texts and numbers:
        file, words = next(iter(texts.items()))
        raise UnfitBatch(
            f"the column '{brief(name)}' holds numbers in '{numbers[0]}', and {brief(repr(_word(words.values)))} in "
            f"'{file}'",
            "write it alike in all tables",
        )
    values = _union((one.values for one in parts.values()), sized=not texts)
    if texts:
        if len(values) > VOCABULARY:
            raise UnfitBatch(
                f"the column '{brief(name)}' has {len(values):,} different texts in all tables",
                f"leave it out, or group its values into at most {VOCABULARY} categories",
            )
        return ColumnTerms(name=name, kind="texts", values=values)
    fewest = len(values) == 1 or (len(values) <= CODES and all(float(value).is_integer() for value in values))
    if fewest and all(one.kind == "codes" for one in parts.values()):
        return ColumnTerms(name=name, kind="codes", values=values)
    return _numbers(name, parts)


def _numbers(name: str, parts: Mapping[str, ColumnTerms]) -> ColumnTerms:
    """Numbers of several owners, each of whom counts alike whether all are merged at once or in steps.

    Owners of codes say no mean: that of the others holds, or, where all have codes, that of the range, of which no
    value is likelier than another. So the outcome hangs on nothing but the range and the means that were said.
    """
    found = list(parts.values())
    ends = {file: _ends(one) for file, one in parts.items()}
    low, high = min(low for low, _ in ends.values()), max(high for _, high in ends.values())
    said = [one for one in found if one.kind == "numbers"]
    owners = sum(one.owners for one in said)
    mean, std = (low + high) / 2, (high - low) / math.sqrt(12)
    if owners:
        mean = math.fsum(one.owners * one.mean for one in said) / owners
        std = math.sqrt(math.fsum(one.owners * (one.std**2 + (one.mean - mean) ** 2) for one in said) / owners)
    if std <= narrow(low, high):
        near, far = min(ends, key=lambda file: ends[file][0]), max(ends, key=lambda file: ends[file][1])
        raise UnfitBatch(
            f"the column '{brief(name)}' goes from {low:g} in '{near}' to {high:g} in '{far}' and else hardly moves",
            "write it in one unit, or leave it out",
        )
    digits = [digit for one in found for digit in (map(_decimals, one.values) if one.values else [one.digits])]
    return ColumnTerms(
        name=name,
        kind="numbers",
        low=low,
        high=high,
        mean=min(max(mean, low), high),
        std=min(std, high - low, MOST),  # below all three for numbers that are any
        digits=None if None in digits else max(digit for digit in digits if digit is not None),
        owners=min(owners, MANY),
    )


def _decimals(value: str) -> int | None:
    number = float(value)
    return next((digits for digits in range(DECIMALS + 1) if round(number, digits) == number), None)


def _ends(column: ColumnTerms) -> tuple[float, float]:
    if column.kind == "numbers":
        return column.low, column.high
    values = [float(value) for value in column.values]
    return min(values), max(values)


def _word(values: tuple[str, ...]) -> str:
    """The first of them that is no number."""
    for value in values:
        try:
            float(value)
        except ValueError:
            return value
    return values[0]
