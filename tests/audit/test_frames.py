from __future__ import annotations

import pytest
import torch

from audit.fakes import SHAPE
from fedseal.audit.frames import LIMIT, Frames
from fedseal.modality import Image
from fedseal.types import Progress


def fed(count: int) -> Frames:
    frames = Frames(Image(shape=SHAPE))
    for step in range(count):
        frames.add(Progress("x", step, count, 0.0, torch.full((1, *SHAPE), step / max(1, count - 1))))
    return frames


@pytest.mark.parametrize("count", [1, LIMIT, LIMIT + 1, 100, 1000])
def test_frames_are_few_and_evenly_spaced_over_the_whole_attack(count: int) -> None:
    steps = fed(count).steps
    assert len(steps) <= LIMIT
    assert len(steps) >= min(count, LIMIT // 2)
    stride = steps[1] - steps[0] if len(steps) > 1 else 1
    assert steps == list(range(0, count, stride))


def test_every_frame_shows_its_own_step() -> None:
    frames = fed(100)
    assert frames.pictures is not None
    shown = frames.pictures[:, 0, 0, 0, 0].tolist()
    assert shown == [round(255 * step / 99) for step in frames.steps]


def test_another_number_of_examples_starts_anew() -> None:
    frames = fed(30)
    frames.add(Progress("other", 7, 9, 0.0, torch.rand(2, *SHAPE)))
    assert frames.steps == [7]
    assert frames.pictures is not None
    assert frames.pictures.shape == (1, 2, *SHAPE)


def test_what_is_not_finite_is_black_and_what_is_absent_is_no_frame() -> None:
    frames = Frames(Image(shape=SHAPE))
    frames.add(Progress("x", 0, 1, 0.0, None))
    assert frames.pictures is None
    frames.add(Progress("x", 1, 1, 0.0, torch.full((1, *SHAPE), float("nan"))))
    assert frames.pictures is not None
    assert not frames.pictures.any()
