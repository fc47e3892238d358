"""Options as typed on the command line, turned into values; every mistake is a `BadConfig`."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from fedseal.errors import BadConfig, StorageFailure


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list of specifications; `key=value` goes on with the specification before it.

    >>> names("auto, dlg:steps=100,restarts=3,idlg")
    ('auto', 'dlg:steps=100,restarts=3', 'idlg')
    >>> names("none,prune:[0.2,0.5]")
    ('none', 'prune:[0.2,0.5]')
    >>> names("dpsgd:1,clip=1+prune:0.5")
    ('dpsgd:1,clip=1+prune:0.5',)

    Raises:
        BadConfig: nothing in it.
    """
    found: list[str] = []
    for part in (part.strip() for part in re.split(r",(?![^\[]*\])", text)):
        if "=" in part and ":" not in part.partition("=")[0] and found:
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    if not found:
        raise BadConfig(f"the list '{text}' is empty", "name at least one, separated by commas")
    return tuple(found)


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Comma-separated numbers.

    >>> numbers("0.5,0.25", "--mean")
    (0.5, 0.25)

    Raises:
        BadConfig: something in it is no finite number.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (float("nan"),)
    if not all(abs(value) < float("inf") for value in values):
        raise BadConfig(f"{option} is '{text}'", "give numbers separated by commas")
    return values


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Comma-separated whole numbers that are not negative.

    >>> whole_numbers("3,32,32", "--shape")
    (3, 32, 32)

    Raises:
        BadConfig: something in it is none.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise BadConfig(f"{option} is '{text}'", "give whole numbers separated by commas, none negative")
    return tuple(int(part) for part in parts)


def whole_number(text: str, option: str) -> int:
    """A whole number that is not negative.

    >>> whole_number("7", "--label")
    7

    Raises:
        BadConfig: it is none.
    """
    if not (text.isascii() and text.isdigit()):
        raise BadConfig(f"{option} is '{text}'", "give a whole number that is not negative")
    return int(text)


def folder(path: Path) -> Path:
    """A folder that can be written to, made where missing.

    Raises:
        StorageFailure: it is a file, or nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Permissions do not tell: root, network drives and read-only mounts all differ from what they say.
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"fedseal")
    except OSError as problem:
        reason = os.strerror(problem.errno) if problem.errno else str(problem)
        raise StorageFailure(f"cannot write to the folder '{path}' ({reason})", "choose another with --out") from None
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


def pairs(text: str) -> list[tuple[str, str]]:
    """Options as typed, "name=value,name=value".

    Raises:
        BadConfig: one has no name or no value.
    """
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if bad := [name for name, equals, value in pairs if not (equals and value)]:
        raise BadConfig(f"the option '{bad[0]}' has no value", f"write it as {bad[0]}=VALUE")
    return [(name, value) for name, _, value in pairs]
