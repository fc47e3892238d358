"""The bundled pictures: what is there, in which order, and what counts as unrelated."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedseal.errors import BadConfig
from fedseal.types import Batch
from fedseal.zoo import fashion_mnist, gallery, photos
from fedseal.zoo.pictures import Crop, crops

NONE = torch.empty(0, 3, 32, 32)


def bundled(name: str) -> torch.Tensor:
    with (resources.files("fedseal.zoo") / "data" / f"{name}.png").open("rb") as file:
        return torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) / 255


def test_photos_are_350_in_the_documented_levels() -> None:
    assert [crop.level for crop in crops()] == [1] * 5 + [2] * 20 + [4] * 80 + [7] * 245
    assert len(set(crops())) == 350


def test_whole_photos_are_averaged_by_area() -> None:
    """224 is 7 times 32, so each pixel is the mean of a 7x7 block, up to rounding to 8 bits (twice, a pass a side)."""
    for crop, picture in zip(crops()[:5], photos(size=32).inputs[:5], strict=True):
        expected = torch.nn.functional.avg_pool2d(bundled(crop.photo), 7)
        torch.testing.assert_close(picture, expected, atol=1.01 / 255, rtol=0)


@pytest.mark.parametrize("size", [82, 100])
def test_sizes_at_which_a_box_is_rounded_are_cut_as_others(size: int) -> None:
    """The center of a square box is the box, less a rounding error that Pillow refused."""
    assert photos(size=size).inputs.shape == (350, 3, size, size)
    with pytest.raises(BadConfig, match="at most 896 pixels a side"):
        photos(size=9_999_999)


def test_smallest_crops_are_the_photos_own_pixels_at_size_32() -> None:
    batch = photos(size=32)
    for index in (105, 200, 349):
        left, top, right, bottom = crops()[index].box
        assert torch.equal(batch.inputs[index], bundled(crops()[index].photo)[:, top:bottom, left:right])


def test_prefixes_are_diverse() -> None:
    """Every five pictures of the first hundred come from several photos, and few of the hundred are nearly constant."""
    photos_of = [crop.photo for crop in crops()]
    assert all(len(set(photos_of[first : first + 5])) >= 4 for first in range(0, 90, 5))
    deviations = photos().inputs[:100].std((2, 3)).mean(1)
    assert int((deviations < 0.03).sum()) <= 2
    assert len(torch.unique(photos().inputs[:100].flatten(1), dim=0)) == 100


def test_labels_depend_on_the_crop_alone_and_fill_the_classes() -> None:
    assert torch.equal(photos(size=8, channels=1).labels, photos(size=32).labels)
    assert set(photos(num_classes=10).labels.tolist()) == set(range(10))
    assert photos().labels[:5].tolist() != sorted(photos().labels[:5].tolist())


@pytest.mark.parametrize("batch", [photos(), photos(size=28, channels=1), fashion_mnist(), fashion_mnist(channels=3)])
def test_pixels_are_float32_between_0_and_1_and_use_that_range(batch: Batch) -> None:
    inputs = batch.inputs
    assert inputs.dtype == torch.float32
    assert float(inputs.min()) < 0.02
    assert float(inputs.max()) > 0.98


def test_fashion_mnist_keeps_every_picture_with_its_label() -> None:
    with (resources.files("fedseal.zoo") / "data" / "fashion_mnist_500.npz").open("rb") as file:
        stored = np.load(file)
        expected = {
            (image.tobytes(), int(label)) for image, label in zip(stored["images"], stored["labels"], strict=True)
        }
    batch = fashion_mnist()
    images = (batch.inputs * 255).round().to(torch.uint8).numpy()
    assert {(image[0].tobytes(), int(label)) for image, label in zip(images, batch.labels, strict=True)} == expected
    assert torch.equal(batch.labels, torch.arange(500) % 10)


def test_bundled_data_carry_their_licenses() -> None:
    data = resources.files("fedseal.zoo") / "data"
    table = (data / "SOURCES.md").read_text()
    names = {entry.name for entry in data.iterdir()} - {"SOURCES.md"}
    assert [name for name in names if name not in table] == []
    assert "2017 Zalando SE" in (data / "fashion_mnist_LICENSE.txt").read_text()


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 224, 224), (3, 64, 48), (1, 28, 28), (1, 7, 9)])
def test_gallery_has_the_shape_asked_for(shape: tuple[int, int, int]) -> None:
    exclude = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    pictures = gallery(shape, exclude=exclude, count=99)
    assert pictures.shape == (99, *shape)
    assert 0 <= float(pictures.min()) < float(pictures.max()) <= 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 349), min_size=1, max_size=8))
def test_gallery_holds_nothing_within_30_db_of_an_excluded_picture(indices: list[int]) -> None:
    exclude = photos().inputs[indices]
    pictures = gallery((3, 32, 32), exclude=exclude, count=200)
    for picture in exclude:
        errors = (pictures - picture).double().square().mean((1, 2, 3))
        assert float(-10 * errors.min().log10()) <= 30


@pytest.mark.parametrize("batch", [photos(), fashion_mnist()], ids=["photos", "fashion_mnist"])
def test_gallery_never_falls_back_on_an_excluded_picture(batch: Batch) -> None:
    exclude = batch.inputs[:20]
    shape = (exclude.shape[1], exclude.shape[2], exclude.shape[3])
    assert len(gallery(shape, exclude=exclude, count=len(batch) - 20)) == len(batch) - 20
    with pytest.raises(BadConfig, match=f"1 to {len(batch) - 20}"):
        gallery(shape, exclude=exclude, count=len(batch) - 19)


def test_gallery_leaves_out_noisy_copies_too() -> None:
    exclude = photos().inputs[:10]
    noisy = exclude + 0.01 * torch.randn(exclude.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gallery((3, 32, 32), exclude=noisy, count=99), gallery((3, 32, 32), exclude=exclude, count=99))


def test_gallery_of_a_photo_comes_from_the_other_photos_while_they_last() -> None:
    whole = photos().inputs[:1]
    others = [picture for crop, picture in zip(crops(), photos().inputs, strict=True) if crop.photo != crops()[0].photo]
    assert torch.equal(gallery((3, 32, 32), exclude=whole, count=280), torch.stack(others))
    assert len(gallery((3, 32, 32), exclude=whole, count=349)) == 349


def test_crops_share_the_intersection_by_the_larger_area() -> None:
    whole, quarter = Crop("coffee", 1, 0, 0), Crop("coffee", 2, 1, 1)
    assert whole.shared(whole) == 1
    assert whole.shared(quarter) == quarter.shared(whole) == 0.25
    assert quarter.shared(Crop("coffee", 2, 0, 1)) == quarter.shared(Crop("retina", 2, 1, 1)) == 0


def test_gallery_without_exclusions_is_the_photos_themselves() -> None:
    assert torch.equal(gallery((3, 32, 32), exclude=NONE, count=350), photos().inputs)


@pytest.mark.parametrize(
    ("shape", "exclude", "count"),
    [
        ((3, 32, 32), NONE, 351),
        ((3, 32, 32), NONE, 0),
        ((3, 16, 16), NONE, 1),
        ((2, 32, 32), torch.rand(1, 2, 32, 32), 1),
    ],
)
def test_gallery_says_what_it_cannot_give(shape: tuple[int, int, int], exclude: torch.Tensor, count: int) -> None:
    with pytest.raises(BadConfig, match="give"):
        gallery(shape, exclude=exclude, count=count)


def test_callers_cannot_spoil_the_bundled_pictures() -> None:
    before = photos(size=8).inputs.clone()
    photos(size=8).inputs.zero_()
    fashion_mnist().labels.zero_()
    assert torch.equal(photos(size=8).inputs, before)
    assert fashion_mnist().labels[:10].tolist() == list(range(10))
