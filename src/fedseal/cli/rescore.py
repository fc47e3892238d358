"""`fedseal rescore`: the scores of an earlier run by today's metrics, without attacking again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedseal.cli import terminal


def rescore(
    run: Annotated[Path, typer.Argument(metavar="RUN", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write the run with its new scores to.", show_default="RUN-rescored"),
    ] = None,
    case: Annotated[
        str | None,
        typer.Option(
            help="Case that was attacked, if it cannot be built from the record: package.module:function, or the "
            "audit's .yaml file.",
            show_default="the record's",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the new record and what changed as JSON, and nothing else.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors and what stayed as it was.")] = False,
) -> None:
    """Score a run's reconstructions again by today's metrics, without attacking again.

    RUN is the folder of an audit, finished or not; it stays as it is. Reconstructions are taken from it; the originals
    and what blind guesses are made of from the audit's case, built again. The exit code is 1 where scores of some cells
    had to stay as they were.

    Example:  fedseal rescore runs/default

    Example:  fedseal rescore runs/mine --case mywork.audit:case --out runs/mine-again
    """
    from fedseal import report as reports
    from fedseal.audit.store import load
    from fedseal.audit.summary import compare

    old = load(run)
    with terminal.loading():
        from fedseal.audit import rescore as again
        from fedseal.setup.audit import audit_of, case_of
    truth = case_of(old.header.given) if case is None else audit_of(case).case
    place = run.parent if run.name not in ("", "..") else run.resolve().parent
    new = again.rescored_run(old, truth, out or place / f"{run.resolve().name}-rescored")
    changes, note = compare(old, new), new.header.rescored
    assert note is not None
    if as_json:
        changed = [asdict(change) for change in changes if change.verdict != "same"]
        terminal.machine({**json.loads(new.to_json()), "folder": new.folder, "changes": changed})
    elif not quiet:
        terminal.show(reports.comparison(changes))
        terminal.say(f"{note.summary}.")
        terminal.say(f"Rescored: {new.folder}")
    for kept in note.kept:
        terminal.note(f"{kept.cells} of {len(new.cells)} cells: {kept.reason}")
    if note.kept:
        raise typer.Exit(1)
