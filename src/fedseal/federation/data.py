"""Examples for data owners: arrays in files, and one data set dealt out among simulated owners."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaincinv
from torch import Tensor

from fedseal.errors import BadConfig, StorageFailure, UnfitBatch
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
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise StorageFailure(f"'{path}' is no whole .npz file ({error})", "write it with numpy.savez") from None
    inputs, labels = (_first(found, names, path) for names in (INPUTS, LABELS))
    if labels.ndim == 1 and not np.issubdtype(labels.dtype, np.integer):
        raise UnfitBatch(f"the labels in '{path}' are of type {labels.dtype}", "store class indices as integers")
    return Batch(
        _pictures(_scaled(inputs)), torch.from_numpy(labels.astype(np.int64 if labels.ndim == 1 else np.float32))
    )


def split(batch: Batch, owners: int, how: str, generator: torch.Generator) -> list[Batch]:
    """One data set as that of several owners; every example goes to one of them, and everyone gets at least one.

    Args:
        how: "iid" for shares of a shuffled set, or "dirichlet:0.5": of every class each owner gets a share that is
            drawn from a Dirichlet distribution of that concentration; the lower, the more the owners differ (Hsu, Qi
            and Brown, arXiv:1909.06335).

    Raises:
        BadConfig: fewer examples than owners, or another split.

    >>> data = Batch(torch.zeros(20, 1), torch.arange(20) % 2)
    >>> [len(part) for part in split(data, 3, "iid", torch.Generator().manual_seed(0))]
    [7, 7, 6]
    """
    if not 1 <= owners <= len(batch):
        raise BadConfig(f"{len(batch)} examples for {owners} data owners", "give every owner at least one")
    name, _, figure = how.partition(":")
    order = torch.randperm(len(batch), generator=generator)
    if name == "iid" and not figure:
        parts = [order[first::owners] for first in range(owners)]
    elif name == "dirichlet":
        parts = _skewed(batch.labels, order, owners, _concentration(figure), generator)
    else:
        raise BadConfig(f"there is no split '{how}'", "use iid, or dirichlet:0.5")
    return [Batch(batch.inputs[rows], batch.labels[rows]) for rows in parts]


def held_out(batch: Batch, share: float, generator: torch.Generator) -> tuple[Batch, Batch | None]:
    """A data set, and a random share of it for validation; None for a share of 0.

    Raises:
        BadConfig: the share leaves nothing of one of them.
    """
    count = round(share * len(batch))
    if share == 0:
        return batch, None
    if not 1 <= count < len(batch):
        raise BadConfig(f"a validation split of {share:g} of {len(batch)} examples", "give a share such as 0.2")
    order = torch.randperm(len(batch), generator=generator)
    rest, held = order[count:].sort().values, order[:count].sort().values
    return Batch(batch.inputs[rest], batch.labels[rest]), Batch(batch.inputs[held], batch.labels[held])


def _skewed(
    labels: Tensor, order: Tensor, owners: int, concentration: float, generator: torch.Generator
) -> list[Tensor]:
    if labels.ndim != 1:
        raise BadConfig("a Dirichlet split is by class, and these labels are no classes", "use iid")
    rows: list[list[int]] = [[] for _ in range(owners)]
    for label in sorted(set(labels.tolist())):
        members = order[labels[order] == label]
        ends = (_shares(owners, concentration, generator).cumsum(0) * len(members)).round().long()
        for owner, part in enumerate(torch.tensor_split(members, ends[:-1])):
            rows[owner] += part.tolist()
    while any(not part for part in rows):
        min(rows, key=len).append(max(rows, key=len).pop())
    return [torch.tensor(part) for part in rows]


def _shares(owners: int, concentration: float, generator: torch.Generator) -> Tensor:
    """From a symmetric Dirichlet distribution, by gamma variables through their inverse distribution function."""
    uniform = torch.rand(owners, generator=generator, dtype=torch.float64)
    gammas = torch.from_numpy(gammaincinv(concentration, uniform.numpy()))
    if not bool(gammas.sum() > 0):  # all too small for a float: one owner has it all
        gammas = torch.zeros(owners, dtype=torch.float64).index_fill(0, uniform.argmax(), 1.0)
    return gammas / gammas.sum()


def _concentration(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise BadConfig(f"a Dirichlet split of concentration '{text}'", "give a positive number: dirichlet:0.5")
    return value


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
