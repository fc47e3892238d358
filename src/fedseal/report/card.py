"""One cell laid out: pictures, scores beside their blind guesses, certificate, iterations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedseal.audit.record import Cell
from fedseal.metric.scores import Score
from fedseal.report import words
from fedseal.report.examples import ExamplePair, example_of
from fedseal.report.kind import MEASURES, Finding, kind_of_cell
from fedseal.report.picture import Budget, ReportPictures, png, thinned
from fedseal.report.tally import Sample, leakage, samples

FINDINGS: dict[Finding, str] = {
    "recovered": "Recovered",
    "traces": "Traces",
    "none": "Not recovered",
    "unmeasured": "Not measured",
}


@dataclass(frozen=True)
class CardMeasure:
    """A score beside the blind guess that is hardest to beat; shares from 0 to 100 for the bar, None without one.

    Args:
        tone: what the value alone would amount to, for the bar's color.
    """

    name: str
    value: str
    blind: str
    blind_name: str
    share: float | None
    blind_share: float | None
    tone: Finding = "none"


@dataclass(frozen=True)
class CardPanel:
    """One private example: original, reconstruction and scores.

    Args:
        truth, guess: pictures as base64 PNG, empty where there is none.
        pair: sentences or rows in their place.
        certain: whether this example is; None where nothing was read.
        doubt: why it is not, as a clause.
    """

    index: int
    title: str
    truth: str
    guess: str
    pair: ExamplePair | None
    finding: Finding
    finding_text: str
    measures: tuple[CardMeasure, ...]
    identification: str
    chance: str
    label: str
    label_wrong: bool
    certain: bool | None
    doubt: str


@dataclass(frozen=True)
class Card:
    """One cell.

    Args:
        panels: the leakiest of its examples, these first.
        illustrated: whether they come with pictures, sentences or rows; False where the page cannot afford them.
        certain: of how many of its examples the attacker is.
        labels: how many labels the attack named, in whatever order; None where it named none.
        recovered: of all its examples.
    """

    id: str
    title: str
    cell: Cell
    status: str
    status_help: str
    certain: int
    certificate: str
    seconds: str
    panels: tuple[CardPanel, ...]
    illustrated: bool
    labels: CardMeasure | None
    recovered: int
    frame_steps: tuple[int, ...]
    frames: tuple[tuple[str, ...], ...]

    @property
    def finding(self) -> Finding:
        """That of the leakiest example."""
        return self.panels[0].finding

    @property
    def finding_text(self) -> str:
        """The finding in words; for a batch the number of recovered examples, if any."""
        if self.examples > 1 and self.recovered:
            return f"{self.recovered} of {self.examples} recovered"
        return FINDINGS[self.finding]

    @property
    def examples(self) -> int:
        """How many the batch has, those without a panel included."""
        return self.cell.key.batch_size

    @property
    def certified(self) -> bool:
        """Whether every example is certain."""
        return self.certain == self.examples

    @property
    def note(self) -> str:
        """What the attack remarked, where the certificate does not say it already."""
        note, proof = self.cell.note, self.cell.certificate
        if self.cell.status in ("diverged", "not_applicable", *words.UNSETTLED):
            return ""
        return "" if proof is not None and note == proof.note else note


@dataclass(frozen=True)
class CardShare:
    """What one cell gets of the page: how many panels, whether with pictures, whether with its iterations."""

    panels: int
    illustrated: bool
    animated: bool


def make_card(
    cell: Cell, pictures: ReportPictures | None, afford: Budget, noun: str, share: CardShare, at: str = ""
) -> Card:
    """Lay out a cell.

    Args:
        cell: with or without scores.
        pictures: None where there are none to show.
        afford: how large pictures may be, and how many iterations.
        noun: what an example is called at the start of a title, such as "Picture".
        share: how much of the cell is shown.
        at: what its place on the page begins with, where the page shows several records.
    """
    found = samples(cell)
    pictures = pictures if share.illustrated else None
    leakiest = sorted(found, key=leakage, reverse=True)[: share.panels]
    panels = tuple(_panel(cell, sample, pictures, afford, noun, share.illustrated) for sample in leakiest)
    status, status_help = words.STATUS[cell.status]
    steps, frames = _frames(cell, panels, pictures, afford) if share.animated else ((), ())
    last = cell.key.first + cell.key.batch_size - 1
    return Card(
        id=at + cell.key.id,
        title=f"{noun} {cell.key.first}" if last == cell.key.first else f"{noun}s {cell.key.first} to {last}",
        cell=cell,
        status=status,
        status_help=status_help,
        certain=sum(sample.certified for sample in found),
        certificate=words.certificate(cell),
        seconds=words.seconds(cell.seconds),
        panels=panels,
        illustrated=share.illustrated,
        labels=_labels(cell),
        recovered=sum(sample.finding == "recovered" for sample in found),
        frame_steps=steps,
        frames=frames,
    )


def _panel(
    cell: Cell, sample: Sample, pictures: ReportPictures | None, afford: Budget, noun: str, illustrated: bool
) -> CardPanel:
    scores = sample.scores
    truth = png(pictures.truth[sample.index], afford.still_side) if pictures else ""
    guess = ""
    if pictures and pictures.reconstruction is not None and scores is not None and scores.matched is not None:
        guess = png(pictures.reconstruction[sample.index], afford.still_side)
    label, wrong = _label(cell, sample.index)
    identification = None if scores is None else scores.identification
    return CardPanel(
        index=sample.index,
        title=f"{noun} {cell.key.first + sample.index}",
        truth=truth,
        guess=guess,
        pair=example_of(cell, sample.index) if illustrated else None,
        finding=sample.finding,
        finding_text=FINDINGS[sample.finding],
        measures=()
        if scores is None
        else tuple(_measure(s) for name in kind_of_cell(cell).shown if (s := scores.score(name)) is not None),
        identification=""
        if identification is None
        else f"{'Found' if identification.hit else f'Place {identification.rank}'} among {identification.gallery}",
        chance="" if identification is None else words.percent(identification.chance),
        label=label,
        label_wrong=wrong,
        certain=sample.certified if scores is not None and scores.matched is not None else None,
        doubt=words.doubt(cell, sample.index, noun.lower()),
    )


def _measure(score: Score) -> CardMeasure:
    best, named = score.best_baseline, MEASURES[score.name]

    def share(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else round(100 * min(max(value / named.full, 0.0), 1.0), 1)

    return CardMeasure(
        name=named.title,
        value=named.written(score.value),
        blind=named.written(best.value) if best else "–",
        blind_name=best.name if best else "no blind guess measured",
        share=share(score.value),
        blind_share=share(best.value) if best else None,
    )


def _labels(cell: Cell) -> CardMeasure | None:
    """Labels in whatever order, beside what the better blind guesser expects."""
    found = cell.label_score
    if found is None:
        return None
    if "labels" in cell.knows:
        return CardMeasure("Labels", "given to the attack", "", "", None, None)
    known = [baseline for baseline in found.baselines if baseline.value is not None]
    return CardMeasure(
        name="Labels",
        value=f"{found.right} of {found.of}",
        blind=words.percent(found.chance),
        blind_name=", ".join(f"{baseline.name} {words.percent(baseline.value)}" for baseline in known),
        share=round(100 * found.value, 1),
        blind_share=None if found.chance is None else round(100 * found.chance, 1),
        tone="none" if found.value <= (found.chance or 0.0) else "recovered" if found.right == found.of else "traces",
    )


def _label(cell: Cell, index: int) -> tuple[str, bool]:
    """The true label and the recovered one in words, and whether they differ; "" where labels belong to positions."""
    if cell.true_targets is not None:
        return _target(cell, cell.true_targets[index], index), False
    if cell.true_labels is None and cell.content is not None:
        return "", False
    true = None if cell.true_labels is None else cell.true_labels[index]
    guess = None if cell.labels is None or index >= len(cell.labels) else cell.labels[index]
    shown = "soft" if true is None else str(true)
    if "labels" in cell.knows:
        return f"{shown}, given to the attack", False
    if guess is None or guess < 0:
        return f"{shown}, not recovered", False
    if cell.scores is None and cell.key.batch_size > 1:  # labels alone stand in no order
        return shown, False
    if guess == true:
        return f"{shown}, recovered", False
    return f"{shown}, recovered as {guess}", true is not None


def _target(cell: Cell, true: Sequence[float], index: int) -> str:
    """The true findings or numbers of one example, and what the attack read."""
    shown = _numbers(true)
    if "labels" in cell.knows:
        return f"{shown}, given to the attack"
    if cell.targets is None or index >= len(cell.targets) or (cell.scores is None and cell.key.batch_size > 1):
        return f"{shown}, not recovered" if cell.targets is None else shown
    guess = cell.targets[index]
    if len(guess) == len(true) and all(value in (0.0, 1.0) for value in true):
        right = sum((one > 0.5) == (other > 0.5) for one, other in zip(true, guess, strict=True))
        return f"{right} of {words.count(len(true), 'finding')} right"
    return f"{shown}, recovered as {_numbers(guess)}"


def _numbers(values: Sequence[float], most: int = 4) -> str:
    return ", ".join([*(f"{value:.3g}" for value in values[:most]), *(["…"] if len(values) > most else [])])


def _frames(
    cell: Cell, panels: Sequence[CardPanel], pictures: ReportPictures | None, afford: Budget
) -> tuple[tuple[int, ...], tuple[tuple[str, ...], ...]]:
    """The kept iterations: their steps, and for each one the examples' pictures in the panels' order.

    The reconstruction itself stands at the end with step -1, in the place of a last iteration that shows the same.
    """
    kept = thinned(len(cell.frame_steps), afford.frames)
    if pictures is None or pictures.frames is None or len(kept) < 2:
        return (), ()
    if pictures.frames.shape[1] <= max(panel.index for panel in panels):  # the attack took them for fewer examples
        return (), ()
    shown = [[pictures.frames[i][panel.index] for panel in panels] for i in kept]
    frames = [tuple(png(picture, afford.frame_side) for picture in row) for row in shown]
    steps = [cell.frame_steps[i] for i in kept]
    final = tuple(panel.guess for panel in panels)
    if not all(final):
        return tuple(steps), tuple(frames)
    before = len(frames) - 1 if frames[-1] == final else len(frames)
    return (*steps[:before], -1), (*frames[:before], final)
