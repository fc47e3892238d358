"""TFRecord files of `tf.train.Example`, read without TensorFlow, every checksum checked.

A record is its length in 8 bytes, a masked CRC-32C of these, its content, and a masked CRC-32C of the content.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fedseal.errors import MissingExtra, StorageFailure, UnfitBatch
from fedseal.modality import depth
from fedseal.modality.picture import DAMAGED
from fedseal.setup.data.arrays import Arrays, channel_order, scaled
from fedseal.setup.data.example import Feature, features, tensor
from fedseal.types import Batch

SUFFIXES = (".tfrecord", ".tfrecords")
INPUTS = ("image", "image_raw", "image/encoded", "x", "inputs")
LABELS = ("label", "image/class/label", "y", "labels")
SIDES = (("height", "image/height", "rows"), ("width", "image/width", "cols"), ("depth", "channels", "image/channels"))
MASK = 0xA282EAD8
GZIP = b"\x1f\x8b"


def read_tfrecord(
    path: str | Path, shape: Sequence[int] | None = None, span: tuple[float, float] | None = None
) -> Batch:
    """All examples of a file, gzipped or not; pictures come out as `(N, C, H, W)`.

    An example has its input in one of `INPUTS` and its class in one of `LABELS`, as whole number or as what
    `tf.io.serialize_tensor` wrote, such as TF Encrypted's. An input is a PNG or JPEG file, raw bytes of pixels in
    the order (H, W, C), a serialized tensor, or floats. Bytes are scaled to [0, 1].

    Args:
        shape: of one input, `(C, H, W)` for pictures; None to go by the file, where raw pixels without height and width
            are taken for a square.
        span: the values that become 0 and 1; None to go by the type.

    Raises:
        StorageFailure: missing, cut off or damaged.
        UnfitBatch: examples without input or class, or that do not fit together.
        MissingExtra: protobuf or google-crc32c is not installed.
    """
    return tfrecord_arrays(path, shape, span).batch


def tfrecord_arrays(
    path: str | Path, shape: Sequence[int] | None = None, span: tuple[float, float] | None = None
) -> Arrays:
    """The same, and what is known of its values.

    Raises:
        StorageFailure, UnfitBatch, MissingExtra: as `read_tfrecord`.
    """
    inputs, labels = [], []
    for place, record in enumerate(records(path)):
        try:
            found = features(record)
        except ValueError as error:
            raise StorageFailure(
                f"record {place} of '{path}' is no tf.train.Example ({error})", "write it with TensorFlow"
            ) from None
        where = f"example {place} of '{path}'"
        inputs.append(_input(found, shape, where))
        labels.append(_label(found, where))
        if inputs[-1].shape != inputs[0].shape:
            raise UnfitBatch(
                f"{where} has the shape {inputs[-1].shape}, and the first {inputs[0].shape}", "write all of one shape"
            )
        if inputs[-1].dtype != inputs[0].dtype:
            raise UnfitBatch(
                f"{where} has the type {inputs[-1].dtype}, and the first {inputs[0].dtype}", "write all of one type"
            )
    if not inputs:
        raise UnfitBatch(f"'{path}' holds no example", "give a file with at least one")
    values, scale = scaled(np.stack(inputs), path, span)
    return Arrays(Batch(values, torch.tensor(labels)), scale, channel_order(values))


def records(path: str | Path) -> Iterator[bytes]:
    """The content of every record.

    Raises:
        StorageFailure: missing, cut off or damaged.
        MissingExtra: google-crc32c is not installed.
    """
    try:
        content = Path(path).read_bytes()
        content = gzip.decompress(content) if content.startswith(GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        raise StorageFailure(f"cannot read '{path}' ({error})", "check the path, or copy it anew") from None
    file = io.BytesIO(content)
    for place in range(len(content)):
        head = file.read(12)
        if not head:
            return
        length = struct.unpack("<Q", _checked(head, 8, place, path))[0]
        yield _checked(file.read(min(length + 4, len(content))), length, place, path)


def masked(content: bytes) -> int:
    """Its checksum as it stands in a file, since checksums of checksums are weak.

    Raises:
        MissingExtra: google-crc32c is not installed.

    >>> hex(masked(b"123456789"))
    '0xc78ab0e5'
    """
    try:
        import google_crc32c
    except ImportError:
        raise MissingExtra("google-crc32c is not installed", "pip install 'fedseal[tfrecord]'") from None
    checksum: int = google_crc32c.value(content)
    return ((checksum >> 15 | checksum << 17) + MASK) & 0xFFFFFFFF


def _checked(part: bytes, length: int, place: int, path: str | Path) -> bytes:
    if len(part) != length + 4:
        raise StorageFailure(f"'{path}' is cut off in record {place}", "copy it anew")
    content = part[:length]
    if masked(content) != int.from_bytes(part[length:], "little"):
        raise StorageFailure(
            f"record {place} of '{path}' is damaged, or the file is no TFRecord: a checksum is wrong", "copy it anew"
        )
    return content


class _Sides(NamedTuple):
    height: int | None
    width: int | None
    depth: int | None


def _input(found: dict[str, Feature], shape: Sequence[int] | None, where: str) -> NDArray[Any]:
    feature = _first(found, INPUTS, where)
    if not isinstance(feature, list):
        values = np.asarray(feature)
        return _arranged(values, shape, _sides(found), where) if shape or _sides(found).height else values
    if len(feature) != 1:
        raise UnfitBatch(f"{where} has {len(feature)} byte strings for its input", "write one an example")
    content = feature[0]
    told = tensor(content)
    if told is not None:
        return _arranged(told, shape, _sides(found), where)
    if content.startswith((b"\x89PNG", b"\xff\xd8")):
        try:
            return _arranged(_picture(content), shape, _Sides(None, None, None), where)
        except (*DAMAGED, Image.DecompressionBombError) as error:
            raise UnfitBatch(f"{where} holds a picture that cannot be read ({error})", "write it anew") from None
    return _arranged(np.frombuffer(content, np.uint8), shape, _sides(found), where)


def _picture(content: bytes) -> NDArray[Any]:
    """The values that a PNG or JPEG file holds, with all of their bits, and colors in place of places in a palette."""
    colors = depth.stored_colors(io.BytesIO(content))
    if colors is not None:
        return colors
    image = Image.open(io.BytesIO(content))
    return np.asarray(image.convert("RGB") if image.mode in ("P", "PA") else image)


def _arranged(values: NDArray[Any], shape: Sequence[int] | None, sides: _Sides, where: str) -> NDArray[Any]:
    """A picture (H, W, C), or its values in that order, as (C, H, W); other tensors as they are."""
    if shape is not None and len(shape) != 3:
        if values.size != math.prod(shape):
            raise UnfitBatch(f"{where} has {values.size} values, and {tuple(shape)} was asked for", "check --shape")
        return values.reshape(shape)
    if values.ndim == 1:
        values = values.reshape(_guessed(values.size, shape, sides, where))
    if values.ndim == 2:
        values = values[:, :, None]
    picture = np.ascontiguousarray(np.moveaxis(values, -1, 0)) if values.ndim == 3 else values
    if shape is not None and picture.shape != tuple(shape):
        raise UnfitBatch(f"{where} is a picture {picture.shape}, and {tuple(shape)} was asked for", "check --shape")
    return picture


def _guessed(count: int, shape: Sequence[int] | None, sides: _Sides, where: str) -> tuple[int, int, int]:
    """Height, width and channels of so many values."""
    if shape is not None:
        told = (shape[1], shape[2], shape[0])
    elif sides.height is not None and sides.width is not None:
        told = (sides.height, sides.width, sides.depth or count // max(1, sides.height * sides.width))
    else:
        side = next((math.isqrt(count // c) for c in (1, 3) if count == c * math.isqrt(count // c) ** 2), 0)
        told = (side, side, count // max(1, side * side))
    if math.prod(told) != count:
        raise UnfitBatch(
            f"{where} has {count} values, which make no picture {'of a square' if shape is None else told}",
            "name the shape, such as --shape 3,64,48",
        )
    return told


def _sides(found: dict[str, Feature]) -> _Sides:
    told = [next((found[name] for name in names if name in found), None) for names in SIDES]
    return _Sides(*(int(one[0]) if isinstance(one, np.ndarray) and one.size == 1 else None for one in told))


def _label(found: dict[str, Feature], where: str) -> int:
    feature = _first(found, LABELS, where)
    value = tensor(feature[0]) if isinstance(feature, list) and len(feature) == 1 else feature
    if not isinstance(value, np.ndarray) or value.size != 1 or not np.issubdtype(value.dtype, np.integer):
        raise UnfitBatch(f"the class of {where} is no whole number", "write one int64 an example")
    return int(cast("Any", value.reshape(-1)[0]))


def _first(found: dict[str, Feature], names: Sequence[str], where: str) -> Feature:
    for name in names:
        if name in found:
            return found[name]
    raise UnfitBatch(f"{where} holds {sorted(found)}", f"name a feature '{names[0]}'")
