from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from fedseal.errors import BadConfig, StorageFailure, UnfitPicture
from fedseal.setup.data.images import picture_batch

SHAPE = (3, 4, 4)


def paint(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (level, level, level)).save(path)


def levels(batch: torch.Tensor) -> list[int]:
    return batch[:, 0, 0, 0].mul(255).round().int().tolist()


def test_subfolders_are_classes_by_name(tmp_path: Path) -> None:
    paint(tmp_path / "dog" / "b.png", 20)
    paint(tmp_path / "dog" / "a.PNG", 10)
    paint(tmp_path / "cat" / "z.jpeg", 30)
    (tmp_path / "empty").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    (tmp_path / "dog" / "._a.png").write_text("what a Mac leaves behind")
    batch = picture_batch(tmp_path, SHAPE)
    assert levels(batch.inputs) == [30, 10, 20]
    assert batch.labels.tolist() == [0, 1, 1]


def test_without_subfolders_every_picture_is_its_own_class(tmp_path: Path) -> None:
    for name, level in [("2.png", 50), ("1.png", 40)]:
        paint(tmp_path / name, level)
    batch = picture_batch(tmp_path, SHAPE)
    assert levels(batch.inputs) == [40, 50]
    assert batch.labels.tolist() == [0, 1]


def test_a_folder_without_pictures_and_no_folder_at_all(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(BadConfig, match="there are no pictures in"):
        picture_batch(tmp_path, SHAPE)
    with pytest.raises(StorageFailure, match="is missing"):
        picture_batch(tmp_path / "nothing", SHAPE)
    with pytest.raises(StorageFailure, match="is a file"):
        picture_batch(tmp_path / "notes.txt", SHAPE)


def test_pictures_both_loose_and_in_classes_are_ambiguous(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 1)
    paint(tmp_path / "dog" / "b.png", 2)
    with pytest.raises(BadConfig, match=r"both pictures \('a.png'\) and folders of pictures \('dog'\)"):
        picture_batch(tmp_path, SHAPE)


def test_a_file_that_only_pretends_is_named(tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_text("not a picture")
    with pytest.raises(UnfitPicture, match=r"fake\.png"):
        picture_batch(tmp_path, SHAPE)
