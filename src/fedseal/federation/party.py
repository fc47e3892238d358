"""What runs where a party is: it is asked, and answers. Engines carry questions and answers, and know nothing of them.

A client trains when it is asked to, and its answer is what its protocol makes of the update: under "plain" the update
itself, else bytes that say nothing of it. What it refuses it says with the kind of its reason only, since a reason may
quote a value; the whole reason goes to the client's own log.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError
from torch import nn

from fedseal.errors import FedsealError, UnfitUpdate
from fedseal.federation.owners import DataOwner
from fedseal.federation.packing import Packing, Vector
from fedseal.federation.secure import Pact
from fedseal.secagg import SERVER, Buffer, Identity, Ledger, Outgoing, masking, sharing
from fedseal.secagg.errors import BadMessage, OutOfPhase
from fedseal.types import Batch, Tensors

Memory = dict[str, list[bytes]]
LOG = logging.getLogger("fedseal.federation")


@dataclass(frozen=True)
class Ask:
    """What the model owner asks of a party.

    Args:
        to: the party's number.
        step: which of its duties.
        round: of the training, from 0; one that failed is not asked for again, since the same update must not be in
            two sums.
        size: entries of a step.
        messages: for the party.
        state: the model's tensors, where the step needs them.
    """

    to: int
    step: str
    round: int
    size: int
    messages: tuple[Buffer, ...] = ()
    state: Tensors | None = None


@dataclass(frozen=True)
class Reply:
    """Messages to carry on, or the kind of reason for which there are none."""

    messages: tuple[Outgoing, ...] = ()
    refused: str = ""


class Member(Protocol):
    """Answers questions, and can be put aside in between."""

    def answer(self, ask: Ask) -> Reply:
        """Do what is asked."""

    def dump(self) -> Memory:
        """What to keep between two questions: this party's secrets, for its own storage."""

    def load(self, memory: Memory) -> None:
        """Go on where `dump` was called."""


class Client:
    """A data owner at work.

    Args:
        owner: its data and its rule.
        model: the architecture; its weights are not used.
        pact: what it was handed before, and holds the server to.
        seed: of the federation, which makes its draws repeatable; None for draws of its own.
        threads: of its training. Sums of many threads differ in their last bits.
        ledger: of its rounds so far; None for a new one.
    """

    def __init__(
        self,
        number: int,
        owner: DataOwner,
        model: nn.Module,
        pact: Pact,
        identity: Identity,
        *,
        seed: int | None = None,
        threads: int = 1,
        ledger: Ledger | None = None,
    ) -> None:
        self._number, self._owner, self._pact, self._identity = number, owner, pact, identity
        self._model, self._packing = copy.deepcopy(model), Packing.of(model)
        self._seed, self._threads, self._ledger = seed, threads, ledger or Ledger()
        self._data: Batch | None = None
        self._role: masking.Client | None = None

    def answer(self, ask: Ask) -> Reply:
        """Do what is asked, or refuse it."""
        try:
            return Reply(tuple(self._answered(ask)))
        except FedsealError as error:
            LOG.warning("client %d refuses '%s' of round %d: %s", self._number, ask.step, ask.round, error)
            return Reply(refused=type(error).__name__)

    def dump(self) -> Memory:
        """The ledger, and the present round's secrets."""
        memory = {"ledger": [json.dumps(self._ledger.rounds).encode()]}
        return memory | ({} if self._role is None else {"role": [self._role.dump()]})

    def load(self, memory: Memory) -> None:
        """Go on where `dump` was called."""
        self._ledger = Ledger(json.loads(memory["ledger"][0]))
        if "role" in memory:
            self._role = masking.Client.load(
                self._pact.terms, self._number, self._identity, self._ledger, memory["role"][0]
            )

    def _answered(self, ask: Ask) -> Iterator[Outgoing]:
        if ask.size != self._packing.size:
            raise UnfitUpdate(f"a step of {ask.size} entries is asked for, and the model has {self._packing.size}",
                              "train the model that was agreed on")  # fmt: skip
        if ask.step == "train":
            return self._trained(ask)
        if self._pact.secure.protocol != "masking":
            raise OutOfPhase(f"a client is asked to '{ask.step}'", "ask it to train")
        if ask.step == "advertise":
            terms = self._pact.terms(ask.round, ask.size)
            self._role = masking.Client(terms, self._number, self._identity, self._ledger)
            return iter(self._role.advertise())
        return iter([out for message in ask.messages for out in self._masking(ask).receive(message)])

    def _masking(self, ask: Ask) -> masking.Client:
        if self._role is None or self._role.terms.round != ask.round:
            raise OutOfPhase(f"round {ask.round} did not begin at this client", "let it advertise first")
        return self._role

    def _trained(self, ask: Ask) -> Iterator[Outgoing]:
        protocol = self._pact.secure.protocol
        if protocol == "masking":
            for message in ask.messages:
                self._masking(ask).receive(message)
        step, weight, metrics = self._step(ask)
        if protocol == "plain":
            return iter([Outgoing(SERVER, plain(step, weight, metrics))])
        if protocol == "masking":
            return self._masking(ask).contribute(step, weight, metrics)
        terms = self._pact.terms(ask.round, ask.size)
        return sharing.Client(terms, self._number, self._identity, self._ledger).contribute(step, weight, metrics)

    def _step(self, ask: Ask) -> tuple[Vector, int, dict[str, float]]:
        if self._data is None:
            self._data = self._owner.build_data()
        _load(self._model, ask.state)
        secure = self._pact.secure
        with threads(self._threads):
            generator = torch.Generator().manual_seed(draw_seed(self._seed, ask.round, self._number))
            update = self._owner.model_fn(self._model, self._data, generator)
            metrics = self._owner.metrics(self._model, self._data, secure.metrics or {})
        assert secure.max_weight is not None
        weight = 1 if secure.max_weight == 1 else update.num_examples or len(self._data)
        return self._packing.pack(update, dict(self._model.named_buffers())), weight, metrics


class Aggregator:
    """One of several parties who add shares, and who open nothing before they agree on whose.

    Args:
        kept: whether it will be put aside between questions, for which it must keep all messages of a round.
        ledger: of its rounds so far; None for a new one.
    """

    def __init__(
        self, place: int, pact: Pact, identity: Identity, *, kept: bool = False, ledger: Ledger | None = None
    ) -> None:
        self._kept = kept
        self._place, self._pact, self._identity, self._ledger = place, pact, identity, ledger or Ledger()
        self._role: sharing.Aggregator | None = None
        self._asked: tuple[int, int] = (-1, 0)  # round and size
        self._heard: Memory = {}

    def answer(self, ask: Ask) -> Reply:
        """Do what is asked, or refuse it."""
        try:
            return Reply(tuple(self._answered(ask)))
        except FedsealError as error:
            LOG.warning("aggregator %d refuses '%s' of round %d: %s", self._place, ask.step, ask.round, error)
            return Reply(refused=f"{type(error).__name__}: {error.fact}")

    def dump(self) -> Memory:
        """The ledger, and all messages of the present round, from which it is put together again."""
        assert self._kept, "made for answering in one go"
        return {
            "ledger": [json.dumps(self._ledger.rounds).encode()],
            "asked": [json.dumps(self._asked).encode()],
            **self._heard,
        }

    def load(self, memory: Memory) -> None:
        """Go on where `dump` was called."""
        self._ledger = Ledger(json.loads(memory["ledger"][0]))
        round, size = json.loads(memory["asked"][0])
        self._asked, self._role = (round, size), None
        self._heard = {name: list(memory[name]) for name in ("take", "close", "count", "open") if name in memory}
        if not self._heard or "open" in self._heard:
            return
        self._role = sharing.Aggregator(self._pact.terms(round, size), self._place, self._identity)
        self._take(self._heard.get("take", []))
        if "close" in self._heard:
            self._role.close_intake()
        for message in self._heard.get("count", []):
            self._role.receive(message)

    def _answered(self, ask: Ask) -> Iterator[Outgoing]:
        role = self._present(ask)
        if ask.step in ("take", "close"):
            self._heard["take"] = self._heard.get("take", []) + self._take(ask.messages)
        if ask.step == "take":
            return iter(())
        if ask.step == "close":
            self._heard["close"] = []
            return iter(role.close_intake())
        self._heard[ask.step] = [bytes(message) for message in ask.messages]
        if ask.step == "open":
            self._heard["take"] = []  # a sum is sent once
        answers = [out for message in ask.messages for out in role.receive(message)]
        return role.open() if ask.step == "open" else iter(answers)

    def _present(self, ask: Ask) -> sharing.Aggregator:
        begins = ask.step == "take" or (ask.step == "close" and ask.messages)
        if begins and self._asked[0] != ask.round:
            terms = self._pact.terms(ask.round, ask.size)
            self._ledger.enter(terms)  # the same round a second time could open a second sum
            self._role = sharing.Aggregator(terms, self._place, self._identity)
            self._asked, self._heard = (ask.round, ask.size), {}
        if self._role is None or self._asked[0] != ask.round or ask.step in self._heard.keys() - {"take"}:
            raise OutOfPhase(f"'{ask.step}' of round {ask.round} out of turn", "begin another round")
        return self._role

    def _take(self, messages: tuple[Buffer, ...] | list[bytes]) -> list[bytes]:
        """Those of the clients' messages that fit; one client's bad message must not stop the others."""
        assert self._role is not None
        kept = []
        for message in messages:
            try:
                self._role.receive(message)
            except (BadMessage, OutOfPhase) as error:
                LOG.warning("aggregator %d refuses a client's message: %s", self._place, error)
                continue
            kept += [bytes(message)] if self._kept else []
        return kept


def draw_seed(seed: int | None, round: int, number: int) -> int:
    """What a client's draws of a round start from.

    >>> draw_seed(0, 1, 2) == draw_seed(0, 1, 2) != draw_seed(0, 2, 1)
    True
    """
    if seed is None:
        return secrets.randbits(62)
    return int.from_bytes(hashlib.sha256(f"fedseal {seed} {round} {number}".encode()).digest()[:7], "little")


def plain(step: Vector, weight: int, metrics: Mapping[str, float]) -> bytes:
    """A client's step in the clear.

    Raises:
        UnfitUpdate: not finite.
    """
    if not np.isfinite(step).all():
        place = int(np.flatnonzero(~np.isfinite(step))[0])
        raise UnfitUpdate(f"entry {place} is {step[place]}", "look why the training diverged; lower the step length")
    found = {f"metric.{name}": np.array([value]) for name, value in metrics.items()}
    return safetensors.numpy.save({"step": step, "weight": np.array([weight]), **found})


def read_plain(message: Buffer) -> tuple[Vector, int, dict[str, float]]:
    """What `plain` wrote.

    Raises:
        UnfitUpdate: it did not write this.
    """
    try:
        found = safetensors.numpy.load(bytes(message))
        metrics = {name[7:]: float(value[0]) for name, value in found.items() if name.startswith("metric.")}
        return found["step"], int(found["weight"][0]), metrics
    except (SafetensorError, KeyError, IndexError) as error:
        raise UnfitUpdate(f"a client's step that cannot be read ({error})", "run one version at all parties") from None


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load(model: nn.Module, state: Tensors | None) -> None:
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if state is None or own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
        raise UnfitUpdate("the model that was sent is not the one that was agreed on", "send that model's tensors")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
