"""What a record keeps of a cell beside its numbers: pictures as tensors, sentences and rows as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor

from fedseal.audit.record import Content, Row, Rows, Sentence, Texts
from fedseal.metric.rows import Rows as RowJudge
from fedseal.modality import Text
from fedseal.modality.tabular import Tabular
from fedseal.types import Batch, Modality, Reconstruction

Order = Sequence[int | None] | None


def kind(modality: Modality) -> str:
    """What a modality calls itself: "image", "text", "tabular", or another."""
    return str(modality.describe().get("kind"))


def content(
    modality: Modality, truth: Batch, found: Reconstruction | None, order: Order, judge: object = None
) -> Content | None:
    """Sentences or rows as the record stores them; None for what is shown as pictures.

    Args:
        found: None where the attack was refused.
        order: for every true example the place of its reconstruction.
        judge: of the same truth, which says what cells of a row agree.
    """
    if kind(modality) == "text":
        return _texts(cast("Text", modality), truth.inputs, found, order)
    if kind(modality) == "tabular":
        return _rows(cast("Tabular", modality), truth.inputs, found, order, cast("RowJudge | None", judge))
    return None


def _texts(text: Text, truth: Tensor, found: Reconstruction | None, order: Order) -> Texts:
    ids = None if found is None else found.inputs
    guesses: tuple[Sentence | None, ...] | None = None
    if found is not None and ids is not None and order is not None:
        surely = found.confidence
        guesses = tuple(None if p is None else _sentence(text, ids[p], _row(surely, p)) for p in order)
    spoken = {int(i) for rows in (truth, ids) if rows is not None for i in rows.flatten().tolist()}
    silent = sorted(spoken & (text.special | {text.pad}))
    return Texts(
        special=tuple(dict.fromkeys(token for i in silent for token in _token(text, truth.new_tensor(i)))),
        truth=tuple(_sentence(text, row) for row in truth),
        found=guesses,
    )


def _sentence(text: Text, row: Tensor, confidence: Tensor | None = None) -> Sentence:
    row = row.detach().cpu()
    row = row.round().long() if row.is_floating_point() else row
    shown = (row != text.pad).nonzero().flatten().tolist()
    length = shown[-1] + 1 if shown else 0
    tokens = tuple("".join(_token(text, token)) for token in row[:length])
    decoded = dict(zip(shown, text.pieces(row), strict=True))
    pieces = tuple(decoded.get(place, "") for place in range(length))
    return Sentence(
        text=text.sentence(row),
        tokens=tokens,
        pieces=None if pieces == tokens else pieces,
        confidence=None if confidence is None else tuple(_share(value) for value in confidence[:length].tolist()),
    )


def _token(text: Text, token: Tensor) -> tuple[str, ...]:
    """The string of one id, nothing for padding."""
    return text.words(token.reshape(1))


def _rows(table: Tabular, truth: Tensor, found: Reconstruction | None, order: Order, judge: RowJudge | None) -> Rows:
    guesses: tuple[Row | None, ...] | None = None
    if found is not None and found.inputs is not None and order is not None:
        told, true = found.inputs.detach().cpu(), truth.detach().cpu()
        guesses = tuple(
            None if place is None else _guess(table, true[index], told[place], _row(found.confidence, place), judge)
            for index, place in enumerate(order)
        )
    return Rows(truth=tuple(Row(values=_plain(row)) for row in table.rows(truth)), found=guesses)


def _guess(table: Tabular, true: Tensor, told: Tensor, confidence: Tensor | None, judge: RowJudge | None) -> Row:
    names = [column.name for column in table.columns]
    right = None
    if judge is not None:
        (_, (one,)), (_, (other,)) = judge.read(true[None]), judge.read(told[None])
        right = judge.agrees(one, other)
    return Row(
        values=_plain(table.rows(told[None])[0]),
        right=right,
        confidence=None
        if confidence is None
        else {name: _share(value) for name, value in zip(names, confidence.tolist(), strict=True)},
    )


def _row(rows: Tensor | None, place: int) -> Tensor | None:
    return None if rows is None else rows[place].detach().cpu()


def _plain(row: Mapping[str, object]) -> dict[str, str | int | float | bool | None]:
    return {name: v if isinstance(v, str | int | float | bool | None) else str(v) for name, v in row.items()}


def _share(value: float) -> float:
    return round(min(1.0, max(0.0, value)), 3)
