"""What a record says, group by group: pure functions of the record."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal, NamedTuple

from fedseal.audit.record import Cell, CellKey, Record
from fedseal.intervals import Interval, wilson
from fedseal.metric.scores import SampleScores

Verdict = Literal["worse", "better", "same", "appeared", "gone"]


@dataclass(frozen=True)
class Rate:
    """How often something happened, with its 95 % confidence interval (Wilson, JASA 1927).

    Args:
        chance: how often it would have happened by blind guessing; None if unknown.
    """

    hits: int
    trials: int
    chance: float | None = None

    @property
    def value(self) -> float | None:
        """Share of hits, None without a trial."""
        return self.hits / self.trials if self.trials else None

    @property
    def interval(self) -> Interval | None:
        """The 95 % confidence interval, None without a trial.

        >>> low, high = Rate(0, 10).interval
        >>> low, round(high, 4)
        (0.0, 0.2775)
        """
        return wilson(self.hits, self.trials) if self.trials else None


@dataclass(frozen=True)
class Group:
    """All cells of one attack on one defense under one threat model, at one batch size and local training.

    Args:
        batch_size, epochs: of these cells; None where the record, or either of two that are compared, has one only.
        cells: finished cells, those that the attack refused and those that crashed included.
        refused, failed: of these cells.
        certified: attacked examples of which the runner is certain, out of `samples`.
        samples: attacked examples in cells that the attack did not refuse, and that did not crash.
        headline: the score that counts for this kind of input, such as "psnr"; None if none was measured.
        mean, median, worst: of that score over the examples that were measured; the worst for the client is the
            highest.
        baselines: for every blind guess its mean score over the same examples.
        identification: examples picked out of the gallery; an attack that gave nothing picked out nothing.
        labels: examples with the right label, of those for which the attack named one.
        label_multiset: true labels that the attack named, in whatever order, of the examples in cells where it named
            any; chance is what blind guessers expect there. Nothing where the attack was given them.
        seconds: median wall time of a cell that the attack did not refuse.
    """

    attack: str
    threat: str
    defense: str
    cells: int
    refused: int
    certified: int
    samples: int
    measured: int
    headline: str | None
    mean: float | None
    median: float | None
    worst: float | None
    baselines: tuple[tuple[str, float], ...]
    identification: Rate
    labels: Rate
    label_multiset: Rate
    seconds: float | None
    batch_size: int | None = None
    epochs: int | None = None
    failed: int = 0

    @property
    def psnr_mean(self) -> float | None:
        """The mean in dB; None for what is no picture."""
        return self.mean if self.headline == "psnr" else None

    @property
    def psnr_median(self) -> float | None:
        """The median in dB; None for what is no picture."""
        return self.median if self.headline == "psnr" else None

    @property
    def psnr_worst(self) -> float | None:
        """The highest in dB; None for what is no picture."""
        return self.worst if self.headline == "psnr" else None

    @property
    def key(self) -> GroupKey:
        """Attack, threat model, defense, and batch size and epochs where they tell groups apart."""
        return GroupKey(self.attack, self.threat, self.defense, self.batch_size, self.epochs)

    def holds(self, cell: Cell) -> bool:
        """Whether the cell is one of the group's."""
        own, theirs = self.key, _key(cell.key, BOTH)
        return own == theirs._replace(
            batch_size=None if own.batch_size is None else theirs.batch_size,
            epochs=None if own.epochs is None else theirs.epochs,
        )


class GroupKey(NamedTuple):
    """What the cells of a group have in common."""

    attack: str
    threat: str
    defense: str
    batch_size: int | None = None
    epochs: int | None = None

    @property
    def setting(self) -> str:
        """Defense, batch size and epochs as one text.

        >>> GroupKey("dlg", "oracle", "prune:0.2", 4, 0).setting, GroupKey("dlg", "oracle", "none", None, 5).setting
        ('prune:0.2, batches of 4, one gradient', 'none, 5 epochs')
        """
        size = [] if self.batch_size is None else [f"batches of {self.batch_size}"]
        course = [] if self.epochs is None else [_course(self.epochs)]
        return ", ".join([self.defense, *size, *course])


def _course(epochs: int) -> str:
    return "one gradient" if epochs == 0 else f"{epochs} epoch{'s' if epochs > 1 else ''}"


Axis = Literal["batch_size", "epochs"]
BOTH: frozenset[Axis] = frozenset({"batch_size", "epochs"})


def axes(*records: Record) -> frozenset[Axis]:
    """Which of batch size and local epochs have more than one value in one of the records."""
    configs = [record.header.config for record in records]
    varied: list[Axis] = []
    varied += ["batch_size"] if any(len(config.batch_sizes) > 1 for config in configs) else []
    varied += ["epochs"] if any(len(config.epochs or ()) > 1 for config in configs) else []
    return frozenset(varied)


def _key(key: CellKey, by: frozenset[Axis]) -> GroupKey:
    size, course = key.batch_size if "batch_size" in by else None, key.epochs if "epochs" in by else None
    return GroupKey(key.attack, key.threat, key.defense, size, course)


def summarize(record: Record, *, by: frozenset[Axis] | None = None) -> tuple[Group, ...]:
    """The groups of a record, in the order of its cells.

    Args:
        by: what tells groups apart, beside attack, threat model and defense; None for the record's own `axes`.
    """
    by = axes(record) if by is None else by
    groups: dict[GroupKey, list[Cell]] = {}
    for cell in record.cells:
        groups.setdefault(_key(cell.key, by), []).append(cell)
    return tuple(_group(key, cells) for key, cells in groups.items())


def _group(key: GroupKey, cells: list[Cell]) -> Group:
    ran = [cell for cell in cells if cell.status not in ("refused", "failed")]
    failed = sum(cell.status == "failed" for cell in cells)
    scored = [sample for cell in ran if cell.scores is not None for sample in cell.scores.samples]
    values = [value for sample in scored if (value := sample.headline.value) is not None and not math.isnan(value)]
    return Group(
        attack=key.attack,
        threat=key.threat,
        defense=key.defense,
        batch_size=key.batch_size,
        epochs=key.epochs,
        cells=len(cells),
        refused=len(cells) - len(ran) - failed,
        failed=failed,
        certified=sum(sum(cell.certain) for cell in ran),
        samples=sum(cell.key.batch_size for cell in ran),
        measured=len(values),
        headline=scored[0].headline.name if values else None,
        mean=fmean(values) if values else None,
        median=median(values) if values else None,
        worst=max(values, default=None),
        baselines=_baselines(scored),
        identification=_identification(ran, scored),
        labels=_labels(scored),
        label_multiset=label_rate(ran),
        seconds=median([cell.seconds for cell in ran]) if ran else None,
    )


def _baselines(scored: Iterable[SampleScores]) -> tuple[tuple[str, float], ...]:
    values: dict[str, list[float]] = {}
    for baseline in (baseline for sample in scored for baseline in sample.headline.baselines):
        if baseline.value is not None:
            values.setdefault(baseline.name, []).append(baseline.value)
    return tuple((name, fmean(known)) for name, known in values.items())


def _identification(ran: list[Cell], scored: list[SampleScores]) -> Rate:
    found = [sample.identification for sample in scored if sample.identification is not None]
    matched = sum(sample.matched is not None for sample in scored)
    nothing = sum(cell.key.batch_size for cell in ran) - matched  # examples for which the attack gave no picture
    if matched and not found:  # nobody looked: there was no gallery
        return Rate(0, 0)
    chance = fmean(identification.chance for identification in found) if found else None
    return Rate(sum(identification.hit for identification in found), len(found) + nothing, chance)


def _labels(scored: list[SampleScores]) -> Rate:
    named = [sample.label_correct for sample in scored if sample.label_correct is not None]
    return Rate(sum(named), len(named))


def label_rate(cells: Iterable[Cell]) -> Rate:
    """True labels that attacks named in these cells, in whatever order; cells whose attacker was given them aside."""
    named = [cell.label_score for cell in cells if cell.label_score is not None and "labels" not in cell.knows]
    total = sum(score.of for score in named)
    expected = [None if score.chance is None else score.chance * score.of for score in named]
    known = [value for value in expected if value is not None]
    chance = sum(known) / total if total and len(known) == len(expected) else None
    return Rate(sum(score.right for score in named), total, chance)


@dataclass(frozen=True)
class Change:
    """One measure of one group in two records.

    Args:
        measure: "identification", "labels", or the median of a score, such as "psnr_median" and "rouge1_median".
        verdict: seen from the client: "worse" if more leaks than before; "appeared" and "gone" for groups and measures
            that only one record has.
        certain: for rates, whether their 95 % intervals are apart; None for what has none.
        batch_size, epochs: of the group; None where each record has one only.
    """

    attack: str
    threat: str
    defense: str
    measure: str
    unit: str
    old: float | None
    new: float | None
    verdict: Verdict
    certain: bool | None
    batch_size: int | None = None
    epochs: int | None = None

    @property
    def setting(self) -> str:
        """Defense, and batch size and epochs where either record has several."""
        return GroupKey(self.attack, self.threat, self.defense, self.batch_size, self.epochs).setting


# Changes below this are the arithmetic's, not the attack's: decibels of PSNR; shares change by whole words or cells.
TOLERANCE = {"psnr": 0.1}


def compare(old: Record, new: Record) -> tuple[Change, ...]:
    """What leaks more or less than before, for every group and measure of either record; the worse first.

    Two records of the same audit compare equal: times do not count.
    """
    by = axes(old, new)
    before = {group.key: group for group in summarize(old, by=by)}
    after = {group.key: group for group in summarize(new, by=by)}
    changes = [
        change for key in dict.fromkeys([*before, *after]) for change in _changes(key, before.get(key), after.get(key))
    ]
    ranking: tuple[Verdict, ...] = ("worse", "appeared", "gone", "better", "same")
    return tuple(sorted(changes, key=lambda change: ranking.index(change.verdict)))


def _changes(key: GroupKey, old: Group | None, new: Group | None) -> list[Change]:
    names = dict.fromkeys(g.headline for g in (old, new) if g is not None and g.headline is not None)
    changes = [
        _rate_change(key, "identification", *(None if g is None else g.identification for g in (old, new))),
        *(_median_change(key, name, old, new) for name in names),
        _rate_change(key, "labels", *(None if g is None else g.labels for g in (old, new))),
    ]
    return [change for change in changes if change.old is not None or change.new is not None]


def _median_change(key: GroupKey, name: str, old: Group | None, new: Group | None) -> Change:
    was, now = (g.median if g is not None and g.headline == name else None for g in (old, new))
    unit = "dB" if name == "psnr" else ""
    return _change(key, f"{name}_median", unit, was, now, _verdict(was, now, TOLERANCE.get(name, 0.0)), None)


def _rate_change(key: GroupKey, measure: str, old: Rate | None, new: Rate | None) -> Change:
    was = None if old is None else old.value
    now = None if new is None else new.value
    certain = None
    if old is not None and new is not None and old.interval is not None and new.interval is not None:
        certain = old.interval[1] < new.interval[0] or new.interval[1] < old.interval[0]
    return _change(key, measure, "", was, now, _verdict(was, now, 0.0), certain)


def _change(
    key: GroupKey,
    measure: str,
    unit: str,
    was: float | None,
    now: float | None,
    verdict: Verdict,
    certain: bool | None,
) -> Change:
    return Change(*key[:3], measure, unit, was, now, verdict, certain, key.batch_size, key.epochs)


def _verdict(old: float | None, new: float | None, tolerance: float) -> Verdict:
    if old is None:
        return "appeared"
    if new is None:
        return "gone"
    if old == new or abs(new - old) <= tolerance:
        return "same"
    return "worse" if new > old else "better"
