"""Examples in a file of numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedseal.errors import StorageFailure, UnfitBatch, brief
from fedseal.setup.data.dataset import AS_STORED, SAY_RANGE, UNIT, UNSAID
from fedseal.types import Batch

INPUTS = ("inputs", "images", "x", "x_train")
LABELS = ("labels", "y", "y_train")
CHANNELS = "channels"  # an array that says their order
ORDERS = ("RGB", "BGR")


class Arrays(NamedTuple):
    """Examples, and what is known of their values.

    Args:
        scale, channels: as of a `Dataset`.
    """

    batch: Batch
    scale: str
    channels: str


def read_npz(path: str | Path, span: tuple[float, float] | None = None) -> Batch:
    """Examples from a file of numpy arrays: "inputs" or "images" or "x", and "labels" or "y".

    Pictures of whole numbers are of 0 to 255 and are scaled to [0, 1], as bytes always are. Pictures come out as
    `(N, C, H, W)`: a missing channel is added, and a last dimension of 1 or 3 is taken for channels where the second is
    neither.

    Args:
        span: the values that become 0 and 1; None to go by the type.

    Raises:
        StorageFailure: missing, or no such file. Nothing in it is unpickled.
        UnfitBatch: inputs and labels do not belong together, or a value beyond the range.
    """
    return read_arrays(path, span).batch


def read_arrays(path: str | Path, span: tuple[float, float] | None = None) -> Arrays:
    """The same, with their scale, and the order in which the channels of pictures stand.

    An array "channels" beside them says it, "RGB" or "BGR"; what stands as blue, green, red is turned around.

    Raises:
        StorageFailure, UnfitBatch: as `read_npz`, or another order.
    """
    try:
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            # of what begins otherwise than an array does, numpy gives the bytes
            found = {name: np.asarray(file[name]) for name in file.files}
    except Exception as error:  # noqa: BLE001 - zipfile, zlib and numpy raise whatever they raise on foreign bytes
        # numpy advises to load what it takes for pickled objects unsafely
        why = "no archive of arrays, or one of Python objects, which are not read" if "pickle" in str(error) else error
        raise StorageFailure(f"'{path}' is no whole .npz file ({why})", "write it with numpy.savez") from None
    inputs, labels = (_first(found, names, path) for names in (INPUTS, LABELS))
    if labels.ndim == 1 and not np.issubdtype(labels.dtype, np.integer):
        raise UnfitBatch(f"the labels in '{path}' are of type {labels.dtype}", "store class indices as integers")
    values, scale = scaled(inputs, path, span)
    pixels = _pictures(values)
    channels = _order(found.get(CHANNELS), pixels, path)
    if channels == "BGR":
        pixels, channels = pixels.flip(1), "RGB"
    targets = torch.from_numpy(labels.astype(np.int64 if labels.ndim == 1 else np.float32))
    return Arrays(Batch(pixels, targets), scale, channels)


def channel_order(pixels: Tensor) -> str:
    """What inputs `(N, ...)` of unknown origin say of their channels' order."""
    return {1: "grey", 3: UNSAID}.get(pixels.shape[1], "") if pixels.ndim == 4 else ""


def _order(named: NDArray[np.generic] | None, pixels: Tensor, path: str | Path) -> str:
    if named is None:
        return channel_order(pixels)
    order = str(named.reshape(-1)[0]) if named.size == 1 else ""
    if order not in ORDERS or channel_order(pixels) != UNSAID:
        raise UnfitBatch(
            f"'{CHANNELS}' in '{path}' is '{brief(order)}' beside inputs of the shape {tuple(pixels.shape[1:])}",
            "let it be 'RGB' or 'BGR', beside pictures of three channels",
        )
    return order


def _first(found: dict[str, NDArray[np.generic]], names: Sequence[str], path: str | Path) -> NDArray[np.generic]:
    for name in names:
        if name in found:
            if found[name].dtype.kind not in "fiub":
                raise StorageFailure(f"'{name}' in '{path}' holds no numbers", "write it with numpy.savez")
            return found[name]
    raise StorageFailure(f"'{path}' holds {sorted(found)}", f"name an array '{names[0]}'")


def scaled(inputs: NDArray[Any], path: str | Path, span: tuple[float, float] | None) -> tuple[Tensor, str]:
    """Inputs `(N, ...)` as float32, all by one rule: by the span if there is one, else by their type; and which it was.

    Numbers that are not scaled are pixels from 0 to 1 if they are, and lie in a plane; in a row they may be anything.

    Raises:
        UnfitBatch: a value beyond the range, or none that float32 has, or pictures of whole numbers whose range nobody
            says.
    """
    whole = np.issubdtype(inputs.dtype, np.integer) and inputs.dtype != np.uint8 and inputs.ndim >= 3
    low, high = span or (0.0, 255.0)
    if (span is not None or whole) and inputs.size:
        outside = (inputs < low) | (inputs > high) | ~np.isfinite(inputs.astype(np.float64))
        if outside.any():
            place = np.argwhere(outside)[0]
            raise UnfitBatch(
                f"example {place[0]} of '{path}' holds the value {float(inputs[tuple(place)]):g}, and the range is "
                f"{low:g} to {high:g}",
                f"correct it, or {SAY_RANGE}",
            )
    if span is not None or whole or inputs.dtype == np.uint8:
        return torch.from_numpy((inputs.astype(np.float32) - np.float32(low)) / np.float32(high - low)), UNIT
    with np.errstate(over="ignore"):  # told below
        values = inputs.astype(np.float32)
    if not np.isfinite(values).all():
        place = np.argwhere(~np.isfinite(values))[0]
        raise UnfitBatch(
            f"example {place[0]} of '{path}' holds the value {float(inputs[tuple(place)]):g}",
            "store numbers of float32",
        )
    within = inputs.ndim >= 3 and inputs.size and bool((values >= 0).all() and (values <= 1).all())
    return torch.from_numpy(values), UNIT if within else AS_STORED


def _pictures(inputs: Tensor) -> Tensor:
    if inputs.ndim == 3:
        return inputs[:, None]
    if inputs.ndim == 4 and inputs.shape[-1] in (1, 3) and inputs.shape[1] not in (1, 3):
        return inputs.permute(0, 3, 1, 2).contiguous()
    return inputs
