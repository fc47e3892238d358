"""Where cells are computed: in this process, or in several on this machine (`ray_engine`: on many machines).

An engine takes a job and the keys of cells, and yields them finished, in whatever order; the audit alone writes. Since
a cell depends on its key alone, engines and numbers of workers differ in time and in nothing else, given equal threads.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fedseal.audit import store
from fedseal.audit.record import Cell, CellKey
from fedseal.errors import BadConfig, EngineFailure, FedsealError
from fedseal.types import Progress

Tell = Callable[[CellKey, Progress | None], None]
LIVES = 2  # processes that may die over one cell
EVERY = 0.1  # seconds between two steps that a worker reports


class Computed(NamedTuple):
    """A finished cell, its pictures if it has any, and of one that crashed the traceback."""

    cell: Cell
    images: dict[str, Tensor]
    traceback: str = ""


class Finished(NamedTuple):
    """A cell, its pictures as the content of their file, and of one that crashed the traceback."""

    cell: Cell
    pictures: bytes
    traceback: str = ""


Cells = Generator[Finished, None, None]


class Computes(Protocol):
    """What computes cells, such as `cell.Worker`."""

    def compute(self, key: CellKey, on_step: Callable[[Progress], None]) -> Computed:
        """The finished cell, also where it crashed.

        Raises:
            FedsealError: what holds for every cell, and ends the audit.
        """


class Work(Protocol):
    """What an engine hands to its workers, such as `grid.Job`."""

    @property
    def device(self) -> str:
        """Where cells are computed, such as "cpu"."""

    def worker(self) -> Computes:
        """What computes its cells."""


class Engine(Protocol):
    """A place where cells are computed."""

    @property
    def threads(self) -> int:
        """Threads with which each cell is computed."""

    def compute(self, job: Work, keys: Sequence[CellKey], tell: Tell) -> Cells:
        """Yield every cell once, telling when it starts and, where that is known, its steps.

        Raises:
            EngineFailure: workers cannot be reached, or died over some of the cells; all others came before.
        """


@dataclass(frozen=True)
class InProcess:
    """One cell after the other in this process."""

    @property
    def threads(self) -> int:
        """Number of threads that torch is set to."""
        return torch.get_num_threads()

    def compute(self, job: Work, keys: Sequence[CellKey], tell: Tell) -> Cells:
        """Yield every cell once, in order."""
        worker = job.worker()
        for key in keys:
            tell(key, None)
            cell, images, trace = worker.compute(key, partial(tell, key))
            yield Finished(cell, store.packed(images), trace)


@dataclass(frozen=True)
class Processes:
    """Several processes on this machine; one that dies costs its cell only, which another computes again.

    Args:
        count: of processes; never more than there are cells.
        threads: of each.
        method: how they start, as `multiprocessing` names it; None for "fork" on Linux without an accelerator, which
            hands over any case at once, else "spawn", which takes what can be pickled and imports everything anew.

    Raises:
        BadConfig: no worker, or no thread.
    """

    count: int
    threads: int = 1
    method: str | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or self.threads < 1:
            raise BadConfig(f"{self.count} workers of {self.threads} threads", "give at least 1 of both")

    def compute(self, job: Work, keys: Sequence[CellKey], tell: Tell) -> Cells:
        """Yield every cell once. Of an attack's steps ten a second are told, without their inputs."""
        forks = sys.platform == "linux" and job.device == "cpu"
        context = multiprocessing.get_context(self.method or ("fork" if forks else "spawn"))
        crew = _Crew(job, context, self.threads)
        try:
            yield from crew.compute(keys, tell, self.count)
        finally:
            crew.kill()


def local_engine(workers: int) -> Engine:
    """In this process for one worker, else that many processes.

    Raises:
        BadConfig: no worker.

    >>> local_engine(1), local_engine(3)
    (InProcess(), Processes(count=3, threads=1, method=None))
    """
    return InProcess() if workers == 1 else Processes(workers)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class _Step(NamedTuple):
    progress: Progress


class Done(NamedTuple):
    """A cell as it goes from one process to another: as JSON, its pictures' file, and a traceback if it crashed."""

    cell: str
    pictures: bytes
    traceback: str = ""

    def finished(self) -> Finished:
        """The result as the audit takes it."""
        return Finished(Cell.model_validate_json(self.cell), self.pictures, self.traceback)


class Failed(NamedTuple):
    """Why a cell could not be computed; ends the audit."""

    error: Exception


def attempt(worker: Computes, key: CellKey, on_step: Callable[[Progress], None]) -> Done | Failed:
    """Compute a cell for another process, to which whatever is raised goes as a value."""
    try:
        cell, images, trace = worker.compute(key, on_step)
    except FedsealError as error:
        return Failed(error)
    except Exception:  # noqa: BLE001 - raised again where the audit runs; its type may mean nothing there, its words do
        return Failed(RuntimeError(f"a worker crashed\n{traceback.format_exc()}"))
    return Done(cell.model_dump_json(), store.packed(images), trace)


@dataclass(eq=False)
class _Member:
    process: Any
    connection: Connection
    ready: bool = False
    key: CellKey | None = None
    places: set[tuple[int, int]] = field(default_factory=set)  # truths that it has made a grader for


class _Crew:
    """The processes of one computation."""

    def __init__(self, job: Work, context: Any, threads: int) -> None:
        self._job, self._context, self._threads = job, context, threads
        self._members: list[_Member] = []
        self._deaths: Counter[CellKey] = Counter()
        self._waiting: list[CellKey] = []
        self._lost: dict[CellKey, str] = {}

    def compute(self, keys: Sequence[CellKey], tell: Tell, count: int) -> Iterator[Finished]:
        """Yield every cell once; raise at the end if processes died over some."""
        self._waiting = list(keys)
        while self._waiting or any(member.key for member in self._members):
            while self._waiting and len(self._members) < min(count, len(self._waiting) + self._busy()):
                self._members.append(self._start())
            for member in self._members:
                if member.key is None and self._waiting:
                    self._assign(member, tell)
            yield from self._heard(tell)
        if self._lost:
            raise loss(self._lost, len(keys), LIVES)

    def kill(self) -> None:
        """End every process; they write no files, so nothing is left half done."""
        for member in self._members:
            member.process.kill()
        for member in self._members:
            self._bury(member)
        self._members = []

    def _busy(self) -> int:
        return sum(member.key is not None for member in self._members)

    def _start(self) -> _Member:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._job, there, self._threads), daemon=True)
        try:
            process.start()
        except Exception as error:
            raise BadConfig(
                f"the case cannot be handed to another process ({type(error).__name__}: {error})",
                "use workers=1, or name attacks and defenses by their specifications and define classes in a module",
            ) from error
        there.close()
        return _Member(process, here)

    def _assign(self, member: _Member, tell: Tell) -> None:
        key = _choice(self._waiting, member.places, [other.places for other in self._members])
        self._waiting.remove(key)
        member.key = key
        member.places.add((key.first, key.batch_size))
        with suppress(OSError):  # it has died: the next look at it tells
            member.connection.send(key)
        tell(key, None)

    def _heard(self, tell: Tell) -> Iterator[Finished]:
        news = set(wait([s for m in self._members for s in (m.connection, m.process.sentinel)]))
        for member in list(self._members):
            if member.connection in news or member.process.sentinel in news:
                yield from self._message(member, tell)

    def _message(self, member: _Member, tell: Tell) -> Iterator[Finished]:
        try:
            message = member.connection.recv() if member.connection.poll() else None
        except (EOFError, OSError):
            message = None
        if message is None:
            self._died(member)
        elif isinstance(message, Failed):
            raise message.error
        elif isinstance(message, _Step) and member.key is not None:
            tell(member.key, message.progress)
        elif isinstance(message, Done):
            member.key = None
            yield message.finished()
        else:
            member.ready = True

    def _died(self, member: _Member) -> None:
        member.process.join()
        how = _how(member.process.exitcode)
        self._members.remove(member)
        self._bury(member)
        key = member.key
        if not member.ready and not how.startswith("signal"):
            raise EngineFailure(
                f"a worker ended before it could begin ({how})",
                "start the audit below `if __name__ == '__main__':`, or use workers=1",
            )
        if key is None:
            return
        self._deaths[key] += 1
        if self._deaths[key] < LIVES:
            self._waiting.insert(0, key)
        else:
            self._lost[key] = how

    def _bury(self, member: _Member) -> None:
        member.process.join()
        member.process.close()
        member.connection.close()


def _choice(
    waiting: Sequence[CellKey], own: set[tuple[int, int]], all_places: Sequence[set[tuple[int, int]]]
) -> CellKey:
    """A cell of the attack whose turn it is: of a truth that the worker has graded before, else of a new one."""
    turn = [key for key in waiting if key.attack == waiting[0].attack]
    taken = set().union(*all_places)
    known = next((key for key in turn if (key.first, key.batch_size) in own), None)
    fresh = next((key for key in turn if (key.first, key.batch_size) not in taken), None)
    return known or fresh or turn[0]


def loss(lost: Mapping[CellKey, str], total: int, lives: int) -> EngineFailure:
    """What to raise once all other cells are finished; `lost` says how the workers ended."""
    key, how = next(iter(lost.items()))
    return EngineFailure(
        f"{len(lost)} of {total} cells are missing: {lives} workers died over each, such as '{key.attack}' on "
        f"'{key.defense}' from example {key.first} ({how})",
        "the others are kept: run the same audit again with fewer workers, as memory may have run out",
    )


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"signal {-exitcode}, {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


def _serve(job: Work, connection: Connection, threads: int) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group, and the audit ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    worker = job.worker()
    connection.send("ready")
    while True:
        key: CellKey = connection.recv()
        connection.send(attempt(worker, key, _Reporter(connection)))


class _Reporter:
    """Sends some of an attack's steps, without tensors."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._last = connection, -EVERY

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last >= EVERY or progress.step == progress.steps:
            self._last = now
            self._connection.send(_Step(replace(progress, inputs=None)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
