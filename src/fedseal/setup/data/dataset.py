"""Examples that were read, with all that is known of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from fedseal.types import Batch, Modality

UNSAID = "not said"  # of the order of channels
NOTE = "note: "
UNIT = "8 bits or 0 to 1"  # the scale of values that are in [0, 1], or were of 8 bits
SAY_CHANNELS = "store beside the images an array 'channels' that is 'RGB' or 'BGR'"
AS_STORED = "numbers as they are"  # of values that are not scaled
SAY_RANGE = (
    "say which stored values become 0 and 1: --range LOW,HIGH of fedseal train, range: [LOW, HIGH] in an audit's file"
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples as the model is fed them.

    Args:
        batch: inputs `(N, ...)` and labels.
        modality: what an input is; None where it is no picture, sentence or row of a table.
        title: a short name of the source, for files and reports.
        classes: number of outputs that a classifier of these examples has.
        notes: what was changed or assumed on the way; "note: " begins those on how files of several examples were read.
        names: of the classes, where they have any.
        scale: which stored values became 0 and 1: `UNIT`, "16 bits"; `AS_STORED` where none did; "" of a table.
        channels: in which order three stand: "RGB", `UNSAID`; "grey" where there is one; "" where there are others.
    """

    batch: Batch
    modality: Modality | None
    title: str
    classes: int
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    scale: str = ""
    channels: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.batch.inputs.shape[1:])

    @property
    def digest(self) -> str:
        """SHA-256 of inputs and labels, so that the same examples can be told from others."""
        return digest(self.batch)


def reading_notes(name: str, data: Dataset) -> list[str]:
    """The notes on how a file was read, which is named in them; none on what is in it."""
    return [f"'{name}': {note.removeprefix(NOTE)}" for note in data.notes if note.startswith(NOTE)]


def digest(*batches: Batch) -> str:
    """SHA-256 of batches in their order."""
    found = hashlib.sha256()
    for tensor in (tensor for batch in batches for tensor in (batch.inputs, batch.labels)):
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def output_count(batch: Batch) -> int:
    """Outputs of a classifier for these labels: as many as the largest class tells, or one for each finding."""
    labels = batch.labels
    if labels.is_floating_point() or labels.ndim > 1:
        return int(torch.tensor(labels.shape[1:]).prod())
    return max(2, 1 + int(labels.max()))
