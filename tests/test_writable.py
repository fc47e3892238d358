from __future__ import annotations

from pathlib import Path

import pytest

from fedseal import files
from fedseal.errors import StorageFailure


def test_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    assert list(files.writable_folder(tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/fedseal"])
def test_folder_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailure, match="cannot write"):
        files.writable_folder(tmp_path / place)


def test_existing_folder_that_takes_no_files_is_refused() -> None:
    with pytest.raises(StorageFailure, match="cannot write"):
        files.writable_folder(Path("/proc"))


def test_file_to_write_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure, match="is a folder"):
        files.writable_file(tmp_path)
