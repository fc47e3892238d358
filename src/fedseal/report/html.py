"""A record, or several, as one HTML file that needs nothing else: no network, no second file, no consent.

All text of users reaches the page through Jinja's autoescape, or as JSON whose `<` is escaped. The page's own policy
forbids every connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import compress
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedseal.audit.bound_record import Game, bounds_of
from fedseal.audit.cost_record import Cost, costs_of
from fedseal.audit.record import Record
from fedseal.audit.store import arrays
from fedseal.errors import BadConfig
from fedseal.files import make_folder, write_whole
from fedseal.report import words
from fedseal.report.card import Card
from fedseal.report.examples import MARKS
from fedseal.report.frontier import PROTECTS
from fedseal.report.kind import ExampleKind
from fedseal.report.plane import finding
from fedseal.report.reproduce import Reproduction, reproduction
from fedseal.report.table import Column, TableEntry, columns, row, telling_rows
from fedseal.report.verdict import mixed_verdict
from fedseal.report.view import Loader, ReportView, ThreatGroup, view


@dataclass(frozen=True)
class Run:
    """One record laid out, as the templates take it."""

    record: Record
    view: ReportView
    columns: tuple[Column, ...]
    bodies: tuple[tuple[ThreatGroup, tuple[tuple[Card, tuple[TableEntry, ...]], ...]], ...]
    again: Reproduction


def html(record: Record | Sequence[Record], path: str | Path) -> Path:
    """Write the report of a record, or of several on one page, as one self-contained file, and return its path.

    Args:
        record: finished or not; of several, such as audits of pictures, text and a table, each has its own part.
        path: the file.

    Raises:
        StorageFailure: a cell's pictures cannot be read, or the file cannot be written.
        BadConfig: no record.
    """
    path, records = Path(path), [record] if isinstance(record, Record) else list(record)
    if not records:
        raise BadConfig("there is no record to report", "give at least one")
    text = pages(
        *((one, _loader(one)) for one in records),
        costs=lambda one: costs_of(one.folder),
        bounds=lambda one: bounds_of(one.folder),
    )
    make_folder(path.parent)
    write_whole(path, text.encode())
    return path


def _loader(record: Record) -> Loader:
    return lambda cell: arrays(record, cell)


def page(record: Record, load: Loader) -> str:
    """The report's text; pure but for `load`, which gives a cell's pictures or None."""
    return pages((record, load))


def pages(
    *records: tuple[Record, Loader],
    costs: Callable[[Record], Sequence[Cost]] = lambda _: (),
    bounds: Callable[[Record], Sequence[Game]] = lambda _: (),
) -> str:
    """The same of one or several records, each with what loads its pictures.

    Args:
        costs, bounds: give those of a record's defenses.
    """
    several = len(records) > 1
    runs = [
        _run(record, load, f"r{place}-" if several else "", costs(record), bounds(record))
        for place, (record, load) in enumerate(records, 1)
    ]
    kinds: dict[str, ExampleKind] = {run.view.kind.headline: run.view.kind for run in runs}
    return _ENVIRONMENT.get_template("report.html").render(
        runs=runs,
        title=", ".join(record.header.config.case for record, _ in records),
        whole=mixed_verdict([record for record, _ in records]) if several else None,
        kinds=list(kinds.values()),
        island=island(tuple(card for run in runs for card in run.view.cards)),
    )


def _run(record: Record, load: Loader, at: str, costs: Sequence[Cost], bounds: Sequence[Game]) -> Run:
    shown, keep = view(record, load, at, costs, bounds), telling_rows(record)
    return Run(
        record=record,
        view=shown,
        columns=tuple(compress(columns(shown.kind), keep)),
        bodies=tuple(
            (
                threat,
                tuple((c, tuple(compress(row(c), keep))) for c in shown.cards if c.cell.key.threat == threat.name),
            )
            for threat in shown.threats
        ),
        again=reproduction(record),
    )


def island(cards: tuple[Card, ...]) -> dict[str, object]:
    """What the scrubbers need, by cell: the step of every picture (-1 for the result) and base64 PNGs by example."""
    return {
        card.id: {"steps": card.frame_steps, "total": card.cell.steps, "frames": card.frames}
        for card in cards
        if card.frames
    }


def _own(name: str) -> Markup:
    """A style sheet or script of this package, which is placed as it stands."""
    return Markup((files("fedseal.report") / "templates" / name).read_text(encoding="utf-8"))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fedseal.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(own=_own, nothing=words.NOTHING, marks=MARKS, protects=PROTECTS, tone=finding)
    environment.filters.update(
        attacker=words.attacker_title,
        count=words.count,
        expected=words.expected,
        decibel=words.decibel,
        percent=words.percent,
        interval=words.interval,
        shares=words.shares,
        seconds=words.seconds,
        points=words.points,
        size=words.size,
        span=lambda bounds: words.span(*bounds),
        factor=words.factor,
    )
    return environment


_ENVIRONMENT = _environment()
