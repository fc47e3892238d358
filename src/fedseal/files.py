"""Files that are whole or as they were before, whenever the process or the power ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PART = ".part"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file such that at any moment it is there with all of its content, or as it was before.

    Raises:
        OSError: it cannot be written; nothing half written stays.
    """
    with whole(path) as part:
        part.write_bytes(content)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside `path` for others to write to; at the end it takes that name, and after an error it is gone.

    Raises:
        OSError: it cannot take that name, or was never written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole(Path(folder) / "note") as part:
    ...         part.write_text("all of it")
    ...     [path.name for path in Path(folder).iterdir()]
    9
    ['note']
    """
    part = path.with_name(f".{path.name}{PART}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # Makes the new name survive a power cut. Best effort: not every file system can, and the file itself is whole.
    if os.name == "posix":
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
