"""Examples in a file of numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedseal.errors import StorageFailure, UnfitBatch
from fedseal.types import Batch

INPUTS = ("inputs", "images", "x", "x_train")
LABELS = ("labels", "y", "y_train")


def read_npz(path: str | Path) -> Batch:
    """Examples from a file of numpy arrays: "inputs" or "images" or "x", and "labels" or "y".

    Whole numbers are pixels from 0 to 255 and are scaled to [0, 1]. Pictures come out as `(N, C, H, W)`: a missing
    channel is added, and a last dimension of 1 or 3 is taken for channels where the second is neither.

    Raises:
        StorageFailure: missing, or no such file. Nothing in it is unpickled.
        UnfitBatch: inputs and labels do not belong together.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except Exception as error:  # noqa: BLE001 - zipfile, zlib and numpy raise whatever they raise on foreign bytes
        raise StorageFailure(f"'{path}' is no whole .npz file ({error})", "write it with numpy.savez") from None
    inputs, labels = (_first(found, names, path) for names in (INPUTS, LABELS))
    if labels.ndim == 1 and not np.issubdtype(labels.dtype, np.integer):
        raise UnfitBatch(f"the labels in '{path}' are of type {labels.dtype}", "store class indices as integers")
    return Batch(
        _pictures(_scaled(inputs)), torch.from_numpy(labels.astype(np.int64 if labels.ndim == 1 else np.float32))
    )


def _first(found: dict[str, NDArray[np.generic]], names: Sequence[str], path: str | Path) -> NDArray[np.generic]:
    for name in names:
        if name in found:
            return found[name]
    raise StorageFailure(f"'{path}' holds {sorted(found)}", f"name an array '{names[0]}'")


def _scaled(inputs: NDArray[np.generic]) -> Tensor:
    if inputs.dtype == np.uint8:
        return torch.from_numpy(inputs.astype(np.float32)) / 255
    return torch.from_numpy(inputs.astype(np.float32))


def _pictures(inputs: Tensor) -> Tensor:
    if inputs.ndim == 3:
        return inputs[:, None]
    if inputs.ndim == 4 and inputs.shape[-1] in (1, 3) and inputs.shape[1] not in (1, 3):
        return inputs.permute(0, 3, 1, 2).contiguous()
    return inputs
