from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fedseal.report.picture import FRAMES_BUDGET, STILLS_BUDGET, TWICE, budget, png, thinned


def opened(text: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_keep_every_pixel(channels: int) -> None:
    pixels = torch.randint(0, 256, (channels, 7, 5), generator=torch.Generator().manual_seed(0))
    array = np.asarray(opened(png(pixels / 255, 64)))
    expected = pixels.permute(1, 2, 0).numpy() if channels == 3 else pixels[0].numpy()
    assert (array == expected).all()


def test_large_pictures_shrink_to_the_side_and_keep_their_mean() -> None:
    picture = torch.linspace(0, 1, 200).view(1, 1, 200).expand(3, 100, 200)
    image = opened(png(picture, 50))
    assert image.size == (50, 25)
    assert abs(np.asarray(image).mean() / 255 - 0.5) < 0.01


def test_what_is_not_finite_is_still_a_picture() -> None:
    picture = torch.tensor([[[float("nan"), float("inf"), -float("inf"), 0.5]]])
    assert np.asarray(opened(png(picture, 64))).tolist() == [[0, 255, 0, 128]]


@given(st.integers(0, 200), st.integers(0, 60))
def test_thinning_keeps_both_ends_in_order(frames: int, keep: int) -> None:
    kept = thinned(frames, keep)
    assert kept == sorted(set(kept))
    assert len(kept) == (min(frames, keep) if keep > 1 or frames <= keep else 0)
    if kept:
        assert (kept[0], kept[-1]) == (0, frames - 1)


@given(st.lists(st.tuples(st.integers(1, 16), st.sampled_from([1, 3]), st.integers(0, 24)), max_size=60))
def test_iterations_of_pure_noise_stay_within_the_budget(shapes: list[tuple[int, int, int]]) -> None:
    afford = budget(shapes)
    kept = [min(f, afford.frames) if moves else 0 for (_, _, f), moves in zip(shapes, afford.animated, strict=True)]
    side = afford.frame_side
    shown = [(n, c) for n, (_, c, _) in zip(afford.panels, shapes, strict=True)]
    assert sum(n * c * k * side * side * 4 / 3 for (n, c), k in zip(shown, kept, strict=True)) <= FRAMES_BUDGET
    assert all(k == frames or k >= 8 or k == 0 for k, (_, _, frames) in zip(kept, shapes, strict=True))
    assert kept == [] or all(frames < 2 for _, _, frames in shapes) or any(kept)


@given(st.lists(st.tuples(st.integers(1, 64), st.just(3), st.just(0)), min_size=1, max_size=300), st.integers(8, 224))
def test_originals_and_reconstructions_of_pure_noise_stay_within_the_budget(
    shapes: list[tuple[int, int, int]], side: int
) -> None:
    afford = budget(shapes, side)
    shown = [n for n, pictured in zip(afford.panels, afford.illustrated, strict=True) if pictured]
    stored = min(side, afford.still_side)
    assert 2 * (sum(shown) + TWICE) * 3 * stored**2 * 4 / 3 <= STILLS_BUDGET
    assert all(1 <= n <= min(examples, 8) for n, (examples, _, _) in zip(afford.panels, shapes, strict=True))
    assert list(afford.illustrated) == sorted(afford.illustrated, reverse=True)  # the leakiest keep theirs
    assert afford.illustrated[0]
