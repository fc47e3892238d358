"""What an audit does differently with pictures, sentences and rows: one row a kind of input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from fedseal import zoo
from fedseal.audit.content import Order, decoded, rows, texts
from fedseal.audit.record import Content
from fedseal.metric.rows import RowJudge as RowJudge
from fedseal.modality import Text
from fedseal.modality.tabular import Tabular
from fedseal.types import Batch, Modality, Reconstruction

ROWS = 2000  # unrelated rows
SAME = 0.5 / 255  # largest difference of two pictures that are the same once stored in 8 bits


class _Content(Protocol):
    def __call__(
        self, modality: Modality, truth: Batch, found: Reconstruction | None, order: Order, judge: object = None
    ) -> Content | None: ...


class _Unrelated(Protocol):
    def __call__(
        self, modality: Modality, truth: Batch, *, own: Tensor | None = None, others: Tensor | None = None, count: int
    ) -> Tensor | None: ...


@dataclass(frozen=True)
class InputKind:
    """A row of the table.

    Args:
        pictured: whether examples are shown as pictures, and the iterations of an attack kept.
        content: `(modality, truth, found, order, judge)`: examples as the record stores them; None for pictures.
        unrelated: `(modality, truth, own, others, count)`: other inputs than the truth, for blind guesses and
            identification; None where there are none. `own` are the user's pictures `(G, C, H, W)`, None for the zoo's;
            `others` rows `(G, width)` of the same table; `count` says how many of the zoo's pictures or sentences.
    """

    pictured: bool
    content: _Content
    unrelated: _Unrelated


def input_kind(modality: Modality) -> InputKind:
    """The row of a modality; what is neither sentence nor row is treated as pictures."""
    return INPUT_KINDS.get(modality.kind, INPUT_KINDS["image"])


def _no_content(
    modality: Modality, truth: Batch, found: Reconstruction | None, order: Order, judge: object = None
) -> None:
    return None


def _sentences(
    modality: Modality, truth: Batch, found: Reconstruction | None, order: Order, judge: object = None
) -> Content:
    return texts(cast("Text", modality), truth.inputs, found, order)


def _table_rows(
    modality: Modality, truth: Batch, found: Reconstruction | None, order: Order, judge: object = None
) -> Content:
    return rows(cast("Tabular", modality), truth.inputs, found, order, cast("RowJudge | None", judge))


def _other_pictures(
    modality: Modality, truth: Batch, *, own: Tensor | None = None, others: Tensor | None = None, count: int
) -> Tensor | None:
    pixels = decoded(modality, truth.inputs)
    if own is not None:
        far = torch.stack([(own.cpu() - picture).abs().flatten(1).amax(1) > SAME for picture in pixels]).all(0)
        return own.cpu()[far] if bool(far.any()) else None
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        return None
    _, channels, height, width = pixels.shape
    return zoo.gallery((channels, height, width), exclude=pixels, count=count)


def _other_sentences(
    modality: Modality, truth: Batch, *, own: Tensor | None = None, others: Tensor | None = None, count: int
) -> Tensor:
    """The zoo's sentences as token ids, without those of the truth."""
    ids = cast("Text", modality).encode(zoo.sentences(count), truncate=True)
    same = (ids[:, None] == truth.inputs.cpu()[None]).all(2).any(1)
    return ids[~same]


def _other_rows(
    modality: Modality, truth: Batch, *, own: Tensor | None = None, others: Tensor | None = None, count: int
) -> Tensor | None:
    return others[:ROWS].cpu() if others is not None and len(others) else None


INPUT_KINDS: Mapping[str, InputKind] = {
    "image": InputKind(True, _no_content, _other_pictures),
    "text": InputKind(False, _sentences, _other_sentences),
    "tabular": InputKind(False, _table_rows, _other_rows),
}
