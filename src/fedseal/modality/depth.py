"""Colors of 16 bits a channel, which Pillow opens with 8: decoded once for the upper bytes and once for the lower."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

Values = npt.NDArray[np.uint16]
MOST = 65535
COLORS = ("RGB", "RGBA", "RGBX")  # storage of which Pillow takes whichever byte it is told stands first
# The order of bytes in which what Pillow reads as the upper one is the lower one.
SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
PLANAR = 2  # TIFF's tag 284: each channel apart


def storage(image: Image.Image) -> str:
    """How a file that was just opened stores its channels, such as "RGB;16B", or a PPM "RGB;16" for any more than 8
    bits; Pillow names it in the decoder's arguments only.
    """
    tile = next(iter(getattr(image, "tile", [])), None)
    if tile is None:
        return ""
    arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    if tile.codec_name.startswith("ppm") and arguments[-1] > 255:
        return f"{arguments[0]};16"
    return str(arguments[0])


def has_channels_apart(image: Image.Image) -> bool:
    """Whether a file has channels of more than 8 bits, each apart, of which Pillow makes noise."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (1,))
    return tags.get(284) == PLANAR and len(bits) > 1 and max(bits) > 8


def stored_colors(source: str | Path | BinaryIO) -> Values | None:
    """Colors of 16 bits, or grey with transparency, `(H, W, C)` as they are stored, the share of opaqueness last.

    None where a file has others, or such as cannot be read with 16 bits.

    Raises:
        Whatever Pillow raises.
    """
    with _opened(source) as image:
        stored, key = storage(image), image.info.get("transparency")
    kind, _, order = stored.partition(";16")
    if stored == "LA;16B":  # four bytes a pixel, which stand as four channels
        bytes_ = _decoded(source, "RGBA")
        return _joined(bytes_[..., 0::2], bytes_[..., 1::2])
    if kind not in COLORS or order not in SWAPPED:
        return None
    values = _joined(_decoded(source, stored), _decoded(source, f"{kind};16{SWAPPED[order]}"))
    if kind == "RGB" and isinstance(key, tuple):  # the one color that is transparent
        opaque = (values != np.array(key, np.uint16)).any(-1, keepdims=True)
        values = np.concatenate([values, opaque * np.uint16(MOST)], axis=-1)
    return values


def visible(values: Values) -> Values:
    """The colors of all pixels that are not wholly transparent, `(N, C)`."""
    flat = values.reshape(-1, values.shape[-1])
    return flat if flat.shape[1] in (1, 3) else flat[flat[:, -1] > 0, :-1]


def on_white(values: Values, white: float, notes: list[str]) -> npt.NDArray[np.float32]:
    """Stored colors without their transparency, `(H, W, 1)` or `(H, W, 3)`."""
    if values.shape[-1] in (1, 3):
        return values.astype(np.float32)
    colors, opaque = values[..., :-1].astype(np.float32), values[..., -1:]
    if int(opaque.min()) == MOST:
        return colors
    notes.append("laid over white where it is transparent")
    share = opaque.astype(np.float32) / np.float32(MOST)
    laid: npt.NDArray[np.float32] = colors * share + np.float32(white) * (1 - share)
    return laid


def _opened(source: str | Path | BinaryIO) -> ImageFile.ImageFile:
    if not isinstance(source, (str, Path)):
        source.seek(0)
    return Image.open(source)


def _decoded(source: str | Path | BinaryIO, stored: str) -> npt.NDArray[np.uint8]:
    """Its 8 bits where the file is taken to be stored so."""
    with _opened(source) as image:
        image.tile = [
            tile._replace(args=(stored, *tile.args[1:]) if isinstance(tile.args, tuple) else stored)
            for tile in image.tile
        ]
        return np.asarray(image)


def _joined(high: npt.NDArray[np.uint8], low: npt.NDArray[np.uint8]) -> Values:
    return np.left_shift(high, 8, dtype=np.uint16) | low
