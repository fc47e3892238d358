from __future__ import annotations

from pathlib import Path

import pytest

from fedseal.cli import options
from fedseal.errors import BadConfig, StorageFailure


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_empty_list_of_names_is_refused(text: str) -> None:
    with pytest.raises(BadConfig, match="empty"):
        options.names(text)


@pytest.mark.parametrize("text", ["1,x", "", "nan", "1,inf"])
def test_numbers_are_finite(text: str) -> None:
    with pytest.raises(BadConfig, match="--std"):
        options.numbers(text, "--std")


@pytest.mark.parametrize("text", ["1,-2", "1.5", "", "²"])
def test_whole_numbers_are_whole(text: str) -> None:
    with pytest.raises(BadConfig, match="--seeds"):
        options.whole_numbers(text, "--seeds")


def test_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    assert list(options.folder(tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/fedseal"])
def test_folder_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailure, match="cannot write"):
        options.folder(tmp_path / place)


def test_existing_folder_that_takes_no_files_is_refused() -> None:
    with pytest.raises(StorageFailure, match="cannot write"):
        options.folder(Path("/proc"))


def test_file_to_write_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure, match="is a folder"):
        options.file_to_write(tmp_path)
