"""Where each defense starts to protect and what it costs there, against the best attacker that knows it.

What was not measured is None, never 0. "Protects" is defined here alone, by the findings of `report.kind`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from fedseal.audit.cost_record import Cost
from fedseal.audit.record import Cell, Record
from fedseal.audit.summary import Rate, axes
from fedseal.errors import FedsealError
from fedseal.intervals import Interval, of_median
from fedseal.report import words
from fedseal.report.strength import Strength, strength_of
from fedseal.report.tally import Sample, strongest

RUINED = 0.1  # of the accuracy above chance: a model that keeps less has learned next to nothing
MOST = 0.5  # the share of leaking examples that the interval has to exclude

PROTECTS = (
    "A defense “protects” at a strength if none of the attacked examples was recovered, and none shows traces, by the "
    "best of all attacks that know the defense, and if they are enough to say so: the 95 % interval of the share of "
    "examples that leak ends below one half, as from 4 examples on. “From s on” means that this holds at s, and that "
    "nothing leaked at any greater strength tried. One of several defenses is called the cheapest only if its 95 % "
    "interval of the accuracy lost lies below those of the others."
)


@dataclass(frozen=True)
class Point:
    """One defense at one strength: what its best attacker got, and what it costs.

    Args:
        samples: of each attacked example the leakiest finding of all attacks, the leakiest first.
        refused: examples that no attack could work on.
        value, interval: median headline score, with its 95 % interval, or the range of fewer than `intervals.ENOUGH`;
            None where nothing was scored.
        blind: median of the best blind guesses.
        cost: None where it was not measured.
        unaware: the same of attackers who were not told of the defense; None where there was none.
        modelled: whether its public steps are known, so that an attack can reckon with them.
    """

    defense: str
    strength: Strength
    samples: tuple[Sample, ...]
    refused: int
    value: float | None
    interval: Interval | None
    blind: float | None
    cost: Cost | None
    unaware: Point | None = None
    modelled: bool = True

    @property
    def rate(self) -> Rate:
        """How often an example was recovered."""
        return Rate(sum(sample.finding == "recovered" for sample in self.samples), len(self.samples))

    @property
    def traces(self) -> int:
        """Examples that were not recovered, but show traces."""
        return sum(sample.finding == "traces" for sample in self.samples)

    @property
    def leaks(self) -> Rate:
        """How many private examples were recovered or show traces; one attacked with several seeds counts once."""
        found: dict[int, bool] = {}
        for sample in self.samples:
            if sample.finding != "unmeasured":
                place = sample.cell.key.first + sample.index
                found[place] = found.get(place, False) or sample.finding != "none"
        return Rate(sum(found.values()), len(found))

    @property
    def protects(self) -> bool | None:
        """See `PROTECTS`; None where nothing leaked of too few examples, or where nothing could be attacked."""
        share = self.leaks
        if share.hits:
            return False
        return True if share.interval is not None and share.interval[1] < MOST else None

    @property
    def worst(self) -> Sample | None:
        """The example that leaks most."""
        return self.samples[0] if self.samples else None

    @property
    def lost(self) -> float | None:
        """Points of accuracy lost; None where not measured, or where the undefended model has none to lose for sure."""
        return self.cost.points_lost if self.cost is not None and self.cost.learned else None

    @property
    def lost_interval(self) -> Interval | None:
        """Interval of the accuracy lost, if there are several seeds."""
        return None if self.cost is None or self.lost is None else self.cost.points_lost_interval

    @property
    def ruins(self) -> bool | None:
        """Whether next to nothing of what the undefended model learned is left; None where not measured."""
        kept = None if self.cost is None else self.cost.kept
        return None if kept is None else kept < RUINED


@dataclass(frozen=True)
class Frontier:
    """One family of defenses, from its weakest strength tried to its strongest."""

    family: str
    points: tuple[Point, ...]

    @property
    def start(self) -> Point | None:
        """The weakest point from which on every measured one protects; None if the strongest measured does not."""
        return _start([(point, point.protects) for point in self.points])

    @property
    def silent(self) -> Point | None:
        """The weakest point from which on nothing leaked, of however few examples; None if the strongest one leaks."""
        return _start([(p, p.leaks.hits == 0 if p.leaks.trials else None) for p in self.points])

    @property
    def unaware_start(self) -> Point | None:
        """The point without a defense, for attackers who do not know the defense."""
        known = [(p, None if p.unaware is None else p.unaware.protects) for p in self.points]
        return _start(known)

    @property
    def modelled(self) -> bool:
        """Whether attacks can reckon with all of them."""
        return all(point.modelled for point in self.points)


@dataclass(frozen=True)
class Panel:
    """Everything on one batch size and local training.

    Args:
        setting: in words; empty where the record has one only.
        bare: the updates without a defense; None where they were not attacked.
        attackers: names of the threat models that know the defense, pooled; an oracle is none.
        attacks: that ran for them.
        left_out: threat models that were not told of the defense.
    """

    setting: str
    bare: Point | None
    frontiers: tuple[Frontier, ...]
    attackers: tuple[str, ...]
    attacks: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """All of them, the bare one first."""
        return (*((self.bare,) if self.bare else ()), *(point for one in self.frontiers for point in one.points))

    @property
    def priced(self) -> bool:
        """Whether the cost in accuracy of any defended point is known."""
        return any(point.lost is not None for one in self.frontiers for point in one.points)

    @property
    def cheapest(self) -> tuple[Point, ...]:
        """The defense to take, and after it those whose cost its seeds do not tell apart; empty if there is none.

        Of each family the weakest point counts that protects at a known cost and leaves the model working.
        """
        usable: dict[str, Point] = {}
        for point in self.protecting:
            if point.lost is not None and not point.ruins:
                usable.setdefault(point.strength.family, point)
        ranked = sorted(usable.values(), key=lambda p: (p.lost, p.cost.bytes_per_update if p.cost else 0.0))
        return tuple(point for point in ranked if point is ranked[0] or not _dearer(point, ranked[0]))

    @property
    def protecting(self) -> tuple[Point, ...]:
        """Every point on or above its family's start, of families whose steps attacks can know."""
        found = []
        for one in self.frontiers:
            if one.start is not None and one.modelled:
                found += [p for p in one.points[one.points.index(one.start) :] if p.protects]
        return tuple(found)


def panels(record: Record, costs: Sequence[Cost] = ()) -> tuple[Panel, ...]:
    """A panel for each batch size and local training in the record; none if no defense was tried."""
    by, prices = axes(record), {cost.defense: cost for cost in costs}
    open_ones = {name for name in record.header.config.defenses if _public(name, record)}
    groups: dict[tuple[int | None, int | None], list[Cell]] = {}
    for cell in record.cells:
        size = cell.key.batch_size if "batch_size" in by else None
        groups.setdefault((size, cell.key.epochs if "epochs" in by else None), []).append(cell)
    found = [_panel(words.setting(*setting), cells, prices, open_ones) for setting, cells in groups.items()]
    return tuple(panel for panel in found if panel.frontiers)


def _panel(setting: str, cells: Sequence[Cell], prices: Mapping[str, Cost], open_ones: Collection[str]) -> Panel:
    real = [cell for cell in cells if cell.key.threat != "oracle"]
    told = [cell for cell in real if "defense" in cell.knows]
    untold = [cell for cell in real if "defense" not in cell.knows and "state" in cell.knows]
    by_defense = {
        name: replace(_point(name, told, untold, prices), modelled=name in open_ones)
        for name in dict.fromkeys(c.key.defense for c in told)
    }
    families: dict[str, list[Point]] = {}
    for name, point in by_defense.items():
        if name != "none":
            families.setdefault(point.strength.family, []).append(point)
    return Panel(
        setting=setting,
        bare=by_defense.get("none"),
        frontiers=tuple(
            Frontier(family, tuple(sorted(points, key=lambda point: point.strength.order)))
            for family, points in families.items()
        ),
        attackers=tuple(dict.fromkeys(cell.key.threat for cell in told)),
        attacks=tuple(dict.fromkeys(cell.key.attack for cell in _worked(told) or told)),
        left_out=tuple(dict.fromkeys(cell.key.threat for cell in real if "defense" not in cell.knows)),
    )


def _worked(cells: Sequence[Cell]) -> list[Cell]:
    """Cells on whose attacks something can rest: those that neither refused nor crashed."""
    return [cell for cell in cells if cell.status not in words.UNSETTLED]


def _point(name: str, told: Sequence[Cell], untold: Sequence[Cell], prices: Mapping[str, Cost]) -> Point:
    own = [cell for cell in told if cell.key.defense == name]
    others = [cell for cell in untold if cell.key.defense == name]
    unaware = _point(name, others, (), {}) if others else None
    samples, refused = strongest(own)
    values = [s.scores.headline.value for s in samples if s.scores is not None]
    known = [value for value in values if value is not None and not math.isnan(value)]
    guesses = [s.scores.headline.best_baseline for s in samples if s.scores is not None]
    blind = [guess.value for guess in guesses if guess is not None and guess.value is not None]
    return Point(
        defense=name,
        strength=strength_of(name),
        samples=samples,
        refused=refused,
        value=median(known) if known else None,
        interval=of_median(known),
        blind=median(blind) if blind else None,
        cost=prices.get(name),
        unaware=unaware,
    )


def _dearer(one: Point, other: Point) -> bool:
    """Whether the intervals of what they lose are apart."""
    mine, theirs = one.lost_interval, other.lost_interval
    return mine is not None and theirs is not None and mine[0] > theirs[1]


def _start(points: Sequence[tuple[Point, bool | None]]) -> Point | None:
    found: Point | None = None
    for point, protects in reversed(points):
        if protects is False:
            break
        found = point if protects else found
    return found


def _public(defense: str, record: Record) -> bool:
    """Whether any step of a defense is public."""
    if record.header.config.public is not None:
        return bool(record.header.config.public.get(defense))
    from fedseal import defense as defenses  # imported late: a page is made without torch where it can be

    try:
        return bool(defenses.parse(defense).public)
    except FedsealError:  # a user's own, whose steps an older record does not hold
        return False
