"""The audit: every attack on every defense under every threat model, recorded as it goes.

Attacks come first in the order of cells, so that the cheap exact ones give a first result within seconds. Each cell is
seeded by its key alone: in whatever order and however often a run is interrupted, the record comes out the same.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from fedseal import attack as attacks_module
from fedseal import defense as defenses_module
from fedseal.audit import store
from fedseal.audit.case import Case, without_addresses
from fedseal.audit.cell import Worker
from fedseal.audit.environment import environment, usable_device
from fedseal.audit.record import VERSION, Cell, CellKey, Config, Environment, Header, Record
from fedseal.errors import BadConfig
from fedseal.threat import ThreatModel, preset
from fedseal.types import Attack, Defense, Progress

Named = TypeVar("Named")


@dataclass(frozen=True)
class CellProgress:
    """Where a running audit stands.

    Args:
        done: finished cells, those of earlier runs included.
        total: cells of the audit.
        key: the cell in work.
        progress: a step of its attack; None when the cell starts and when it is finished.
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
    batch_size: int = 1,
    seeds: Sequence[int] = (0,),
    device: str = "cpu",
    resume: bool = True,
    on_progress: Callable[[CellProgress], None] | None = None,
    given: Mapping[str, object] | None = None,
) -> Record:
    """Run all attacks, write the record as it grows, and return it.

    Args:
        case: the truth.
        attacks: specifications, or values, which go by their name.
        defenses: likewise.
        threats: likewise.
        out: the run folder. One that holds the same audit is continued, and its finished cells are kept.
        samples: number of batches of `batch_size` examples to attack, from the case's first; None for all.
        batch_size: examples of one attacked client.
        seeds: everything is repeated for each.
        device: such as "cpu", "cuda" or "mps".
        on_progress: called when a cell starts, at every step that its attack reports, and when it is finished.
        resume: False to refuse a folder that holds a record already.
        given: what to record as the user's arguments; None for those of this call.

    Raises:
        BadConfig: arguments that mean nothing, or a folder with another audit in it.
        UnknownName: an attack, defense or threat model that does not exist.
        UnfitBatch: the model does not take the data, or there is too little of it.
        StorageFailure: the run folder cannot be read or written.
    """
    folder, device = Path(out), usable_device(device)
    plan = _plan(case, attacks, defenses, threats, samples, batch_size, seeds)
    asked = dict(given) if given is not None else {**plan.config.model_dump(mode="json"), "out": str(out)}
    header = _start(folder, plan, asked, device, resume)
    done = {cell.key: cell for cell in store.read(folder, header).cells}
    worker = Worker(case.to(device), plan.attacks, plan.defenses, plan.threats)
    tell = on_progress or (lambda _: None)
    for key in header.keys:
        if key in done:
            continue
        now = CellProgress(len(done), len(header.keys), key)
        tell(now)
        cell, images = worker.compute(key, _told(tell, now))
        store.write_cell(folder, cell, images)
        done[key] = cell
        tell(replace(now, done=len(done), cell=cell))
    return Record(header=header, cells=tuple(done[key] for key in header.keys), folder=str(folder))


def _told(tell: Callable[[CellProgress], None], now: CellProgress) -> Callable[[Progress], None]:
    return lambda step: tell(replace(now, progress=step))


@dataclass(frozen=True)
class _Plan:
    attacks: Mapping[str, Attack]
    defenses: Mapping[str, Defense]
    threats: Mapping[str, ThreatModel]
    config: Config
    keys: tuple[CellKey, ...]


def _plan(
    case: Case,
    attacks: Sequence[str | Attack],
    defenses: Sequence[str | Defense],
    threats: Sequence[str | ThreatModel],
    samples: int | None,
    batch_size: int,
    seeds: Sequence[int],
) -> _Plan:
    by_attack = _named(
        "attack", [(a.strip(), attacks_module.parse(a)) if isinstance(a, str) else (a.name, a) for a in attacks]
    )
    shields = [defenses_module.parse(d) if isinstance(d, str) else d for d in defenses]
    by_defense = _named("defense", [(defense.name, defense) for defense in shields])
    adversaries = [preset(t) if isinstance(t, str) else t for t in threats]
    by_threat = _named("threat model", [(threat.name, threat) for threat in adversaries])
    by_seed = _named("seed", [(str(seed), seed) for seed in seeds])
    samples = _samples(case, samples, batch_size)
    config = Config(
        case=case.title,
        model=f"{type(case.model).__name__} ({sum(p.numel() for p in case.model.parameters()):,} parameters)",
        training=case.training.describe(),
        modality=case.inputs_as.describe(),
        attacks=tuple(by_attack),
        defenses=tuple(by_defense),
        threats=tuple(by_threat),
        samples=samples,
        batch_size=batch_size,
        seeds=tuple(by_seed.values()),
        cohort=case.cohort,
        recipes={name: without_addresses(repr(attack)) for name, attack in by_attack.items()},
        knows={name: tuple(sorted(threat.grants)) for name, threat in by_threat.items()},
        fingerprint=case.fingerprint(),
    )
    firsts = range(0, samples * batch_size, batch_size)
    keys = tuple(
        CellKey(attack=attack, defense=defense, threat=threat, first=first, batch_size=batch_size, seed=seed)
        for attack, first, threat, defense, seed in itertools.product(
            by_attack, firsts, by_threat, by_defense, by_seed.values()
        )
    )
    return _Plan(by_attack, by_defense, by_threat, config, keys)


def _named(kind: str, items: Sequence[tuple[str, Named]]) -> dict[str, Named]:
    if not items:
        raise BadConfig(f"the audit has no {kind}", "name at least one")
    twice = [name for name, count in Counter(name for name, _ in items).items() if count > 1]
    if twice:
        raise BadConfig(f"the {kind} '{twice[0]}' is there twice", "name it once, or give the other another name")
    return dict(items)


def _samples(case: Case, samples: int | None, batch_size: int) -> int:
    fitting = len(case.batch) // batch_size if batch_size >= 1 else 0
    wanted = fitting if samples is None else samples
    if not 1 <= wanted <= fitting:
        raise BadConfig(
            f"{'samples' if samples is None else f'{samples} samples'} of {batch_size} examples each from a case of "
            f"{len(case.batch)} examples",
            f"it holds {fitting} such samples: lower samples or batch_size, or give more data"
            if fitting
            else "set batch_size between 1 and the number of examples",
        )
    return wanted


def _start(folder: Path, plan: _Plan, given: dict[str, object], device: str, resume: bool) -> Header:
    """The header of the folder's record, which is written if there is none yet."""
    old = store.read_header(folder)
    here = environment(device)
    if old is not None:
        if not resume:
            raise BadConfig(f"'{folder}' holds an audit already", "continue it with --resume, or choose another --out")
        if changes := _changes(old, plan.config, here):
            raise BadConfig(f"'{folder}' holds another audit: {'; '.join(changes)}", "choose another --out")
        store.sweep(folder)
        if old.version != VERSION:  # its old cells are cells of this version, but the new ones are none of that one
            old = old.model_copy(update={"version": VERSION})
            store.write_header(folder, old)
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
        if before[name] != value
    ]
    was, now = old.environment.packages, here.packages
    changes += [f"{p} was {was.get(p)}, now {now.get(p)}" for p in sorted({*was, *now}) if was.get(p) != now.get(p)]
    if old.environment.device != here.device:
        changes.append(f"the device was {old.environment.device}, now {here.device}")
    return changes
