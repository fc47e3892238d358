"""ATS: its transformations against Pillow's where Pillow has them, and policies applied step by step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
import torch
from PIL import ImageEnhance, ImageOps
from torch import Tensor

from fedseal import Batch, zoo
from fedseal.defense.ats import LIBRARY, ats
from fedseal.defense.transform import TRANSFORMATIONS
from fedseal.errors import BadConfig, UnfitBatch

PHOTO = (zoo.photos(size=32)[:1].inputs[0] * 255).round() / 255
BATCH = zoo.photos(size=16)[:4]
SIZE = 6 / 9


def _pillow(picture: Tensor) -> PIL.Image.Image:
    return PIL.Image.fromarray((picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def _tensor(picture: PIL.Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255


ORACLES: dict[str, Callable[[PIL.Image.Image], PIL.Image.Image]] = {
    "color": lambda p: ImageEnhance.Color(p).enhance(1 - 0.5 * SIZE),
    "contrast": lambda p: ImageEnhance.Contrast(p).enhance(1 - 0.5 * SIZE),
    "brightness": lambda p: ImageEnhance.Brightness(p).enhance(1 - 0.5 * SIZE),
    "sharpness": lambda p: ImageEnhance.Sharpness(p).enhance(1 - 0.5 * SIZE),
    "invert": ImageOps.invert,
    "solarize": lambda p: ImageOps.solarize(p, round(256 * (1 - SIZE))),
    "posterize": lambda p: ImageOps.posterize(p, round(8 - 4 * SIZE)),
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
    "rotate": lambda p: p.rotate(30 * SIZE, fillcolor=(128, 128, 128)),
    "translate_x": lambda p: p.transform(p.size, PIL.Image.Transform.AFFINE, (1, 0, -32 * SIZE * 150 / 331, 0, 1, 0)),
    "translate_y": lambda p: p.transform(p.size, PIL.Image.Transform.AFFINE, (1, 0, 0, 0, 1, -32 * SIZE * 150 / 331)),
    "shear_y": lambda p: p.transform(
        p.size,
        PIL.Image.Transform.AFFINE,
        (1, 0, 0, -0.3 * SIZE, 1, 0.3 * SIZE * 16),  # about the center
    ),
}


def test_every_transformation_has_an_oracle_and_the_library_knows_no_other() -> None:
    assert ORACLES.keys() == TRANSFORMATIONS.keys()
    assert {name for name, _ in LIBRARY} <= TRANSFORMATIONS.keys()
    assert len(LIBRARY) == 50


@pytest.mark.parametrize("name", ORACLES)
def test_a_transformation_does_what_pillow_does(name: str) -> None:
    ours = TRANSFORMATIONS[name](PHOTO, SIZE, -1.0).clamp(0, 1)
    off = (ours - _tensor(ORACLES[name](_pillow(PHOTO)))).abs()
    assert off.mean().item() < 0.01  # rounding to bytes; where geometry ties, single pixels
    assert not torch.equal(ours, PHOTO)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
@pytest.mark.parametrize("shape", [(1, 8, 6), (3, 2, 2), (1, 1, 1)])
def test_any_picture_keeps_its_shape_and_stays_finite(name: str, shape: tuple[int, ...]) -> None:
    for picture in (torch.rand(shape, generator=torch.Generator().manual_seed(0)), torch.full(shape, 0.25)):
        moved = TRANSFORMATIONS[name](picture, 1.0, 1.0)
        assert moved.shape == shape
        assert bool(torch.isfinite(moved).all())


def test_a_policy_runs_its_steps_in_order() -> None:
    out = ats("0-38-0").on_batch(BATCH, torch.Generator().manual_seed(0))  # invert, brightness 3, invert
    expected = [1 - (1 - BATCH.inputs) * (1 + sign * 0.5 * 3 / 9) for sign in (-1, 1)]
    for place, picture in enumerate(out.inputs):
        assert any(torch.allclose(picture, way[place].clamp(0, 1), atol=1e-6) for way in expected)
    assert torch.equal(out.labels, BATCH.labels)


def test_every_picture_draws_one_of_several_policies() -> None:
    many = Batch(BATCH.inputs[:1].expand(40, -1, -1, -1), torch.zeros(40, dtype=torch.long))
    assert ats("0+8").name == ats("0/8").name == "ats:0/8"
    out = ats("0/8").on_batch(many, torch.Generator().manual_seed(0)).inputs
    inverted = sum(torch.allclose(picture, 1 - BATCH.inputs[0], atol=1e-6) for picture in out)
    assert 8 < inverted < 32


def test_inputs_beyond_zero_and_one_are_taken_by_their_own_range() -> None:
    wide = Batch(BATCH.inputs * 4 - 2, BATCH.labels)
    out = ats("0").on_batch(wide, torch.Generator()).inputs
    assert torch.allclose(out, wide.inputs.min() + wide.inputs.max() - wide.inputs, atol=1e-5)


@pytest.mark.parametrize("policy", ["", "a-b", "3--7", "3-50", "1.5", "-3"])
def test_an_unknown_policy(policy: str) -> None:
    with pytest.raises(BadConfig, match="ATS has no"):
        ats(policy)


@pytest.mark.parametrize("inputs", [torch.ones(2, 5), torch.ones(2, 7, dtype=torch.long), torch.ones(2, 2, 4, 4)])
def test_inputs_that_are_no_pictures(inputs: Tensor) -> None:
    with pytest.raises(UnfitBatch, match="pictures"):
        ats("3-1-7").on_batch(Batch(inputs, torch.tensor([0, 1])), torch.Generator())
