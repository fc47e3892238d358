"""`fedseal audit`: attacks x defenses x threat models on a case, into a run folder with a report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedseal import grammar
from fedseal.cli import terminal
from fedseal.errors import BadConfig, StorageFailure
from fedseal.files import writable_folder

if TYPE_CHECKING:  # torch takes seconds, and help must not wait for it
    from fedseal.audit import Engine, Record
    from fedseal.setup import gate

RECORD = "view.json"  # in a folder that `fit(record=...)` or `recorded(grid, ...)` wrote
OF_A_RECORD = "What a federation's parties could read"


def audit(
    target: Annotated[str | None, typer.Argument(show_default="photos on DLG's LeNet")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write record and report to.", show_default="runs/NAME")
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            help="Attacks to run, such as auto,dlg:steps=100; `fedseal recipes` lists them.", show_default=False
        ),
    ] = None,
    defenses: Annotated[
        str | None, typer.Option(help="Defenses to attack, such as none,prune:0.2,gaussian:0.01.", show_default=False)
    ] = None,
    threats: Annotated[
        str | None,
        typer.Option(
            help="Threat models to attack under, such as honest_but_curious,eavesdropper.", show_default=False
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of batches to attack; of a record, of messages of each kind at each party.",
            show_default="4, or 2 of a record",
        ),
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(help="Number of examples in a batch, or several such as 1,4,8.", show_default="1")
    ] = None,
    epochs: Annotated[
        str | None,
        typer.Option(
            help="Numbers of local epochs to compare, such as 0,1,5; 0 sends one gradient.", show_default="the case's"
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of --epochs.", show_default="the case's")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds to repeat everything with, such as 0,1,2.", show_default="0")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device to compute on: cpu, cuda or mps.", show_default="cpu")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of processes that attack at the same time.", show_default="one a core"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of CPU threads of each process.",
            show_default="1 for a small model or several processes, else all",
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Where attacks run: processes on this machine, or ray.", show_default="processes")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of the Ray cluster: HOST:PORT, ray://HOST:PORT, auto, or local for one here.",
            show_default="local",
        ),
    ] = None,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Train under each defense too, and report its cost in accuracy, bytes and time."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Continue the run in the folder, or delete it first.")
    ] = True,
    fail_above: Annotated[
        list[str] | None,
        typer.Option(
            help="Limits above which the exit code is 1: identification=SHARE, labels=SHARE, psnr=DECIBELS, "
            "rouge1=SHARE of a sentence or columns=SHARE of a row.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors and findings.")] = False,
    federation: Annotated[
        str | None,
        typer.Option(
            help="Function package.module:function that returns the Federation that was recorded.",
            show_default=False,
            rich_help_panel=OF_A_RECORD,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model that was trained, if the record does not say it: zoo:NAME, or package.module:function.",
            show_default=False,
            rich_help_panel=OF_A_RECORD,
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Shape of one picture, if the record does not say it: channels, height, width.",
            show_default="3,32,32",
            rich_help_panel=OF_A_RECORD,
        ),
    ] = None,
    training: Annotated[
        str | None,
        typer.Option(
            help="Local training, if the record does not say it: fedsgd, or fedavg:lr=0.01,epochs=3,batch_size=8.",
            show_default=False,
            rich_help_panel=OF_A_RECORD,
        ),
    ] = None,
) -> None:
    """Attack a model's updates and report what they give away.

    TARGET is a YAML file, package.module:function that returns a Case, or a folder in which what a federation's
    parties could read was recorded.

    Example:  fedseal audit mywork.audit:case --attacks auto,dlg --defenses none,prune:0.2 --out runs/first

    Example:  fedseal train --protocol plain --rounds 1 --record seen, then fedseal audit seen
    """
    from fedseal.setup import gate

    limits = gate.thresholds(fail_above or [])
    with terminal.loading():
        from fedseal.audit.cost import CostPlan
        from fedseal.cli import progress
        from fedseal.setup import machine
        from fedseal.setup.audit import audit_of, changed
    of_a_record = {
        "federation": federation,
        "model": model,
        "shape": None if shape is None else grammar.whole_numbers(shape, "--shape"),
        "training": training,
    }
    given = {
        "attacks": None if attacks is None else grammar.listed(attacks),
        "defenses": None if defenses is None else grammar.expanded(grammar.listed(defenses)),
        "threats": None if threats is None else grammar.listed(threats),
        "samples": samples,
        "batch_size": None if batch_size is None else grammar.whole_numbers(batch_size, "--batch-size"),
        "epochs": None if epochs is None else grammar.whole_numbers(epochs, "--epochs"),
        "lr": lr,
        "seeds": None if seeds is None else grammar.whole_numbers(seeds, "--seeds"),
        "device": device,
        "out": None if out is None else str(out),
    }
    if target is not None and (Path(target) / RECORD).is_file():
        of_a_case = {name: given.pop(name) for name in ("defenses", "threats", "batch_size", "epochs", "lr", "seeds")}
        _refuse({**of_a_case, "cost": cost or None}, "means nothing to a record, which is of one training")
        place = machine.engine(engine, address=address, workers=workers, threads=threads, device=device or "cpu")
        wanted = {name: value for name, value in {**given, **of_a_record}.items() if value is not None}
        _audit_record(Path(target), wanted, limits, place, threads, resume=resume, as_json=as_json, quiet=quiet)
        return
    _refuse(of_a_record, "means nothing here, since the target is no record of a federation")
    setup = changed(audit_of(target), {name: value for name, value in given.items() if value is not None})
    if cost and setup.cost is None:
        setup = replace(setup, cost=CostPlan())
    place = machine.engine(engine, address=address, workers=workers, threads=threads, device=setup.device)
    folder = writable_folder(Path(setup.out))
    for line in () if quiet else setup.notes:
        terminal.note(line)
    if not resume:
        _delete_run(folder)
    elif not quiet:
        _say_what_is_there(folder)
    with _kept(folder):
        with machine.computing_threads(threads, setup.case.model), progress.audit_progress(quiet=quiet) as show:
            record = setup.run(engine=place, on_progress=show)
        with progress.cost_progress(quiet=quiet) as tell:
            costs = setup.measure_costs(tell)
        for line in dict.fromkeys(cost.warning for cost in costs if cost.warning):
            terminal.note(f"cost: {line}")
        page = _page(record, folder)
    _conclude(record, page, gate.exceeded(record, limits), as_json=as_json, quiet=quiet)


def _page(record: Record, folder: Path) -> Path:
    from fedseal import report as reports

    return reports.html(record, folder / "report.html")


def _audit_record(
    source: Path,
    wanted: Mapping[str, Any],
    limits: tuple[gate.Threshold, ...],
    place: Engine | None,
    threads: int | None,
    *,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    # Records are read with secure sums' keys, which need an extra, and other audits must work without it.
    with terminal.loading():
        from fedseal.cli import audit_recording, progress
        from fedseal.setup import gate, machine

    out = Path(wanted.get("out", Path("runs") / source.resolve().name))
    facts = {name: value for name, value in wanted.items() if name != "out"}
    found = audit_recording.recorded_target(audit_recording.Wanted(source, **facts))
    if found.known is None and limits:
        raise BadConfig(f"--fail-above needs a score, and {audit_recording.NOBODY}", "name the --federation")
    folder = writable_folder(out)
    if not resume:
        _delete_run(folder)
    if found.note is not None and not quiet:
        terminal.note(found.note)
    with _kept(folder), machine.computing_threads(threads, found.model):
        if found.known is None:
            guesses = found.guessed(folder, (lambda line: None) if quiet else terminal.note)
            audit_recording.conclude_guesses(guesses, folder, as_json=as_json, quiet=quiet)
            crashed = [guess for guess in guesses if guess.crashed]
            for guess in crashed:
                terminal.error(f"'{guess.attack}' crashed on {guess.title} ({guess.reason})")
            if crashed:
                raise typer.Exit(1)
            return
        with progress.audit_progress(quiet=quiet) as show:
            record = found.scored(folder, place, show)
        page = _page(record, folder)
    _conclude(record, page, gate.exceeded(record, limits), as_json=as_json, quiet=quiet)


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Say what an interrupted audit leaves."""
    try:
        yield
    except KeyboardInterrupt:
        raise terminal.Interrupted(
            f"interrupted; what was finished is kept in {shlex.quote(str(folder))}; run the same command again to go on"
        ) from None


def _refuse(given: Mapping[str, object], reason: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise BadConfig(f"--{name.replace('_', '-')} {reason}", "leave it out")


def _say_what_is_there(folder: Path) -> None:
    if not (folder / "record.json").is_file():
        return
    from fedseal.audit.store import load

    record = load(folder)
    terminal.note(f"{folder} holds {len(record.cells)} of {len(record.header.keys)} cells already")


def _delete_run(folder: Path) -> None:
    """Remove what an audit wrote, and nothing else."""
    if not (folder / "record.json").is_file():
        return
    written = [folder / "record.json", *(folder / "cells").glob("*.json"), *(folder / "cells").glob("*.safetensors")]
    written += [*(folder / "cells").glob("*.traceback.txt")]
    written += [*(folder / "costs").glob("*.json"), *(folder / "bounds").glob("*.json")]
    try:
        for path in [*written, folder / "report.html"]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageFailure(
            f"cannot delete the run in '{folder}' ({error.strerror})", "choose another --out"
        ) from None


def _conclude(record: Record, page: Path, found: tuple[gate.Excess, ...], *, as_json: bool, quiet: bool) -> None:
    from fedseal import report as reports
    from fedseal.audit.cost_record import costs_of

    if as_json:
        content = json.loads(record.to_json())
        content["costs"] = [cost.model_dump(mode="json") for cost in costs_of(record.folder)]
        terminal.machine({**content, "report": str(page), "exceeded": [asdict(excess) for excess in found]})
    elif not quiet:
        terminal.show(reports.terminal(record, costs_of(record.folder)))
        terminal.say(f"Report: {page}")
    for excess in found:
        terminal.note(f"finding: {excess}")
    for line in _crashes(record):
        terminal.error(line)
    if found or record.failed:
        raise typer.Exit(1)


def _crashes(record: Record) -> list[str]:
    """Of the cells that crashed how many there are, why the first did, and where its traceback lies."""
    if not record.failed:
        return []
    from fedseal.audit.store import traceback_path

    first, count = record.failed[0], len(record.failed)
    many = "1 cell" if count == 1 else f"{count} cells"
    return [
        f"{many} of {len(record.header.keys)} crashed, such as '{first.key.attack}' on '{first.key.defense}' from "
        f"example {first.key.first} ({first.note}); {traceback_path(record.folder, first.key)} says where; the others "
        "are kept, and the same command tries these again"
    ]
