"""The audit: every attack on every defense under every threat model, recorded as it goes.

Attacks come first in the order of cells, so that the cheap exact ones give a first result within seconds. Each cell is
seeded by its key alone: in whatever order, on however many workers and however often a run is interrupted, the record
comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedseal.audit import store
from fedseal.audit.bounds import measure_bounds
from fedseal.audit.case import Case
from fedseal.audit.environment import environment, usable_device
from fedseal.audit.executor import Engine, Work
from fedseal.audit.executor import local_engine as local_engine
from fedseal.audit.grid import AuditPlan, Job, plan
from fedseal.audit.record import VERSION, Cell, CellKey, Config, Environment, Header, Record
from fedseal.errors import BadConfig
from fedseal.grammar import expanded
from fedseal.threat import ThreatModel
from fedseal.types import Attack, Defense, Progress


@dataclass(frozen=True)
class CellProgress:
    """Where a running audit stands.

    Args:
        done: finished cells, those of earlier runs included.
        total: cells of the audit.
        key: the cell in work; several workers have several.
        progress: a step of its attack; None when the cell starts and when it is finished. Other processes report a few
            steps only, without their inputs.
        cell: the finished cell; None before.
    """

    done: int
    total: int
    key: CellKey
    progress: Progress | None = None
    cell: Cell | None = None


def run(
    case: Case,
    *,
    attacks: Sequence[str | Attack],
    defenses: Sequence[str | Defense] = ("none",),
    threats: Sequence[str | ThreatModel] = ("honest_but_curious",),
    out: str | Path,
    samples: int | None = None,
    batch_size: int | Sequence[int] = 1,
    epochs: int | Sequence[int] | None = None,
    lr: float | None = None,
    seeds: Sequence[int] = (0,),
    device: str = "cpu",
    workers: int = 1,
    engine: Engine | None = None,
    resume: bool = True,
    on_progress: Callable[[CellProgress], None] | None = None,
    given: Mapping[str, object] | None = None,
) -> Record:
    """Run all attacks, write the record as it grows, and return it.

    A cell that crashes is `failed` in the record, with its traceback in the run folder as `cells/ID.traceback.txt`; the
    others go on, and the same call tries it again.

    Args:
        case: the truth.
        attacks: specifications, or values, which go by their name.
        defenses: likewise; "prune:[0.2,0.5]" stands for both strengths.
        threats: likewise.
        out: the run folder. One that holds the same audit is continued, and its finished cells are kept.
        samples: number of batches to attack of each size, from the case's first example; None for as many as fit.
        batch_size: examples of one attacked client; several to compare.
        epochs: of the client's local training in place of the case's own, several to compare; 0 for FedSGD, one
            gradient without a step.
        lr: of these epochs; None for the case's own.
        seeds: everything is repeated for each.
        device: such as "cpu", "cuda" or "mps".
        workers: processes that compute cells; 1 for this one. Where processes are not forked (not on Linux, or on an
            accelerator), a script that asks for more must do so below `if __name__ == "__main__":`.
        engine: where cells are computed, in place of these processes.
        resume: False to refuse a folder that holds a record already.
        on_progress: called when a cell starts, at steps that its attack reports, and when it is finished.
        given: what to record as the user's arguments; None for those of this call.

    Raises:
        BadConfig: arguments that mean nothing, or a folder with another audit in it.
        UnknownName: an attack, defense or threat model that does not exist.
        UnfitBatch: the model does not take the data, or there is too little of it.
        StorageFailure: the run folder cannot be read or written.
        EngineFailure: workers cannot be reached, or died over some cells; all others are finished and kept.
    """
    folder, device = Path(out), usable_device(device)
    shields = [s for d in defenses for s in (expanded([d]) if isinstance(d, str) else [d])]
    job = Job(case, attacks, shields, threats, device, lr)
    planned = plan(
        job, samples=samples, batch_sizes=_several(batch_size) or (), epochs=_several(epochs), seeds=tuple(seeds)
    )
    asked = dict(given) if given is not None else {**planned.config.model_dump(mode="json"), "out": str(out)}
    place = engine or local_engine(workers)
    record = execute(job, planned, folder, place, given=asked, resume=resume, on_progress=on_progress)
    measure_bounds(case, folder, defenses=shields, batch_sizes=planned.config.batch_sizes)
    return record


def execute(
    job: Work,
    planned: AuditPlan,
    folder: Path,
    engine: Engine,
    *,
    given: Mapping[str, object],
    resume: bool = True,
    on_progress: Callable[[CellProgress], None] | None = None,
) -> Record:
    """Compute the plan's cells that are not yet in the folder; the second half of `run`, with the same errors."""
    header = _start(folder, planned, dict(given), environment(job.device, engine.threads), resume)
    done = {
        cell.key: cell for cell in store.read_run(folder, header).cells if cell.status != "failed"
    }  # these once more
    missing = [key for key in header.keys if key not in done]

    def tell(key: CellKey, progress: Progress | None, cell: Cell | None = None) -> None:
        if on_progress is not None:
            on_progress(CellProgress(len(done), len(header.keys), key, progress, cell))

    with closing(engine.compute(job, missing, tell)) as finished:
        for cell, pictures, trace in finished:
            store.write_cell(folder, cell, pictures, trace)
            done[cell.key] = cell
            tell(cell.key, None, cell)
    return Record(header=header, cells=tuple(done[key] for key in header.keys), folder=str(folder))


def _several(values: int | Sequence[int] | None) -> tuple[int, ...] | None:
    return (values,) if isinstance(values, int) else None if values is None else tuple(values)


def _start(folder: Path, plan: AuditPlan, given: dict[str, object], here: Environment, resume: bool) -> Header:
    """The header of the folder's record, which is written if there is none yet."""
    old = store.read_header(folder)
    if old is not None:
        if not resume:
            raise BadConfig(f"'{folder}' holds an audit already", "continue it with --resume, or choose another --out")
        if old.version != VERSION:
            # Its cells would stand beside others that were checked, and its fingerprint told losses apart by name.
            raise BadConfig(
                f"'{folder}' holds an audit of an earlier fedseal, which took an attack's word for what is certain",
                "it can be read, and not be continued: choose another --out, or do it anew with --fresh",
            )
        if changes := _changes(old, plan.config, here):
            raise BadConfig(f"'{folder}' holds another audit: {'; '.join(changes)}", "choose another --out")
        store.sweep(folder)
        return old
    now = datetime.now(UTC).isoformat(timespec="seconds")
    header = Header(created=now, given=given, config=plan.config, environment=here, keys=plan.keys)
    store.write_header(folder, header)
    return header


def _changes(old: Header, config: Config, here: Environment) -> list[str]:
    before, after = old.config.model_dump(), config.model_dump()
    changes = [
        "the model, its weights or the data are others (random weights without a seed are new each time)"
        if name == "fingerprint"
        else f"{name} was {before[name]}, now {value}"
        for name, value in after.items()
        if before[name] != value and not (name == "public" and before[name] is None)  # written before it was recorded
    ]
    was, now = old.environment.packages, here.packages
    changes += [f"{p} was {was.get(p)}, now {now.get(p)}" for p in sorted({*was, *now}) if was.get(p) != now.get(p)]
    if old.environment.device != here.device:
        changes.append(f"the device was {old.environment.device}, now {here.device}")
    return changes
