"""What each party of a federation could read, kept for an audit: `fit(record=folder)`, then `View.load(folder)`.

A party's view holds what its own keys open, and nothing that it would have to guess. Under "plain" that is every
client's step. Under "masking" the server has every client's masked vector, of which it has taken the masks that the
client itself handed over; under "sharing" aggregator 0 has masked vectors and the others have seeds. The opened sum is
in the model owner's view always.

    view.json                          what there is, and how to read it
    round-000/model.safetensors        the weights that were sent
    round-000/PARTY-SENDER.safetensors a step, a vector of ring elements, or a seed
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedseal.errors import StorageFailure
from fedseal.federation.checkpoint import write
from fedseal.federation.keys import StoredKeys
from fedseal.federation.packing import Packing
from fedseal.federation.party import Ask, Reply, read_plain
from fedseal.federation.rounds import Call, Sum
from fedseal.federation.secure import Keyring
from fedseal.secagg import OWNER, SERVER, Identity, Terms, aggregator, wire
from fedseal.secagg.hazmat.keys import KEY, Opener
from fedseal.secagg.hazmat.prg import SEED, Masks
from fedseal.secagg.hazmat.ring import Ring
from fedseal.secagg.masking.client import unmask_context
from fedseal.secagg.terms import name
from fedseal.secagg.vector import Layout
from fedseal.secagg.wire import ChunkReader, Kind, Message
from fedseal.types import LocalTraining, Tensors, Update

VERSION, INDEX = 1, "view.json"
EVERYBODY = "cohort"


@dataclass(frozen=True)
class Entry:
    """Something that a party could read.

    Args:
        party: who: "the owner", "the server", "aggregator 0".
        sender: of whom, a client's number, or "cohort".
        kind: "step" in the clear, "masked" ring elements, a "seed", or the opened "sum".
        weight: of how many examples it is, where that can be read.
        cohort: whose sum it is; empty for a single sender's.
    """

    round: int
    party: str
    sender: str
    kind: str
    file: str
    weight: int | None = None
    cohort: tuple[int, ...] = ()

    @property
    def clients(self) -> int:
        """Of how many clients it is the sum."""
        return len(self.cohort) or 1


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
        write(self.folder / _place(round) / "model.safetensors", state, {})

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
        file = f"{_place(round)}/{party.removeprefix('the ').replace(' ', '-')}-{sender}.safetensors"
        write(self.folder / file, tensors, {})
        self._entries.append(Entry(round, party, sender, kind, file, weight, cohort))

    def close(self) -> None:
        """Say what there is.

        Raises:
            StorageFailure: it cannot be written.
        """
        index = self.index | {"entries": [asdict(entry) for entry in self._entries]}
        try:
            (self.folder / INDEX).write_text(json.dumps(index, indent=1))
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
        if ask.to >= 2**63:
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
            if sender < 2**63:  # a share of the sum says nothing that the sum does not
                signed = torch.from_numpy(call.terms.codec.ring.signed(elements).copy())
                self._shelf.keep(call.round, name(party), str(sender), "masked", {"elements": signed})
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
            self._shelf.keep(terms.round, name(party), str(message.sender), "seed", {"seed": seed})
        else:
            self._readers[party, message.sender] = (reader, terms.codec.ring.zeros(Layout(terms).elements))

    def _identity(self, party: int) -> Identity | None:
        try:
            return self._keys.identity(party)
        except StorageFailure:  # of another machine, which records its own view
            return None


@dataclass(frozen=True)
class View:
    """A folder that a `Recorder` wrote."""

    folder: Path
    entries: tuple[Entry, ...]
    packing: Packing
    training: LocalTraining | None
    ring: dict[str, Any] | None
    defense: str = "none"

    @classmethod
    def load(cls, folder: str | Path) -> View:
        """Read what there is.

        Raises:
            StorageFailure: no record, or a damaged one.
        """
        folder = Path(folder)
        try:
            index = json.loads((folder / INDEX).read_text())
            if index["version"] != VERSION:
                raise ValueError(f"version {index['version']}")
            training = index["training"]
            if training is not None and "betas" in training:
                training = {**training, "betas": tuple(training["betas"])}
            return cls(
                folder,
                tuple(Entry(**{**entry, "cohort": tuple(entry["cohort"])}) for entry in index["entries"]),
                Packing(_shapes(index["weights"]), _shapes(index["buffers"])),
                None if training is None else LocalTraining(**training),
                index["ring"],
                index["defense"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageFailure(
                f"'{folder}' holds no whole record ({error!r})", "record one: fit(record=...)"
            ) from None

    def of(self, round: int, kind: str) -> tuple[Entry, ...]:
        """What could be read in a round."""
        return tuple(entry for entry in self.entries if entry.round == round and entry.kind == kind)

    def state(self, round: int) -> dict[str, Tensor]:
        """The weights that were sent."""
        return self._tensors(f"{_place(round)}/model.safetensors")

    @property
    def rounds(self) -> tuple[int, ...]:
        """Those of which something was recorded."""
        return tuple(sorted({entry.round for entry in self.entries}))

    def update(self, entry: Entry, colluding: Sequence[str] = ()) -> Update:
        """An entry as an attacker takes it: a step as it is, masked elements and what seeds stretch to as numbers.

        Args:
            colluding: aggregators who hand their seeds to the one who has the masked vectors.
        """
        tensors = self._tensors(entry.file)
        if "step" in tensors:
            return self._update(tensors["step"].numpy(), entry)
        if "seed" in tensors:
            share = self._elements()
            Masks(added=[tensors["seed"].numpy().tobytes()]).add_to(share, offset=0)
            return self._update(self._numbers(share), entry)
        return self._update(self._read(tensors["elements"], entry, colluding), entry)

    def _update(self, step: NDArray[Any], entry: Entry) -> Update:
        gradient = self.training is not None and self.training.kind == "gradient"
        parts = self.packing.unpack(step.astype(np.float32))
        buffers = [name for name, _ in self.packing.buffers]
        before = self.state(entry.round) if buffers else {}
        return Update(
            kind="gradient" if gradient else "difference",
            tensors={n: -parts[n] if gradient else parts[n] for n, _ in self.packing.weights},
            buffers={n: (before[n].double() + parts[n]).to(before[n].dtype) for n in buffers} if buffers else None,
            num_examples=entry.weight,
            num_clients=entry.clients,
            training=self.training,
        )

    def _read(self, signed: Tensor, entry: Entry, colluding: Sequence[str]) -> NDArray[Any]:
        elements = signed.numpy().copy().view(self._ring.dtype)
        for seed in self.of(entry.round, "seed"):
            if seed.party in colluding and seed.sender == entry.sender:
                known = self._tensors(seed.file)["seed"].numpy().tobytes()
                Masks(added=[known]).add_to(elements, offset=0)
        return self._numbers(elements)

    @property
    def _ring(self) -> Ring:
        assert self.ring is not None
        return Ring(self.ring["bits"])

    def _elements(self) -> NDArray[Any]:
        """Zeros, as long as the vector up to its last entry."""
        assert self.ring is not None
        last = self.packing.size - 1
        return self._ring.zeros(last + last // (self.ring["chunk"] - 1) + 1)

    def _numbers(self, elements: NDArray[Any]) -> NDArray[Any]:
        """The entries among ring elements, which have a check at the end of each chunk."""
        assert self.ring is not None
        kept = np.arange(self.packing.size)
        found = elements[kept + kept // (self.ring["chunk"] - 1)].copy()
        step: NDArray[Any] = self._ring.signed(found).astype(np.float64) / self.ring["scale"]
        return step

    def _tensors(self, file: str) -> dict[str, Tensor]:
        try:
            found: dict[str, Tensor] = load_file(self.folder / file)
        except (OSError, SafetensorError) as error:
            raise StorageFailure(f"'{self.folder / file}' cannot be read ({error})", "record it again") from None
        return found


def _place(round: int) -> str:
    return f"round-{round:03d}"


def _shapes(parts: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(shape)) for name, shape in parts)
