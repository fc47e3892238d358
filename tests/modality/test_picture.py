"""Picture files of every kind, what is said about them, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from fedseal.errors import BadConfig, StorageFailure, UnfitPicture
from fedseal.modality.picture import gif, load_picture, save_picture, strip, to_png

COLORS = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))


def stored(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


def pixels_of(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(array.copy()).permute(2, 0, 1) / 255


def test_a_picture_that_fits_is_read_exactly_and_needs_no_note(tmp_path: Path) -> None:
    loaded = load_picture(stored(Image.fromarray(COLORS), tmp_path / "a.png"), (3, 6, 8))
    assert loaded.notes == ()
    assert loaded.pixels.dtype == torch.float32
    assert torch.equal(loaded.pixels, pixels_of(COLORS))


def test_the_center_is_kept_and_the_notes_say_what_went(tmp_path: Path) -> None:
    picture = np.zeros((480, 640, 3), dtype=np.uint8)
    picture[:, 80:560] = 255
    loaded = load_picture(stored(Image.fromarray(picture), tmp_path / "a.png"), (3, 32, 32))
    assert ", ".join(loaded.notes) == "cropped the center 480x480 of 640x480, resized to 32x32"
    assert torch.equal(loaded.pixels, torch.ones(3, 32, 32))


def test_without_a_shape_the_size_stays(tmp_path: Path) -> None:
    color, grey = Image.fromarray(COLORS), Image.fromarray(RAMP)
    assert load_picture(stored(color, tmp_path / "a.png")).pixels.shape == (3, 6, 8)
    assert load_picture(stored(grey, tmp_path / "b.png")).pixels.shape == (1, 48, 64)


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path: Path, orientation: int, kind: str) -> None:
    """Against the definition: tag n means where row 0 and column 0 of the file lie in the upright scene, such as
    6: row 0 is its right side, column 0 its top."""
    upright = RAMP[:, :, None].repeat(3, 2).copy()
    upright[:10] = 255  # neither axis is symmetric
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright[:, ::-1].transpose(1, 0, 2),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright[::-1].transpose(1, 0, 2),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = stored(Image.fromarray(np.ascontiguousarray(turned)), tmp_path / f"a.{kind}", exif=exif)
    loaded = load_picture(path, (3, 48, 64))
    assert torch.equal(loaded.pixels, pixels_of(upright))
    assert loaded.notes == (() if orientation == 1 else ("turned upright as its EXIF data say",))


def test_crops_of_turned_pictures_are_described_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = stored(Image.fromarray(RAMP), tmp_path / "a.png", exif=exif)
    assert load_picture(path, (1, 64, 32)).notes[1] == "cropped the center 32x64 of 48x64"


def test_grey_and_color_are_turned_into_each_other(tmp_path: Path) -> None:
    grey = load_picture(stored(Image.fromarray(RAMP), tmp_path / "a.png"), (3, 48, 64))
    assert torch.equal(grey.pixels, (torch.from_numpy(RAMP.copy()) / 255).expand(3, 48, 64))
    assert grey.notes == ("repeated its grey channel 3 times",)
    color = load_picture(stored(Image.fromarray(COLORS), tmp_path / "b.png"), (1, 6, 8))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close(color.pixels, (pixels_of(COLORS) * weights).sum(0, keepdim=True))
    assert color.notes == ("turned its colors to grey",)


def test_sixteen_bits_are_scaled_by_their_range_and_keep_their_precision(tmp_path: Path) -> None:
    deep = np.array([[0, 1, 256], [32768, 65534, 65535]], dtype=np.uint16)
    loaded = load_picture(stored(Image.fromarray(deep), tmp_path / "a.png"), (1, 2, 3))
    torch.testing.assert_close(loaded.pixels[0].double(), torch.from_numpy(deep / 65535), atol=1e-7, rtol=0)
    assert loaded.notes == ("scaled from 16 bits to [0, 1]",)


def test_floating_point_pictures_are_scaled_by_their_own_range(tmp_path: Path) -> None:
    loaded = load_picture(stored(Image.fromarray(np.array([[-2.0, 0.0, 6.0]], dtype=np.float32)), tmp_path / "a.tif"))
    assert loaded.pixels.flatten().tolist() == [0.0, 0.25, 1.0]
    assert loaded.notes == ("scaled from -2 .. 6 to [0, 1]",)


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    picture = np.zeros((2, 2, 4), dtype=np.uint8)
    picture[0, 0, 3] = 255
    picture[1, 1, 3] = 51
    loaded = load_picture(stored(Image.fromarray(picture), tmp_path / "a.png"), (3, 2, 2))
    torch.testing.assert_close(loaded.pixels[0], torch.tensor([[0.0, 1.0], [1.0, 0.8]]))
    assert loaded.notes == ("laid over white where it is transparent",)


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    opaque = Image.fromarray(COLORS).convert("RGBA")
    loaded = load_picture(stored(opaque, tmp_path / "a.png"), (3, 6, 8))
    assert torch.equal(loaded.pixels, pixels_of(COLORS))
    assert loaded.notes == ()


@pytest.mark.parametrize("transparent", [False, True])
def test_palette_pictures_get_their_colors(tmp_path: Path, transparent: bool) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    path = stored(picture, tmp_path / "a.png", **({"transparency": 1} if transparent else {}))
    blue = [1.0, 1.0, 1.0] if transparent else [0.0, 0.0, 1.0]
    assert load_picture(path, (3, 1, 2)).pixels[:, 0].T.tolist() == [[1.0, 0.0, 0.0], blue]


def test_one_pixel_is_enlarged_and_said_to_be(tmp_path: Path) -> None:
    loaded = load_picture(stored(Image.new("RGB", (1, 1), (255, 0, 51)), tmp_path / "a.png"), (3, 32, 32))
    torch.testing.assert_close(loaded.pixels, torch.tensor([1.0, 0.0, 0.2]).view(3, 1, 1).expand(3, 32, 32))
    assert loaded.notes == ("enlarged from 1x1 to 32x32",)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_hundred_megapixels_are_accepted_without_a_warning(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    right = Image.new("1" if ending == "png" else "L", (10_000, 10_000), 0)
    right.paste(255, (5_000, 0, 10_000, 10_000))
    limit = Image.MAX_IMAGE_PIXELS
    loaded = load_picture(stored(right, path), (1, 4, 4))
    assert (loaded.pixels > 0.5).tolist() == [[[False, False, True, True]] * 4]
    assert loaded.notes == ("resized from 10000x10000 to 4x4",)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("side", [14_143, 40_000])
def test_more_than_two_hundred_megapixels_are_refused_before_decoding(tmp_path: Path, side: int) -> None:
    small = io.BytesIO()
    Image.new("L", (1, 1)).save(small, "PNG")
    content = bytearray(small.getvalue())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnfitPicture, match="more than 200 megapixels"):
        load_picture(tmp_path / "a.png", (3, 32, 32))


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    gif([torch.ones(3, 8, 8), torch.zeros(3, 8, 8)], tmp_path / "a.gif", milliseconds=40, scale=1)
    loaded = load_picture(tmp_path / "a.gif", (3, 8, 8))
    assert torch.equal(loaded.pixels, torch.ones(3, 8, 8))
    assert loaded.notes == ("took the first of 2 frames",)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    save_picture(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)), tmp_path / "half.png")
    whole = (tmp_path / "half.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    for name in ("text.png", "empty.png", "half.png", "absent.png", ""):
        with pytest.raises(UnfitPicture, match="; give"):
            load_picture(tmp_path / name, (3, 32, 32))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLORS).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / "a").write_bytes(content[: data.draw(st.integers(place, len(content)))])
    with suppress(UnfitPicture):
        assert load_picture(tmp_path / "a", (3, 4, 4)).pixels.shape == (3, 4, 4)


def test_a_shape_without_pixels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="channels"):
        load_picture(stored(Image.fromarray(COLORS), tmp_path / "a.png"), (2, 4, 4))


@pytest.mark.parametrize("channels", [1, 3])
def test_saved_pictures_are_read_back_to_eight_bits(tmp_path: Path, channels: int) -> None:
    pixels = torch.rand(channels, 5, 7, generator=torch.Generator().manual_seed(0))
    save_picture(pixels, tmp_path / "a.png")
    torch.testing.assert_close(load_picture(tmp_path / "a.png").pixels, pixels, atol=0.501 / 255, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_saving_clamps_and_shows_nan_as_black(tmp_path: Path) -> None:
    save_picture(torch.tensor([[[-1.0, 2.0, float("nan"), float("inf")]]]), tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png").pixels.tolist() == [[[0.0, 1.0, 0.0, 1.0]]]


def test_enlarging_repeats_pixels() -> None:
    pixels = torch.tensor([[[0.0, 1.0]]])
    with Image.open(io.BytesIO(to_png(pixels, scale=3))) as picture:
        assert np.asarray(picture).tolist() == [[0, 0, 0, 255, 255, 255]] * 3
    with Image.open(io.BytesIO(to_png(torch.zeros(3, 32, 28), scale=None))) as picture:
        assert picture.size == (28 * 4, 32 * 4)


def test_a_strip_holds_the_frames_in_order_with_white_between() -> None:
    frames = [torch.full((3, 2, 2), level) for level in (0.0, 0.25, 0.5)]
    row = strip(frames, scale=1, gap=1)
    assert row.shape == (3, 2, 8)
    assert row[0, 0].tolist() == [0.0, 0.0, 1.0, 0.25, 0.25, 1.0, 0.5, 0.5]


def test_a_gif_holds_all_frames_and_their_time(tmp_path: Path) -> None:
    frames = [torch.full((1, 8, 8), level / 4) for level in range(5)]
    gif(frames, tmp_path / "a.gif", milliseconds=70, scale=2)
    with Image.open(tmp_path / "a.gif") as animation:
        assert (animation.size, getattr(animation, "n_frames", 1), animation.info["loop"]) == ((16, 16), 5, 0)
        for number, frame in enumerate(frames):
            animation.seek(number)
            assert animation.info["duration"] == 70
            shown = np.asarray(animation.convert("L")) / 255
            assert abs(shown - float(frame[0, 0, 0])).max() < 2 / 255


def test_frames_must_be_alike(tmp_path: Path) -> None:
    for frames in ([], [torch.zeros(1, 2, 2), torch.zeros(3, 2, 2)]):
        with pytest.raises(BadConfig, match="frames"):
            strip(frames)
        with pytest.raises(BadConfig, match="frames"):
            gif(frames, tmp_path / "a.gif")
    with pytest.raises(BadConfig, match="no picture"):
        to_png(torch.zeros(2, 2))
    with pytest.raises(BadConfig, match="enlarged"):
        to_png(torch.zeros(1, 2, 2), scale=0)


def test_what_cannot_be_written_is_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.iterdir())
    for name in ("absent/a.png", "file/a.png", "folder.png", "a.unknown", "a"):
        with pytest.raises(StorageFailure, match="; "):
            save_picture(torch.zeros(3, 2, 2), tmp_path / name)
    with pytest.raises(StorageFailure, match=r"cannot write '.*a\.gif'"):
        gif([torch.zeros(3, 2, 2)], tmp_path / "absent" / "a.gif")
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_leaves_the_older_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_picture(torch.zeros(3, 2, 2), tmp_path / "a.png")

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageFailure, match="No space left"):
        save_picture(torch.ones(3, 2, 2), tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert not load_picture(tmp_path / "a.png").pixels.any()
