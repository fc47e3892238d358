"""The same measurement at this commit and at an earlier one, turn by turn in one run, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.measure import spread

BEFORE = "a13fdd6"  # the commit before the house was put in order
ROOT = Path(__file__).parents[1]
Figures = dict[str, list[float]]


def export(folder: Path, *parts: str) -> None:
    """Write folders of the earlier commit into an empty one."""
    archive = subprocess.run(["git", "archive", BEFORE, *parts], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def environment(source: Path) -> dict[str, str]:
    """In which that source is imported, and torch computes with one thread."""
    return {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}


def both(script: str, turns: int, folder: Path) -> tuple[Figures, Figures]:
    """What a script measures now, and what it did then.

    Args:
        script: defines `measure(turn) -> {name: number}`; it imports `fedseal` and `benchmarks` of either commit.
        folder: empty; the earlier commit's sources go there.
    """
    export(folder, "src", "benchmarks")
    found: tuple[Figures, Figures] = ({}, {})
    with _measuring(script, ROOT) as now, _measuring(script, folder) as then:
        sides = list(zip((now, then), found, strict=True))
        for turn in range(-1, turns):  # the first is to warm up
            for process, figures in sides if turn % 2 else reversed(sides):
                for name, value in _asked(process, turn).items():
                    if turn >= 0:
                        figures.setdefault(name, []).append(value)
    return found


def said(now: list[float], then: list[float], digits: int) -> str:
    """Medians of both with intervals, and of the turns' ratios."""
    ratios = [one / other for one, other in zip(now, then, strict=True)]
    return f"{spread(now, digits)}; {spread(then, digits)}; {spread(ratios)}"


def ratio(figures: Figures, name: str, to: str) -> float:
    """The median of the turns' ratios of two figures."""
    return statistics.median(one / other for one, other in zip(figures[name], figures[to], strict=True))


@contextlib.contextmanager
def _measuring(script: str, root: Path) -> Iterator[subprocess.Popen[str]]:
    loop = "\nimport json, sys\nfor line in sys.stdin:\n    print(json.dumps(measure(int(line))), flush=True)\n"
    environ = environment(root / "src")
    with subprocess.Popen(
        [sys.executable, "-c", script + loop],
        cwd=root,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _asked(process: subprocess.Popen[str], turn: int) -> Mapping[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{turn}\n")
    process.stdin.flush()
    found: dict[str, float] = json.loads(process.stdout.readline())
    return found
