from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.fakes import Divide, Guess, Told, ended, raising, refusing, small_case, timeless
from fedseal import audit
from fedseal.audit import CellProgress, Processes
from fedseal.audit.executor import _choice, local_engine
from fedseal.audit.record import CellKey
from fedseal.audit.store import traceback_path
from fedseal.errors import BadConfig, EngineFailure, FedsealError, UnfitBatch, UnknownName

GRID: dict[str, object] = {"defenses": ["none", "gaussian:0.1"]}


def run(out: Path, *attacks: object, **arguments: object) -> audit.Record:
    return audit.run(small_case(3), attacks=attacks, out=out, **{**GRID, **arguments})  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "cells").glob("*.safetensors")}


def test_any_number_of_workers_gives_the_same_record(tmp_path: Path) -> None:
    attacks = [Guess(), "dlg:steps=2", refusing()]
    alone = run(tmp_path / "1", *attacks)
    for workers in (2, 50):
        several = run(tmp_path / str(workers), *attacks, workers=workers)
        assert timeless(several) == timeless(alone)
        assert files(tmp_path / str(workers)) == files(tmp_path / "1")
    assert multiprocessing.active_children() == []


@pytest.mark.slow  # every process imports everything anew
def test_spawned_workers_take_what_can_be_pickled(tmp_path: Path) -> None:
    arguments = {"attacks": ["dlg:steps=2", Guess()], "defenses": ["none", "gaussian:0.1"], "samples": 2}
    alone = audit.run(small_case(3), out=tmp_path / "1", **arguments)  # type: ignore[arg-type]
    spawned = audit.run(small_case(3), out=tmp_path / "2", engine=Processes(2, method="spawn"), **arguments)  # type: ignore[arg-type]
    assert timeless(spawned) == timeless(alone)
    with pytest.raises(BadConfig, match="cannot be handed to another process"):
        run(tmp_path / "3", Told(lambda: ended(None)), engine=Processes(2, method="spawn"))


def test_every_cell_is_told_when_it_starts_and_ends_and_some_steps_between(tmp_path: Path) -> None:
    events: list[CellProgress] = []
    record = run(tmp_path, Guess(steps=9), workers=2, on_progress=events.append)
    for key in record.header.keys:
        own = [event for event in events if event.key == key]
        assert own[0].progress is None
        assert own[0].cell is None
        assert own[-1].cell is not None
        steps = [event.progress for event in own if event.progress is not None]
        assert steps[-1].step == 9
        assert all(step.inputs is None for step in steps)
    assert [event.done for event in events if event.cell] == list(range(1, len(record.header.keys) + 1))
    assert {event.total for event in events} == {6}


class Dying(Guess):
    """Kills its process at the seeds' draw, as long as a file of lives says so."""

    def __init__(self, file: Path, lives: int) -> None:
        super().__init__("dying")
        object.__setattr__(self, "file", file)
        object.__setattr__(self, "lives", lives)

    def __call__(self, observation, *, generator, progress=None):  # type: ignore[no-untyped-def]
        file: Path = self.file  # type: ignore[attr-defined]
        with file.open("a") as log:
            log.write("x")
        if file.stat().st_size <= self.lives:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(observation, generator=generator, progress=progress)


def test_a_worker_that_dies_costs_its_cell_only_which_is_computed_again(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Guess("dying"), Guess())
    hurt = run(tmp_path / "hurt", Dying(tmp_path / "log", 1), Guess(), workers=2)
    assert (tmp_path / "log").stat().st_size == 7  # one more than there are cells
    assert timeless(hurt)["cells"] == timeless(whole)["cells"]


def test_a_cell_that_kills_every_worker_is_missing_and_named(tmp_path: Path) -> None:
    with pytest.raises(EngineFailure, match=r"1 of 6 cells are missing: 2 workers died.*'dying'.*SIGKILL.*kept"):
        audit.run(
            small_case(3),
            attacks=[Dying(tmp_path / "log", 2), Guess()],
            out=tmp_path / "run",
            workers=1,
            engine=Processes(1),
        )
    assert len(audit.load(tmp_path / "run").cells) == 5
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("error", [ZeroDivisionError("by moon"), KeyError(lambda: 1)], ids=["plain", "not to be sent"])
def test_a_crash_fails_its_cells_with_a_traceback_as_in_one_process(tmp_path: Path, error: Exception) -> None:
    here = run(tmp_path / "here", raising(error), Divide(), workers=1)
    there = run(tmp_path / "there", raising(error), Divide(), workers=2)
    assert [cell.status == "failed" for cell in there.cells] == [True] * 6 + [False] * 6
    assert timeless(there)["cells"] == timeless(here)["cells"]
    for folder in ("here", "there"):
        trace = traceback_path(tmp_path / folder, there.cells[0].key).read_text()
        assert type(error).__name__ in trace
        assert "in answer" in trace
    assert multiprocessing.active_children() == []


def test_what_is_wrong_with_the_input_is_said_as_in_one_process(tmp_path: Path) -> None:
    with pytest.raises(UnfitBatch, match="needs 4 examples"):
        run(tmp_path, Guess(), threats=["aggregate_only"], batch_size=2, workers=2)


@pytest.mark.parametrize("error", [UnfitBatch("a fact", "a remedy"), UnknownName("recipe", "dgl", ["dlg"])])
def test_errors_survive_the_way_between_processes(error: FedsealError) -> None:
    here, there = multiprocessing.Pipe()
    here.send(error)
    other = there.recv()
    assert (type(other), str(other), other.fact, other.remedy) == (type(error), str(error), error.fact, error.remedy)


@pytest.mark.parametrize("workers", [0, -1])
def test_no_worker_is_refused(tmp_path: Path, workers: int) -> None:
    with pytest.raises(BadConfig, match="give at least 1"):
        run(tmp_path, Guess(), workers=workers)
    with pytest.raises(BadConfig, match="give at least 1"):
        local_engine(workers)


def test_an_interruption_ends_all_workers_and_the_run_goes_on(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Divide(), Guess())

    def stop(event: CellProgress) -> None:
        if event.cell is not None and event.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Divide(), Guess(), workers=3, on_progress=stop)
    assert multiprocessing.active_children() == []
    kept = {cell.key: cell for cell in audit.load(tmp_path / "cut").cells}
    assert len(kept) == 5
    resumed = run(tmp_path / "cut", Divide(), Guess(), workers=2)
    assert timeless(resumed) == timeless(whole)
    assert {cell.key: cell for cell in resumed.cells if cell.key in kept} == kept


ORPHANS = """
import os, sys, time
from pathlib import Path
from audit.fakes import Told, small_case
from fedseal import audit

def slow():
    with open(sys.argv[1], "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(600)

audit.run(small_case(3), attacks=[Told(slow)], out=Path(sys.argv[1]).parent / "run", workers=2)
"""


def eventually(holds: Callable[[], bool], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def test_workers_end_with_the_audit_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "pids"
    log.touch()
    tests = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS, log], env={**os.environ, "PYTHONPATH": tests}, cwd=tmp_path
    ) as process:
        assert eventually(lambda: len(log.read_text().splitlines()) == 2)
        process.kill()
    pids = [int(line) for line in log.read_text().splitlines()]
    assert process.pid not in pids
    assert eventually(lambda: not any(_runs(pid) for pid in pids))


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_workers_stay_with_the_truths_whose_blind_guesses_they_have_scored() -> None:
    def key(attack: str, first: int, defense: str = "none") -> CellKey:
        return CellKey(attack=attack, defense=defense, threat="t", first=first, batch_size=1, seed=0)

    waiting = [key("a", 0, "prune:0.2"), key("a", 1), key("a", 2), key("b", 3)]
    assert _choice(waiting, {(2, 1)}, [{(0, 1)}, {(2, 1)}]) == waiting[2]
    assert _choice(waiting, set(), [{(0, 1)}, {(2, 1)}]) == waiting[1]
    assert _choice(waiting, {(3, 1)}, [{(0, 1), (1, 1), (2, 1)}]) == waiting[0]  # the next attack waits for its turn
