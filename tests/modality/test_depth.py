"""Colors of 16 bits a channel, in every file that has them: read with all of their bits, or refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from fedseal.errors import UnfitPicture
from fedseal.modality.picture import load_picture

Values = npt.NDArray[np.uint16]
TWELVE = np.random.default_rng(0).integers(0, 4096, (5, 4, 3), dtype=np.uint16)


def png(values: Values) -> bytes:
    """Written by hand, since Pillow writes no such files; every row but the first as its difference to the left."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    rows = values.astype(">u2").view(np.uint8).reshape(height, -1)
    lines = [b"\0" + rows[0].tobytes()]
    for row in rows[1:]:
        left = np.concatenate([np.zeros(2 * channels, np.uint8), row[: -2 * channels]])
        lines.append(b"\1" + (row - left).tobytes())
    color = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(b"".join(lines)), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts.items())


def tiff(values: Values, order: str = "<", *, packed: bool = False, apart: bool = False) -> bytes:
    """One strip, or one for each channel."""
    height, width, channels = values.shape
    planes = [values[..., place] for place in range(channels)] if apart else [values]
    strips = [plane.astype(f"{order}u2").tobytes() for plane in planes]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    lists = 8 + 2 + 12 * 10 + 4 + len(bits)
    starts = np.cumsum([lists + 8 * len(strips), *map(len, strips)])[:-1].tolist()
    sizes = [len(strip) for strip in strips]
    one = len(strips) == 1
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, lists - len(bits)), (259, 3, 1, 8 if packed else 1),
        (262, 3, 1, 2), (273, 4, len(strips), starts[0] if one else lists), (277, 3, 1, channels), (278, 4, 1, height),
        (279, 4, len(strips), sizes[0] if one else lists + 4 * len(strips)), (284, 3, 1, 2 if apart else 1),
    ]  # fmt: skip
    content = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    for tag, kind, count, value in entries:
        held = struct.pack(f"{order}HH", value, 0) if (kind, count) == (3, 1) else struct.pack(f"{order}I", value)
        content += struct.pack(f"{order}HHI", tag, kind, count) + held
    content += struct.pack(f"{order}I", 0) + bits
    return content + struct.pack(f"{order}{2 * len(strips)}I", *starts, *sizes) + b"".join(strips)


FILES = {
    "a.png": png(TWELVE),
    "a.tif": tiff(TWELVE),
    "big.tif": tiff(TWELVE, ">"),
    "packed.tif": tiff(TWELVE, ">", packed=True),
}


@pytest.mark.parametrize("name", FILES)
def test_colors_of_16_bits_keep_them_all(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    whole = torch.from_numpy(TWELVE.astype(np.float64)).permute(2, 0, 1)
    loaded = load_picture(tmp_path / name)
    torch.testing.assert_close(loaded.pixels.double(), whole / 65535, atol=1e-7, rtol=0)
    assert (loaded.scale, loaded.notes) == ("16 bits", ("scaled from 16 bits to [0, 1]",))
    ranged = load_picture(tmp_path / name, (3, 5, 4), (0, 4095))
    torch.testing.assert_close(ranged.pixels.double(), whole / 4095, atol=1e-7, rtol=0)
    assert ranged.scale == "range"
    with pytest.raises(UnfitPicture, match=r"holds the value \d+, and the range is 0 to 1023"):
        load_picture(tmp_path / name, (3, 5, 4), (0, 1023))


def test_deep_colors_are_fitted_as_others_are(tmp_path: Path) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "shallow.png")
    (tmp_path / "deep.png").write_bytes(png(levels.astype(np.uint16) * 257))
    for shape in ((3, 6, 6), (1, 12, 16)):
        deep, shallow = (load_picture(tmp_path / f"{name}.png", shape) for name in ("deep", "shallow"))
        torch.testing.assert_close(deep.pixels, shallow.pixels, atol=0.006, rtol=0)  # Pillow rounds to 8 bits
        assert [note for note in deep.notes if "16 bits" not in note] == list(shallow.notes)


@pytest.mark.parametrize("channels", [2, 4])
def test_what_is_transparent_is_laid_over_the_value_that_becomes_1(channels: int, tmp_path: Path) -> None:
    values = np.full((1, 3, channels), 1000, np.uint16)
    values[..., -1] = (65535, 0, 32768)
    (tmp_path / "a.png").write_bytes(png(values))
    loaded = load_picture(tmp_path / "a.png", span=(0, 2000))
    assert loaded.pixels.shape == (channels - 1, 1, 3)
    torch.testing.assert_close(loaded.pixels[0, 0], torch.tensor([0.5, 1.0, 0.75]), atol=1e-4, rtol=0)
    assert loaded.notes[0] == "laid over white where it is transparent"


def test_one_color_may_be_transparent(tmp_path: Path) -> None:
    values = np.array([[[1, 2, 3], [1, 2, 259]]], np.uint16)
    content = png(values)
    key = b"tRNS" + struct.pack(">3H", 1, 2, 3)
    place = content.index(b"IDAT") - 4
    chunk = struct.pack(">I", 6) + key + struct.pack(">I", zlib.crc32(key))
    (tmp_path / "a.png").write_bytes(content[:place] + chunk + content[place:])
    pixels = load_picture(tmp_path / "a.png").pixels
    torch.testing.assert_close(pixels[:, 0, 0], torch.ones(3))
    torch.testing.assert_close(pixels[:, 0, 1] * 65535, torch.tensor([1.0, 2.0, 259.0]), atol=1e-2, rtol=0)


def test_colors_that_cannot_be_read_with_all_bits_have_no_range(tmp_path: Path) -> None:
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 4 5 65535\n" + TWELVE.astype(">u2").tobytes())
    loaded = load_picture(path)
    assert (loaded.scale, loaded.notes) == ("16 bits", ("scaled from 16 to 8 bits a channel",))
    with pytest.raises(UnfitPicture, match=r"a.ppm' has colors of more than 8 bits, of which 8 can be read"):
        load_picture(path, span=(0, 4095))


def test_channels_that_stand_apart_are_refused(tmp_path: Path) -> None:
    """Pillow makes noise of them."""
    (tmp_path / "a.tif").write_bytes(tiff(TWELVE, apart=True))
    with pytest.raises(UnfitPicture, match=r"a.tif' has each of its channels of 16 bits apart"):
        load_picture(tmp_path / "a.tif")
