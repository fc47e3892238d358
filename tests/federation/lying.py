"""An engine whose model owner sends every client but one another model, over any engine that carries it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedseal.client import state_of
from fedseal.federation.federation import FederationEngine, InThisProcess
from fedseal.federation.members import Members
from fedseal.federation.packing import state_digest
from fedseal.federation.protocol import Ask, Link, Reply
from fedseal.secagg import Party
from fedseal.types import Tensors

VICTIM = 1


def zeros(state: Tensors, client: int) -> dict[str, Tensor]:
    """A model whose first layer has no gradient."""
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def block(state: Tensors, client: int) -> dict[str, Tensor]:
    """Outputs of the first tensor that are this client's own; the others are dead."""
    first = next(iter(state))
    keep = torch.zeros_like(state[first])
    keep[client :: VICTIM + 2] = 1
    return {name: tensor * keep if name == first else tensor.clone() for name, tensor in state.items()}


def hair(state: Tensors, client: int) -> dict[str, Tensor]:
    """One entry is the next number that there is, another one for each client."""
    changed = {name: tensor.clone() for name, tensor in state.items()}
    flat = next(iter(changed.values())).view(-1)
    flat[client] = torch.nextafter(flat[client], flat[client] + 1)
    return changed


LIES: tuple[Callable[[Tensors, int], dict[str, Tensor]], ...] = (zeros, block, hair)


@dataclass(frozen=True)
class Lying:
    """Sends the victim the model, and the others what a lie makes of it.

    Args:
        told: whether it says so, by the digest of what it sends.
    """

    told: bool
    lie: Callable[[Tensors, int], dict[str, Tensor]] = zeros
    over: FederationEngine = field(default_factory=InThisProcess)

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        self.over.run(members, lambda link: serve(LyingLink(link, self.told, self.lie, state_of(members.model))))


@dataclass(frozen=True)
class LyingLink:
    """The line that lies; `first` is the model before any round."""

    honest: Link
    told: bool
    lie: Callable[[Tensors, int], dict[str, Tensor]]
    first: Mapping[str, Tensor]

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        yield from self.honest.ask([self._changed(ask) for ask in asks])

    def _changed(self, ask: Ask) -> Ask:
        if ask.to == VICTIM or not Party.of(ask.to).is_client:
            return ask
        other = self.lie(ask.state if ask.state is not None else self.first, ask.to)
        digest = state_digest(other) if self.told else ask.digest
        return replace(ask, digest=digest, state=None if ask.state is None else other)


@dataclass(frozen=True)
class Repeating:
    """Sends the model of the first round in every round."""

    over: FederationEngine = field(default_factory=InThisProcess)

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        self.over.run(members, lambda link: serve(RepeatingLink(link)))


@dataclass
class RepeatingLink:
    """The line that repeats; the model owner itself believes that it sends something else."""

    honest: Link
    first: Mapping[str, Tensor] | None = None

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        states = [ask.state for ask in asks if ask.state is not None]
        self.first = self.first or next(iter(states), None)
        told = b"" if self.first is None else state_digest(self.first)
        yield from self.honest.ask(
            [replace(ask, state=ask.state and self.first, digest=told or ask.digest) for ask in asks]
        )
