"""Two records beside each other on a terminal: what leaks more than before, the worse first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedseal.audit.summary import Change
from fedseal.report import words
from fedseal.report.kind import MEASURES

_MEASURES = {"identification": "identified", "labels": "labels right"} | {
    f"{name}_median": f"median {measure.phrase}" for name, measure in MEASURES.items()
}
_STYLES = {"worse": "red", "better": "blue", "appeared": "yellow", "gone": "yellow", "same": "dim"}


def comparison(changes: Sequence[Change]) -> RenderableType:
    """What rich prints of `audit.compare(old, new)`; what stayed the same is counted, not listed."""
    moved = [change for change in changes if change.verdict != "same"]
    same = len(changes) - len(moved)
    rest = f"{words.count(same, 'measure')} unchanged." if same else ""
    if not moved:
        return Text(
            f"Nothing leaks more or less than before: {rest}" if same else "Neither record has a finished cell."
        )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "Attacker", "Defense", "Attack", "Measure"):
        table.add_column(name, overflow="fold")
    for name in ("Before", "Now"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for change in moved:
        table.add_row(*_row(change))
    return Group(Text(_headline(moved), style="bold"), table, Text(rest, style="dim"))


def _headline(moved: Sequence[Change]) -> str:
    worse = [change for change in moved if change.verdict == "worse"]
    if not worse:
        return "No measure got worse."
    sure = sum(change.certain is True for change in worse)
    beyond = f", {sure} beyond what chance explains" if sure else ""
    return f"{words.count(len(worse), 'measure')} got worse{beyond}."


def _row(change: Change) -> tuple[Text, ...]:
    def value(number: float | None) -> str:
        measure = MEASURES.get(change.measure.removesuffix("_median"))
        return measure.written(number) if measure is not None else words.percent(number)

    certainty = {True: "beyond chance (95 %)", False: "within chance (95 %)", None: ""}[change.certain]
    return (
        Text(change.verdict, style=_STYLES[change.verdict]),
        Text(words.attacker_title(change.threat)),
        Text(change.setting),
        Text(change.attack),
        Text(_MEASURES.get(change.measure, change.measure)),
        Text(value(change.old)),
        Text(value(change.new)),
        Text(certainty, style="dim"),
    )
