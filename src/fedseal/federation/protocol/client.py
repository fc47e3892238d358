"""A data owner at work: it trains when it is asked to, and sends what its protocol makes of the step.

Under "plain" that is the step itself, else bytes that say nothing of it. What it refuses it says with the kind of its
reason only, since a reason may quote a value; the whole reason goes to the client's own log.
"""

from __future__ import annotations

import copy
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fedseal.client import misfits, put_state
from fedseal.errors import UnfitUpdate
from fedseal.federation.ledger import ledger_of, ledger_text
from fedseal.federation.owners import DataOwner, Local
from fedseal.federation.packing import Packing, statistics_of, trained_arrays
from fedseal.federation.protocol import PROTOCOLS
from fedseal.federation.protocol.base import ClientSide, TrainedStep, received
from fedseal.federation.protocol.messages import Ask, Memory, Reply, answer_of
from fedseal.federation.protocol.replies import Replies, question_key
from fedseal.federation.protocol.site import SiteStatistics, check_fixed_buffers, trained_statistics
from fedseal.federation.secure import Pact
from fedseal.secagg import Identity, Ledger, Outgoing
from fedseal.types import Batch, Tensors


class ClientMember:
    """A data owner at work.

    Args:
        owner: its data and its rule.
        model: the architecture; its weights are not used.
        pact: what it was handed before, and holds the server to.
        seed: of the federation, which makes its draws repeatable; None for draws of its own.
        threads: of its training. Sums of many threads differ in their last bits.
        ledger: of its rounds so far; None for a new one.
        statistics: a file for the statistics that stay at this owner, which outlives the process; None to keep them in
            memory.

    Raises:
        StorageFailure: that file is damaged, or of another model.
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
        statistics: Path | None = None,
    ) -> None:
        self._number, self._owner, self._pact, self._identity = number, owner, pact, identity
        self._model, self._packing = copy.deepcopy(model), Packing.of(model, pact.secure)
        self._site = SiteStatistics(model, statistics) if pact.secure.statistics == "local" else None
        self._seed, self._threads, self._ledger = seed, threads, ledger or Ledger()
        self._data: Batch | None = None
        self._side, self._replies = self._fresh_side(), Replies()

    def answer(self, ask: Ask) -> Reply:
        """Do what is asked, or refuse it; what was asked before in this round is answered as before."""
        return answer_of(f"client {self._number}", ask, lambda: self._once(ask))

    def _once(self, ask: Ask) -> tuple[Outgoing, ...]:
        ask = received(ask) if self._held_to_one_model else ask
        return self._replies.once(ask, question_key(ask), lambda: self._answered(ask))

    @property
    def _held_to_one_model(self) -> bool:
        return PROTOCOLS[self._pact.secure.protocol].secure

    def dump(self) -> Memory:
        """The ledger, the present round's secrets, and statistics that stay here."""
        memory = {"ledger": [ledger_text(self._ledger).encode()]}
        if self._site is not None and self._site.tensors:
            memory["statistics"] = [self._site.dump()]
        secrets = self._side.dump()
        return memory | ({} if secrets is None else {"role": [secrets]})

    def load(self, memory: Memory) -> None:
        """Go on where `dump` was called."""
        self._ledger = ledger_of(memory["ledger"][0])
        self._side = self._fresh_side()
        if self._site is not None and "statistics" in memory:
            self._site.load(memory["statistics"][0])
        if "role" in memory:
            self._side.load(memory["role"][0])

    def _fresh_side(self) -> ClientSide:
        protocol = PROTOCOLS[self._pact.secure.protocol]
        return protocol.client(self._pact, self._number, self._identity, self._ledger)

    def _answered(self, ask: Ask) -> Iterator[Outgoing]:
        if ask.size != self._packing.size:
            raise UnfitUpdate(
                f"a step of {ask.size} entries is asked for, and the model has {self._packing.size}",
                "train the model that was agreed on",
            )
        left: list[dict[str, Tensor]] = []  # statistics, of a training that this question led to
        yield from self._side.answer(ask, partial(self._step, ask, left))
        if self._site is not None and left:  # now that the step was accepted
            self._site.keep(left[-1])

    def _step(self, ask: Ask, left: list[dict[str, Tensor]]) -> TrainedStep:
        _load(self._model, ask.state)
        if self._data is None:
            self._data = self._owner.examples(self._model)
        if self._site is not None:
            put_state(self._model, self._site.tensors)
        before = {name: statistic.clone() for name, statistic in statistics_of(self._model).items()}
        secure = self._pact.secure
        if self._held_to_one_model:
            self._admit(ask, self._data)
        with member_threads(self._threads):
            generator = torch.Generator().manual_seed(draw_seed(self._seed, ask.round, self._number))
            update = self._owner.model_fn(self._model, self._data, generator)
            metrics = self._owner.metrics(self._model, self._data, secure.metrics or {})
        assert secure.max_weight is not None
        weight = 1 if secure.max_weight == 1 else update.num_examples or len(self._data)
        check_fixed_buffers(update, ask.state or {}, before)
        if self._site is not None and update.buffers is not None:
            left.append(trained_statistics(update, before))
        step = self._packing.pack(update, before)
        self._packing.limit(step, secure)
        return TrainedStep(step, weight, metrics)

    def _admit(self, ask: Ask, data: Batch) -> None:
        """Raises what `Ledger.admit` does, before time is spent on training."""
        sketch = self._ledger.sketch(trained_arrays(self._model.parameters()))
        rule = self._owner.model_fn
        anew = isinstance(rule, Local) and rule.draws_anew(len(data))  # of another's function nothing is known
        self._ledger.arrived(ask.digest, sketch, anew=anew)
        self._ledger.admit(self._pact.terms(ask.round, ask.size, ask.digest))


def draw_seed(seed: int | None, round: int, number: int) -> int:
    """What a client's draws of a round start from.

    >>> draw_seed(0, 1, 2) == draw_seed(0, 1, 2) != draw_seed(0, 2, 1)
    True
    """
    if seed is None:
        return secrets.randbits(62)
    return int.from_bytes(hashlib.sha256(f"fedseal {seed} {round} {number}".encode()).digest()[:7], "little")


@contextmanager
def member_threads(count: int) -> Iterator[None]:
    """Compute with that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load(model: nn.Module, state: Tensors | None) -> None:
    own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    if state is None or own != state.keys() or misfits(model, state):
        raise UnfitUpdate("the model that was sent is not the one that was agreed on", "send that model's tensors")
    put_state(model, state)
