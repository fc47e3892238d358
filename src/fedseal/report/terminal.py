"""A record on a terminal: the verdict, a table by setting and attack, and where the worst pictures are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fedseal.audit.cost_record import Cost
from fedseal.audit.record import Record
from fedseal.audit.summary import Group as CellGroup
from fedseal.audit.summary import summarize
from fedseal.report import advice, words
from fedseal.report.examples import ExamplePair, Mark, example_of
from fedseal.report.frontier import panels
from fedseal.report.kind import ExampleKind, kind_of
from fedseal.report.tally import blind_guess, leading, samples, tally
from fedseal.report.verdict import Level, verdict

WORST = 3
_NAMES = 2  # of these columns hold names, which may be long
_WIDEST = 20

_COLORS: dict[Level, str] = {"recovered": "red", "partial": "red", "traces": "yellow", "none": "blue", "empty": "dim"}


def terminal(record: Record, costs: Sequence[Cost] = ()) -> RenderableType:
    """What rich prints of a record; users' text is placed as it is, never as markup.

    Args:
        costs: of its defenses, where they were measured.
    """
    found = verdict(record)
    color = _COLORS[found.level]
    body = [Text(found.headline, style="bold"), *(Text(sentence) for sentence in found.details)]
    parts: list[RenderableType] = [Panel(Group(*body), title="Verdict", title_align="left", border_style=color)]
    if (rescored := record.header.rescored) is not None:
        parts.append(Text(f"{rescored.summary}.", style="dim"))
    if record.cells:
        parts += [*_settings(record), *_defenses(record, costs), *_worst(record)]
    return Group(*parts)


def _defenses(record: Record, costs: Sequence[Cost]) -> list[RenderableType]:
    """Where each defense starts to protect, and a recommendation; for every batch size and local training."""
    parts: list[RenderableType] = []
    for panel in panels(record, costs):
        where = f", {panel.setting}" if panel.setting else ""
        parts.append(Text(f"\nWhat protects, and what it costs{where}", style="bold"))
        parts += [Text(f"  {advice.advice_text(frontier)}") for frontier in panel.frontiers]
        parts.append(Text(advice.recommendation(panel, record), style="dim"))
    return parts


def _settings(record: Record) -> list[RenderableType]:
    """For each attacker, from the one that knows least to the one that knows most, who it is and a table."""
    columns = _columns(kind_of(record))
    order = {(t.threat, t.defense): place for place, t in enumerate(tally(record.cells))}
    groups = sorted(summarize(record), key=lambda group: order[group.threat, group.defense])
    rows = {group.key: _row(record, group) for group in groups}
    widths = [max(map(len, texts)) for texts in zip(columns, *rows.values(), strict=True)]
    parts: list[RenderableType] = []
    for threat, knows in _attackers(record):
        table = Table(box=None, pad_edge=False, header_style="dim")
        for place, (name, width) in enumerate(zip(columns, widths, strict=True)):
            if place < _NAMES:
                table.add_column(name, overflow="fold", min_width=min(width, _WIDEST))
            else:
                table.add_column(name, justify="right", no_wrap=True, min_width=width)
        for group in groups:
            if group.threat == threat:
                table.add_row(*(Text(text) for text in rows[group.key]))
        parts += [
            Text(f"\n{words.attacker_title(threat)}", style="bold"),
            Text(words.standpoint(knows), style="dim"),
            table,
        ]
    return parts


def _columns(kind: ExampleKind) -> tuple[str, ...]:
    seen = ("Identified",) if kind.gallery else ()
    return ("Defense", "Attack", "Recovered", "Certain", kind.measure.title, "Blind", *seen, "Labels", "Time")


def _attackers(record: Record) -> list[tuple[str, tuple[str, ...]]]:
    knows = {cell.key.threat: cell.knows for cell in record.cells}
    return [(name, knows[name]) for name in words.by_knowledge(knows)]


def _row(record: Record, group: CellGroup) -> tuple[str, ...]:
    names, kind = (group.key.setting, group.attack), kind_of(record)
    cells = [cell for cell in record.cells if group.holds(cell)]
    if all(cell.status in words.UNSETTLED for cell in cells):
        end = "failed" if any(cell.status == "failed" for cell in cells) else "refused"
        return (*names, end, *(("–",) * (len(_columns(kind)) - _NAMES - 1)))
    examples = [sample for cell in cells for sample in samples(cell)]
    recovered = sum(sample.finding == "recovered" for sample in examples)
    seen = group.identification
    chance = f" ({words.percent(seen.chance)})" if seen.chance is not None else ""
    return (
        *names,
        f"{recovered}/{group.samples}",
        f"{group.certified}/{group.samples}",
        kind.measure.written(group.median),
        kind.measure.written(blind_guess(examples)),
        *((f"{seen.hits}/{seen.trials}{chance}" if seen.trials else "–",) if kind.gallery else ()),
        _labels(group, given="labels" in cells[0].knows),
        words.seconds(group.seconds),
    )


def _labels(group: CellGroup, *, given: bool) -> str:
    found = group.label_multiset
    if given or not found.trials:
        return "given" if given else "–"
    return f"{found.hits}/{found.trials}" + (f" ({words.percent(found.chance)})" if found.chance is not None else "")


def _worst(record: Record) -> list[RenderableType]:
    worst = leading(tally(record.cells))
    leaks = [sample for sample in (worst.best if worst else ()) if sample.finding in ("recovered", "traces")][:WORST]
    if not leaks:
        return []
    kind = kind_of(record)
    lines: list[RenderableType] = [Text(f"\nThe {kind.noun}s that leak most:", style="dim")]
    for sample in leaks:
        ending = "safetensors" if sample.cell.content is None else "json"
        path = Path(record.folder) / "cells" / f"{sample.cell.key.id}.{ending}"
        value = sample.scores.headline.value if sample.scores else None
        place = sample.cell.key.first + sample.index
        lines.append(Text(f"  {path}  example {place}, {sample.cell.key.attack}, {kind.measure.written(value)}"))
        shown = example_of(sample.cell, sample.index)
        lines += [] if shown is None else [indented(line) for line in beside(shown)]
    return lines


def indented(line: Text) -> Text:
    """The same line a little further right."""
    return Text("    ").append_text(line)


def beside(shown: ExamplePair, *, original_known: bool = True) -> list[Text]:
    """An original and its reconstruction on lines of their own, in colors and marks.

    Args:
        original_known: False where the original is not known, and what is shown in its place is what the attack read.
    """
    if not original_known:
        read = replace(shown, guess=(), found=False)
        return [Text(str(line).replace("original      ", "reconstruction", 1)) for line in beside(read)[:1]]
    if shown.entries:
        head = (
            Text()
            .append("original        ", style="dim")
            .append(", ".join(f"{e.column} {e.truth}" for e in shown.entries))
        )
        line = Text().append("reconstruction  ", style="dim")
        for place, entry in enumerate(shown.entries):
            line.append(", " if place else "").append(f"{entry.column} ", style="dim")
            line.append(
                entry.guess or "–", style="" if entry.right is None else STYLES["right" if entry.right else "wrong"]
            )
            line.append("" if entry.right is not False else " ≠", style=STYLES["wrong"])
            line.append(f" ({entry.confidence})" if entry.confidence else "", style="dim")
        return [head, line if shown.found else Text("reconstruction  nothing recovered", style="dim")]
    lines = []
    for name, spoken in (("original", shown.truth), ("reconstruction", shown.guess)):
        text = Text().append(f"{name:<16}", style="dim")
        for place, token in enumerate(spoken):
            text.append("" if token.joined or not place else " ").append(token.text, style=STYLES[token.mark])
        lines.append(text if spoken else text.append("nothing recovered"))
    return lines


STYLES: dict[Mark, str] = {
    "right": "underline red",
    "moved": "italic yellow",
    "wrong": "strike blue",
    "special": "dim",
    "plain": "",
}
