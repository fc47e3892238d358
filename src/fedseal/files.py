"""Files that are whole or as they were before, whenever the process or the power ends."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedseal.errors import StorageFailure

PART = ".part"


def write_whole(path: Path, content: bytes, kept: str = "") -> None:
    """Write a file such that at any moment it is there with all of its content, or as it was before.

    Args:
        kept: what a second run of the same command finds done, for the message: "finished cells are kept".

    Raises:
        StorageFailure: it cannot be written; nothing half written stays.
    """
    with whole(path, kept) as part:
        part.write_bytes(content)


@contextlib.contextmanager
def whole(path: Path, kept: str = "") -> Iterator[Path]:
    """A place beside `path` for others to write to; at the end it takes that name, and after an error it is gone.

    Raises:
        StorageFailure: it was never written, or cannot take that name.

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
        with changing(path, kept):
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def make_folder(path: Path, kept: str = "") -> None:
    """Make a folder and those above it, where missing.

    Raises:
        StorageFailure: it cannot be made.
    """
    with changing_folder(path, kept):
        path.mkdir(parents=True, exist_ok=True)


def writable_folder(path: Path) -> Path:
    """A folder that can be written to, made where missing.

    Raises:
        StorageFailure: it is a file, or nothing can be written there.
    """
    make_folder(path)
    # Permissions do not tell: root, network drives and read-only mounts all differ from what they say.
    with changing_folder(path), tempfile.TemporaryFile(dir=path) as probe:
        probe.write(b"fedseal")
    return path


def writable_file(path: Path) -> Path:
    """A file in a folder that can be written to.

    Raises:
        StorageFailure: it is a folder, or nothing can be written there.
    """
    if path.is_dir():
        raise StorageFailure(f"'{path}' is a folder", "name a file in it")
    writable_folder(path.parent)
    return path


@contextlib.contextmanager
def changing(path: Path, kept: str = "") -> Iterator[None]:
    """Says what the system refuses while a file is written or deleted as a `StorageFailure`, with its remedy."""
    try:
        yield
    except OSError as error:
        raise _failure(f"'{path}'", error, kept) from None


@contextlib.contextmanager
def changing_folder(path: Path, kept: str = "") -> Iterator[None]:
    """As `changing`, of a folder, while something in it is written or deleted."""
    try:
        yield
    except OSError as error:
        raise _failure(f"to the folder '{path}'", error, kept) from None


def reason(error: OSError) -> str:
    """Why the system refused, without the path, which messages show where it reads better.

    >>> reason(OSError(2, "No such file or directory", "x")), reason(TimeoutError())
    ('No such file or directory', 'TimeoutError')
    """
    return error.strerror or str(error) or type(error).__name__


def _failure(what: str, error: OSError, kept: str) -> StorageFailure:
    again = f"run the same command again{f': {kept}' if kept else ''}"
    remedy = f"choose another place, or {again}" if kept else "choose another place"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = f"free some space and {again}"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "choose a folder that you may write to"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        remedy = "a file is in the way: choose another folder"
    elif error.errno == errno.EISDIR:
        remedy = "a folder is in the way: choose another name"
    return StorageFailure(f"cannot write {what} ({reason(error)})", remedy)


def _sync_folder(folder: Path) -> None:
    # Makes the new name survive a power cut. Best effort: not every file system can, and the file itself is whole.
    if os.name == "posix":
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
