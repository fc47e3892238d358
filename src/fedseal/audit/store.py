"""The run folder: whole files or none, so that a run can be killed at any moment and read or continued afterwards."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from fedseal.audit.record import READABLE, Cell, CellKey, Header, Record
from fedseal.errors import BadConfig, StorageFailure
from fedseal.files import PART, changing, make_folder, reason, write_whole

if TYPE_CHECKING:
    from torch import Tensor

Model = TypeVar("Model", bound=BaseModel)
Numbers = TypeVar("Numbers", covariant=True)
KEPT = "finished cells are kept"
REPEAT = "delete it and run the same audit again: the other cells are kept"


@dataclass(frozen=True, eq=False)
class Pictures(Generic[Numbers]):
    """The pictures of a cell, decoded, on the CPU.

    Args:
        truth: `(N, C, H, W)` float32 in [0, 1].
        reconstruction: in the truth's order, black where nothing was matched; None if the attack gave no inputs.
        frames: the iterations `(F, N, C, H, W)` float32 in [0, 1], at the cell's `frame_steps`; None if there are none.
    """

    truth: Numbers
    reconstruction: Numbers | None
    frames: Numbers | None


def load(folder: str | Path) -> Record:
    """Read a run folder, finished or not.

    Raises:
        StorageFailure: no such folder, no record in it, or a record that is damaged.
        BadConfig: a record of another version of fedseal's schema.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StorageFailure(f"there is no run folder '{folder}'", "check the path, or make one with: fedseal audit")
    header = read_header(folder)
    if header is None:
        raise StorageFailure(
            f"the folder '{folder}' holds no record.json, so it is no run", "name a folder that an audit wrote"
        )
    return read_run(folder, header)


def read_run(folder: Path, header: Header) -> Record:
    """The record as it stands: all cells of the header that are finished."""
    paths = [(key, folder / "cells" / f"{key.id}.json") for key in header.keys]
    cells = tuple(_cell(path, key) for key, path in paths if path.is_file())
    return Record(header=header, cells=cells, folder=str(folder))


def read_header(folder: Path) -> Header | None:
    """The header of a run folder, None if it has none."""
    path = folder / "record.json"
    return _parsed(path, Header) if path.is_file() else None


def pictures(record: Record, cell: Cell) -> Pictures[Tensor]:
    """The pictures of one of the record's cells.

    Raises:
        StorageFailure: the file is missing or damaged.
    """
    import torch  # imported late: pages are made of the arrays

    held = arrays(record, cell)
    every = (held.truth, held.reconstruction, held.frames)
    truth, reconstruction, frames = (None if one is None else torch.from_numpy(one.copy()) for one in every)
    assert truth is not None
    return Pictures(truth, reconstruction, frames)


def arrays(record: Record, cell: Cell) -> Pictures[NDArray[np.float32]]:
    """The same as arrays of NumPy.

    Raises:
        StorageFailure: the file is missing or damaged.
    """
    path = Path(record.folder) / "cells" / f"{cell.key.id}.safetensors"
    try:
        tensors = safetensors.numpy.load(path.read_bytes())
        _check_pictures(tensors, cell.key.batch_size)
        frames = tensors.get("frames")
        return Pictures(
            truth=tensors["truth"],
            reconstruction=tensors.get("reconstruction"),
            frames=None if frames is None else frames.astype(np.float32) / np.float32(255),
        )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StorageFailure(
            f"cannot read the pictures '{path}' ({_reason(error)})",
            f"delete '{path.with_suffix('.json').name}' beside it and run the same audit again",
        ) from None


def _check_pictures(tensors: Mapping[str, NDArray[Any]], count: int) -> None:
    """That a cell's pictures are of its examples, and all of one shape.

    Raises:
        KeyError, ValueError: they are not.
    """
    truth = tensors["truth"]
    if truth.ndim < 2 or len(truth) != count:
        raise ValueError(f"'truth' has the shape {truth.shape}, and the batch {count} examples")
    for name in tensors.keys() & {"truth", "reconstruction", "frames"}:
        found, several = tensors[name], name == "frames"
        kind: type[np.generic] = np.uint8 if several else np.floating
        if not np.issubdtype(found.dtype, kind) or found.shape[several:] != truth.shape:
            raise ValueError(f"'{name}' is {found.dtype} of the shape {found.shape}")


def write_header(folder: Path, header: Header) -> None:
    """Start a run folder.

    Raises:
        StorageFailure: the folder or the file cannot be written.
    """
    make_folder(folder / "cells", KEPT)
    write_whole(folder / "record.json", header.model_dump_json(indent=2).encode(), KEPT)


def packed(images: Mapping[str, Tensor]) -> bytes:
    """A cell's pictures as the content of their file; empty where there are none."""
    import safetensors.torch

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in images.items()}
    return safetensors.torch.save(plain) if plain else b""


def write_cell(folder: Path, cell: Cell, images: bytes, trace: str = "") -> None:
    """Add a finished cell: its pictures first, if it has any, then its numbers, which make it count.

    Args:
        images: the pictures, `packed`.
        trace: of a cell that crashed the traceback; empty removes that of an earlier try.

    Raises:
        StorageFailure: a file cannot be written; the cells before it are whole.
    """
    cells = folder / "cells"
    if images:
        write_whole(cells / f"{cell.key.id}.safetensors", images, KEPT)
    told = traceback_path(folder, cell.key)
    if trace:
        write_whole(told, trace.encode(), KEPT)
    else:
        with changing(told, KEPT):
            told.unlink(missing_ok=True)
    write_whole(cells / f"{cell.key.id}.json", cell.model_dump_json(indent=2).encode(), KEPT)


def traceback_path(folder: str | Path, key: CellKey) -> Path:
    """Where the traceback of a cell lies, if it crashed."""
    return Path(folder) / "cells" / f"{key.id}.traceback.txt"


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written."""
    with contextlib.suppress(OSError):
        for path in [*folder.glob(f".*{PART}"), *folder.glob(f"*/.*{PART}")]:
            path.unlink()


def write_beside(folder: str | Path, kind: str, name: str, one: BaseModel) -> None:
    """Add what belongs to a run beside its cells, as `KIND/NAME.json`, in place of an older one of that name.

    Raises:
        StorageFailure: it cannot be written.
    """
    place = Path(folder) / kind
    make_folder(place, KEPT)
    write_whole(place / f"{name}.json", one.model_dump_json(indent=2).encode(), KEPT)


def read_beside(folder: str | Path, kind: str, model: type[Model]) -> tuple[Model, ...]:
    """All that `write_beside` left there of this kind; empty if nothing.

    Raises:
        StorageFailure: a file is damaged.
    """
    return tuple(_parsed(path, model) for path in sorted((Path(folder) / kind).glob("*.json")))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return reason(error)
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def _cell(path: Path, key: CellKey) -> Cell:
    cell = _parsed(path, Cell)
    if cell.key != key:
        raise StorageFailure(f"'{path}' is the file of another cell", "delete it and run the same audit again")
    if wrong := cell.contradiction:
        raise StorageFailure(f"'{path}' is not as fedseal wrote it ({wrong})", REPEAT)
    return cell


def _parsed(path: Path, model: type[Model]) -> Model:
    remedy = "run the audit anew with another --out" if model is Header else REPEAT
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise StorageFailure(f"cannot read '{path}' ({_reason(error)})", "check its permissions") from None
    except (ValueError, RecursionError) as error:
        raise StorageFailure(f"'{path}' is no whole JSON file ({error})", remedy) from None
    if model is Header and isinstance(content, dict) and content.get("version") not in READABLE:
        raise BadConfig(
            f"'{path}' is of version {content.get('version')!r} of the record, and this fedseal reads "
            f"{', '.join(map(str, READABLE[:-1]))} and {READABLE[-1]}",
            "read it with the fedseal that wrote it, or run the audit anew with another --out",
        )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "its top"
        raise StorageFailure(f"'{path}' is not as fedseal wrote it (at {where}: {first['msg']})", remedy) from None
