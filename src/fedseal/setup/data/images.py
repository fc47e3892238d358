"""Pictures: bundled ones, a folder of the user's own, or a single file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from fedseal import zoo
from fedseal.errors import BadConfig, StorageFailure, UnfitPicture, UnknownName
from fedseal.modality import Image
from fedseal.modality.picture import load_picture
from fedseal.setup.data.dataset import SAY_RANGE, UNIT, Dataset, output_count
from fedseal.types import Batch

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
FIXED = ("8 bits", "same", "range")  # scales that are the same rule, whatever an owner's values are
BUNDLED = {"photos": ((3, 32, 32), 100), "fashion_mnist": ((1, 28, 28), 10)}  # shape and classes of each


def shape_of(data: str, size: int | Sequence[int] | None, what: str = "--shape") -> tuple[int, int, int]:
    """Channels, height and width of pictures.

    Args:
        data: name of the data set, whose own shape holds where nothing else is said.
        size: pixels a side, or the whole shape.
        what: the shape is given by, for the error.

    Raises:
        BadConfig: not three numbers.

    >>> shape_of("fashion_mnist", 32)
    (1, 32, 32)
    """
    usual = BUNDLED.get(data, BUNDLED["photos"])[0]
    if size is None:
        return usual
    if isinstance(size, int):
        return usual[0], size, size
    if len(size) != 3:
        raise BadConfig(f"{what} has {len(size)} numbers", f"give channels, height and width: {what} 3,32,32")
    return size[0], size[1], size[2]


def bundled(name: str, image: Image) -> Dataset:
    """Pictures that come with fedseal, normalized as `image` says.

    Raises:
        UnknownName: no such data set.
        BadConfig: pictures that are not square.
    """
    if name not in BUNDLED:
        raise UnknownName("data set", name, BUNDLED)
    channels, height, width = image.shape
    if height != width:
        raise BadConfig(f"the shape is {image.shape}, and the bundled pictures are square", "give one number of pixels")
    pixels = (
        zoo.photos(height, channels=channels) if name == "photos" else zoo.fashion_mnist(size=height, channels=channels)
    )
    return _encoded(pixels, image, name, BUNDLED[name][1])


def folder(
    path: Path, image: Image, *, names: tuple[str, ...] = (), span: tuple[float, float] | None = None
) -> Dataset:
    """All pictures of a folder; see `picture_batch`."""
    found = _read(path, image.shape, names, span)
    known = names or class_names(path)
    data = _encoded(found.batch, image, str(path), max(len(known), output_count(found.batch)))
    return replace(data, names=known, scale=found.scale, notes=found.notes)


def single(path: Path, image: Image, label: int | None, classes: int) -> Dataset:
    """One picture, with class 0 unless another is named.

    Raises:
        StorageFailure, UnfitPicture: it cannot be read as a picture.
    """
    loaded = load_picture(path, image.shape)
    notes = tuple(f"{path.name}: {note}" for note in loaded.notes)
    if label is None:
        notes += (f"{path.name}: took class 0 as its label; --label names another",)
    batch = Batch(image.encode(loaded.pixels[None]), torch.tensor([label or 0]))
    return Dataset(batch, image, path.stem, classes, notes)


def _encoded(pixels: Batch, image: Image, title: str, classes: int) -> Dataset:
    encoded = Batch(image.encode(pixels.inputs), pixels.labels)
    channels = "grey" if image.shape[0] == 1 else "RGB"
    return Dataset(encoded, image, title, classes, scale=UNIT, channels=channels)


def class_names(folder: Path) -> tuple[str, ...]:
    """The classes that a folder names: its subfolders that hold pictures, sorted."""
    return tuple(dict.fromkeys(class_name(entry.name) for entry in _class_folders(folder)))


def class_name(name: str) -> str:
    """A name as it is compared: systems write accents in two ways, as one letter or as two.

    >>> class_name("Bo\\u0308sartig") == "B\\u00f6sartig"
    True
    """
    return unicodedata.normalize("NFC", name)


def _class_folders(folder: Path) -> list[Path]:
    held = [entry for entry in folder.iterdir() if entry.is_dir() and _pictures(entry)]
    return sorted(held, key=lambda entry: (class_name(entry.name), entry.name))


def picture_batch(
    folder: Path,
    shape: tuple[int, int, int],
    *,
    names: tuple[str, ...] = (),
    span: tuple[float, float] | None = None,
) -> Batch:
    """All pictures of a folder, `(N, *shape)` in [0, 1], in the order of their names.

    With subfolders, each is a class and its index among the sorted names is the label; without, pictures are labeled
    0, 1 and so on. Hidden files and files that have no picture's suffix are passed over. All are scaled by one rule.

    Args:
        names: of the classes, in the order of their numbers, where that is agreed with others.
        span: the values that become 0 and 1 in files of more than 8 bits.

    Raises:
        StorageFailure: there is no such folder.
        BadConfig: no pictures in it, pictures both in it and in its subfolders, or a class that was not agreed on.
        UnfitPicture: a file that is no picture, or that is scaled by another rule than the first.
    """
    return _read(folder, shape, names, span).batch


class _Folder(NamedTuple):
    batch: Batch
    scale: str
    notes: tuple[str, ...]


def _read(
    folder: Path, shape: tuple[int, int, int], names: tuple[str, ...], span: tuple[float, float] | None
) -> _Folder:
    """The pictures, by which rule they are scaled, and what was changed to make them fit."""
    if not folder.is_dir():
        what = "a file" if folder.exists() else "missing"
        raise StorageFailure(
            f"the data '{folder}' is {what} (looked in '{Path.cwd()}')",
            "give a folder of pictures, or use photos or fashion_mnist",
        )
    classes, loose = _class_folders(folder), _pictures(folder)
    if classes and loose:
        raise BadConfig(
            f"'{folder}' holds both pictures ('{loose[0].name}') and folders of pictures ('{classes[0].name}')",
            "put every picture in the folder of its class, or all in one folder",
        )
    numbers = {class_name(name): label for label, name in enumerate(names or class_names(folder))}
    if foreign := next((entry for entry in classes if class_name(entry.name) not in numbers), None):
        raise BadConfig(f"'{foreign}' is a class that was not agreed on", f"those are {', '.join(names)}")
    if names and loose:
        raise BadConfig(
            f"'{folder}' holds pictures without a class ('{loose[0].name}'), and {', '.join(names)} were agreed on",
            "put every picture in the folder of its class",
        )
    labeled = [(path, numbers[class_name(entry.name)]) for entry in classes for path in _pictures(entry)]
    labeled += [(path, label) for label, path in enumerate(loose)]
    if not labeled:
        raise BadConfig(
            f"there are no pictures in '{folder}'", f"put some there; known kinds: {', '.join(sorted(SUFFIXES))}"
        )
    loaded = [load_picture(path, shape, span) for path, _ in labeled]
    scale = _one_scale([(path, found.scale) for (path, _), found in zip(labeled, loaded, strict=True)])
    pixels = torch.stack([found.pixels for found in loaded])
    notes = _summed(note for found in loaded for note in found.notes)
    return _Folder(Batch(pixels, torch.tensor([label for _, label in labeled])), scale, notes)


def _summed(notes: Iterable[str]) -> tuple[str, ...]:
    """Notes on single pictures as one of each kind, those that differ in numbers only being of one."""
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault(re.sub(r"-?\d+(\.\d+)?", "0", note), []).append(note)
    return tuple(
        f"note: {len(kind)} picture{'s' * (len(kind) > 1)}: {kind[0]}{', or the like' * (len(set(kind)) > 1)}"
        for kind in kinds.values()
    )


def deepest(folder: Path) -> tuple[Path, float] | None:
    """Of a folder's pictures deeper than 8 bits the one with the greatest value, and that value; None if none is."""
    found = [(path, load_picture(path)) for path in _all_pictures(folder)]
    deep = [(path, float(one.pixels.max()) * 65535) for path, one in found if one.scale == "16 bits"]
    return max(deep, key=lambda pair: pair[1], default=None)


def _all_pictures(folder: Path) -> list[Path]:
    return [path for entry in _class_folders(folder) for path in _pictures(entry)] + _pictures(folder)


def _one_scale(scales: list[tuple[Path, str]]) -> str:
    """The rule by which all are scaled.

    Raises:
        UnfitPicture: there is none: two files have different ones, or each its own.
    """
    remedy = f"store all alike, or, for files of more than 8 bits, {SAY_RANGE}"
    rules: dict[str, Path] = {}
    for path, scale in scales:
        if scale == "its own":
            raise UnfitPicture(f"'{path}' holds numbers of no known range, which no other picture shares", remedy)
        rules.setdefault(UNIT if scale in FIXED else scale, path)
    if len(rules) > 1:
        (one, first), (two, second) = list(rules.items())[:2]
        raise UnfitPicture(f"'{second}' is scaled from {two}, and '{first}' from {one}", remedy)
    return next(iter(rules))


def _pictures(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() in SUFFIXES
    ]
