"""Work in progress: bars with objective and time left on a terminal, plain lines where nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fedseal.audit import Cell, CellKey, CellProgress
from fedseal.cli import terminal
from fedseal.report import words
from fedseal.report.kind import MEASURES, kind_of_cell
from fedseal.types import Progress as Step
from fedseal.types import ProgressCallback


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
    """Show an audit: a line for every finished cell, and on a terminal bars for all cells and the present attack."""
    if quiet:
        yield lambda event: None
        return
    if not terminal.notices().is_terminal:
        yield _finished
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


def _finished(event: CellProgress) -> None:
    if event.cell is not None:
        terminal.note(_line(event, event.cell))


def _line(event: CellProgress, cell: Cell) -> str:
    name = kind_of_cell(cell).headline
    score = MEASURES[name].written(cell.scores.mean(name) if cell.scores else None)
    named = "" if name == "psnr" else f"{MEASURES[name].phrase} "
    return (
        f"[{event.done}/{event.total}] {_title(cell.key)}: {cell.status}, {named}{score}, {words.seconds(cell.seconds)}"
    )


def _title(key: CellKey) -> str:
    last = key.first + key.batch_size - 1
    examples = f"example {key.first}" if last == key.first else f"examples {key.first} to {last}"
    course = "" if key.epochs is None else f"{key.epochs} epochs, "
    return f"{key.attack}, {key.defense}, {key.threat}, {course}{examples}, seed {key.seed}"
