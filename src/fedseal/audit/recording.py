"""An audit of what the parties of a federation could read: `federation.View` in place of a simulated client.

Every cell attacks one recorded message. What in other audits is the threat model is here the party and what it held,
and the seed is the round. An attacker is told how many examples there are, which nobody says in a secure round: what
comes out is an upper bound for one who has to guess it.
"""

from __future__ import annotations

import copy
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from fedseal import defense as defenses
from fedseal.audit.case import Case, without_addresses
from fedseal.audit.cell import Worker
from fedseal.audit.environment import usable_device
from fedseal.audit.executor import Computed, Engine, InProcess
from fedseal.audit.grid import AuditPlan, Job
from fedseal.audit.record import CellKey, Config, Record
from fedseal.audit.runner import CellProgress, execute
from fedseal.client import misfits, put_state
from fedseal.errors import BadConfig
from fedseal.federation.view import Entry, View
from fedseal.threat import ThreatModel
from fedseal.types import Attack, Batch, Modality, Observation, Progress, Tensors, Update

Truth = Callable[[int, int], Batch]
HELD = {"step": "updates", "masked": "masked vectors", "seed": "shares from seeds", "sum": "opened sums"}
FEW = 2


def audit_recording(
    view: View,
    model: nn.Module,
    truth: Truth,
    *,
    out: str | Path,
    attacks: Sequence[str] = ("auto",),
    samples: int | None = FEW,
    modality: Modality | None = None,
    gallery: Tensor | None = None,
    name: str | None = None,
    device: str = "cpu",
    engine: Engine | None = None,
    resume: bool = True,
    on_progress: Callable[[CellProgress], None] | None = None,
) -> Record:
    """Attack what was recorded, write the record of the audit as it grows, and return it.

    Args:
        view: the record of the federation.
        model: its architecture; the weights are the record's.
        truth: `(round, owner) -> Batch`: the examples behind an owner's update of a round, all of them.
        out: the run folder. One that holds the same audit is continued.
        attacks: specifications.
        samples: how many messages of each kind are attacked at each party, from the first round on; None for all.
        modality, gallery, name: as of a `Case`.
        device, engine, resume, on_progress: as of `audit.run`.

    Raises:
        BadConfig: nothing is recorded, a model that is not the record's, or the folder holds another audit.
        UnknownName: an attack that does not exist.
        StorageFailure: the record, or the run folder, cannot be read or written.
    """
    job = _Job(view, model, truth, tuple(attacks), samples, modality, gallery, name, usable_device(device))
    place = engine or InProcess()
    plan = job.plan()
    asked = {"recorded": str(view.folder), "attacks": list(attacks), "samples": samples}
    return execute(job, plan, Path(out), place, given=asked, resume=resume, on_progress=on_progress)


def chosen(view: View, samples: int | None) -> tuple[Entry, ...]:
    """The first messages of each kind at each party, by round and sender.

    Raises:
        BadConfig: there is none.
    """
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in sorted(view.entries, key=lambda entry: (bool(entry.cohort), entry.round, _place(entry.sender))):
        groups[entry.party, entry.kind].append(entry)
    found = tuple(entry for group in groups.values() for entry in group[:samples])
    if not found:
        raise BadConfig(f"nothing was recorded in '{view.folder}'", "record a round that is completed")
    return found


def adversary(entry: Entry) -> ThreatModel:
    """Who has a message: a server, since every party knows the weights and the settings, of one update or of a sum."""
    single = entry.clients == 1
    preset = ThreatModel.honest_but_curious() if single else ThreatModel.aggregate_only()
    return ThreatModel(f"{entry.party}: {HELD[entry.kind]}", preset.grants)


def at(model: nn.Module, state: Tensors) -> nn.Module:
    """A copy of the model with these weights.

    Raises:
        BadConfig: they are of another model.
    """
    model = copy.deepcopy(model)
    strange = misfits(model, state)
    lacking = [name for name, _ in model.named_parameters() if name not in state]
    if strange or lacking:
        which = f"holds no '{lacking[0]}'" if lacking else f"holds '{strange[0]}' {tuple(state[strange[0]].shape)}"
        raise BadConfig(f"the record {which}, so it is of another model", "name the model that was trained: --model")
    put_state(model, state)
    return model


def fitted_update(update: Update, model: nn.Module) -> Update:
    """An update as the model has its parts: what a foreign framework sends beside the weights goes to the buffers."""
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    buffers = {name for name, _ in model.named_buffers()}
    frozen = {name for name, _ in model.named_parameters()} - trainable
    tensors = {name: tensor for name, tensor in update.tensors.items() if name not in buffers | frozen}
    return replace(update, tensors=tensors)


@dataclass(frozen=True, eq=False)
class _Job:
    """What engines hand to workers; see `audit_recording`."""

    view: View
    model: nn.Module
    truth: Truth
    attacks: tuple[str, ...]
    samples: int | None
    modality: Modality | None
    gallery: Tensor | None
    name: str | None
    device: str

    def worker(self) -> _Rounds:
        """What computes cells."""
        return _Rounds({number: one.worker() for number, one in self.rounds.items()})

    @cached_property
    def named(self) -> dict[str, Attack]:
        """The attacks by their specifications."""
        names: list[str | Attack] = [*self.attacks]
        return Job(next(iter(self.rounds.values())).case, names, (), ()).named_attacks()

    @cached_property
    def rounds(self) -> dict[int, _Round]:
        """Every round of which something is attacked."""
        entries = chosen(self.view, self.samples)
        return {
            number: _Round(self, number, tuple(entry for entry in entries if entry.round == number))
            for number in sorted({entry.round for entry in entries})
        }

    def plan(self) -> AuditPlan:
        """The resolved arguments, and the cells: attack by attack."""
        rounds = self.rounds.values()
        pairs = [(number, entry) for number, one in self.rounds.items() for entry in one.entries]
        keys = tuple(self.rounds[number].key(attack, entry) for attack in self.named for number, entry in pairs)
        first, threats = next(iter(rounds)).case, [adversary(entry) for _, entry in pairs]
        config = Config(
            case=first.title,
            model=f"{type(self.model).__name__} ({sum(p.numel() for p in self.model.parameters()):,} parameters)",
            training=first.training.describe(),
            modality=first.inputs_as.describe(),
            attacks=tuple(self.named),
            defenses=(self.view.defense,),
            threats=tuple(dict.fromkeys(threat.name for threat in threats)),
            samples=len(pairs),
            batch_sizes=(max(key.batch_size for key in keys),),  # owners differ by a few, which is no axis
            seeds=tuple(self.rounds),
            cohort=max(entry.clients for _, entry in pairs),
            recipes={name: without_addresses(repr(attack)) for name, attack in self.named.items()},
            knows={threat.name: tuple(sorted(threat.grants)) for threat in threats},
            fingerprint=_digest([*(one.case.fingerprint() for one in rounds), *map(str, self.view.entries)]),
        )
        return AuditPlan(config, keys)


@dataclass(frozen=True, eq=False)
class _Round:
    """A round's examples, those of the opened sum's cohort first, and the messages about them."""

    job: _Job
    number: int
    entries: tuple[Entry, ...]

    @cached_property
    def owners(self) -> dict[int, Batch]:
        sums = [owner for entry in self.entries for owner in entry.cohort]
        singles = [int(entry.sender) for entry in self.entries if not entry.cohort]
        return {owner: self.job.truth(self.number, owner) for owner in dict.fromkeys([*sums, *sorted(singles)])}

    @cached_property
    def case(self) -> Case:
        job, parts = self.job, list(self.owners.values())
        training = job.view.training
        if training is None:
            raise BadConfig("the record does not say how clients train", "name it: --training fedsgd")
        return Case(
            at(job.model, job.view.state(self.number)),
            Batch(torch.cat([part.inputs for part in parts]), torch.cat([part.labels for part in parts])),
            training,
            modality=job.modality,
            name=job.name,
            gallery=job.gallery,
        )

    def key(self, attack: str, entry: Entry) -> CellKey:
        """The key of the cell of an attack on a message."""
        first, size = self._span(entry)
        threat = adversary(entry).name
        return CellKey(
            attack=attack,
            defense=self.job.view.defense,
            threat=threat,
            first=first,
            batch_size=size,
            seed=self.number,
        )

    def worker(self) -> Worker:
        """What computes this round's cells."""
        threats = {threat.name: threat for threat in map(adversary, self.entries)}
        return Worker(self.case.to(self.job.device), self.job.named, {}, threats, recorded=self.observation)

    def observation(self, key: CellKey) -> Observation:
        """What the party held."""
        (entry,) = (entry for entry in self.entries if self.key(key.attack, entry) == key)
        case, update = self.case.to(self.job.device), self.job.view.update(entry)
        update = fitted_update(replace(update, num_examples=key.batch_size), case.model)
        defense = None if key.defense == "none" else defenses.parse(key.defense)
        return adversary(entry).observe(
            case.model, update.to(self.job.device), modality=case.inputs_as, defense=defense
        )

    def _span(self, entry: Entry) -> tuple[int, int]:
        if entry.cohort:
            return 0, sum(len(self.owners[owner]) for owner in entry.cohort)
        before = list(self.owners).index(int(entry.sender))
        return sum(len(part) for part in list(self.owners.values())[:before]), len(self.owners[int(entry.sender)])


@dataclass(frozen=True, eq=False)
class _Rounds:
    """Computes cells of several rounds, as `Worker` does of one case."""

    workers: Mapping[int, Worker]

    def compute(self, key: CellKey, on_step: Callable[[Progress], None]) -> Computed:
        """The finished cell, also where it crashed."""
        return self.workers[key.seed].compute(key, on_step)


def _place(sender: str) -> tuple[int, str]:
    return (int(sender), "") if sender.isdecimal() else (-1, sender)


def _digest(facts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
