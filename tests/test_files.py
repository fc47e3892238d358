"""A file is whole or as it was, and what the system refuses is said with a remedy that fits it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fedseal.errors import StorageFailure
from fedseal.files import make_folder, whole, write_whole


@pytest.mark.parametrize(
    ("code", "kept", "said"),
    [
        (errno.ENOSPC, "", "No space left on device); free some space and run the same command again"),
        (errno.ENOSPC, "cells are kept", "free some space and run the same command again: cells are kept"),
        (errno.EROFS, "cells are kept", "Read-only file system); choose a folder that you may write to"),
        (errno.EIO, "", "Input/output error); choose another place"),
        (errno.EIO, "cells are kept", "choose another place, or run the same command again: cells are kept"),
    ],
)
def test_a_refused_write_leaves_the_older_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kept: str, said: str
) -> None:
    write_whole(tmp_path / "note", b"older")

    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageFailure) as caught:
        write_whole(tmp_path / "note", b"newer", kept)
    assert str(caught.value).startswith(f"cannot write '{tmp_path / 'note'}' (")
    assert str(caught.value).endswith(said)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("note", b"older")]


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailure, match="a folder is in the way: choose another name"):
        write_whole(tmp_path / "folder", b"")
    for place in ("file", "file/below"):
        with pytest.raises(StorageFailure, match=rf"to the folder '.*{place}' .*a file is in the way"):
            make_folder(tmp_path / place)


def _spoiled(path: Path) -> None:
    with whole(path) as part:
        part.write_text("half")
        raise ValueError("no picture")


def test_an_error_of_who_writes_passes_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no picture"):
        _spoiled(tmp_path / "note")
    assert list(tmp_path.iterdir()) == []
