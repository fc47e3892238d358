"""The table of all cells: text for people, keys for sorting."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedseal.audit.record import Cell, Record
from fedseal.report import words
from fedseal.report.card import FINDINGS, Card
from fedseal.report.kind import MEASURES, ExampleKind, kind_of, kind_of_cell


@dataclass(frozen=True)
class Column:
    """A heading; numeric columns sort by number."""

    name: str
    numeric: bool


@dataclass(frozen=True)
class TableEntry:
    """What a cell of the table says, and what it sorts by; an empty key sorts last."""

    text: str
    key: str


def columns(kind: ExampleKind) -> tuple[Column, ...]:
    """The headings, by the kind of input."""
    names = ("Cell", "Defense", "Attack", "Seed", "Finding", "Status", "Certain")
    scores = (kind.measure.title, "Blind guess", *(MEASURES[name].title for name in kind.listed))
    ends = (*(("Identified",) if kind.gallery else ()), "Labels", "Blind labels", "Residual", "Steps", "Time")
    words = ("Defense", "Attack", "Finding", "Status")
    return tuple(Column(name, name not in words) for name in (*names, *scores, *ends))


def telling_rows(record: Record) -> tuple[bool, ...]:
    """For each column whether it says something: one seed for all cells needs no column."""
    return tuple(c.name != "Seed" or len(record.header.config.seeds) > 1 for c in columns(kind_of(record)))


def row(card: Card) -> tuple[TableEntry, ...]:
    """A card as one row, its scores averaged over the batch."""
    cell = card.cell
    examples, kind = cell.scores.samples if cell.scores else (), kind_of_cell(cell)
    identified = _share([None if s.identification is None else s.identification.hit for s in examples])
    return (
        TableEntry(card.title, str(cell.key.first)),
        TableEntry(cell.key.defense, cell.key.defense),
        TableEntry(cell.key.attack, cell.key.attack),
        TableEntry(str(cell.key.seed), str(cell.key.seed)),
        TableEntry(FINDINGS[card.finding], FINDINGS[card.finding]),
        TableEntry(card.status, card.status),
        _share([None if cell.scores is None else place < card.certain for place in range(card.examples)]),
        _mean(cell, kind.headline, blind=False),
        _mean(cell, kind.headline, blind=True),
        *(_mean(cell, name, blind=False) for name in kind.listed),
        *((identified,) if kind.gallery else ()),
        *_labels(cell),
        TableEntry(words.unexplained(cell.residual), _key(cell.residual)),
        TableEntry(f"{cell.steps:,}", str(cell.steps)),
        TableEntry(card.seconds, _key(cell.seconds)),
    )


def _mean(cell: Cell, name: str, *, blind: bool) -> TableEntry:
    """Mean of a score or of its best blind guess; a dash if any example has none."""
    scores = [sample.score(name) for sample in cell.scores.samples] if cell.scores else []
    found = [score if score is None or not blind else score.best_baseline for score in scores]
    measured = [one.value for one in found if one is not None and one.value is not None]
    mean = sum(measured) / len(measured) if measured and len(measured) == len(found) else None
    return TableEntry(MEASURES[name].written(mean), _key(mean))


def _labels(cell: Cell) -> tuple[TableEntry, TableEntry]:
    """Labels named in whatever order, and the share that the better blind guesser expects."""
    if "labels" in cell.knows and cell.label_score is not None:
        return TableEntry("given", ""), TableEntry("–", "")
    if cell.label_score is None:
        return TableEntry("–", ""), TableEntry("–", "")
    found = cell.label_score
    return TableEntry(f"{found.right} of {found.of}", _key(found.value)), TableEntry(
        words.percent(found.chance), _key(found.chance)
    )


def _share(hits: list[bool | None]) -> TableEntry:
    measured = [hit for hit in hits if hit is not None]
    if not measured:
        return TableEntry("–", "")
    if len(measured) == 1:
        return TableEntry("yes" if measured[0] else "no", str(int(measured[0])))
    return TableEntry(f"{sum(measured)} of {len(measured)}", str(sum(measured) / len(measured)))


def _key(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return ("Infinity" if value > 0 else "-Infinity") if math.isinf(value) else repr(value)
