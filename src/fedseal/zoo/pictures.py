"""The bundled pictures: five photographs and their crops, and 500 pictures of Fashion-MNIST.

Sources and licenses are in `zoo/data/SOURCES.md`.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import resources
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fedseal.errors import BadConfig
from fedseal.layout import canonical
from fedseal.types import Batch

PHOTOS = ("chelsea", "coffee", "rocket", "hubble_deep_field", "retina")
SIDE = 224  # of every bundled photo, in pixels
LARGEST = 4 * SIDE  # all of them are rendered at once
LEVELS = (1, 2, 4, 7)  # each photo is cut into that many crops a side; all divide SIDE
FLAT = 0.03  # standard deviation of pixels in [0, 1] below which a crop shows next to nothing

SAME_DB = 30.0  # pictures that agree to this are the same to a person

Pixels = npt.NDArray[np.uint8]


class Crop(NamedTuple):
    """A square of a bundled photo; level n cuts the photo into n x n of them."""

    photo: str
    level: int
    row: int
    column: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels of the photo."""
        side = SIDE // self.level
        return (self.column * side, self.row * side, (self.column + 1) * side, (self.row + 1) * side)

    def shared(self, other: Crop) -> float:
        """Intersection by the larger of two crops: 1 for the same crop, 0 for none or for different photos."""
        (a, b, c, d), (e, f, g, h) = self.box, other.box
        if self.photo != other.photo:
            return 0.0
        return max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f)) / max((c - a) ** 2, (g - e) ** 2)


def photos(size: int = 32, *, channels: int = 3, num_classes: int = 100) -> Batch:
    """350 natural pictures `(350, channels, size, size)` in [0, 1], float32; any prefix is diverse.

    The five photos whole, then their quarters, then 4x4 and 7x7 crops, round-robin over the photos, the most contrast
    first and near-constant crops at the end of each level. Crops smaller than `size` are enlarged bicubically.

    The photos have no classes. The labels `(350,)` are pseudo-random below `num_classes`, a hash of the crop, so that
    no attack can guess them from the order.

    Args:
        size: pixels a side.
        channels: 3, or 1 for grey.
        num_classes: of the model that they are for.

    Raises:
        BadConfig: another number of channels, or a size or number of classes that is not positive.

    >>> batch = photos(size=32)
    >>> tuple(batch.inputs.shape), len(set(batch.labels[:10].tolist()))
    ((350, 3, 32, 32), 10)
    """
    if num_classes < 1:
        raise BadConfig(f"photos with {num_classes} classes", "give at least 1")
    inputs = _as_tensor(_render((channels, size, size)))
    hashes = [hashlib.sha256(repr(tuple(crop)).encode()).digest() for crop in crops()]
    return Batch(inputs, torch.tensor([int.from_bytes(digest[:8]) % num_classes for digest in hashes]))


def fashion_mnist(*, channels: int = 1, size: int = 28) -> Batch:
    """500 pictures of Fashion-MNIST `(500, channels, size, size)` in [0, 1], float32, with labels `(500,)` below 10.

    Interleaved by class: every ten pictures are ten classes (Xiao, Rasul and Vollgraf, arXiv:1708.07747).

    Raises:
        BadConfig: a number of channels other than 1 or 3, or a size that is not positive.

    >>> fashion_mnist()[:10].labels.tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    shape = _checked((channels, size, size))
    images, labels = _fashion()
    inputs = _as_tensor([_resized(Image.fromarray(image), shape) for image in images])
    return Batch(inputs, torch.tensor(labels))


def gallery(shape: tuple[int, int, int], *, exclude: Tensor, count: int) -> Tensor:
    """Pictures that have nothing to do with the excluded ones, for baselines and identification.

    Photos for three channels, Fashion-MNIST for one. A picture within 30 dB of an excluded one is left out. Where an
    excluded one is a bundled photo's crop, crops that share no part of it come first; those that do follow, the
    smallest share first, and are reached only if `count` asks for more than the others. The answer is always the same.

    Args:
        shape: `(C, H, W)` with 1 or 3 channels.
        exclude: `(N, C, H, W)` in [0, 1]; N may be 0.
        count: number of pictures wanted.

    Returns:
        `(count, C, H, W)` in [0, 1], float32, on the CPU.

    Raises:
        BadConfig: exclude has another shape, or fewer than count unrelated pictures are bundled.

    >>> batch = photos(size=16)[:8]
    >>> tuple(gallery((3, 16, 16), exclude=batch.inputs, count=99).shape)
    (99, 3, 16, 16)
    """
    if exclude.ndim != 4 or tuple(exclude.shape[1:]) != _checked(shape):
        raise BadConfig(f"the excluded pictures have shape {tuple(exclude.shape)}", f"give (N, *{shape})")
    if shape[0] == 3:
        pool = _as_tensor(_render(shape))
    else:
        pool = _as_tensor([_resized(Image.fromarray(image), shape) for image in _fashion()[0]])
    same = _same(pool, exclude)
    order = [index for index in range(len(pool)) if not same[index]]
    if shape[0] == 3:
        known, excluded = crops(), [crop for crop, hit in zip(crops(), same.tolist(), strict=True) if hit]
        order.sort(key=lambda index: max((known[index].shared(crop) for crop in excluded), default=0.0))
    if not 1 <= count <= len(order):
        raise BadConfig(
            f"a gallery of {count} pictures was asked for", f"give 1 to {len(order)}, as many as are unrelated here"
        )
    return pool[torch.tensor(order[:count])]


@functools.cache
def crops() -> tuple[Crop, ...]:
    """All crops in the order of `photos`."""
    ranked: list[tuple[int, bool, int, int, Crop]] = []
    for number, photo in enumerate(PHOTOS):
        pixels = np.asarray(_photo(photo)) / 255.0
        for level in LEVELS:
            squares = [Crop(photo, level, row, column) for row in range(level) for column in range(level)]
            contrast = {square: _contrast(pixels, square) for square in squares}
            squares.sort(key=lambda square: -contrast[square])
            ranked += [(level, contrast[s] < FLAT, rank, number, s) for rank, s in enumerate(squares)]
    return tuple(entry[-1] for entry in sorted(ranked))


def _contrast(pixels: npt.NDArray[np.float64], crop: Crop) -> float:
    left, top, right, bottom = crop.box
    return float(pixels[top:bottom, left:right].std((0, 1)).mean())


@functools.cache
def _photo(name: str) -> Image.Image:
    with (resources.files("fedseal.zoo") / "data" / f"{name}.png").open("rb") as file:
        return Image.open(file).convert("RGB")


@functools.cache
def _fashion() -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Images and labels; the k-th picture of class 0, of class 1, ..."""
    with (resources.files("fedseal.zoo") / "data" / "fashion_mnist_500.npz").open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        images, labels = stored["images"], stored["labels"].astype(np.int64)
    order = np.stack([np.flatnonzero(labels == label) for label in range(10)], axis=1).ravel()
    return images[order], labels[order]


def _render(shape: tuple[int, int, int]) -> list[Pixels]:
    """Every crop at that shape."""
    _checked(shape)
    return [_resized(_photo(crop.photo), shape, crop.box) for crop in crops()]


def _resized(picture: Image.Image, shape: tuple[int, int, int], box: tuple[int, int, int, int] | None = None) -> Pixels:
    """The center of the box at the shape's aspect ratio, averaged by area or enlarged, as 8-bit `(C, H, W)`."""
    channels, height, width = shape
    left, top, right, bottom = box or (0, 0, *picture.size)
    scale = min((right - left) / width, (bottom - top) / height)
    over_x, over_y = max(right - left - scale * width, 0.0) / 2, max(bottom - top - scale * height, 0.0) / 2  # rounding
    inner = (left + over_x, top + over_y, right - over_x, bottom - over_y)
    filter = Image.Resampling.BOX if scale >= 1 else Image.Resampling.BICUBIC
    resized = picture.convert("L" if channels == 1 else "RGB").resize((width, height), filter, box=inner)
    return np.asarray(resized, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _as_tensor(pictures: list[Pixels]) -> Tensor:
    return canonical(torch.from_numpy(np.stack(pictures))).float() / 255


def _same(pool: Tensor, exclude: Tensor) -> Tensor:
    """Which of the pool `(P, C, H, W)` agree with one of the excluded to within SAME_DB, `(P,)`."""
    same = torch.zeros(len(pool), dtype=torch.bool)
    for picture in exclude.detach().to("cpu", torch.float32):
        same |= (pool - picture).square().mean((1, 2, 3)) < 10 ** (-SAME_DB / 10)
    return same


def _checked(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    if shape[0] not in (1, 3) or min(shape) < 1:
        raise BadConfig(f"the pictures' shape is {shape}", "give (channels, height, width) with 1 or 3 channels")
    if max(shape) > LARGEST:
        raise BadConfig(f"the pictures' shape is {shape}", f"give at most {LARGEST} pixels a side: they have {SIDE}")
    return shape
