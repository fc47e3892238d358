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
from typing import Any

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
from fedseal.client import put_state, state_of
from fedseal.errors import BadConfig, UnfitUpdate
from fedseal.federation.view import Entry, View
from fedseal.message import MessageNames, fit_state
from fedseal.threat import ThreatModel
from fedseal.types import Attack, Batch, Modality, Observation, Progress, Tensors, Update

Truth = Callable[[int, Any], Batch]  # an owner is a number in our federations, and may be a name in others
HELD = {
    "step": "updates",
    "weights": "updates",
    "difference": "updates",
    "gradient": "updates",
    "masked": "masked vectors",
    "seed": "shares from seeds",
    "sum": "opened sums",
    "part": "parts of updates",
    "partial sum": "partial sums",
    "masked part": "masked parts",
    "masked partial sum": "masked partial sums",
    "mixed weights": "mixed weights",
}
NEIGHBORS = {
    "part",
    "partial sum",
    "masked part",
    "masked partial sum",
    "mixed weights",
}  # what one owner hands to another
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
        truth: `(round, owner) -> Batch`: the examples behind an owner's update of a round, all of them. An owner is
            what the record's sender says: a number where that is one.
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


def adversary(entry: Entry, *, whole: bool = True) -> ThreatModel:
    """Who has a message: a server, since every party knows the weights and the settings, or a neighbor.

    Args:
        whole: whether it knows all of the weights; False where a client keeps some that the server never had.
    """
    single = entry.clients == 1
    if entry.kind in NEIGHBORS:
        return ThreatModel(f"neighbor, {entry.party}: {HELD[entry.kind]}", ThreatModel.neighbor().grants)
    preset = ThreatModel.honest_but_curious() if single else ThreatModel.aggregate_only()
    return ThreatModel(f"{entry.party}: {HELD[entry.kind]}", preset.grants - ({"state"} if not whole else set()))


def at(model: nn.Module, state: Tensors) -> nn.Module:
    """A copy of the model with these weights; what is not among them stays as it is, see `sent_whole`.

    Raises:
        BadConfig: they are of another model.
    """
    model = copy.deepcopy(model)
    names = MessageNames(model)
    called = names.of(state)
    foreign = [name for name, own in called.items() if own is None]
    if foreign or not set(called.values()) & names.parameters.keys():
        which = f"holds '{foreign[0]}' {tuple(state[foreign[0]].shape)}" if foreign else "holds no weights"
        raise BadConfig(f"the record {which}, so it is of another model", "name the model that was trained: --model")
    sent = {name if name in names.first else str(own): state[name] for name, own in called.items()}
    kept = {name: tensor for name, tensor in state_of(model).items() if name not in called.values()}
    try:
        put_state(model, fit_state(model, {**kept, **sent}))
    except UnfitUpdate as error:
        raise BadConfig(
            f"the record is of another model: {error.fact}", "name the model that was trained: --model"
        ) from None
    return model


def sent_whole(model: nn.Module, state: Tensors) -> bool:
    """Whether a server that sent these weights knows all of the model's."""
    names = MessageNames(model)
    return names.parameters.keys() <= set(names.of(state).values())


def as_answered(model: nn.Module, update: Update) -> nn.Module:
    """The model as far as an update tells of it: what a client did not send is frozen in a copy."""
    names = MessageNames(model)
    silent = names.trainable.keys() - set(names.of(update.tensors).values())
    if not silent:
        return model
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in silent)
    return model


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

    def adversary(self, entry: Entry) -> ThreatModel:
        """Who has a message."""
        return adversary(entry, whole=entry.round in self._whole)

    @cached_property
    def _whole(self) -> frozenset[int]:
        """Rounds in which the server sent all of the model's weights."""
        return frozenset(n for n in self.view.rounds if sent_whole(self.model, self.view.state(n)))

    def plan(self) -> AuditPlan:
        """The resolved arguments, and the cells: attack by attack."""
        rounds = self.rounds.values()
        pairs = [(number, entry) for number, one in self.rounds.items() for entry in one.entries]
        keys = tuple(self.rounds[number].key(attack, entry) for attack in self.named for number, entry in pairs)
        first, threats = next(iter(rounds)).case, [self.adversary(entry) for _, entry in pairs]
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
    def owners(self) -> dict[int | str, Batch]:
        sums = [owner for entry in self.entries for owner in entry.cohort]
        singles = sorted((entry.sender for entry in self.entries if not entry.cohort), key=_place)
        owners: list[int | str] = [*sums, *map(_owner, singles)]
        return {owner: self.job.truth(self.number, owner) for owner in dict.fromkeys(owners)}

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
        threat = self.job.adversary(entry).name
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
        threats = {threat.name: threat for threat in map(self.job.adversary, self.entries)}
        return Worker(self.case.to(self.job.device), self.job.named, {}, threats, recorded=self.observation)

    def observation(self, key: CellKey) -> Observation:
        """What the party held."""
        (entry,) = (entry for entry in self.entries if self.key(key.attack, entry) == key)
        case, update = self.case.to(self.job.device), self.job.view.update(entry)
        update = replace(update, num_examples=key.batch_size).to(self.job.device)
        defense = None if key.defense == "none" else defenses.parse(key.defense)
        return self.job.adversary(entry).observe(
            as_answered(at(case.model, self.job.view.start(entry)), update),
            update,
            modality=case.inputs_as,
            defense=defense,
        )

    def _span(self, entry: Entry) -> tuple[int, int]:
        if entry.cohort:
            return 0, sum(len(self.owners[owner]) for owner in entry.cohort)
        before = list(self.owners).index(_owner(entry.sender))
        return sum(len(part) for part in list(self.owners.values())[:before]), len(self.owners[_owner(entry.sender)])


@dataclass(frozen=True, eq=False)
class _Rounds:
    """Computes cells of several rounds, as `Worker` does of one case."""

    workers: Mapping[int, Worker]

    def compute(self, key: CellKey, on_step: Callable[[Progress], None]) -> Computed:
        """The finished cell, also where it crashed."""
        return self.workers[key.seed].compute(key, on_step)


def _owner(sender: str) -> int | str:
    return int(sender) if sender.isdecimal() else sender


def _place(sender: str) -> tuple[int, str]:
    return (int(sender), "") if sender.isdecimal() else (-1, sender)


def _digest(facts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
