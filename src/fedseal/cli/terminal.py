"""What goes to the terminal: results to standard output, everything about the work to standard error.

Everything passes one door, which shows what a name from a file or another party would have a terminal do.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook
from rich.markup import escape
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Text

from fedseal.errors import shown

WIDE = 120  # columns of a table where nobody watches


class Interrupted(Exception):
    """Ctrl-C at a place that knows what was kept; the message says it."""


@contextmanager
def loading() -> Iterator[None]:
    """While packages load, which takes seconds: Ctrl-C ends the process without a word, as none can be said yet."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Shown:
    """What another object prints, with every character shown; colors and the movements of progress bars stay."""

    def __init__(self, inner: ConsoleRenderable) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._inner, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._inner)


class _Door(RenderHook):
    """Wraps whatever is printed."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(renderable) for renderable in renderables]


def _console(stream: Any, **options: Any) -> Console:
    console = Console(file=stream, highlight=False, **options)
    console.push_render_hook(_Door())
    return console


def notices() -> Console:
    """Standard error, for progress, notes and errors; made anew each time, since tests replace the stream."""
    return _console(sys.stderr, soft_wrap=True)


def show(result: RenderableType) -> None:
    """A table or another rich object on standard output."""
    width = None if sys.stdout.isatty() else WIDE
    _console(sys.stdout, width=width).print(result)


def say(line: str) -> None:
    """A line of the result, never wrapped and never read as markup."""
    _console(sys.stdout).print(line, markup=False, soft_wrap=True)


def line(text: Text) -> None:
    """A line of the result in colors where standard output is a terminal, never wrapped."""
    _console(sys.stdout).print(text, soft_wrap=True)


def note(line: str) -> None:
    """A line beside the result."""
    notices().print(line, markup=False)


def error(message: object) -> None:
    """One line, `error: ...`, whatever the message holds."""
    notices().print(f"[bold red]error:[/] {escape(' '.join(str(message).split()))}")


def machine(value: object) -> None:
    """A JSON document on standard output, and nothing else there; numbers that are not finite become null."""
    sys.stdout.write(json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def finite(value: object) -> object:
    """Plain values with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
