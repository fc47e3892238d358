"""Keeping what parties could read: a `Recorder` watches a federation, a `Shelf` is the folder that `View` reads.

A party's view holds what its own keys open, and nothing that it would have to guess; see `view`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from fedseal.errors import StorageFailure
from fedseal.federation.checkpoint import write
from fedseal.federation.keys import StoredKeys
from fedseal.federation.packing import Packing
from fedseal.federation.party import Ask, Reply, read_plain
from fedseal.federation.rounds import Call, Sum
from fedseal.federation.secure import Keyring
from fedseal.federation.view import EVERYBODY, INDEX, VERSION, Entry, place
from fedseal.files import write_whole
from fedseal.secagg import OWNER, SERVER, Identity, Party, Terms, aggregator, wire
from fedseal.secagg.hazmat.keys import KEY, Opener
from fedseal.secagg.hazmat.prg import SEED, Masks
from fedseal.secagg.masking.client import unmask_context
from fedseal.secagg.vector import Layout
from fedseal.secagg.wire import ChunkReader, Kind, Message
from fedseal.types import LocalTraining, Tensors


class Shelf:
    """A folder that fills with entries; its index is written by `close`, as often as one likes."""

    def __init__(self, folder: Path, packing: Packing, training: LocalTraining | None, defense: str = "none") -> None:
        self.folder = folder
        self.index: dict[str, Any] = {
            "version": VERSION,
            "weights": packing.weights,
            "buffers": packing.buffers,
            "training": None if training is None else training.describe(),
            "defense": defense,
            "ring": None,
        }
        self._entries: list[Entry] = []

    def model(self, round: int, state: Tensors) -> None:
        """The weights that were sent."""
        write(self.folder / place(round) / "model.safetensors", state, {})

    def keep(
        self,
        round: int,
        party: str,
        sender: str,
        kind: str,
        tensors: Tensors,
        *,
        weight: int | None = None,
        cohort: tuple[int, ...] = (),
    ) -> None:
        """Something that the party could read."""
        file = f"{place(round)}/{party.removeprefix('the ').replace(' ', '-')}-{sender}.safetensors"
        write(self.folder / file, tensors, {})
        self._entries.append(Entry(round, party, sender, kind, file, weight, cohort))

    def close(self) -> None:
        """Say what there is.

        Raises:
            StorageFailure: it cannot be written.
        """
        index = self.index | {"entries": [asdict(entry) for entry in self._entries]}
        try:
            write_whole(self.folder / INDEX, json.dumps(index, indent=1).encode())
        except OSError as error:
            raise StorageFailure(
                f"cannot write to '{self.folder}' ({error.strerror})", "choose another place"
            ) from None


class Recorder:
    """Watches a federation, and writes what parties could read whose keys it holds.

    Args:
        training: what clients do, where all do the same and it is known.
        defense: what they do about what their updates say, by its specification.
    """

    def __init__(
        self,
        folder: Path,
        keys: Keyring | StoredKeys,
        model: nn.Module,
        training: LocalTraining | None,
        defense: str = "none",
    ) -> None:
        self._shelf, self._keys = Shelf(folder, Packing.of(model), training, defense), keys
        self._call: Call | None = None
        self._readers: dict[tuple[int, int], tuple[ChunkReader, NDArray[Any]]] = {}

    def begins(self, call: Call) -> None:
        """A round."""
        self._call, self._readers = call, {}
        self._shelf.model(call.round, call.state)
        if call.pact.secure.protocol != "plain":
            terms = call.terms
            self._shelf.index["ring"] = {"bits": terms.bits, "scale": terms.codec.scale, "chunk": terms.chunk}

    def asked(self, ask: Ask) -> None:
        """What reaches an aggregator."""
        if Party.of(ask.to).is_aggregator:
            self._read(ask.to, ask.messages)

    def answered(self, ask: Ask, reply: Reply) -> None:
        """What reaches the model owner."""
        assert self._call is not None
        if self._call.pact.secure.protocol == "plain":
            for _, message in reply.messages:
                step, weight, _ = read_plain(message)
                tensors = {"step": torch.from_numpy(step)}
                self._shelf.keep(ask.round, "the server", str(ask.to), "step", tensors, weight=weight)
        else:
            self._read(SERVER, [message for to, message in reply.messages if to in (SERVER, OWNER)])

    def opened(self, call: Call, found: Sum) -> None:
        """The sum, and the end of the round."""
        mean = torch.from_numpy(found.total / found.weight)
        weight = found.weight if call.pact.secure.noise is None else None  # with noise, of clients
        self._shelf.keep(call.round, "the owner", EVERYBODY, "sum", {"step": mean}, weight=weight, cohort=found.cohort)
        for (party, sender), (_, elements) in self._readers.items():
            if Party.of(sender).is_client:  # a share of the sum says nothing that the sum does not
                signed = torch.from_numpy(call.terms.codec.ring.signed(elements).copy())
                self._shelf.keep(call.round, str(Party.of(party)), str(sender), "masked", {"elements": signed})
        self._shelf.close()

    def _read(self, party: int, messages: Iterable[Any]) -> None:
        identity = self._identity(party)
        if identity is None or self._call is None:
            return
        terms = self._call.terms
        for raw in messages:
            message = wire.read(raw, 1 << 62)
            if message.kind in (Kind.SHARE, Kind.MASKED):
                self._announced(party, message, terms, identity)
            elif message.kind is Kind.CHUNK and (party, message.sender) in self._readers:
                reader, elements = self._readers[party, message.sender]
                start, end = Layout(terms).span(wire.number_of(message))
                reader.open(message, elements[start:end])
            elif message.kind is Kind.UNMASK:
                body = bytes(message.body)
                opener = Opener(identity.opening, unmask_context(terms, message.sender), body[:KEY])
                own = bytes(opener.open(0, body[KEY:], b""))[:SEED]
                Masks(subtracted=[own]).add_to(self._readers[party, message.sender][1], offset=0)

    def _announced(self, party: int, message: Message, terms: Terms, identity: Identity) -> None:
        body = bytes(message.body)
        to = message.to
        reader = ChunkReader(terms.digest, message.sender, to, body, identity.opening)
        if message.kind is Kind.SHARE and party != aggregator(0):
            seed = torch.frombuffer(bytearray(reader.secret[-SEED:]), dtype=torch.uint8)
            self._shelf.keep(terms.round, str(Party.of(party)), str(message.sender), "seed", {"seed": seed})
        else:
            self._readers[party, message.sender] = (reader, terms.codec.ring.zeros(Layout(terms).elements))

    def _identity(self, party: int) -> Identity | None:
        try:
            return self._keys.identity(party)
        except StorageFailure:  # of another machine, which records its own view
            return None
