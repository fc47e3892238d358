"""What a run folder keeps of reconstructions as model inputs again, without attacking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

import torch
from torch import Tensor

from fedseal.audit import store
from fedseal.audit.content import decoded
from fedseal.audit.record import Cell, Record, Row, Rows, Sentence, Texts
from fedseal.errors import StorageFailure, UnfitBatch
from fedseal.modality import Image, Text
from fedseal.modality.tabular import Tabular
from fedseal.types import Batch, Modality

T = TypeVar("T")
SAME = 1e-5  # by which a stored original may differ from the case's: float32 on another machine
BASIS = {
    "text": "the sentences in the run folder, token by token",
    "tabular": "the rows in the run folder, with numbers as the table shows them",
}
PICTURES = "the pictures in the run folder, which are float32 and cut to [0, 1]"
MATCHED = "; where guesses were more than examples, from those that had been matched"
UNKNOWN = "<?>"  # how `Text.words` calls an id outside the vocabulary


class Lost(Exception):
    """The run folder does not keep enough of a cell; the message is a clause that says what is missing."""


@dataclass(frozen=True, eq=False)
class Restorer:
    """Turns the content of cells into model inputs.

    Args:
        record: with the folder that holds its pictures.
        modality, dtype: of the case that was attacked.
    """

    record: Record
    modality: Modality
    dtype: torch.dtype = torch.float32

    @property
    def basis(self) -> str:
        """What there is to score, as a clause."""
        return BASIS.get(self.modality.kind, PICTURES) + MATCHED

    @property
    def exact(self) -> bool:
        """Whether the folder keeps inputs to the last bit; normalized pictures are stored decoded, and rounded."""
        image = self.modality
        plain = not isinstance(image, Image) or (image.mean is None and image.std is None)
        return plain and self.dtype == torch.float32

    def inputs(self, cell: Cell, truth: Batch, places: Sequence[int]) -> Tensor:
        """The guesses that were matched to these true examples, `(places, ...)` as the model is fed them.

        Raises:
            Lost: they cannot be told from what is kept.
        """
        form = self.modality.kind
        if form == "text":
            return self._sentences(cell, truth, places)
        if form == "tabular":
            return self._rows(cell, truth, places)
        return self._pictures(cell, truth, places)

    def _pictures(self, cell: Cell, truth: Batch, places: Sequence[int]) -> Tensor:
        if not isinstance(self.modality, Image):
            raise Lost("pictures of the case's own modality cannot be turned into model inputs")
        try:
            held = store.pictures(self.record, cell)
        except StorageFailure as error:
            raise Lost(error.fact) from None
        if held.reconstruction is None or len(held.reconstruction) != len(truth):
            raise Lost("their pictures are not there")
        true = decoded(self.modality, truth.inputs)
        if held.truth.shape != true.shape or not float((held.truth - true).abs().max()) <= SAME:
            raise Lost("their originals are not the case's examples")
        return self.modality.encode(held.reconstruction[list(places)].double())

    def _sentences(self, cell: Cell, truth: Batch, places: Sequence[int]) -> Tensor:
        if not isinstance(cell.content, Texts) or cell.content.found is None:
            raise Lost("their sentences are not there")
        text = cast("Text", self.modality)
        true = self._ids(cell.content.truth, text.length)
        if not torch.equal(true, truth.inputs.cpu()):
            raise Lost("their originals are not the case's examples, or two of the tokenizer's tokens are alike")
        return self._ids(_matched(cell.content.found, places), text.length)

    def _ids(self, sentences: Sequence[Sentence], length: int) -> Tensor:
        pad, longest = cast("Text", self.modality).pad, max([length, *(len(s.tokens) for s in sentences)])
        rows = torch.full((len(sentences), longest), pad, dtype=torch.long)
        for row, sentence in zip(rows, sentences, strict=True):
            strange = [token for token in sentence.tokens if token and token not in self._vocabulary]
            if strange:
                raise Lost(f"the tokenizer has no token {strange[0]!r}")
            known = [self._vocabulary[token] if token else pad for token in sentence.tokens]
            row[: len(known)] = torch.tensor(known, dtype=torch.long)
        return rows

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        """Ids by their strings; one that nobody knows gets an id that the vocabulary does not have either."""
        text = cast("Text", self.modality)
        every = ((int(i), text.words(torch.tensor([i]))) for i in range(text.size))
        return {**{words[0]: i for i, words in every if words}, UNKNOWN: text.size}

    def _rows(self, cell: Cell, truth: Batch, places: Sequence[int]) -> Tensor:
        if not isinstance(cell.content, Rows) or cell.content.found is None:
            raise Lost("their rows are not there")
        table = cast("Tabular", self.modality)
        if table.rows(truth.inputs) != [row.values for row in cell.content.truth]:
            raise Lost("their originals are not the case's examples")
        found: list[Row] = _matched(cell.content.found, places)
        try:
            return table.encode([row.values for row in found])
        except UnfitBatch as error:
            raise Lost(error.fact) from None


def _matched(found: Sequence[T | None], places: Sequence[int]) -> list[T]:
    """What stands at these places."""
    there = [found[place] for place in places if place < len(found)]
    if len(there) < len(places) or any(one is None for one in there):
        raise Lost("what was matched is not there")
    return [one for one in there if one is not None]
