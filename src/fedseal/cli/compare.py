"""`fedseal compare`: what leaks more or less than in an earlier run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedseal.cli import terminal


def compare_runs(
    old: Annotated[Path, typer.Argument(show_default=False)],
    new: Annotated[Path, typer.Argument(show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes as JSON.")] = False,
    fail_on_worse: Annotated[
        bool, typer.Option("--fail-on-worse", help="Exit with code 1 if anything leaks more than before.")
    ] = False,
) -> None:
    """Compare two runs, from their records alone.

    OLD and NEW are folders of audits.

    Example:  fedseal compare runs/main runs/this --fail-on-worse
    """
    from fedseal import report as reports
    from fedseal.audit.store import load
    from fedseal.audit.summary import compare as compared

    changes = compared(load(old), load(new))
    if as_json:
        terminal.machine([asdict(change) for change in changes])
    else:
        terminal.show(reports.comparison(changes))
    if fail_on_worse and any(change.verdict == "worse" for change in changes):
        raise typer.Exit(1)
