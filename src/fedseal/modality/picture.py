"""Picture files: any picture to pixels in [0, 1] with a note for every change, and pixels to files for people."""

from __future__ import annotations

import io
import math
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fedseal.errors import BadConfig, StorageFailure, UnfitPicture
from fedseal.files import write_whole
from fedseal.layout import canonical
from fedseal.modality import depth

LARGEST = 200_000_000  # pixels of the largest picture accepted; more is an accident, or an attack on memory
DRAFT = 16_000_000  # pixels above which a JPEG is decoded at a reduced size where that is enough
VISIBLE = 128  # pixels a side to which small pictures are enlarged for people

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
GREY_MODES = ("1", "L", "LA", "La")
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # one channel of more than 8 bits
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by the EXIF tag 0x0112, orientation; 5 to 8 swap width and height

# What Pillow's decoders raise on damaged files; found by truncating and corrupting files of the common formats.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error)

_pillow_settings = threading.Lock()


@dataclass(frozen=True)
class Loaded:
    """A picture as pixels `(C, H, W)` in [0, 1], float32, and a note for everything that was changed to make it fit.

    Args:
        scale: which of the file's values are 0 and 1: those of "8 bits" or "16 bits", the "range" that was asked for,
            the "same" numbers, or "its own" least and largest. What has 16 bits and was read with 8 has "16 bits".
    """

    pixels: Tensor
    notes: tuple[str, ...]
    scale: str = "8 bits"


def load_picture(
    path: str | Path, shape: tuple[int, int, int] | None = None, span: tuple[float, float] | None = None
) -> Loaded:
    """Read a picture of any kind that Pillow knows.

    It is turned upright, cropped to the shape's aspect ratio around the center, resized (Lanczos), laid over white
    where transparent, and scaled to [0, 1] where it has more than 8 bits. The notes say which of these happened.

    Args:
        path: the file.
        shape: `(C, H, W)` with 1 or 3 channels; None keeps the picture's size, with 1 channel if it is grey, else 3.
        span: the values that become 0 and 1 where the file has more than 8 bits; None for its type's, or its own.

    Raises:
        UnfitPicture: missing, a folder, no picture, truncated, of more than 200 megapixels, a value beyond the span, or
            colors of more than 8 bits of which no more are read, where a span asks for more.
        BadConfig: a shape with another number of channels, or without pixels.
    """
    if shape is not None and (len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1):
        raise BadConfig(f"a picture's shape is {shape}", "give (channels, height, width) with 1 or 3 channels")
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "does not exist"
        raise UnfitPicture(f"the picture '{path}' {what}", "give the path of a picture file, such as a PNG or a JPEG")
    notes: list[str] = []
    try:
        with _pillow_limits(), Image.open(path) as image:
            if depth.has_channels_apart(image):
                raise UnfitPicture(f"'{path}' has each of its channels of 16 bits apart", "store them together, as PNG")
            colors = depth.stored_colors(path) if ";16" in depth.storage(image) else None
            if span is not None:
                _check_within(image, colors, span, path)
            array, scale = _pixels(image, colors, shape, notes, span)
    except PermissionError:
        raise UnfitPicture(f"the picture '{path}' may not be read", "change its permissions") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UnfitPicture(f"'{path}' has more than {LARGEST // 10**6} megapixels", "make it smaller first") from None
    except MemoryError:
        raise UnfitPicture(f"'{path}' does not fit into memory", "make it smaller first") from None
    except DAMAGED as error:
        raise UnfitPicture(
            f"'{path}' is not a whole picture ({error})", "give a picture that a picture viewer opens"
        ) from None
    return Loaded(canonical(torch.from_numpy(array)), tuple(notes), scale)


def to_png(pixels: Tensor, *, scale: int | None = 1) -> bytes:
    """The content of a PNG file.

    Args:
        pixels: `(C, H, W)`; what is outside of [0, 1] is clamped.
        scale: enlarge by this whole factor with hard edges; None for a factor that makes small pictures visible.

    >>> to_png(torch.rand(3, 4, 4))[1:4]
    b'PNG'
    """
    return _encoded(_picture(pixels, scale), "PNG")


def save_picture(pixels: Tensor, path: str | Path, *, scale: int | None = 1) -> None:
    """Write a picture file.

    Args:
        pixels: `(C, H, W)`; what is outside of [0, 1] is clamped.
        path: its ending names the format, such as ".png".
        scale: enlarge by this whole factor with hard edges; None for a factor that makes small pictures visible.

    Raises:
        StorageFailure: an ending that no writer has, or the file cannot be written.
    """
    ending = Path(path).suffix.lower()
    kind = Image.registered_extensions().get(ending)
    if kind is None or kind not in Image.SAVE:
        raise StorageFailure(f"no picture format ends in '{ending}' ('{path}')", "name the file .png")
    write_whole(Path(path), _encoded(_picture(pixels, scale), kind))


def gif(frames: Sequence[Tensor], path: str | Path, *, milliseconds: int = 100, scale: int | None = None) -> None:
    """Write an endless animation of pictures `(C, H, W)` in [0, 1], each shown for that long.

    Raises:
        BadConfig: no frame, or frames of different shapes.
        StorageFailure: the file cannot be written.
    """
    pictures = [_picture(frame, scale) for frame in _alike(frames)]
    options = {"save_all": True, "append_images": pictures[1:], "duration": milliseconds, "loop": 0}
    write_whole(Path(path), _encoded(pictures[0], "GIF", **options))


def strip(frames: Sequence[Tensor], *, scale: int | None = None, gap: int = 2) -> Tensor:
    """Pictures `(C, H, W)` in [0, 1] side by side with white between them, `(C, scale * H, F * scale * W + ...)`.

    Raises:
        BadConfig: no frame, or frames of different shapes.

    >>> tuple(strip([torch.zeros(3, 32, 32)] * 3).shape)
    (3, 128, 388)
    """
    wide = [_enlarged(frame, scale) for frame in _alike(frames)]
    space = torch.ones_like(wide[0][..., :1]).expand(*wide[0].shape[:-1], gap)
    return torch.cat([part for frame in wide for part in (space, frame)][1:], dim=-1)


@contextmanager
def _pillow_limits() -> Iterator[None]:
    """Accept pictures of up to LARGEST pixels and refuse more; both are process-wide settings of Pillow and Python."""
    with _pillow_settings, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders warn of damage that they survive
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, LARGEST
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_within(image: Image.Image, colors: depth.Values | None, span: tuple[float, float], path: str | Path) -> None:
    """Before anything is resized, which overshoots."""
    deep = image.mode in DEEP_MODES
    if ";16" in depth.storage(image) and not deep and colors is None:
        raise UnfitPicture(
            f"'{path}' has colors of more than 8 bits, of which 8 can be read, and the range {span[0]:g} to "
            f"{span[1]:g} is of all",
            "store it as PNG, or as TIFF of red, green and blue",
        )
    if colors is not None and (seen := depth.visible(colors)).size:
        least, most = float(seen.min()), float(seen.max())
    elif deep:
        least, most = (float(cast("float", value)) for value in _working(image).getextrema())
    else:
        return
    if not span[0] <= least <= most <= span[1]:
        value = least if least < span[0] else most
        raise UnfitPicture(
            f"'{path}' holds the value {value:g}, and the range is {span[0]:g} to {span[1]:g}",
            "name the range that all of the data has",
        )


def _pixels(
    image: Image.Image,
    colors: depth.Values | None,
    shape: tuple[int, int, int] | None,
    notes: list[str],
    span: tuple[float, float] | None,
) -> tuple[npt.NDArray[np.float32], str]:
    """The opened file as `(C, H, W)` float32 in [0, 1], and its scale.

    Args:
        colors: its values, where it has colors of 16 bits that can be read.
    """
    stored = depth.storage(image)  # first, because getexif decodes a PNG and so forgets it
    orientation = image.getexif().get(0x0112, 1)
    if getattr(image, "n_frames", 1) > 1:
        notes.append(f"took the first of {getattr(image, 'n_frames', 1)} frames")
    if orientation in TURNS:
        notes.append("turned upright as its EXIF data say")
    if image.format == "TIFF":
        orientation = 1  # Pillow turns such a file itself where it decodes it
    size = None if shape is None else (shape[1], shape[2])
    channels = None if shape is None else shape[0]
    if colors is not None:
        array = _deep_array(colors, size, orientation, notes, depth.MOST if span is None else span[1])
        array, scale = _shallow(array, "I;16", notes, span)
    elif image.mode in DEEP_MODES:
        array, scale = _shallow(_array(image, size, orientation, notes), image.mode, notes, span)
    else:
        scale = "8 bits"
        if ";16" in stored:
            notes.append("scaled from 16 to 8 bits a channel")
            scale = "16 bits"  # whatever was lost, 65535 is 1
        array = np.divide(_array(image, size, orientation, notes), 255, dtype=np.float32)
    return _with_channels(array, channels, notes), scale


def _array(
    image: Image.Image, size: tuple[int, int] | None, orientation: int, notes: list[str]
) -> npt.NDArray[np.float32]:
    """The opened file's values upright and of a size, `(H, W)` or `(H, W, 3)`. Shrinks first: memory stays small."""
    mode = image.mode
    image = _working(image) if size is None else _fitted(image, size, orientation in TURNS and orientation >= 5, notes)
    if image.mode == "RGBA":
        image = _on_white(image, notes)
    if mode in GREY_MODES:
        image = image.convert("L")
    elif mode not in ("RGB", "RGBA", "RGBX", "P", "PA", "RGBa") and mode not in DEEP_MODES:
        notes.append(f"converted from {mode} to RGB")
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    return np.asarray(image, dtype=np.float32)


def _deep_array(
    colors: depth.Values, size: tuple[int, int] | None, orientation: int, notes: list[str], white: float
) -> npt.NDArray[np.float32]:
    """The same of colors of 16 bits, channel by channel, since Pillow resizes no other pictures of floats."""
    planes = np.moveaxis(depth.on_white(colors, white, notes), -1, 0)
    parts = [
        _array(Image.fromarray(np.ascontiguousarray(plane)), size, orientation, [] if place else notes)
        for place, plane in enumerate(planes)
    ]
    return np.stack(parts, axis=-1) if len(parts) > 1 else parts[0]


def _working(image: Image.Image) -> Image.Image:
    """In one of the modes F, RGBA, L, RGB, which can be resized without loss of meaning."""
    if image.mode in DEEP_MODES:
        # Sixteen bits stay exact in float32.
        return image if image.mode == "F" else image.convert("I").convert("F")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in GREY_MODES else "RGB")


def _fitted(image: Image.Image, size: tuple[int, int], swapped: bool, notes: list[str]) -> Image.Image:
    """The center at the aspect ratio of the upright size (height, width), resized to it, in a working mode."""
    stored, target = image.size, (size if swapped else size[::-1])
    scale = min(stored[0] / target[0], stored[1] / target[1])
    inner = tuple(min(s, max(1, round(t * scale))) for s, t in zip(stored, target, strict=True))
    offset = tuple((s - i) // 2 for s, i in zip(stored, inner, strict=True))

    def upright(pair: tuple[int, ...]) -> str:
        return "x".join(str(number) for number in (pair[::-1] if swapped else pair))

    if inner != stored:
        notes.append(f"cropped the center {upright(inner)} of {upright(stored)}")
    if inner != target:
        origin = "" if inner != stored else f"from {upright(stored)} "
        notes.append(f"{'enlarged' if scale < 1 else 'resized'} {origin}to {upright(target)}")
    if math.prod(stored) > DRAFT:
        image.draft(None, tuple(min(s, math.ceil(4 * s / scale)) for s in stored))  # type: ignore[arg-type]
    if inner != stored:
        # Cropped rather than passed as a box to resize, whose filter would look at pixels outside of it.
        edges = (*offset, *(o + i for o, i in zip(offset, inner, strict=True)))
        now = (image.size[0] / stored[0], image.size[1] / stored[1])  # below 1 after a draft
        left, top, right, bottom = (round(edge * now[axis % 2]) for axis, edge in enumerate(edges))
        image = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    return _working(image).resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _on_white(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    notes.append("laid over white where it is transparent")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _shallow(
    values: npt.NDArray[np.float32], mode: str, notes: list[str], span: tuple[float, float] | None
) -> tuple[npt.NDArray[np.float32], str]:
    """A channel of more than 8 bits, scaled to [0, 1] by the span, or its type's range, or its own; and by which."""
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low + high):
        raise ValueError("it holds NaN or infinity")
    if span is not None:
        notes.append(f"scaled from {span[0]:g} .. {span[1]:g} to [0, 1]")
        return ((values - span[0]) / (span[1] - span[0])).clip(0, 1).astype(np.float32), "range"
    if mode == "F" and low >= 0 and high <= 1:
        return values, "same"
    if mode.startswith("I;16") or (mode == "I" and low >= 0 and high <= 65535):
        notes.append("scaled from 16 bits to [0, 1]")
        return (values / 65535).clip(0, 1), "16 bits"
    notes.append(f"scaled from {low:g} .. {high:g} to [0, 1]")
    return ((values - low) / max(high - low, 1e-30)).astype(np.float32), "its own"


def _with_channels(array: npt.NDArray[np.float32], channels: int | None, notes: list[str]) -> npt.NDArray[np.float32]:
    if array.ndim == 2 and channels == 3:
        notes.append("repeated its grey channel 3 times")
        array = np.stack([array] * 3, axis=-1)
    elif array.ndim == 3 and channels == 1:
        notes.append("turned its colors to grey")
        array = (array @ np.array(GREY_WEIGHTS, dtype=np.float32))[..., None]
    elif array.ndim == 2:
        array = array[..., None]
    return np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32)


def _picture(pixels: Tensor, scale: int | None) -> Image.Image:
    whole = _enlarged(pixels, scale).detach().cpu().double().nan_to_num(0.0).clamp(0, 1)
    array = (whole * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def _enlarged(pixels: Tensor, scale: int | None) -> Tensor:
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise BadConfig(f"pixels of shape {tuple(pixels.shape)} are no picture", "give (C, H, W) with 1 or 3 channels")
    factor = max(1, math.ceil(VISIBLE / max(pixels.shape[1:]))) if scale is None else scale
    if factor < 1:
        raise BadConfig(f"a picture is to be enlarged by {factor}", "give a whole number of at least 1")
    return pixels.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def _alike(frames: Sequence[Tensor]) -> Sequence[Tensor]:
    shapes = sorted({tuple(frame.shape) for frame in frames})
    if len(shapes) != 1:
        raise BadConfig(f"the frames have the shapes {shapes}", "give one or more pictures of one shape")
    return frames


def _encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind, **options)
    except (OSError, ValueError, KeyError) as error:
        raise StorageFailure(f"a picture of {picture.size} cannot be written as {kind} ({error})", "use .png") from None
    return buffer.getvalue()
