"""What each party of a federation could read, kept for an audit: `fit(record=folder)`, then `View.load(folder)`.

A party's view holds what its own keys open, and nothing that it would have to guess. Under "plain" that is every
client's step. Under "masking" the server has every client's masked vector, of which it has taken the masks that the
client itself handed over; under "sharing" aggregator 0 has masked vectors and the others have seeds. In a ring every
client has parts of the step of the one before it, and of partial sums. The opened sum is in the model owner's view
always, and in a ring in everybody's.

    view.json                          what there is, and how to read it
    round-000/model.safetensors        the weights that were sent
    round-000/PARTY-SENDER.safetensors a step, a vector of ring elements, a seed, or a whole update
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PlainSerializer, PlainValidator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedseal.errors import BadConfig, StorageFailure
from fedseal.federation.checkpoint import write_checkpoint
from fedseal.federation.packing import Packing, Shapes
from fedseal.files import reason, write_whole
from fedseal.json_file import JsonFile, no_more_than, read_model
from fedseal.mechanism import Mechanism
from fedseal.secagg import VectorFormat
from fedseal.types import FILE_KINDS, FileKind, LocalTraining, Tensors, Update

VERSION: Final = 1
INDEX = "view.json"
EVERYBODY = "cohort"


@dataclass(frozen=True)
class Entry:
    """Something that a party could read.

    Args:
        party: who: "the owner", "the server", "aggregator 0", "client 2".
        sender: of whom, a client's number, several with "+" between, or "cohort".
        kind: "step" in the clear, "masked" ring elements, a "seed", or the opened "sum"; of another framework's client
            a whole update, by what was sent: "weights", a "difference" or a "gradient"; of a neighbor in a ring a
            "part" of a step or a "partial sum", or a "masked" one of these, and by gossip its "mixed weights": how far
            they are from where it must have started.
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
        """Number of clients in the sum."""
        return len(self.cohort) or 1


def _training(value: Any) -> LocalTraining | None:
    """The local training that `LocalTraining.describe` described."""
    if value is None or isinstance(value, LocalTraining):
        return value
    if not isinstance(value, dict):
        raise ValueError("is no table of options")
    options: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
    try:
        return LocalTraining(**options)
    except TypeError as error:  # options of another version
        raise ValueError(str(error)) from None


def _described(training: LocalTraining | None) -> dict[str, object] | None:
    return None if training is None else training.describe()


class ViewFile(JsonFile):
    """`view.json`: names and shapes of a step, how it was trained and hidden, and what was read."""

    version: Literal[1]
    weights: Shapes
    buffers: Shapes
    unit: float = Field(default=1.0, gt=0)  # of buffers
    training: Annotated[LocalTraining | None, PlainValidator(_training), PlainSerializer(_described)]
    defense: str
    ring: Annotated[VectorFormat, no_more_than(VectorFormat)] | None
    entries: tuple[Annotated[Entry, no_more_than(Entry)], ...]


class Shelf:
    """The folder as it fills; its index is written by `close`, as often as one likes."""

    def __init__(self, folder: Path, packing: Packing, training: LocalTraining | None, defense: str = "none") -> None:
        self.folder = folder
        self.ring: VectorFormat | None = None
        self._packing, self._training, self._defense = packing, training, defense
        self._entries: list[Entry] = []

    def begin(self, done: int) -> None:
        """Go on from the first so many rounds of a record that is here, and forget the others.

        Raises:
            StorageFailure: it is damaged, no folder, or cannot be written.
            BadConfig: it is of another model, or in another unit.
        """
        index = self.folder / INDEX
        if done and index.is_file():
            before = View.load(self.folder)
            if (before.packing, before.packing.unit) != (self._packing, self._packing.unit):
                raise BadConfig(f"'{self.folder}' is a record of another training", "record into another folder")
            self._entries, self.ring = [entry for entry in before.entries if entry.round < done], before.ring
        try:
            index.unlink(missing_ok=True)  # what it says is not of what is recorded from here on
        except OSError as error:
            raise StorageFailure(f"cannot record into '{self.folder}' ({reason(error)})", "name a folder") from None
        if self._entries:
            self.close()

    def model(self, round: int, state: Tensors) -> None:
        """The weights that were sent."""
        write_checkpoint(self.folder / sender_place(round) / "model.safetensors", state, {})

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
        start: Tensors | None = None,
    ) -> None:
        """Something that the party could read; `start` is where it has to think that the sender started."""
        file = _place(round, party, sender)
        write_checkpoint(self.folder / file, tensors, {})
        if start is not None:
            write_checkpoint(self.folder / start_file(file), start, {})
        self._entries.append(Entry(round, party, sender, kind, file, weight, cohort))

    def put(self, round: int, party: str, sender: str, update: Update, form: FileKind) -> None:
        """An update that the party was sent in another framework, and as what."""
        file = _place(round, party, sender)
        update.save(self.folder / file)
        self._entries.append(Entry(round, party, sender, form, file, update.num_examples))

    def close(self) -> None:
        """Say what there is.

        Raises:
            StorageFailure: it cannot be written.
        """
        index = ViewFile(
            version=VERSION,
            weights=self._packing.weights,
            buffers=self._packing.buffers,
            unit=self._packing.unit,
            training=self._training,
            defense=self._defense,
            ring=self.ring,
            entries=tuple(self._entries),
        )
        write_whole(self.folder / INDEX, index.text().encode())


@dataclass(frozen=True)
class View:
    """A folder that a `PartyRecorder` or an `Exchange` wrote."""

    folder: Path
    entries: tuple[Entry, ...]
    packing: Packing
    training: LocalTraining | None
    ring: VectorFormat | None
    defense: str = "none"

    @classmethod
    def load(cls, folder: str | Path) -> View:
        """Read what there is.

        Raises:
            StorageFailure: no record, or a damaged one.
        """
        folder = Path(folder)
        index = read_model(folder / INDEX, ViewFile, f"'{folder}' holds no whole record", "record one: fit(record=...)")
        packing = Packing(index.weights, index.buffers, index.unit)
        return cls(folder, index.entries, packing, index.training, index.ring, index.defense)

    def of(self, round: int, kind: str) -> tuple[Entry, ...]:
        """What could be read in a round."""
        return tuple(entry for entry in self.entries if entry.round == round and entry.kind == kind)

    def state(self, round: int) -> dict[str, Tensor]:
        """The weights that were sent."""
        return self._tensors(f"{sender_place(round)}/model.safetensors")

    def start(self, entry: Entry) -> dict[str, Tensor]:
        """The weights from which an entry counts, as far as its party can know them."""
        return self._tensors(start_file(entry.file)) if entry.kind == "mixed weights" else self.state(entry.round)

    @property
    def rounds(self) -> tuple[int, ...]:
        """Rounds of which something was recorded."""
        return tuple(sorted({entry.round for entry in self.entries}))

    def update(self, entry: Entry, colluding: Sequence[str] = (), training: LocalTraining | None = None) -> Update:
        """An entry as an attacker takes it: a step as it is, masked elements and what seeds stretch to as numbers.

        Args:
            colluding: aggregators who hand their seeds to the one who has the masked vectors.
            training: what clients do, where the record does not say it.

        Raises:
            BadConfig: the training does not make what was sent.
        """
        training = training or self.training
        if entry.kind in FILE_KINDS:
            return self._sent(entry, training)
        tensors = self._tensors(entry.file)
        if "step" in tensors:
            return self._update(tensors["step"].numpy(), entry, training)
        if "part" in tensors:
            return self._part(tensors["part"].numpy(), int(tensors["start"]), entry, training)
        if "seed" in tensors:
            return self._update(self._entries(None, [_seed(tensors)]), entry, training)
        held = [seed for seed in self.of(entry.round, "seed") if seed.sender == entry.sender]
        seeds = [_seed(self._tensors(seed.file)) for seed in held if seed.party in colluding]
        return self._update(self._entries(tensors["elements"].numpy(), seeds), entry, training)

    def _sent(self, entry: Entry, training: LocalTraining | None) -> Update:
        """An update as a client of another framework sent it."""
        found = Update.load(self.folder / entry.file)
        if training is None:
            return found
        if entry.kind == "weights" and training.kind == "gradient":
            raise BadConfig(
                f"in round {entry.round} client {entry.sender} sent weights, and FedSGD makes a gradient",
                "name the steps that the client took: --training fedavg:lr=...,epochs=...",
            )
        return replace(found, kind=training.kind, training=training)

    def _part(self, part: NDArray[Any], start: int, entry: Entry, training: LocalTraining | None) -> Update:
        """A segment of the vector as an update of which all other entries are missing."""
        held = np.zeros(self.packing.size, bool)
        held[start : start + part.size] = True
        step = np.zeros(self.packing.size)
        step[held] = part / (entry.weight or 1)
        there = self.packing.unpack(held.astype(np.float32))
        cut = {name: there[name].flatten().nonzero().flatten() for name, _ in self.packing.weights}
        whole = all(bool(there[name].all()) for name, _ in self.packing.buffers)
        update = self._update(step, entry, training)
        missing = tuple(_segment(name, places) for name, places in cut.items() if len(places) < there[name].numel())
        return replace(update, buffers=update.buffers if whole else None, rounding=missing)

    def _update(self, step: NDArray[Any], entry: Entry, training: LocalTraining | None) -> Update:
        gradient = training is not None and training.kind == "gradient"
        parts = self.packing.unpack(step.astype(np.float32))
        buffers = [name for name, _ in self.packing.buffers]
        before = self.start(entry) if buffers else {}
        return Update(
            kind="gradient" if gradient else "difference",
            tensors={n: -parts[n] if gradient else parts[n] for n, _ in self.packing.weights},
            buffers={n: (before[n].double() + parts[n]).to(before[n].dtype) for n in buffers} if buffers else None,
            num_examples=entry.weight,
            num_clients=entry.clients,
            training=training,
        )

    def _entries(self, vector: NDArray[Any] | None, seeds: Sequence[bytes]) -> NDArray[Any]:
        assert self.ring is not None, "vectors are recorded of secure protocols only"
        return self.ring.entries(self.packing.size, vector, seeds)

    def _tensors(self, file: str) -> dict[str, Tensor]:
        try:
            found: dict[str, Tensor] = load_file(self.folder / file)
        except (OSError, SafetensorError) as error:
            raise StorageFailure(f"'{self.folder / file}' cannot be read ({error})", "record it again") from None
        return found


def _segment(name: str, places: Tensor) -> Mechanism:
    """That of a tensor these entries alone were handed over, which stand one after the other."""
    first, last = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
    return Mechanism("segment", {"start": first, "stop": last}, (name,))


def start_file(file: str) -> str:
    """Where a record keeps from what weights an entry's were taken.

    >>> start_file("round-000/client-1-0.safetensors")
    'round-000/client-1-0-start.safetensors'
    """
    return file.replace(".safetensors", "-start.safetensors")


def sender_place(round: int) -> str:
    """The folder of a round."""
    return f"round-{round:03d}"


def _seed(tensors: dict[str, Tensor]) -> bytes:
    return tensors["seed"].numpy().tobytes()


def _place(round: int, party: str, sender: str) -> str:
    """The file of an entry, within the record; a name from outside stays one file's."""
    return f"{sender_place(round)}/{party.removeprefix('the ').replace(' ', '-')}-{quote(sender, safe='')}.safetensors"
