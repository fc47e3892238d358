"""What attacks take for granted of an input, by the modality's kind: one row a kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedseal.attack.evidence.gaps import filled_by_column, filled_by_spectrum
from fedseal.types import Modality


class _Fill(Protocol):
    def __call__(self, modality: Modality, inputs: Tensor, known: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class InputTraits:
    """A row of the table.

    Args:
        discrete: whether inputs are ids, of which there are finitely many and nothing between two; the model may then
            score single places of an input as well.
        columns: whether an input is a row, of whose columns it is known what they may hold.
        fill: `(modality, inputs (N, numel), known (N, numel))`: inputs with what no equation reaches filled in.
    """

    discrete: bool
    columns: bool
    fill: _Fill


INPUT_TRAITS: Mapping[str, InputTraits] = {
    "image": InputTraits(discrete=False, columns=False, fill=filled_by_spectrum),
    "text": InputTraits(discrete=True, columns=False, fill=filled_by_spectrum),
    "tabular": InputTraits(discrete=False, columns=True, fill=filled_by_column),
}


def traits_of(modality: Modality) -> InputTraits:
    """The row of a modality; inputs of a kind of their own are treated as pictures.

    >>> import fedseal as fs
    >>> [traits_of(one).discrete for one in (fs.Image((1, 2, 2)), fs.Text(fs.zoo.bpe(), length=8))]
    [False, True]
    """
    return INPUT_TRAITS.get(modality.kind, INPUT_TRAITS["image"])
