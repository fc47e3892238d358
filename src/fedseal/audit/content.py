"""What a record keeps of a cell beside its numbers: pictures as tensors, sentences and rows as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedseal.audit.record import Row, Rows, Sentence, Texts
from fedseal.metric.rows import RowJudge as RowJudge
from fedseal.modality import Text
from fedseal.modality.tabular import Tabular
from fedseal.types import Modality, Reconstruction

Order = Sequence[int | None] | None


def decoded(modality: Modality, inputs: Tensor) -> Tensor:
    """Model inputs as pictures `(N, C, H, W)` float32 in [0, 1] on the CPU; what is not finite is black."""
    return modality.decode(inputs.detach()).float().cpu().nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)


def texts(text: Text, truth: Tensor, found: Reconstruction | None, order: Order) -> Texts:
    """Sentences as the record stores them.

    Args:
        found: None where the attack was refused.
        order: for every true example the place of its reconstruction.
    """
    ids = None if found is None else found.inputs
    guesses: tuple[Sentence | None, ...] | None = None
    if found is not None and ids is not None and order is not None:
        confidence = found.confidence
        guesses = tuple(None if p is None else _sentence(text, ids[p], _at(confidence, p)) for p in order)
    spoken = {int(i) for read in (truth, ids) if read is not None for i in read.flatten().tolist()}
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


def rows(table: Tabular, truth: Tensor, found: Reconstruction | None, order: Order, judge: RowJudge | None) -> Rows:
    """Rows as the record stores them.

    Args:
        found, order: as of `texts`.
        judge: of the same truth, which says what cells of a row agree.
    """
    guesses: tuple[Row | None, ...] | None = None
    if found is not None and found.inputs is not None and order is not None:
        told, true = found.inputs.detach().cpu(), truth.detach().cpu()
        guesses = tuple(
            None if place is None else _guess(table, true[index], told[place], _at(found.confidence, place), judge)
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


def _at(values: Tensor | None, place: int) -> Tensor | None:
    return None if values is None else values[place].detach().cpu()


def _plain(row: Mapping[str, object]) -> dict[str, str | int | float | bool | None]:
    return {name: v if isinstance(v, str | int | float | bool | None) else str(v) for name, v in row.items()}


def _share(value: float) -> float:
    return round(min(1.0, max(0.0, value)), 3)
