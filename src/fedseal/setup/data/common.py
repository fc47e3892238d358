"""Data of several owners as one data set: one numbering of the classes, one schema, one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedseal.errors import BadConfig, UnfitBatch
from fedseal.setup.data import images, tables
from fedseal.setup.data.dataset import SAY_RANGE, Dataset
from fedseal.setup.data.load import TABLES


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
        UnfitBatch: another shape, or another scale, than the first's.
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


def _range(data: Dataset) -> str:
    values = data.batch.inputs
    return f"from {float(values.min()):g} to {float(values.max()):g}"
