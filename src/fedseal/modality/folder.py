"""A folder of the user's own pictures as a batch."""

from __future__ import annotations

from pathlib import Path

import torch

from fedseal.errors import BadConfig, StorageFailure
from fedseal.modality.picture import load
from fedseal.types import Batch

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


def picture_batch(folder: Path, shape: tuple[int, int, int]) -> Batch:
    """All pictures of a folder, `(N, *shape)` in [0, 1], in the order of their names.

    With subfolders, each is a class and its index among the sorted names is the label; without, pictures are labeled
    0, 1 and so on. Hidden files and files that have no picture's suffix are passed over.

    Raises:
        StorageFailure: there is no such folder.
        BadConfig: no pictures in it, or pictures both in it and in its subfolders.
        UnfitPicture: a file that is no picture.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "missing"
        raise StorageFailure(
            f"the data '{folder}' is {what} (looked in '{Path.cwd()}')",
            "give a folder of pictures, or use photos or fashion_mnist",
        )
    classes = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and _pictures(entry)]
    loose = _pictures(folder)
    if classes and loose:
        raise BadConfig(
            f"'{folder}' holds both pictures ('{loose[0].name}') and folders of pictures ('{classes[0].name}')",
            "put every picture in the folder of its class, or all in one folder",
        )
    labeled = [(path, label) for label, entry in enumerate(classes) for path in _pictures(entry)]
    labeled += [(path, label) for label, path in enumerate(loose)]
    if not labeled:
        raise BadConfig(
            f"there are no pictures in '{folder}'", f"put some there; known kinds: {', '.join(sorted(SUFFIXES))}"
        )
    pixels = torch.stack([load(path, shape).pixels for path, _ in labeled])
    return Batch(pixels, torch.tensor([label for _, label in labeled]))


def _pictures(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() in SUFFIXES
    ]
