"""One cell laid out: pictures, scores beside their blind guesses, certificate, iterations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedseal.audit.record import Cell
from fedseal.metric.scores import Score
from fedseal.report import words
from fedseal.report.picture import Budget, Pictures, png, thinned
from fedseal.report.tally import Finding, Sample, samples

FULL_SCALE = 60.0  # decibels at the right end of a bar

FINDINGS: dict[Finding, str] = {
    "recovered": "Recovered",
    "traces": "Traces",
    "none": "Not recovered",
    "unmeasured": "Not measured",
}


@dataclass(frozen=True)
class Measure:
    """A score beside the blind guess that is hardest to beat; shares from 0 to 100 for the bar, None without one."""

    name: str
    value: str
    blind: str
    blind_name: str
    share: float | None
    blind_share: float | None


@dataclass(frozen=True)
class Panel:
    """One private example: original, reconstruction and scores; pictures as base64 PNG, empty where there is none."""

    title: str
    truth: str
    guess: str
    finding: Finding
    finding_text: str
    measures: tuple[Measure, ...]
    identification: str
    chance: str
    label: str
    label_wrong: bool


@dataclass(frozen=True)
class Card:
    """One cell."""

    id: str
    title: str
    cell: Cell
    status: str
    status_help: str
    certified: bool
    certificate: str
    seconds: str
    panels: tuple[Panel, ...]
    frame_steps: tuple[int, ...]
    frames: tuple[tuple[str, ...], ...]

    @property
    def finding(self) -> Finding:
        """That of the leakiest example."""
        return max(self.panels, key=lambda p: ("unmeasured", "none", "traces", "recovered").index(p.finding)).finding


def make_card(cell: Cell, pictures: Pictures | None, afford: Budget, noun: str, *, animated: bool) -> Card:
    """Lay out a cell.

    Args:
        cell: with or without scores.
        pictures: None where there are none to show.
        afford: how much of the pictures fits.
        noun: what an example is called at the start of a title, "Picture" or "Example".
        animated: whether to keep its iterations.
    """
    found = samples(cell)
    panels = tuple(_panel(cell, sample, pictures, afford, noun) for sample in found)
    status, status_help = words.STATUS[cell.status]
    steps, frames = _frames(cell, panels, pictures, afford) if animated else ((), ())
    last = cell.key.first + cell.key.batch_size - 1
    return Card(
        id=cell.key.id,
        title=f"{noun} {cell.key.first}" if last == cell.key.first else f"{noun}s {cell.key.first} to {last}",
        cell=cell,
        status=status,
        status_help=status_help,
        certified=cell.status in words.CERTIFIED,
        certificate=words.certificate(cell),
        seconds=words.seconds(cell.seconds),
        panels=panels,
        frame_steps=steps,
        frames=frames,
    )


def _panel(cell: Cell, sample: Sample, pictures: Pictures | None, afford: Budget, noun: str) -> Panel:
    scores = sample.scores
    truth = png(pictures.truth[sample.index], afford.still_side) if pictures else ""
    guess = ""
    if pictures and pictures.reconstruction is not None and scores is not None and scores.matched is not None:
        guess = png(pictures.reconstruction[sample.index], afford.still_side)
    label, wrong = _label(cell, sample.index)
    identification = None if scores is None else scores.identification
    return Panel(
        title=f"{noun} {cell.key.first + sample.index}",
        truth=truth,
        guess=guess,
        finding=sample.finding,
        finding_text=FINDINGS[sample.finding],
        measures=()
        if scores is None
        else (_measure("PSNR", scores.psnr, FULL_SCALE), _measure("SSIM", scores.ssim, 1.0)),
        identification=""
        if identification is None
        else f"{'Found' if identification.hit else f'Place {identification.rank}'} among {identification.gallery}",
        chance="" if identification is None else words.percent(identification.chance),
        label=label,
        label_wrong=wrong,
    )


def _measure(name: str, score: Score, scale: float) -> Measure:
    best = score.best_baseline

    def text(value: float | None) -> str:
        return words.decibel(value) if score.unit == "dB" else words.number(value)

    def share(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else round(100 * min(max(value / scale, 0.0), 1.0), 1)

    return Measure(
        name=name,
        value=text(score.value),
        blind=text(best.value) if best else "–",
        blind_name=best.name if best else "no blind guess measured",
        share=share(score.value),
        blind_share=share(best.value) if best else None,
    )


def _label(cell: Cell, index: int) -> tuple[str, bool]:
    """The true label and the recovered one in words, and whether they differ."""
    true = None if cell.true_labels is None else cell.true_labels[index]
    guess = None if cell.labels is None or index >= len(cell.labels) else cell.labels[index]
    shown = "soft" if true is None else str(true)
    if "labels" in cell.knows:
        return f"{shown}, given to the attack", False
    if guess is None or guess < 0:
        return f"{shown}, not recovered", False
    if guess == true:
        return f"{shown}, recovered", False
    return f"{shown}, recovered as {guess}", true is not None


def _frames(
    cell: Cell, panels: Sequence[Panel], pictures: Pictures | None, afford: Budget
) -> tuple[tuple[int, ...], tuple[tuple[str, ...], ...]]:
    """The kept iterations: their steps, and for each one the examples' pictures in the panels' order.

    The reconstruction itself stands at the end with step -1, unless the last iteration shows the same.
    """
    kept = thinned(len(cell.frame_steps), afford.frames)
    if pictures is None or pictures.frames is None or len(kept) < 2:
        return (), ()
    frames = [tuple(png(picture, afford.frame_side) for picture in pictures.frames[i][: len(panels)]) for i in kept]
    steps = [cell.frame_steps[i] for i in kept]
    final = tuple(panel.guess for panel in panels)
    if all(final) and final != frames[-1]:
        return (*steps, -1), (*frames, final)
    return tuple(steps), tuple(frames)
