"""Judgements kept as they come: a run of hours that is stopped goes on where it was, as long as the code is the same.

A line of JSON a world, gzipped; the world itself is drawn again from its seed. Every line holds the digest of the code
that judged it, and lines by other code are passed over.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Generator, Iterable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.worlds.generate import from_seed
from benchmarks.worlds.judgement import Judgement

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "worlds.jsonl.gz"
JUDGES = ("", "attack", "defense", "metric", "modality")  # folders of the package that an attack runs through
READERS = {  # of files, which no world has
    "": ("captured.py", "files.py", "json_file.py", "nvflare.py"),
    "modality": ("csv_dialect.py", "depth.py", "frame.py", "picture.py", "schema.py", "table.py"),
}
TALLIES = ("__init__.py", "__main__.py", "cost.py", "journal.py", "shrink.py", "tally.py")  # judge nothing
TOGETHER = 20  # judgements written at once
JUDGEMENT = TypeAdapter(Judgement)


def code() -> str:
    """The digest of all sources that have a part in a judgement, and of the library that computes it."""
    sources = [
        path
        for folder in JUDGES
        for path in (ROOT / "src" / "fedseal" / folder).glob("*.py" if not folder else "**/*.py")
        if path.name not in READERS.get(folder, ())
    ]
    sources += [path for path in Path(__file__).parent.glob("*.py") if path.name not in TALLIES]
    digest = hashlib.sha256(version("torch").encode())
    for path in sorted(sources):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def kept(path: Path, code: str) -> dict[int, Judgement]:
    """The judgements in a file by this code, by seed; none where there is no file."""
    if not path.exists():
        return {}
    with gzip.open(path, "rt") as file:
        lines = (json.loads(line) for line in file)
        return {
            line["seed"]: JUDGEMENT.validate_python(line["judged"] | {"world": from_seed(line["seed"])})
            for line in lines
            if line["code"] == code
        }


def last_code(path: Path) -> str:
    """The digest of the code that judged the last world in a file."""
    with gzip.open(path, "rt") as file:
        *_, last = file
    return str(json.loads(last)["code"])


def differs(one: Judgement, other: Judgement) -> str:
    """Where two judgements of one world part, in words; empty where they are the same but for the time they took."""
    if (one.refused, one.determined, len(one.reads)) != (other.refused, other.determined, len(other.reads)):
        return "refused, determined or run otherwise"
    for mine, its in zip(one.reads, other.reads, strict=True):
        if replace(mine, seconds=0.0) != replace(its, seconds=0.0):
            what = "certain otherwise" if mine.certain != its.certain else "another result"
            return f"{mine.attack} as {mine.threat}: {what}"
    return ""


def keeping(
    judged: Iterable[tuple[int, Judgement]], path: Path, code: str, *, together: int = TOGETHER
) -> Generator[tuple[int, Judgement]]:
    """Pass judgements on, and append them to a file, some at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting: list[str] = []
    try:
        for seed, judgement in judged:
            waiting.append(json.dumps({"code": code, "seed": seed, "judged": _line(judgement)}) + "\n")
            if len(waiting) == together:
                _append(path, waiting)
            yield seed, judgement
    finally:
        _append(path, waiting)


def forget_others(path: Path, code: str) -> None:
    """Leave out what other code judged; what stays is written as one stream, which is shorter."""
    with gzip.open(path, "rt") as file:
        lines = [line for line in file if json.loads(line)["code"] == code]
    anew = path.with_suffix(".tmp")
    with gzip.GzipFile(anew, "w", mtime=0) as file:
        file.write("".join(lines).encode())
    anew.replace(path)


def _append(path: Path, waiting: list[str]) -> None:
    if waiting:
        with gzip.open(path, "at") as file:
            file.write("".join(waiting))
        waiting.clear()


def _line(judgement: Judgement) -> dict[str, Any]:
    line = asdict(judgement)
    del line["world"]
    return line
