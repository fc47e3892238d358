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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedseal.errors import StorageFailure
from fedseal.federation.packing import Packing
from fedseal.secagg.hazmat.prg import Masks
from fedseal.secagg.hazmat.ring import Ring
from fedseal.types import LocalTraining, Update

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
        return self._tensors(f"{place(round)}/model.safetensors")

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


def place(round: int) -> str:
    """The folder of a round."""
    return f"round-{round:03d}"


def _shapes(parts: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(shape)) for name, shape in parts)
