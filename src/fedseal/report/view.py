"""A record laid out for a page: groups, cards and rows, all as text that a template only has to place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedseal.audit.bound_record import Game
from fedseal.audit.cost_record import Cost
from fedseal.audit.record import Cell, Record, Step
from fedseal.audit.summary import label_rate
from fedseal.intervals import ENOUGH
from fedseal.report import advice, words
from fedseal.report.bound_plot import TONES, bound_plot
from fedseal.report.card import Card, CardPanel, CardShare, make_card
from fedseal.report.examples import text_budget
from fedseal.report.frontier import Frontier
from fedseal.report.frontier import Panel as Measured
from fedseal.report.frontier import panels as measured
from fedseal.report.kind import ExampleKind, kind_of
from fedseal.report.picture import TWICE, Budget, ReportPictures, budget
from fedseal.report.plane import plane
from fedseal.report.tally import Sample, Tally, leading, leakage, samples, tally
from fedseal.report.verdict import Verdict, verdict

Loader = Callable[[Cell], ReportPictures | None]

SHOWN, SHOWN_HARMLESS = 6, 3  # cards that stand open where an attack found something, and where not; others fold away


@dataclass(frozen=True)
class RouteLine:
    """A route that an attack considered, how often, and the reasons it gave."""

    route: str
    taken: bool
    times: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class AttackGroup:
    """The cells of one attack under one defense and one attacker, the leakiest first as everywhere."""

    name: str
    summary: str
    open: tuple[Card, ...]
    folded: tuple[Card, ...]
    routes: tuple[RouteLine, ...]


@dataclass(frozen=True)
class DefenseGroup:
    """One defense under one attacker; `known`: its public steps, empty where the attacker was not told of it."""

    title: str
    known: str
    tally: Tally
    attacks: tuple[AttackGroup, ...]


@dataclass(frozen=True)
class ThreatGroup:
    """One attacker, what it knows and what it does not."""

    name: str
    title: str
    facts: tuple[str, ...]
    lacks: tuple[str, ...]
    aggregates: bool
    defenses: tuple[DefenseGroup, ...]


@dataclass(frozen=True)
class Plane:
    """What protects and at what cost, for one batch size and local training: a picture, sentences, and a table.

    Args:
        name: its place on the page.
        informed: attackers that know the defense; `uninformed`: attackers that do not.
        unaware: whether any of these could be compared with the ones who know.
        unpriced: defenses without a known cost, where others have one.
        nothing_to_lose: why the costs that were measured say nothing, as a clause; empty where they do, or none were.
        narrow: whether some bar is the range of a few examples.
    """

    name: str
    panel: Measured
    picture: Markup
    recommendation: str
    families: tuple[tuple[Frontier, str], ...]
    informed: str
    uninformed: str
    unaware: bool
    unpriced: str
    nothing_to_lose: str
    narrow: bool


@dataclass(frozen=True)
class Bounded:
    """The bounds on one number of candidates, for three batch sizes at most: a picture and a table."""

    candidates: int
    picture: Markup
    games: tuple[Game, ...]


@dataclass(frozen=True)
class ReportView:
    """Everything a page shows of the cells.

    Args:
        kind: of input, which names examples and measures.
        at: what every place of this record on the page begins with; empty where it is the only one.
        threats: from the attacker that knows least to the one that knows most.
        pictured: examples shown with pictures, and `examples` all that were attacked, each once for every cell.
    """

    kind: ExampleKind
    at: str
    verdict: Verdict
    tallies: tuple[Tally, ...]
    leading: Tally | None
    planes: tuple[Plane, ...]
    bounded: tuple[Bounded, ...]
    threats: tuple[ThreatGroup, ...]
    cards: tuple[Card, ...]
    exhibits: tuple[tuple[Card, CardPanel], ...]
    budget: Budget
    frames_left_out: bool
    stills_reduced: bool
    pictured: int
    examples: int


def view(
    record: Record, pictures: Loader, at: str = "", costs: Sequence[Cost] = (), bounds: Sequence[Game] = ()
) -> ReportView:
    """Lay out a record.

    Args:
        record: finished or not.
        pictures: gives a cell's pictures, or None where it has none.
        at: what every place of this record on the page begins with.
        costs, bounds: of its defenses, where they were measured.
    """
    kind = kind_of(record)
    cells = sorted(record.cells, key=lambda cell: max(map(leakage, samples(cell))), reverse=True)
    side, afford = _afford(record, cells)
    shares = map(CardShare, afford.panels, afford.illustrated, afford.animated)
    cards = {
        cell.key.id: make_card(
            cell,
            pictures(cell) if share.illustrated and cell.content is None else None,
            afford,
            kind.noun.capitalize(),
            share,
            at,
        )
        for cell, share in zip(cells, shares, strict=True)
    }
    tallies = tally(record.cells)
    worst = leading(tallies)
    knows, public = {cell.key.threat: cell.knows for cell in cells}, record.header.config.public or {}
    exhibits = [found for sample in (worst.best if worst else ()) for found in _exhibit(sample, cards)]
    shown = [
        (card, panel) for card, panel in exhibits if (panel.truth and panel.guess) or (panel.pair and panel.pair.found)
    ]
    return ReportView(
        kind=kind,
        at=at,
        verdict=verdict(record),
        tallies=tallies,
        leading=worst,
        planes=tuple(
            _plane(panel, record, f"{at}plane-{place}") for place, panel in enumerate(measured(record, costs), 1)
        ),
        bounded=_bounded(bounds),
        threats=tuple(_threat(name, tallies, cards.values(), public) for name in words.by_knowledge(knows)),
        cards=tuple(cards.values()),
        exhibits=tuple(shown)[: TWICE if kind.gallery else TWICE // 2],
        budget=afford,
        frames_left_out=any(
            len(cell.frame_steps) > (afford.frames if moves else 1)
            for cell, moves in zip(cells, afford.animated, strict=True)
        ),
        stills_reduced=side > afford.still_side,
        pictured=sum(len(card.panels) for card in cards.values() if card.illustrated),
        examples=sum(card.examples for card in cards.values()),
    )


def _plane(panel: Measured, record: Record, name: str) -> Plane:
    return Plane(
        name=name,
        panel=panel,
        picture=plane(panel, kind_of(record), name),
        recommendation=advice.recommendation(panel, record),
        families=tuple((one, advice.advice_text(one)) for one in panel.frontiers),
        informed=words.listing(words.attacker(threat) for threat in panel.attackers),
        uninformed=words.listing(words.attacker(threat) for threat in panel.left_out),
        unaware=any(point.unaware is not None for point in panel.points),
        unpriced=words.listing(p.defense for one in panel.frontiers for p in one.points if p.lost is None),
        nothing_to_lose=next((advice.untold(p.cost) for p in panel.points if p.cost and not p.cost.learned), ""),
        narrow=any(0 < len(point.samples) < ENOUGH for point in panel.points),
    )


def _bounded(games: Sequence[Game]) -> tuple[Bounded, ...]:
    groups: dict[int, dict[int, list[Game]]] = {}
    for game in games:
        groups.setdefault(game.candidates, {}).setdefault(game.batch_size, []).append(game)
    found = []
    for count, by_size in groups.items():
        sizes = list(by_size)
        for first in range(0, len(sizes), len(TONES)):
            shown = tuple(game for size in sizes[first : first + len(TONES)] for game in by_size[size])
            found.append(Bounded(count, bound_plot([game.cell for game in shown]), shown))
    return tuple(found)


def _afford(record: Record, cells: Sequence[Cell]) -> tuple[int, Budget]:
    """Longest side of the stored pictures, 0 where there are none, and what the page can show."""
    if any(cell.content is not None for cell in cells):
        return 0, text_budget(cells)
    shape = record.header.config.modality.get("shape")
    channels, side = (int(shape[0]), max(int(n) for n in shape[1:])) if isinstance(shape, list | tuple) else (1, 0)
    return side, budget([(cell.key.batch_size, channels, len(cell.frame_steps)) for cell in cells], side or 256)


def _exhibit(sample: Sample, cards: dict[str, Card]) -> list[tuple[Card, CardPanel]]:
    card = cards[sample.cell.key.id]
    return [(card, panel) for panel in card.panels if panel.index == sample.index]


def _threat(
    name: str, tallies: Sequence[Tally], cards: Iterable[Card], public: Mapping[str, tuple[Step, ...]]
) -> ThreatGroup:
    mine = [card for card in cards if card.cell.key.threat == name]
    settings = [t for t in tallies if t.threat == name]
    return ThreatGroup(
        name=name,
        title=words.attacker_title(name),
        facts=tuple(words.facts(mine[0].cell.knows)),
        lacks=tuple(words.lacking(mine[0].cell.knows)),
        aggregates="single_updates" not in mine[0].cell.knows,
        defenses=tuple(_defense(t, [c for c in mine if t.holds(c.cell)], public) for t in settings),
    )


def _defense(tally: Tally, cards: Sequence[Card], public: Mapping[str, tuple[Step, ...]]) -> DefenseGroup:
    groups: dict[str, list[Card]] = {}
    for card in cards:
        groups.setdefault(card.cell.key.attack, []).append(card)
    title = "No defense" if tally.defense == "none" else f"Defense {tally.defense}"
    title += f", {tally.where}" if tally.where else ""
    known = ""
    if tally.defense in public and tally.defense != "none" and "defense" in tally.knows:
        steps = [words.step(step.kind, step.figures, step.where) for step in public[tally.defense]]
        known = f"Known of the defense: {', then '.join(steps) or 'its name, and none of its steps'}."
    return DefenseGroup(title, known, tally, tuple(_attack(name, group) for name, group in groups.items()))


def _attack(name: str, cards: Sequence[Card]) -> AttackGroup:
    examples = sum(card.examples for card in cards)
    recovered = sum(card.recovered for card in cards)
    certain = sum(card.certain for card in cards)
    refused, failed = (sum(card.cell.status == status for card in cards) for status in words.UNSETTLED)
    counts = f"{recovered} of {examples} recovered, {certain} certain"
    named = label_rate(card.cell for card in cards)
    if named.trials:
        counts += f"; labels named: {words.rate(named)}"
    for word, number in (("refused", refused), ("failed at", failed)):
        if number:
            counts = f"{word} {number} of {len(cards)} updates" + (f"; {counts}" if number < len(cards) else "")
    shown = SHOWN if cards[0].finding in ("recovered", "traces") else SHOWN_HARMLESS
    if len(cards) in (refused, failed):
        shown, counts = 0, f"{counts}: {words.reason_of(cards[0].cell)}"
    routes: dict[tuple[str, bool], list[str]] = {}
    for note in (note for card in cards for note in card.cell.explanation):
        routes.setdefault((note.route, note.taken), []).append(note.reason)
    return AttackGroup(
        name=name,
        summary=counts[0].upper() + counts[1:],
        open=tuple(cards[:shown]),
        folded=tuple(cards[shown:]),
        routes=tuple(
            RouteLine(route, taken, len(reasons), tuple(dict.fromkeys(reasons))[:3])
            for (route, taken), reasons in routes.items()
        ),
    )
