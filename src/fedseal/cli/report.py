"""`fedseal report`: a run's report, from its record alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedseal import report as reports
from fedseal.audit import load
from fedseal.cli import options, terminal


def report(
    run: Annotated[Path, typer.Argument(show_default=False)],
    html: Annotated[Path | None, typer.Option(help="File to write.", show_default="RUN/report.html")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record as JSON; write a page with --html only.")
    ] = False,
) -> None:
    """Write and print the report of a run, without running anything again.

    RUN is the folder of an audit, finished or not.

    Example:  fedseal report runs/default
    """
    record = load(run)
    target = html if html is not None or as_json else run / "report.html"
    if target is not None:
        reports.html(record, options.file_to_write(target))
    if as_json:
        terminal.machine(json.loads(record.to_json()))
        return
    terminal.show(reports.terminal(record))
    terminal.say(f"Report: {target}")
