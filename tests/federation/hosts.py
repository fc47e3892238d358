"""Parties on hosts of their own, simulated: what is on a host's disk outlives kill -9, what is in memory does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from federation.small import data, net
from fedseal.client import local_update
from fedseal.federation.federation import Federation, Trained
from fedseal.federation.ledger import new_ledger, stored_ledger
from fedseal.federation.members import Members
from fedseal.federation.owners import DataOwner, ModelOwner
from fedseal.federation.packing import state_digest
from fedseal.federation.protocol import Ask, Link, Member, Reply
from fedseal.federation.secure import Secure
from fedseal.secagg import Ledger
from fedseal.types import Batch, LocalTraining, Tensors, Update

OWNERS = 4


class Killed(BaseException):
    """The model owner's end, which nothing catches."""


@dataclass(frozen=True)
class Kill:
    """At a question, before it is answered or after: of the party that is asked, of another one, or of who asks."""

    event: int
    who: Literal["asked", "other", "model owner"]
    after: bool


@dataclass
class Hosts:
    """An engine, a training, and all that was seen of it."""

    folder: Path
    secure: Secure
    rounds: int
    kill: Kill | None = None
    event: int = 0
    answers: dict[tuple[int, int], set[bytes]] = field(default_factory=dict)  # of clients with an update, by round
    states: dict[tuple[int, bytes], set[int]] = field(default_factory=dict)  # rounds by client and model
    steps: dict[bytes, dict[int, Tensor]] = field(default_factory=dict)  # by model and client
    delivered: set[int] = field(default_factory=set)  # rounds of which the model owner has an update
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        whole = data(3 * OWNERS + 3)
        owners = [DataOwner.holding(whole[slice(place, None, OWNERS)], _Rule(self, place)) for place in range(OWNERS)]
        self.federation = Federation(ModelOwner(net(), self._moved), owners, self.secure)
        self.members = self.federation.members(self.rounds)
        self.numbers = (*self.members.clients, *self.members.aggregators)
        for number in self.numbers:
            new_ledger(self._disk(number))
        new_ledger(self.folder / "model-owner.json")
        self.parties = {number: self._started(number) for number in self.numbers}

    def train(self) -> Trained:
        """To the end, the model owner started again whenever it was killed."""
        checkpoint = self.folder / "checkpoint.safetensors"
        while True:
            try:
                return self.federation.fit(
                    self.rounds,
                    engine=self,
                    members=self.members,
                    ledger=self.ledger,
                    checkpoint=checkpoint,
                    resume=checkpoint.is_file(),
                )
            except Killed:
                continue

    @property
    def ledger(self) -> Ledger:
        """The model owner's, as it is on its disk."""
        return stored_ledger(self.folder / "model-owner.json")

    def of(self, number: int) -> Ledger:
        """A party's, as it is on its disk."""
        return stored_ledger(self._disk(number))

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        serve(self)

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        for ask in asks:
            kill = self.kill if self.kill is not None and self.kill.event == self.event else None
            self.event += 1
            if kill is not None and not kill.after:
                self._end(kill, ask)
                if kill.who == "asked":
                    continue
            reply = self.parties[ask.to].answer(ask)
            self._seen(ask, reply)
            if kill is not None and kill.after:
                self._end(kill, ask)
                if kill.who == "asked":
                    continue
            if ask.step == "train" and reply.messages:
                self.delivered.add(ask.round)
            yield ask, reply

    def _end(self, kill: Kill, ask: Ask) -> None:
        if kill.who == "model owner":
            raise Killed
        others = [number for number in self.numbers if number != ask.to]
        gone = ask.to if kill.who == "asked" else others[kill.event % len(others)]
        self.parties[gone] = self._started(gone)

    def _started(self, number: int) -> Member:
        return self.members.party(number, ledger=stored_ledger(self._disk(number)))

    def _disk(self, number: int) -> Path:
        return self.folder / f"{number}.json"

    def _seen(self, ask: Ask, reply: Reply) -> None:
        if ask.step == "train" and reply.messages:
            assert ask.state is not None
            content = b"".join(bytes(message) for _, message in reply.messages)
            self.answers.setdefault((ask.to, ask.round), set()).add(content)
            self.states.setdefault((ask.to, state_digest(ask.state)), set()).add(ask.round)

    def _moved(self, total: Tensors, weight: int, model: nn.Module) -> dict[str, Tensor]:
        """Some cohort's steps, each times its weight, must add up to the sum."""
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        known = self.steps[state_digest(state)]
        found = torch.cat([total[name].flatten() for name, _ in model.named_parameters()])
        cohorts = itertools.chain.from_iterable(itertools.combinations(known, size) for size in range(3, OWNERS + 1))
        gaps = [float((sum(known[client] for client in cohort) - found).abs().max()) for cohort in cohorts]
        if min(gaps) > 1e-3:
            self.wrong.append(f"a sum that is {min(gaps):.2g} off every cohort's")
        return {name: state[name].detach() + total[name].float() / weight for name in total}


@dataclass(frozen=True)
class _Rule:
    """One step of all examples, which is noted for the judge."""

    hosts: Hosts = field(repr=False)
    client: int

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Update:
        update = local_update(model, batch, training=LocalTraining.fedavg(lr=0.1), generator=generator)
        flat = torch.cat([tensor.flatten().double() for tensor in update.tensors.values()])
        weight = 1 if self.hosts.secure.max_weight == 1 else len(batch)
        state: Mapping[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.hosts.steps.setdefault(state_digest(state), {})[self.client] = weight * flat
        return update
