"""What came of one attack: pictures and numbers in a folder, and the same in words."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedseal import metric, zoo
from fedseal.audit.frames import Frames, decoded
from fedseal.cli import terminal
from fedseal.cli.sources import Aim, Request
from fedseal.errors import StorageFailure
from fedseal.metric.scores import SampleScores, Scores
from fedseal.modality import picture
from fedseal.report import words
from fedseal.types import Reconstruction

GALLERY = 200
SHOWN = 10  # iterations on the strip
HELD = 8  # frames for which the animation rests on its end
FILES = ("original.png", "reconstruction.png", "strip.png", "iterations.gif", "result.json")

STATUS = {
    "exact": "exact: its equations determine the data and hold to the arithmetic's precision",
    "converged": "converged: it reproduces the update to the arithmetic's precision",
    "budget": "not certified: the steps were used up before the update was reproduced to the arithmetic's precision",
    "diverged": "diverged: the search ran away from the update instead of towards it; more starts often help: "
    "--restarts 20",
    "not_applicable": "no route: the attack found no way that fits what it was given",
}


@dataclass(frozen=True, eq=False)
class Result:
    """One attack's end, with its scores where the truth is known."""

    recipe: str
    request: Request
    target: Aim
    found: Reconstruction
    scores: Scores | None

    def plain(self) -> dict[str, object]:
        """Everything but the pictures as plain values, the content of `result.json`."""
        end, truth, labels = self.found.outcome, self.target.truth, self.found.labels
        return {
            "recipe": self.recipe,
            "status": end.status,
            "route": end.route,
            "residual": end.residual,
            "steps": end.steps,
            "seconds": end.seconds,
            "note": end.note,
            "labels": None if labels is None else labels.tolist(),
            "true_labels": None if truth is None else truth.labels.tolist(),
            "scores": None if self.scores is None else [asdict(sample) for sample in self.scores.samples],
            "explanation": [asdict(note) for note in self.found.explanation],
            "notes": list(self.target.notes),
            "modality": self.target.modality.describe(),
            "request": {
                key: str(value) if isinstance(value, Path) else value for key, value in asdict(self.request).items()
            },
        }


def grade(found: Reconstruction, target: Aim) -> Scores | None:
    """Scores with their baselines; None where nobody knows the truth, or nothing was found."""
    if target.truth is None or found.inputs is None:
        return None
    gallery = zoo.gallery(target.modality.shape, exclude=decoded(target.modality, target.truth.inputs), count=GALLERY)
    return metric.score(_on_cpu(found), target.truth, modality=target.modality, gallery=gallery)


def write(folder: Path, result: Result, frames: Frames) -> None:
    """Write the pictures, small ones enlarged, and `result.json`; what an earlier attack left there goes first.

    Raises:
        StorageFailure: a file cannot be written.
    """
    modality, truth, inputs = result.target.modality, result.target.truth, result.found.inputs
    try:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise StorageFailure(f"cannot write to '{folder}' ({error.strerror})", "choose another --out") from None
    if truth is not None:
        picture.save(_side_by_side(decoded(modality, truth.inputs)), folder / "original.png")
    stages = [] if frames.pictures is None else [frame.float() / 255 for frame in frames.pictures]
    if inputs is not None:
        ended = decoded(modality, inputs)
        stages = [stage for stage in stages if stage.shape == ended.shape]  # a route may guess another number of them
        stages = [stage[_shown(result)] for stage in [*stages, ended]]
        picture.save(_side_by_side(stages[-1]), folder / "reconstruction.png")
    if stages:
        picture.save(_rows(_thinned(stages)), folder / "strip.png")
        film = [_side_by_side(stage) for stage in stages]
        picture.gif([*film, *film[-1:] * HELD], folder / "iterations.gif", scale=1)
    content = json.dumps(terminal.finite(result.plain()), indent=2, allow_nan=False)
    try:
        (folder / "result.json").write_text(content + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageFailure(
            f"cannot write '{folder / 'result.json'}' ({error.strerror})", "free some space, or choose another --out"
        ) from None


def tell(result: Result, folder: Path, *, explain: bool) -> None:
    """Print the result in words."""
    end, truth = result.found.outcome, result.target.truth
    if explain:
        for note in result.found.explanation:
            terminal.say(f"route {note.route}: {'taken' if note.taken else 'refused'}: {note.reason}")
        if not result.found.explanation:
            terminal.say(f"route {end.route}: taken: the recipe '{result.recipe}' has no other")
    for key, value in (
        ("route", end.route or "none"),
        ("status", STATUS[end.status]),
        ("note", end.note),
        ("residual", _residual(result)),
        ("label", _labels(result)),
        ("time", f"{words.seconds(end.seconds)}, {words.count(end.steps, 'step')}"),
    ):
        if value:
            terminal.say(f"{key + ':':<10}{value}")
    for sample in result.scores.samples if result.scores is not None else ():
        which = f"picture {sample.index + 1}: " if truth is not None and len(truth) > 1 else ""
        terminal.say(f"{'PSNR:':<10}{which}{_psnr(sample)}")
    if truth is None:
        terminal.say(f"{'PSNR:':<10}not measured: the truth behind a captured update is not known")
    terminal.say(f"{'files:':<10}{folder}/")


def _residual(result: Result) -> str:
    value = result.found.outcome.residual
    if value is None:
        return "not known: this adversary cannot replay the update" if result.found.inputs is not None else ""
    return f"{words.residual(value)} of the update is unexplained"


def _labels(result: Result) -> str:
    if result.found.labels is None:
        return "not recovered"
    named = result.found.labels.tolist()
    read, truth = ", ".join(str(label) for label in named), result.target.truth
    if truth is None:
        return read
    if result.target.observation.labels is not None:
        return f"{read}, given to the attack"
    right, true = (Counter(named) & Counter(truth.labels.tolist())).total(), truth.labels.tolist()
    if right == len(true) == len(named):
        return f"{read}, right" if right == 1 else f"{read}, all right"
    share = f", {right} of {len(true)} right" if len(true) > 1 else ""
    return f"{read}{share}, the truth is {', '.join(str(label) for label in true)}"


def _psnr(sample: SampleScores) -> str:
    blind = ", ".join(f"{b.name} {words.decibel(b.value)}" for b in sample.psnr.baselines if b.value is not None)
    line = f"{words.decibel(sample.psnr.value)} (blind guesses: {blind})"
    found = sample.identification
    if found is None:
        return line
    place = "picked out" if found.hit else f"place {found.rank}"
    return f"{line}, {place} among {found.gallery} pictures"


def _on_cpu(found: Reconstruction) -> Reconstruction:
    inputs = None if found.inputs is None else found.inputs.detach().cpu()
    labels = None if found.labels is None else found.labels.detach().cpu()
    return Reconstruction(inputs, labels, found.outcome, found.explanation)


def _shown(result: Result) -> list[int]:
    """The places of the reconstructions in the order of the true examples that they were matched to."""
    assert result.found.inputs is not None
    places = list(range(len(result.found.inputs)))
    first = [sample.matched for sample in result.scores.samples] if result.scores is not None else []
    matched = [place for place in first if place is not None]
    return [*matched, *(place for place in places if place not in matched)]


def _rows(stages: list[Tensor]) -> Tensor:
    """The stages `(N, C, H, W)` of each example from left to right, one example below the other."""
    rows = [picture.strip(list(stage)) for stage in torch.stack(stages, dim=1)]
    space = torch.ones_like(rows[0][:, :2])
    return torch.cat([part for row in rows for part in (space, row)][1:], dim=1)


def _side_by_side(pixels: Tensor) -> Tensor:
    """Pictures `(N, C, H, W)` as one, enlarged until a person sees something."""
    return picture.strip(list(pixels))


def _thinned(stages: list[Tensor]) -> list[Tensor]:
    """At most SHOWN of them, evenly spaced, the first and the last included."""
    if len(stages) <= SHOWN:
        return stages
    return [stages[place] for place in torch.linspace(0, len(stages) - 1, SHOWN).round().int().tolist()]
