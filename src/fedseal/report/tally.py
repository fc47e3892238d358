"""What the attacks did, counted: a finding for every private example, a tally for every attacker and defense."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from fedseal.audit.record import Cell
from fedseal.audit.summary import Rate, label_rate
from fedseal.metric.scores import SampleScores
from fedseal.report import words
from fedseal.report.kind import Finding, judge


@dataclass(frozen=True)
class Sample:
    """One private example under one attack."""

    cell: Cell
    index: int
    scores: SampleScores | None
    finding: Finding

    @property
    def certified(self) -> bool:
        """Whether the attacker can be sure of this very example without the truth."""
        certain = self.cell.certain
        return self.scores is not None and self.index < len(certain) and certain[self.index]

    @property
    def gain(self) -> float:
        """How far the headline score lies above the best blind guess; minus infinity where that is not known."""
        score = None if self.scores is None else self.scores.headline
        best = None if score is None else score.best_baseline
        if score is None or score.value is None or best is None or best.value is None or math.isnan(score.value):
            return -math.inf
        return score.value - best.value


@dataclass(frozen=True)
class Tally:
    """What the attacks together did to the examples of one threat model and defense; each example counts once.

    Args:
        batch_size, epochs: of these cells; None where the record has one only.
        attacked: examples that at least one attack could work on.
        refused: examples that every attack refused, or failed at.
        failed: whether nothing was attacked for a crash.
        certified: recovered examples that the attacker can be sure of.
        seconds: median time over the recovered examples, of the attack that got each; over all if none was recovered.
        value, blind: median headline score of the same examples, and of their best blind guesses.
        identification: of the same attacks: originals picked out of the gallery; one that gave nothing picked out none.
        labels: true labels named in whatever order, of each batch by the attack that named most; see
            `audit.summary.label_rate`.
        refusal: the first reason why no attack could start, or why it failed; empty where one could.
        best: for each attacked example the attack that counts, the leakiest first.
    """

    threat: str
    defense: str
    knows: tuple[str, ...]
    attacked: int
    refused: int
    failed: bool
    recovered: int
    traces: int
    certified: int
    seconds: float | None
    value: float | None
    blind: float | None
    identification: Rate
    labels: Rate
    refusal: str
    best: tuple[Sample, ...]
    batch_size: int | None = None
    epochs: int | None = None

    @property
    def where(self) -> str:
        """Batch size and local training in words, where the record has several; else empty."""
        return words.setting(self.batch_size, self.epochs)

    def holds(self, cell: Cell) -> bool:
        """Whether the cell is one of these."""
        key = cell.key
        return (
            (key.threat, key.defense) == (self.threat, self.defense)
            and self.batch_size in (None, key.batch_size)
            and self.epochs in (None, key.epochs)
        )

    @property
    def rate(self) -> Rate:
        """How often an example was recovered, with its interval."""
        return Rate(self.recovered, self.attacked)

    @property
    def rank(self) -> tuple[float, ...]:
        """Sorts the leakiest setting last."""
        share = 1 / max(self.attacked, 1)
        gain = -math.inf if self.value is None or self.blind is None else self.value - self.blind
        return (self.attacked > 0, self.recovered * share, self.traces * share, self.certified * share, gain)


def samples(cell: Cell) -> tuple[Sample, ...]:
    """The private examples of one cell; without scores where the attack gave no inputs."""
    if cell.scores is None:
        nothing: Finding = "unmeasured" if cell.status in words.UNSETTLED else "none"
        return tuple(Sample(cell, index, None, nothing) for index in range(cell.key.batch_size))
    return tuple(Sample(cell, scores.index, scores, judge(scores)) for scores in cell.scores.samples)


def leakage(sample: Sample) -> tuple[float, ...]:
    """Sorts the leakiest sample last."""
    order: dict[Finding, int] = {"recovered": 3, "traces": 2, "none": 1, "unmeasured": 0}
    return (order[sample.finding], sample.certified, sample.gain)


def tally(cells: Iterable[Cell]) -> tuple[Tally, ...]:
    """One tally for each threat model and defense, the leakiest first; an oracle, being no real attacker, last.

    Batch sizes and local trainings count apart, where there are several.
    """
    known = list(cells)
    sizes, courses = ({cell.key.batch_size for cell in known}, {cell.key.epochs for cell in known})
    settings: dict[tuple[str, str, int | None, int | None], list[Cell]] = {}
    for cell in known:
        size = cell.key.batch_size if len(sizes) > 1 else None
        course = cell.key.epochs if len(courses) > 1 else None
        settings.setdefault((cell.key.threat, cell.key.defense, size, course), []).append(cell)
    found = (replace(_tally(group), batch_size=size, epochs=course) for (_, _, size, course), group in settings.items())
    tallies = sorted(found, key=lambda t: t.rank, reverse=True)
    return tuple(sorted(tallies, key=lambda t: t.threat == "oracle"))


def leading(tallies: Sequence[Tally]) -> Tally | None:
    """The setting that the headline speaks of; None if nothing was measured."""
    return next((t for t in tallies if t.attacked), None)


def blind_guess(examples: Iterable[Sample]) -> float | None:
    """Median over the examples of the headline score of their best blind guess."""
    best = [sample.scores.headline.best_baseline for sample in examples if sample.scores is not None]
    return _median(baseline.value for baseline in best if baseline is not None)


def strongest(cells: Iterable[Cell]) -> tuple[tuple[Sample, ...], int]:
    """For every attacked example what leaks most of it, the leakiest first; and how many every attack refused."""
    tried = _tried(cells)
    best = [max(group, key=leakage) for group in tried if group]
    return tuple(sorted(best, key=leakage, reverse=True)), len(tried) - len(best)


def _tried(cells: Iterable[Cell]) -> list[list[Sample]]:
    """For each private example what every attack made of it that neither refused nor failed."""
    targets: dict[tuple[int | None, ...], list[Sample]] = {}
    for cell in cells:
        for sample in samples(cell):
            key = (cell.key.first, cell.key.batch_size, cell.key.epochs, cell.key.seed, sample.index)
            targets.setdefault(key, []).append(sample)
    return [[s for s in group if s.cell.status not in words.UNSETTLED] for group in targets.values()]


def _tally(cells: Sequence[Cell]) -> Tally:
    tried = _tried(cells)
    best = [_best(group) for group in tried if group]
    recovered = [s for s in best if s.finding == "recovered"]
    counted = recovered or best
    return Tally(
        threat=cells[0].key.threat,
        defense=cells[0].key.defense,
        knows=cells[0].knows,
        attacked=len(best),
        refused=len(tried) - len(best),
        failed=not best and any(cell.status == "failed" for cell in cells),
        recovered=len(recovered),
        traces=sum(s.finding == "traces" for s in best),
        certified=sum(s.certified for s in recovered),
        seconds=_median(s.cell.seconds for s in counted),
        value=_median(s.scores.headline.value for s in counted if s.scores is not None),
        blind=blind_guess(counted),
        identification=_identification(best),
        labels=_labels(cells),
        refusal="" if best else _refusal(cells),
        best=tuple(sorted(best, key=leakage, reverse=True)),
    )


def _refusal(cells: Sequence[Cell]) -> str:
    """Why nothing was attacked; a crash is said before a refusal."""
    first = min(cells, key=lambda cell: cell.status != "failed")
    return (
        f"{words.reason_of(first)} ({words.traceback(first)})" if first.status == "failed" else words.reason_of(first)
    )


def _identification(best: Sequence[Sample]) -> Rate:
    looked = [s.scores.identification for s in best if s.scores is not None and s.scores.identification is not None]
    if not looked:
        return Rate(0, 0)
    return Rate(sum(found.hit for found in looked), len(best), fmean(found.chance for found in looked))


def _labels(cells: Sequence[Cell]) -> Rate:
    batches: dict[tuple[int, int, int], Cell] = {}
    for cell in cells:
        batch = (cell.key.first, cell.key.batch_size, cell.key.seed)
        if cell.label_score is not None:
            batches[batch] = max(
                batches.get(batch, cell), cell, key=lambda c: c.label_score.right if c.label_score else 0
            )
    return label_rate(batches.values())


def _best(group: Sequence[Sample]) -> Sample:
    """The attack that counts for an example: of those that recovered it a certified one, then the fastest."""
    found = [s for s in group if s.finding == "recovered"]
    if found:
        return min(found, key=lambda s: (not s.certified, s.cell.seconds))
    return max(group, key=leakage)


def _median(values: Iterable[float | None]) -> float | None:
    measured = [value for value in values if value is not None and not math.isnan(value)]
    return median(measured) if measured else None
