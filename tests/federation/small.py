"""A small federation, and an engine that loses messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import fedseal as fs
from fedseal.client import state_of
from fedseal.errors import EngineFailure
from fedseal.federation.federation import Calls, Federation, Trained
from fedseal.federation.members import Members
from fedseal.federation.owners import DataOwner, ModelFunction, ModelOwner, local_steps
from fedseal.federation.protocol import Ask, Link, Reply
from fedseal.federation.report import RoundReport
from fedseal.types import Batch

STEPS = local_steps(lr=0.1, batch_size=2)
ANYBODY = -99


def net(seed: int = 0) -> nn.Sequential:
    return fs.zoo.mlp(inputs=6, widths=(5,), num_classes=3, activation="tanh", seed=seed)


def data(count: int = 12, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(count, 6, generator=generator), torch.arange(count) % 3)


def owners(count: int = 4, rule: ModelFunction = STEPS) -> list[DataOwner]:
    """Of unequal size: the first has most."""
    whole = data(3 * count + 3)
    return [DataOwner.holding(whole[slice(first, None, count)], rule) for first in range(count)]


def federation(protocol: Any = "sharing", count: int = 4, rule: ModelFunction = STEPS, **facts: Any) -> Federation:
    owner = ModelOwner(net(), validation=data(9, seed=1))
    return Federation(owner, owners(count, rule), protocol, **facts)


def reports(setup: Federation, rounds: int, **arguments: Any) -> list[RoundReport]:
    """Of all rounds, also where the training ends with an error since none opened a sum."""
    found: list[RoundReport] = []
    with suppress(EngineFailure):
        setup.fit(rounds, progress=found.append, **arguments)
    return found


def weights(trained: Trained | nn.Module) -> dict[str, Tensor]:
    return state_of(trained.model if isinstance(trained, Trained) else trained)


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@dataclass(frozen=True)
class Losing:
    """In this process; a question for which `lost` is true is never answered, and what is asked goes through dumps."""

    lost: Callable[[Ask], bool] = lambda ask: False
    forgetful: bool = False

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        serve(_Lossy(members, self))


@dataclass(frozen=True)
class Changed:
    """In this process; what one party answers is changed, or left out where that gives None."""

    party: int
    change: Callable[[Reply], Reply | None]
    link: list[Calls] = field(default_factory=list)

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        self.link.append(Calls({n: members.party(n) for n in (*members.clients, *members.aggregators)}))
        serve(self)

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        for ask, reply in self.link[-1].ask(asks):
            changed = self.change(reply) if self.party in (ask.to, ANYBODY) else reply
            if changed is not None:
                yield ask, changed


class Tapped:
    """In this process; hears every answer."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        self._calls = Calls({number: members.party(number) for number in (*members.clients, *members.aggregators)})
        serve(self)

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        for ask, reply in self._calls.ask(asks):
            self.heard += [bytes(message) for _, message in reply.messages]
            yield ask, reply


class _Lossy:
    def __init__(self, members: Members, engine: Losing) -> None:
        self._members, self._engine = members, engine
        numbers = (*members.clients, *members.aggregators)
        self._parties = {number: members.party(number, kept=engine.forgetful) for number in numbers}

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        for ask in asks:
            if self._engine.lost(ask):
                continue
            if self._engine.forgetful:
                memory = self._parties[ask.to].dump()
                self._parties[ask.to] = self._members.party(ask.to, kept=True)
                self._parties[ask.to].load(memory)
            yield from Calls(self._parties).ask([ask])
