"""A record as one HTML file that needs nothing else: no network, no second file, no consent.

All text of users reaches the page through Jinja's autoescape, or as JSON whose `<` is escaped. The page's own policy
forbids every connection.
"""

from __future__ import annotations

import os
from importlib.resources import files
from itertools import compress
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedseal.audit import pictures
from fedseal.audit.record import Record
from fedseal.audit.store import write_whole
from fedseal.errors import StorageFailure
from fedseal.report import words
from fedseal.report.card import Card
from fedseal.report.reproduce import reproduction
from fedseal.report.table import COLUMNS, row, telling
from fedseal.report.view import Loader, view


def html(record: Record, path: str | Path) -> Path:
    """Write the report of a record, finished or not, as one self-contained file, and return its path.

    Raises:
        StorageFailure: a cell's pictures cannot be read, or the file cannot be written.
    """
    path = Path(path)
    text = page(record, lambda cell: pictures(record, cell))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StorageFailure(f"cannot write the report '{path}' ({reason})", "choose another place") from None
    write_whole(path, text.encode())
    return path


def page(record: Record, load: Loader) -> str:
    """The report's text; pure but for `load`, which gives a cell's pictures or None."""
    shown = view(record, load)
    keep = telling(record)
    return _ENVIRONMENT.get_template("report.html").render(
        record=record,
        header=record.header,
        config=record.header.config,
        view=shown,
        columns=list(compress(COLUMNS, keep)),
        bodies=[
            (
                threat,
                [(c, list(compress(row(c), keep))) for c in shown.cards if c.cell.key.threat == threat.name],
            )
            for threat in shown.threats
        ],
        island=island(shown.cards),
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
    environment.globals.update(own=_own, nothing=words.NOTHING)
    environment.filters.update(
        attacker=words.attacker_title,
        count=words.count,
        expected=words.expected,
        decibel=words.decibel,
        percent=words.percent,
        interval=words.interval,
        seconds=words.seconds,
    )
    return environment


_ENVIRONMENT = _environment()
