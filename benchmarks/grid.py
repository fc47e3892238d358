"""The grid: how long it takes on all cores, what a second worker is worth, and what a kill in the middle costs.

`python -m benchmarks.grid FOLDER` is the audit that the section kills.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import fedseal as fs
from benchmarks.measure import spread
from fedseal import audit
from fedseal.audit.executor import cores
from fedseal.grammar import expanded

SAMPLES, REPEATS, KILLS = 5, 3, 3
ATTACKS = ("auto", "dlg:steps=40")
DEFENSES = expanded(
    [
        "gaussian:[0.0001,0.001,0.01]",
        "laplace:[0.0001,0.001,0.01]",
        "prune:[0.2,0.5,0.7]",
        "random_mask:[0.2,0.5,0.7]",
        "topk:[0.5,0.2,0.1]",
        "clip:[10,1,0.1]",
        "soteria:[0.2,0.5,0.8]",
        "dpsgd:[0.001,0.01,0.1],clip=1",
    ]
)
SMALL = ("dlg:steps=20", "dlg:steps=21")


def run(scale: float = 1.0) -> dict[str, object]:
    """The whole grid once; the small one with one and two workers in turn; and killed at random moments."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as place:
            return {**_whole(Path(place), scale), **_speed_up(Path(place), scale), **_kills(Path(place), scale)}
    finally:
        torch.set_num_threads(threads)


def _case(samples: int) -> audit.Case:
    return audit.Case(fs.zoo.lenet(seed=0), fs.zoo.photos(size=32)[:samples], fs.LocalTraining.fedsgd())


def _whole(place: Path, scale: float) -> dict[str, object]:
    samples = max(1, round(SAMPLES * scale))
    started = time.perf_counter()
    record = audit.run(_case(samples), attacks=ATTACKS, defenses=DEFENSES, out=place / "whole", workers=cores())
    seconds = time.perf_counter() - started
    figures: dict[str, object] = {
        "setting": f"{len(ATTACKS)} attacks x {len(DEFENSES)} defenses and strengths x {samples} pictures, LeNet",
        "workers": cores(),
        "cells": len(record.cells),
        "minutes": f"{seconds / 60:.1f}",
        "minutes for all five pictures, by what these took": f"{seconds / 60 * SAMPLES / samples:.1f}",
    }
    for attack in ATTACKS:
        own = [cell for cell in record.cells if cell.key.attack == attack]
        figures[f"{attack}: seconds a cell, median"] = spread([cell.seconds for cell in own])
        figures[f"{attack}: refused"] = sum(cell.status == "refused" for cell in own)
    return figures


def _speed_up(place: Path, scale: float) -> dict[str, object]:
    """Ratios of times taken one after the other, so that what else the machine does touches both alike."""
    ratios = []
    for repeat in range(max(1, round(REPEATS * scale))):
        alone, both = (_seconds(place / f"speed-{repeat}-{workers}", workers, DEFENSES[:4]) for workers in (1, 2))
        ratios.append(alone / both)
    return {
        "two workers over one: times the speed, by pair": ", ".join(f"{ratio:.2f}" for ratio in ratios),
        "two workers over one: times the speed, median": f"{statistics.median(ratios):.2f}",
    }


def _seconds(folder: Path, workers: int, defenses: Sequence[str]) -> float:
    started = time.perf_counter()
    audit.run(_case(4), attacks=SMALL, defenses=defenses, out=folder, workers=workers)
    return time.perf_counter() - started


def _kills(place: Path, scale: float) -> dict[str, object]:
    """Kill the audit at random moments, let the last one end, and compare with one that was left alone."""
    whole = _killed_audit(place / "alone")
    folder, times = place / "killed", random.Random(0)
    finished: dict[Path, int] = {}
    recomputed = 0
    kills = max(1, round(KILLS * scale))
    for _ in range(kills):
        with subprocess.Popen([sys.executable, "-m", "benchmarks.grid", str(folder)]) as process:
            while process.poll() is None and len(list(folder.glob("cells/*.json"))) <= len(finished):
                time.sleep(0.01)
            time.sleep(times.uniform(0, 0.5))
            process.kill()
        now = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*.json")}
        recomputed += sum(now[path] != at for path, at in finished.items())
        finished = now
    resumed = _killed_audit(folder)
    recomputed += sum(path.stat().st_mtime_ns != at for path, at in finished.items())
    same = [_timeless(cell) for cell in resumed.cells] == [_timeless(cell) for cell in whole.cells]
    return {
        "killed and resumed: kills": kills,
        "killed and resumed: cells finished by the last kill": f"{len(finished)} of {len(whole.cells)}",
        "killed and resumed: cells computed twice": recomputed,
        "killed and resumed: the same record": "yes" if same else "NO",
    }


def _killed_audit(folder: Path) -> audit.Record:
    return audit.run(_case(3), attacks=SMALL, defenses=DEFENSES[:3], out=folder, workers=2)


def _timeless(cell: audit.Cell) -> dict[str, object]:
    return cell.model_dump(exclude={"seconds"})


if __name__ == "__main__":
    _killed_audit(Path(sys.argv[1]))
