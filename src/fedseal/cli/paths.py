"""Places to write to, checked before any work is done."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fedseal.errors import StorageFailure
from fedseal.files import changing_folder, make_folder


def folder(path: Path) -> Path:
    """A folder that can be written to, made where missing.

    Raises:
        StorageFailure: it is a file, or nothing can be written there.
    """
    make_folder(path)
    # Permissions do not tell: root, network drives and read-only mounts all differ from what they say.
    with changing_folder(path), tempfile.TemporaryFile(dir=path) as probe:
        probe.write(b"fedseal")
    return path


def file_to_write(path: Path) -> Path:
    """A file in a folder that can be written to.

    Raises:
        StorageFailure: it is a folder, or nothing can be written there.
    """
    if path.is_dir():
        raise StorageFailure(f"'{path}' is a folder", "name a file in it")
    folder(path.parent)
    return path
