"""The rounds of a federation, one after the other: what the model owner does between two sums.

Before an update can be in a sum, the round stands in the model owner's ledger. A round that the model owner was killed
in is asked again as it was, and owners answer what they answered. After a round that opened nothing the model moves a
little at random, since owners answer no model twice; a model that moves less than they agreed to ends the training.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedseal.client import misfits, put_state, state_of
from fedseal.errors import BadConfig, EngineFailure, FedsealError
from fedseal.federation import checkpoint as kept
from fedseal.federation.members import Members
from fedseal.federation.owners import ModelOwner
from fedseal.federation.packing import ModelState, Packing, trained_arrays
from fedseal.federation.protocol import PROTOCOLS, Ask, Call, Link, Reply, Sum
from fedseal.federation.protocol.client import draw_seed
from fedseal.federation.report import RoundReport, check_finite
from fedseal.federation.traffic import Metered, Watcher
from fedseal.secagg import SERVER, Ledger, LedgerEntry, Party
from fedseal.secagg.errors import BrokenCommitment
from fedseal.types import Tensors

PATIENCE = 3  # failed rounds in a row after which a run ends
LEAST = 1e-5  # by which share of its norm a model moves at random where no floor was agreed on
TRIES = 8  # of doubling that, for models in formats that round it away


@dataclass
class TrainingRun:
    """A training under way.

    Args:
        model: as it is; it is moved.
        history: the rounds so far; it grows.
        mark: of the federation, for its checkpoint.
        checkpoint: rewritten after every round; None for none.
    """

    owner: ModelOwner
    members: Members
    model: nn.Module
    history: list[RoundReport]
    rounds: int
    evaluate_every: int
    ledger: Ledger
    watchers: Sequence[Watcher]
    mark: str
    checkpoint: Path | None = None
    progress: Callable[[RoundReport], None] | None = None
    ended: str = field(default="", init=False)

    def serve(self, link: Link) -> None:
        """All rounds that are left, or as many as the model moves enough for.

        Raises:
            EngineFailure: three rounds in a row failed; the last one's reason.
            Diverged: a model or a loss that is no number any more.
        """
        for number in range(len(self.history), self.rounds):
            if not self._moved_enough(number):
                return
            due = (number + 1) % self.evaluate_every == 0 or number + 1 == self.rounds
            self.history.append(self._round(link, number, evaluate=due))
            self._keep()
            if self.progress is not None:
                self.progress(self.history[-1])
            if all(report.failure for report in self.history[-PATIENCE:]) and len(self.history) >= PATIENCE:
                raise EngineFailure(
                    f"{PATIENCE} rounds in a row failed, the last since {self.history[-1].failure}",
                    "see the clients' logs, and resume from the checkpoint",
                )

    def _keep(self) -> None:
        """Write the checkpoint, unless the training has diverged."""
        state = state_of(self.model)
        check_finite({name: state[name] for name in self._packing.names}, self.history, self.checkpoint)
        if self.checkpoint is not None:
            kept.save_checkpoint(self.checkpoint, self.mark, state, self.history)

    @cached_property
    def _packing(self) -> Packing:
        return Packing.of(self.model, self.members.pact.secure)

    def _moved_enough(self, number: int) -> bool:
        """Whether owners will answer the model; it is moved where the round before opened nothing."""
        secure = self.members.pact.secure
        if not PROTOCOLS[secure.protocol].secure:
            return True
        if self.history and self.history[-1].failure:
            self._move_at_random(number)
            return True
        state = ModelState(state_of(self.model))
        if any(entry.state == state.digest.hex() and entry.round == number for entry in self.ledger.entries):
            return True  # the round that a model owner was killed in
        change = self.ledger.nearest(self._sketch())
        if change >= secure.floor and not self._answered(state):
            return True
        self.ended = f"the model moved by {change:.1e} of its norm, and owners answer moves of {secure.floor:g} or more"
        return False

    def _move_at_random(self, number: int) -> None:
        """By twice the floor, the same way whenever this round begins.

        Owners may have answered the model although nothing of it arrived here.
        """
        before, floor = state_of(self.model), self.members.pact.secure.floor
        generator = torch.Generator().manual_seed(self._seed(number))
        names = [name for name, p in self.model.named_parameters() if p.requires_grad and p.is_floating_point()]
        noise = {name: torch.randn(before[name].shape, generator=generator) for name in names}
        norm, length = (_norm(tensors[name] for name in names) for tensors in (before, noise))
        share = 2 * max(floor, LEAST)
        for _ in range(TRIES):
            step = share * (norm or 1.0) / length
            moved = {name: before[name] + (step * noise[name]).to(before[name]) for name in names}
            if _norm(moved[name].double() - before[name].double() for name in names) >= 1.5 * floor * norm:
                break
            share *= 2
        put_state(self.model, moved)

    def _seed(self, number: int) -> int:
        if self.members.seed is not None:
            return draw_seed(self.members.seed, number, SERVER)
        return int.from_bytes(hashlib.sha256(self.members.pact.session + number.to_bytes(8, "little")).digest()[:7])

    def _answered(self, state: ModelState) -> bool:
        return any(entry.state == state.digest.hex() for entry in self.ledger.entries)

    def _sketch(self) -> NDArray[np.float32]:
        return self.ledger.sketch(trained_arrays(self.model.parameters()))

    def _round(self, link: Link, number: int, *, evaluate: bool) -> RoundReport:
        started, members, state = time.perf_counter(), self.members, ModelState(state_of(self.model))
        packing = self._packing
        barred = {client: BrokenCommitment.__name__ for client in members.clients if self._is_barred(client)}
        clients = tuple(client for client in members.clients if client not in barred)
        call = Call(members.pact, members.keys.identity(SERVER), clients, number, packing.size, state, barred)
        watchers = [_Bookkeeper(self.ledger, self._entry(call)), *self.watchers]
        metered = Metered(link, watchers)
        for watcher in watchers:
            watcher.begins(call)
        failure, found = "", None
        try:
            found = PROTOCOLS[members.pact.secure.protocol].conduct(call, metered)
        except FedsealError as error:
            failure = error.fact
            for watcher in watchers:
                watcher.failed(call)
        if found is not None:
            for watcher in watchers:
                watcher.opened(call, found)
            put_model(self.model, self.owner.aggregate(packing.unpack(found.total), found.weight, self.model))
        traffic, owner, validation = metered.traffic, self.owner, dict[str, float]()
        if evaluate and owner.validation is not None:
            usable = owner.usable(self.model, members.pact.secure.statistics)
            validation = dict(owner.evaluator_fn(usable, owner.validation))
        return RoundReport(
            round=number,
            clients=len(found.cohort) if found else 0,
            weight=found.weight if found else 0,
            metrics=found.metrics if found else {},
            validation=validation,
            uploaded=traffic.uploaded,
            downloaded=traffic.downloaded,
            relayed=traffic.relayed,
            seconds=time.perf_counter() - started,
            failure=failure,
            colluders=members.pact.secure.colluders,
            refused={Party.of(who).role: kind for who, kind in sorted((metered.refused | call.faults).items())},
        )

    def _is_barred(self, client: int) -> bool:
        """Whether it ended a round, one before a resume included, by two signatures that contradict each other."""
        role = Party.of(client).role
        return any(report.refused.get(role) == BrokenCommitment.__name__ for report in self.history)

    def _entry(self, call: Call) -> LedgerEntry:
        text = self._sketch().tobytes().hex() if call.digest else ""
        release = call.pact.release(call.size)
        return LedgerEntry(call.pact.session.hex(), call.round, call.digest.hex(), text, release)


class _Bookkeeper:
    """Writes a round down as soon as an owner answered with an update: in every protocol, before any sum is opened."""

    def __init__(self, ledger: Ledger, entry: LedgerEntry) -> None:
        self._ledger, self._entry = ledger, entry

    def begins(self, call: Call) -> None:
        """Nothing yet: no owner answered."""

    def asked(self, ask: Ask) -> None:
        """Nothing yet."""

    def answered(self, ask: Ask, reply: Reply) -> None:
        """The round counts from here on, whatever becomes of it."""
        if ask.step == "train" and reply.messages:
            self._ledger.note(self._entry)

    def opened(self, call: Call, found: Sum) -> None:
        """It counts already."""

    def failed(self, call: Call) -> None:
        """It counts all the same."""


def put_model(model: nn.Module, state: Tensors) -> None:
    """Write tensors into a model.

    Raises:
        BadConfig: it has none of such a name and shape.
    """
    if foreign := misfits(model, state):
        raise BadConfig(f"the aggregator returns a '{foreign[0]}' that the model does not have", "return its tensors")
    put_state(model, state)


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))
