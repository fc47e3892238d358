"""Data of several owners as one data set: one numbering of the classes, one schema, one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedseal.errors import BadConfig, UnfitBatch
from fedseal.setup.data import images, tables
from fedseal.setup.data.dataset import SAY_CHANNELS, SAY_RANGE, UNIT, Dataset
from fedseal.setup.data.load import TABLES, data_kind, load_data
from fedseal.setup.data.terms import KINDS, DataTerms


def class_union(sources: Sequence[str]) -> tuple[str, ...]:
    """All classes that folders of pictures name, sorted; empty if none is a folder with classes.

    Raises:
        BadConfig: several sources of which one names its classes and another numbers them.
    """
    folders = [Path(name) for name in sources if name not in images.BUNDLED and Path(name).is_dir()]
    names = tuple(sorted({name for folder in folders for name in images.class_names(folder)}))
    numbered = next((name for name in sources if Path(name) not in folders), None)
    if names and numbered is not None:
        raise BadConfig(
            f"'{numbered}' has classes by number, and '{folders[0]}' by name ({', '.join(names)})",
            "give all of one kind",
        )
    if len(folders) > 1 and not names:
        raise BadConfig(
            f"'{folders[0]}' holds pictures without classes, which every owner would number for itself",
            "put every picture in the folder of its class",
        )
    return names


def common_schema(sources: Sequence[str], label: str) -> Dataset | None:
    """What tables are encoded as: all owners' rows together; None where there is one source, or one that is no table.

    Raises:
        UnfitBatch, StorageFailure, BadConfig: tables that cannot be one.
    """
    paths = [Path(name) for name in sources]
    if len(paths) < 2 or not all(path.suffix.lower() in TABLES for path in paths):
        return None
    return tables.common(paths, label=label)


def check_one(found: Mapping[str, Dataset]) -> None:
    """Refuse owners' data that is not one data set.

    Args:
        found: by the name that was typed.

    Raises:
        UnfitBatch: another shape, scale or order of channels than the first's.
    """
    (first, one), *others = found.items()
    for name, other in others:
        if other.shape != one.shape:
            raise UnfitBatch(
                f"'{name}' holds examples of the shape {other.shape}, and '{first}' of {one.shape}",
                "give all of one shape, channels in the same place",
            )
        if other.scale != one.scale:
            raise UnfitBatch(
                f"'{name}' holds values {_range(other)}, scaled from {other.scale or 'nothing'}, and '{first}' values "
                f"{_range(one)}, scaled from {one.scale or 'nothing'}",
                f"store all alike, or {SAY_RANGE}",
            )
        if other.channels != one.channels:
            raise UnfitBatch(
                f"'{name}' has channels in the order {other.channels}, and '{first}' {one.channels}", SAY_CHANNELS
            )


def read_agreed(name: str, terms: DataTerms) -> Dataset:
    """An owner's data, read as was agreed on.

    Raises:
        UnfitBatch, UnfitPicture, BadConfig, StorageFailure: it does not fit; the file and the value are named.
    """
    kind = data_kind(name)
    if kind != terms.kind and (name in images.BUNDLED or Path(name).exists()):
        raise UnfitBatch(f"'{name}' is {KINDS[kind]}, and {KINDS[terms.kind]} was agreed on", "give such data")
    if terms.kind == "table":
        return tables.agreed_table(Path(name), terms)
    folder = kind == "pictures" and name not in images.BUNDLED
    if bool(terms.names) != folder:
        raise BadConfig(
            f"'{name}' has classes by {'name' if folder else 'number'}, and classes by "
            f"{'name' if terms.names else 'number'} were agreed on",
            "give data of that kind",
        )
    found = load_data(name, size=terms.shape, names=terms.names, span=terms.range)
    _check_fit(found, terms, name)
    return found


def _check_fit(found: Dataset, terms: DataTerms, name: str) -> None:
    labels, values = found.batch.labels, found.batch.inputs
    soft = labels.is_floating_point()
    remedy = "store it alike, or agree anew with a proposal of this data"
    if found.shape != terms.shape:
        raise UnfitBatch(f"'{name}' holds examples of the shape {found.shape}, and {terms.shape} was agreed on", remedy)
    if found.channels != terms.channels:
        raise UnfitBatch(
            f"'{name}' has channels in the order {found.channels}, and {terms.channels} was agreed on",
            SAY_CHANNELS,
        )
    if soft != (terms.targets == "probabilities") or (soft and found.classes != terms.classes):
        raise UnfitBatch(
            f"'{name}' has targets of the shape {tuple(labels.shape[1:])}, and {terms.classes} {terms.targets} were "
            "agreed on",
            remedy,
        )
    if not soft and (most := int(labels.max())) >= terms.classes:
        raise UnfitBatch(
            f"example {int(labels.argmax())} of '{name}' has the class {most}, and {terms.classes} were agreed on",
            remedy,
        )
    if found.scale != terms.scale:
        deep = images.deepest(Path(name)) if terms.kind == "pictures" else None
        held = (
            f"'{deep[0]}' holds the value {deep[1]:g}" if deep is not None else f"'{name}' holds values {_range(found)}"
        )
        raise UnfitBatch(
            f"{held}, scaled from {found.scale or 'nothing'}, and {terms.scale or 'nothing'} was agreed on", remedy
        )
    if terms.scale != UNIT and terms.values is not None:
        low, high = terms.values
        outside = ((values < low) | (values > high)).reshape(len(values), -1)
        if bool(outside.any()):
            row = int(outside.any(1).nonzero()[0])
            value = float(values[row].flatten()[outside[row]][0])
            raise UnfitBatch(
                f"example {row} of '{name}' holds the value {value:g}, and {low:g} to {high:g} was agreed on", remedy
            )


def _range(data: Dataset) -> str:
    values = data.batch.inputs
    return f"from {float(values.min()):g} to {float(values.max()):g}"
