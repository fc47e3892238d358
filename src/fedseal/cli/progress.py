"""Work in progress: bars with objective and time left on a terminal, plain lines where nobody watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fedseal.audit.record import Cell, CellKey
from fedseal.cli import terminal
from fedseal.report import words
from fedseal.report.kind import MEASURES, kind_of_cell

if TYPE_CHECKING:
    from fedseal.audit.runner import CellProgress
    from fedseal.types import Progress as Step
    from fedseal.types import ProgressCallback

EVERY = 60.0  # seconds between two lines where nobody watches
FEW = 3  # cells in work that such a line names


@contextmanager
def attack_progress(*, quiet: bool) -> Iterator[ProgressCallback]:
    """Show one attack: its route, step and objective; nothing unless standard error is a terminal."""
    console = terminal.notices()
    if quiet or not console.is_terminal:
        yield lambda step: None
        return
    with _bars() as bars:
        task = bars.add_task("starting", total=None, detail="")
        yield lambda step: _advance(bars, task, step)


@contextmanager
def audit_progress(*, quiet: bool) -> Iterator[Callable[[CellProgress], None]]:
    """Show an audit: a line for every finished cell, and on a terminal bars for all cells and the present attack.

    Where nobody watches, a line once a minute says what runs and how long it may still take, from the start on.
    """
    if quiet:
        yield lambda event: None
        return
    if not terminal.notices().is_terminal:
        with _beating(_Beat()) as beat:
            yield beat.show
        return
    with _bars() as bars:
        yield _Display(bars).show


@contextmanager
def cost_progress(*, quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """Say which defense is being trained under: a line each."""
    told: set[str] = set()

    def tell(defense: str, seed: int) -> None:
        if not quiet and defense not in told:
            told.add(defense)
            terminal.note(f"cost: training under {defense}")

    yield tell


class _Beat:
    """What a line once a minute says of an audit that nobody watches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # events come from the audit's thread, the line is written by another
        self._began = time.monotonic()
        self._first: int | None = None  # cells that earlier runs have finished
        self._done = self._total = 0
        self._running: dict[CellKey, tuple[float, Step | None]] = {}

    def show(self, event: CellProgress) -> None:
        """Take an event of the audit; a finished cell is told at once."""
        with self._lock:
            if self._first is None:
                self._first, self._began = event.done, time.monotonic()
            self._done, self._total = event.done, event.total
            if event.cell is not None:
                self._running.pop(event.key, None)
                terminal.note(_line(event, event.cell))
                return
            since, last = self._running.get(event.key, (time.monotonic(), None))
            self._running[event.key] = (since, event.progress or last)

    def tell(self) -> None:
        """Say what runs and how long it may still take."""
        with self._lock:
            terminal.note(self._said(time.monotonic()))

    def _said(self, now: float) -> str:
        if self._first is None:
            return f"starting since {words.seconds(now - self._began)}: no cell has begun yet"
        told = [_at_work(key, step, now - since) for key, (since, step) in list(self._running.items())[:FEW]]
        more = len(self._running) - len(told)
        told += [f"and {more} more"] if more else []
        return f"[{self._done}/{self._total}] running: {'; '.join(told) or 'no cell'}; {self._left(now)}"

    def _left(self, now: float) -> str:
        """At the pace of this run so far; cells in work count by their attack's steps."""
        shares = [min(1.0, step.step / step.steps) for _, step in self._running.values() if step and step.steps]
        done = self._done - (self._first or 0) + sum(shares)
        if done <= 0:
            return "how long the rest takes is known once the first cell is finished"
        left = (now - self._began) / done * max(0.0, self._total - (self._first or 0) - done)
        return f"at this pace about {words.seconds(left)} left"


def _at_work(key: CellKey, step: Step | None, seconds: float) -> str:
    where = f", step {step.step} of {step.steps} of {step.route}" if step is not None else ""
    return f"{_title(key)}{where}, since {words.seconds(seconds)}"


@contextmanager
def _beating(beat: _Beat) -> Iterator[_Beat]:
    """Let it speak every `EVERY` seconds, from a thread, since the audit's own is busy or waits."""
    over = threading.Event()

    def speak() -> None:
        while not over.wait(EVERY):
            beat.tell()

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield beat
    finally:
        over.set()
        thread.join()


class _Display:
    """A bar for the cells of the audit, and one for the steps of every attack at work."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._cells: TaskID | None = None
        self._attacks: dict[CellKey, TaskID] = {}
        self._idle: list[TaskID] = []  # of attacks that have ended, until others take their places

    def show(self, event: CellProgress) -> None:
        """Take an event of the audit."""
        if self._cells is None:  # now it is known how many an earlier run has finished
            self._cells = self._bars.add_task("audit", total=event.total, completed=event.done, detail="cells")
        self._bars.update(self._cells, completed=event.done)
        if event.cell is not None:
            self._idle.append(self._attacks.pop(event.key))
            self._bars.console.print(_line(event, event.cell), markup=False)
        elif event.progress is not None:
            _advance(self._bars, self._attacks[event.key], event.progress)
        elif event.key not in self._attacks:  # it may start anew, after a worker has died
            self._attacks[event.key] = self._bar()
            self._bars.reset(self._attacks[event.key], total=None, description=_title(event.key), detail="")

    def _bar(self) -> TaskID:
        return self._idle.pop(0) if self._idle else self._bars.add_task("starting", total=None, detail="")


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("left", markup=False),
        console=terminal.notices(),
        transient=True,
    )


def _advance(bars: Progress, task: TaskID, step: Step) -> None:
    bars.update(
        task,
        description=step.route,
        completed=step.step,
        total=step.steps,
        detail=f"steps, objective {step.objective:.3g}",
    )


def _line(event: CellProgress, cell: Cell) -> str:
    place = f"[{event.done}/{event.total}] {_title(cell.key)}"
    if cell.status in ("refused", "failed"):
        return f"{place}: {cell.status}: {cell.note}, {words.seconds(cell.seconds)}"
    name = kind_of_cell(cell).headline
    score = MEASURES[name].written(cell.scores.mean(name) if cell.scores else None)
    named = "" if name == "psnr" else f"{MEASURES[name].phrase} "
    sure = f", {sum(cell.certain)} of {cell.key.batch_size} certain" if cell.scores else ""
    return f"{place}: {cell.status}{sure}, {named}{score}, {words.seconds(cell.seconds)}"


def _title(key: CellKey) -> str:
    last = key.first + key.batch_size - 1
    examples = f"example {key.first}" if last == key.first else f"examples {key.first} to {last}"
    course = "" if key.epochs is None else f"{key.epochs} epochs, "
    return f"{key.attack}, {key.defense}, {key.threat}, {course}{examples}, seed {key.seed}"
