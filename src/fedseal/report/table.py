"""The table of all cells: text for people, keys for sorting."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedseal.audit.record import Cell, Record
from fedseal.report import words
from fedseal.report.card import FINDINGS, Card


@dataclass(frozen=True)
class Column:
    """A heading; numeric columns sort by number."""

    name: str
    numeric: bool


@dataclass(frozen=True)
class Entry:
    """What a cell of the table says, and what it sorts by; an empty key sorts last."""

    text: str
    key: str


COLUMNS = (
    Column("Cell", True),
    Column("Defense", False),
    Column("Attack", False),
    Column("Seed", True),
    Column("Finding", False),
    Column("Status", False),
    Column("PSNR", True),
    Column("Blind guess", True),
    Column("SSIM", True),
    Column("Identified", True),
    Column("Labels", True),
    Column("Blind labels", True),
    Column("Residual", True),
    Column("Steps", True),
    Column("Time", True),
)


def telling(record: Record) -> tuple[bool, ...]:
    """For each column whether it says something: one seed for all cells needs no column."""
    return tuple(column.name != "Seed" or len(record.header.config.seeds) > 1 for column in COLUMNS)


def row(card: Card) -> tuple[Entry, ...]:
    """A card as one row, its scores averaged over the batch."""
    cell = card.cell
    examples = cell.scores.samples if cell.scores else ()
    psnr, blind = _mean(cell, "psnr", blind=False), _mean(cell, "psnr", blind=True)
    ssim = _mean(cell, "ssim", blind=False)
    status = f"{card.status}, certified" if card.certified else card.status
    return (
        Entry(card.title, str(cell.key.first)),
        Entry(cell.key.defense, cell.key.defense),
        Entry(cell.key.attack, cell.key.attack),
        Entry(str(cell.key.seed), str(cell.key.seed)),
        Entry(FINDINGS[card.finding], FINDINGS[card.finding]),
        Entry(status, status),
        Entry(words.decibel(psnr), _key(psnr)),
        Entry(words.decibel(blind), _key(blind)),
        Entry(words.number(ssim), _key(ssim)),
        _share([None if s.identification is None else s.identification.hit for s in examples]),
        *_labels(cell),
        Entry(words.residual(cell.residual), _key(cell.residual)),
        Entry(f"{cell.steps:,}", str(cell.steps)),
        Entry(card.seconds, _key(cell.seconds)),
    )


def _mean(cell: Cell, name: str, *, blind: bool) -> float | None:
    """Mean of a score or of its best blind guess; None if any example has none."""
    scores = [getattr(sample, name) for sample in cell.scores.samples] if cell.scores else []
    if blind:
        scores = [score.best_baseline for score in scores]
    values = [None if score is None else score.value for score in scores]
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured and len(measured) == len(values) else None


def _labels(cell: Cell) -> tuple[Entry, Entry]:
    """Labels named in whatever order, and the share that the better blind guesser expects."""
    if "labels" in cell.knows and cell.label_score is not None:
        return Entry("given", ""), Entry("–", "")
    if cell.label_score is None:
        return Entry("–", ""), Entry("–", "")
    found = cell.label_score
    return Entry(f"{found.right} of {found.of}", _key(found.value)), Entry(
        words.percent(found.chance), _key(found.chance)
    )


def _share(hits: list[bool | None]) -> Entry:
    measured = [hit for hit in hits if hit is not None]
    if not measured:
        return Entry("–", "")
    if len(measured) == 1:
        return Entry("yes" if measured[0] else "no", str(int(measured[0])))
    return Entry(f"{sum(measured)} of {len(measured)}", str(sum(measured) / len(measured)))


def _key(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return ("Infinity" if value > 0 else "-Infinity") if math.isinf(value) else repr(value)
