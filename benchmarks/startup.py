"""What help, tables and reports cost in CPU time, beside the same commands at an earlier commit, turn by turn."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.before import BEFORE, ROOT, environment, export
from benchmarks.measure import spread

ROUNDS = 9
MAIN = "import sys; from fedseal.cli import main; sys.argv[0] = 'fedseal'; main()"


def run(scale: float = 1.0) -> dict[str, object]:
    """CPU seconds of each command now and then, and their ratio; the commits take turns."""
    with tempfile.TemporaryDirectory() as folder:
        then, rounds = Path(folder) / "then", max(2, round(ROUNDS * scale))
        then.mkdir()
        export(then, "src")
        sources = {"now": ROOT / "src", "then": then / "src"}
        runs = {name: _audited(source, Path(folder) / f"run-{name}") for name, source in sources.items()}
        results: dict[str, object] = {}
        for command in ("--help", "recipes", "report", "compare", "train --help"):
            spent: dict[str, list[float]] = {name: [] for name in sources}
            for turn in range(rounds):
                for name in ("now", "then") if turn % 2 else ("then", "now"):
                    spent[name].append(_seconds(sources[name], _words(command, runs[name])))
            now, before = (statistics.median(spent[name]) for name in ("now", "then"))
            results[f"fedseal {command}: CPU seconds now; at {BEFORE}; ratio"] = (
                f"{spread(spent['now'])}; {spread(spent['then'])}; {now / before:.3f}"
            )
        results["seconds to torch's import; to the first line of fedseal attack --index 0; what that is above it"] = (
            _first_lines(max(2, round(ROUNDS * scale)))
        )
    return results


def _first_lines(rounds: int) -> str:
    """Wall-clock seconds, turn by turn."""
    commands = {"torch": ("import torch; print()",), "attack": (MAIN, "attack", "--index", "0")}
    spent: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, words in commands.items():
                spent[name].append(_first_line([sys.executable, "-c", *words], folder))
    above = statistics.median(spent["attack"]) - statistics.median(spent["torch"])
    return f"{spread(spent['torch'])}; {spread(spent['attack'])}; {above:.2f}"


def _first_line(command: Sequence[str], folder: str) -> float:
    """Until a command has said its first line; it is ended then."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment(ROOT / "src"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        process.kill()
    assert line.endswith(b"\n"), line
    return seconds


def _audited(source: Path, folder: Path) -> Path:
    """A small run with pictures, written by that commit's own code."""
    script = (
        "import fedseal as fs\n"
        "case = fs.Case(fs.zoo.lenet(), fs.zoo.photos(size=32)[:2], fs.LocalTraining.fedsgd())\n"
        f"fs.audit.run(case, attacks=['auto'], defenses=['none', 'prune:0.2'], out={str(folder)!r})\n"
    )
    subprocess.run([sys.executable, "-c", script], env=environment(source), check=True, capture_output=True)
    return folder


def _words(command: str, run: Path) -> Sequence[str]:
    return {"report": ("report", str(run)), "compare": ("compare", str(run), str(run))}.get(command, command.split())


def _seconds(source: Path, words: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", MAIN, *words], env=environment(source), check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
