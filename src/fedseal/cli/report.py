"""`fedseal report`: the report of a run, or of several on one page, from their records alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedseal.cli import terminal
from fedseal.files import writable_file


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", show_default=False)],
    html: Annotated[
        Path | None,
        typer.Option(
            help="File to write the page to.",
            show_default="RUN/report.html; of several runs mixed.html beside the first",
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the record as JSON, a list for several runs; a page is written with --html only."
        ),
    ] = False,
) -> None:
    """Write and print the report of a run, without running anything again.

    RUN is the folder of an audit, finished or not. Several runs, such as of pictures, text and a table, share one page.

    Example:  fedseal report runs/default

    Example:  fedseal report runs/pictures runs/text runs/table --html mixed.html
    """
    from fedseal import report as reports
    from fedseal.audit.cost_record import costs_of
    from fedseal.audit.store import load

    records = [load(run) for run in runs]
    usual = runs[0] / "report.html" if len(runs) == 1 else runs[0].parent / "mixed.html"
    target = html if html is not None or as_json else usual
    if target is not None:
        reports.html(records, writable_file(target))
    if as_json:
        plain = [json.loads(record.to_json()) for record in records]
        terminal.machine(plain[0] if len(plain) == 1 else plain)
        return
    for record in records:
        if len(records) > 1:
            terminal.say(f"{record.header.config.case}:")
        terminal.show(reports.terminal(record, costs_of(record.folder)))
    terminal.say(f"Report: {target}")
