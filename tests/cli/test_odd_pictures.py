from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.conftest import Command

ATTACK = ("attack", "--model", "zoo:mlp", "--size", 8, "--label", 1, "--out", "run")


def _sixteen_bits(path: Path) -> None:
    Image.fromarray(np.arange(100, dtype=np.uint16).reshape(10, 10) * 600).save(path)


def _grey(path: Path) -> None:
    Image.new("L", (8, 8), 77).save(path)


def _palette(path: Path) -> None:
    Image.new("RGB", (12, 12), "teal").convert("P").save(path)


def _alpha(path: Path) -> None:
    Image.new("RGBA", (8, 8), (200, 10, 10, 99)).save(path)


def _one_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1), "teal").save(path)


def _hundred_megapixels(path: Path) -> None:
    """A black PNG of 10,000 x 10,000 at one bit a pixel, written without ever holding it."""
    side = 10_000
    row = zlib.compressobj(9)
    packed = b"".join(row.compress(bytes(1 + side // 8)) for _ in range(side)) + row.flush()

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed) + chunk(b"IEND", b""))


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "16 bits": (_sixteen_bits, "scaled from 16 bits"),
    "grey": (_grey, "repeated its grey channel"),
    "palette": (_palette, "resized from 12x12 to 8x8"),
    "alpha": (_alpha, "laid over white"),
    "1x1": (_one_pixel, "enlarged from 1x1 to 8x8"),
    "10000x10000": (_hundred_megapixels, "resized from 10000x10000 to 8x8"),
}


@pytest.mark.parametrize("kind", list(ODD))
def test_odd_picture_works_and_says_what_was_changed(fedseal: Command, tmp_path: Path, kind: str) -> None:
    make, note = ODD[kind]
    make(tmp_path / "odd.png")
    answer = fedseal(*ATTACK, "--image", "odd.png")
    assert answer.code == 0, answer.err
    assert note in answer.err
    assert (tmp_path / "run" / "reconstruction.png").is_file()


@pytest.mark.parametrize(
    "content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0" + bytes(9)]
)
def test_file_that_is_no_picture_is_one_line(fedseal: Command, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.png").write_bytes(content)
    assert "'odd.png' is not a whole picture" in fedseal(*ATTACK, "--image", "odd.png").complaint


def test_truncated_picture_is_one_line(fedseal: Command, tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "odd.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    assert "not a whole picture" in fedseal(*ATTACK, "--image", "odd.png").complaint
