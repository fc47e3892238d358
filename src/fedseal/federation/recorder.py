"""Keeping what parties could read: a `PartyRecorder` watches a federation and fills a `Shelf`.

A party's view holds what its own keys open, and nothing that it would have to guess; see `view`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from fedseal.errors import FedsealError, StorageFailure
from fedseal.federation.keys import Keys
from fedseal.federation.packing import Packing
from fedseal.federation.protocol import LOG, PROTOCOLS, Ask, Call, Reply, Sum
from fedseal.federation.protocol.base import PartyReading, PartyView
from fedseal.federation.view import EVERYBODY, Shelf
from fedseal.secagg import SERVER, Buffer, Identity, Party, VectorFormat
from fedseal.types import LocalTraining

TENSORS = {"step": "step", "masked": "elements", "seed": "seed"}  # names in an entry's file, by its kind; else "part"


class PartyRecorder:
    """Watches a federation, and writes what parties could read whose keys it holds.

    Args:
        training: what clients do, where all do the same and it is known.
        defense: what they do about what their updates say, by its specification.
        done: rounds of the record that is there which this one goes on from.
    """

    def __init__(
        self,
        folder: Path,
        keys: Keys,
        packing: Packing,
        training: LocalTraining | None,
        defense: str = "none",
        done: int = 0,
    ) -> None:
        self._shelf, self._keys = Shelf(folder, packing, training, defense), keys
        self._shelf.begin(done)
        self._call: Call | None = None
        self._views: dict[int, PartyView] = {}

    def begins(self, call: Call) -> None:
        """A round."""
        self._call, self._views = call, {}
        self._shelf.model(call.round, call.state)
        if PROTOCOLS[call.pact.secure.protocol].secure:
            self._shelf.ring = VectorFormat.of(call.terms)

    def asked(self, ask: Ask) -> None:
        """What reaches an aggregator, or a client from another."""
        peers = self._call is not None and PROTOCOLS[self._call.pact.secure.protocol].peers
        if Party.of(ask.to).is_aggregator or peers:
            self._read(ask.to, ask.messages, SERVER)

    def answered(self, ask: Ask, reply: Reply) -> None:
        """What reaches the model owner."""
        self._read(SERVER, [message for to, message in reply.messages if Party.of(to).opens], ask.to)

    def opened(self, call: Call, found: Sum) -> None:
        """The sum, and the end of the round."""
        mean = torch.from_numpy(found.total / found.weight)
        weight = found.weight if call.pact.secure.noise is None else None  # with noise, of clients
        who = "every client" if PROTOCOLS[call.pact.secure.protocol].peers else "the owner"
        self._shelf.keep(call.round, who, EVERYBODY, "sum", {"step": mean}, weight=weight, cohort=found.cohort)
        self.failed(call)

    def failed(self, call: Call) -> None:
        """The end of the round: what was sent could be read, also where nothing was opened."""
        for number, view in self._views.items():
            self._keep(number, view.rest())
        self._shelf.close()

    def _read(self, number: int, messages: Iterable[Buffer], carrier: int) -> None:
        view = self._view(number)
        if view is None:
            return
        for message in messages:
            try:
                self._keep(number, view.read(message, carrier))
            except FedsealError as error:  # recording must not end a round that goes on without this message
                LOG.warning("not recorded: %s", error)

    def _view(self, number: int) -> PartyView | None:
        """A party's view of the present round; None if its key is not here."""
        assert self._call is not None
        if number not in self._views:
            identity = self._identity(number)
            if identity is None:
                return None
            self._views[number] = PROTOCOLS[self._call.pact.secure.protocol].view(self._call, number, identity)
        return self._views[number]

    def _keep(self, number: int, readings: Iterable[PartyReading]) -> None:
        assert self._call is not None
        for client, kind, content, weight, start, cohort in readings:
            tensors = {TENSORS.get(kind, "part"): torch.from_numpy(content)}
            if "part" in tensors:
                tensors["start"] = torch.tensor(start)
            sender, who = "+".join(map(str, cohort or (client,))), str(Party.of(number))
            self._shelf.keep(self._call.round, who, sender, kind, tensors, weight=weight, cohort=cohort)

    def _identity(self, party: int) -> Identity | None:
        try:
            return self._keys.identity(party)
        except StorageFailure:  # of another machine, which records its own view
            return None
