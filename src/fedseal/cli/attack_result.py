"""What came of one attack: pictures and numbers in a folder, and the same in words."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedseal import metric
from fedseal.audit.cell import GALLERY
from fedseal.audit.content import decoded
from fedseal.audit.frames import Frames
from fedseal.audit.kinds import input_kind
from fedseal.audit.record import Content
from fedseal.audit.verification import Verified
from fedseal.cli import terminal
from fedseal.files import changing_folder, write_whole
from fedseal.metric.labels import targets_of
from fedseal.metric.scores import LabelScore, SampleScores, Scores
from fedseal.modality import picture
from fedseal.report import words
from fedseal.report.examples import laid_out
from fedseal.report.kind import KINDS, MEASURES
from fedseal.report.terminal import beside, indented
from fedseal.setup.attack import AttackSpec, Target
from fedseal.types import Batch, Reconstruction

SHOWN = 10  # iterations on the strip
LONG = 16  # targets of one example that are written out
HELD = 8  # frames for which the animation rests on its end
FILES = ("original.png", "reconstruction.png", "strip.png", "iterations.gif", "result.json")

STATUS = {
    "exact": "exact: a closed form, and every example is certain",
    "converged": "converged: a search, and every example is certain",
    "budget": "not certain of every example",
    "diverged": "diverged: what came out is further from the update than nothing at all, or holds no numbers; more "
    "starts often help: --restarts 20",
    "not_applicable": "no route: the attack found no way that fits what it was given",
}


@dataclass(frozen=True, eq=False)
class Result:
    """One attack's end as it was verified, with its scores where the truth is known."""

    recipe: str
    request: AttackSpec
    target: Target
    found: Reconstruction
    check_seconds: float
    scores: Scores | None
    content: Content | None = None
    label_score: LabelScore | None = None

    @property
    def pictured(self) -> bool:
        """Whether the examples are shown as pictures."""
        return input_kind(self.target.modality).pictured

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
            "check_seconds": self.check_seconds,
            "note": end.note,
            "certificate": None if self.found.certificate is None else asdict(self.found.certificate),
            "labels": None if labels is None else labels.tolist(),
            "true_labels": None if truth is None else truth.labels.tolist(),
            "scores": None if self.scores is None else [_by_name(sample) for sample in self.scores.samples],
            "examples": None if self.content is None else self.content.model_dump(mode="json"),
            "explanation": [asdict(note) for note in self.found.explanation],
            "notes": list(self.target.notes),
            "modality": self.target.modality.describe(),
            "request": {
                key: str(value) if isinstance(value, Path) else value for key, value in asdict(self.request).items()
            },
        }


def _by_name(sample: SampleScores) -> dict[str, object]:
    """A sample's scores under their names."""
    plain = asdict(sample)
    scores = plain.pop("scores")
    return {**plain, **{score["name"]: score for score in scores}}


def grade(recipe: str, request: AttackSpec, target: Target, answer: Verified) -> Result:
    """The result with scores and their baselines, which are None where nobody knows the truth, or nothing was found."""
    found, took = answer.found.to("cpu"), answer.check_seconds
    if target.truth is None:
        return Result(recipe, request, target, found, took, None, _guesses(target, found))
    kind = input_kind(target.modality)
    others = kind.unrelated(target.modality, target.truth, others=target.others, count=GALLERY)
    grader = metric.Grader(target.truth, modality=target.modality, gallery=others)
    scores = None if found.inputs is None else grader.score(found)
    order = None if scores is None else [sample.matched for sample in scores.samples]
    shown = kind.content(target.modality, target.truth, found, order, grader.judge)
    return Result(recipe, request, target, found, took, scores, shown, grader.score_labels(found))


def _guesses(target: Target, found: Reconstruction) -> Content | None:
    """What was read out of an update whose truth nobody knows, shown in the place of the truth."""
    if found.inputs is None:
        return None
    labels = torch.zeros(len(found.inputs), dtype=torch.long)
    return input_kind(target.modality).content(target.modality, Batch(found.inputs, labels), None, None)


def write_result(folder: Path, result: Result, frames: Frames) -> None:
    """Write the pictures, small ones enlarged, and `result.json`; what an earlier attack left there goes first.

    Raises:
        StorageFailure: a file cannot be written.
    """
    modality, truth, inputs = result.target.modality, result.target.truth, result.found.inputs
    with changing_folder(folder):
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
    if result.pictured and truth is not None:
        picture.save_picture(_side_by_side(decoded(modality, truth.inputs)), folder / "original.png")
    stages = [] if frames.pictures is None else [frame.float() / 255 for frame in frames.pictures]
    if result.pictured and inputs is not None:
        ended = decoded(modality, inputs)
        stages = [stage for stage in stages if stage.shape == ended.shape]  # a route may guess another number of them
        stages = [stage[_shown(result)] for stage in [*stages, ended]]
        picture.save_picture(_side_by_side(stages[-1]), folder / "reconstruction.png")
    if stages:
        picture.save_picture(_rows(_thinned(stages)), folder / "strip.png")
        film = [_side_by_side(stage) for stage in stages]
        picture.gif([*film, *film[-1:] * HELD], folder / "iterations.gif", scale=1)
    content = json.dumps(terminal.finite(result.plain()), indent=2, allow_nan=False)
    write_whole(folder / "result.json", (content + "\n").encode())


def tell(result: Result, folder: Path, *, explain: bool) -> None:
    """Print the result in words."""
    end = result.found.outcome
    if explain:
        for note in result.found.explanation:
            terminal.say(f"route {note.route}: {'taken' if note.taken else 'refused'}: {note.reason}")
        if not result.found.explanation:
            terminal.say(f"route {end.route}: taken: the recipe '{result.recipe}' has no other")
    for key, value in (
        ("route", end.route or "none"),
        ("status", STATUS[end.status]),
        ("certain", _certain(result)),
        ("note", end.note),
        ("residual", _residual(result)),
        ("label", _labels(result)),
        ("time", f"{words.seconds(end.seconds)}, {words.count(end.steps, 'step')}{_checking(result)}"),
    ):
        if value:
            terminal.say(f"{key + ':':<10}{value}")
    _tell_scores(result)
    terminal.say(f"{'files:':<10}{folder}/")


def _tell_scores(result: Result) -> None:
    """Every example's scores, and below them what it was and what was read, unless those are pictures."""
    truth, known = result.target.truth, KINDS.get(result.target.modality.kind, KINDS["image"])
    title = MEASURES[known.headline].title
    for sample in result.scores.samples if result.scores is not None else ():
        which = f"{known.noun} {sample.index + 1}: " if truth is not None and len(truth) > 1 else ""
        if result.pictured:
            terminal.say(f"{'PSNR:':<10}{which}{_psnr(sample)}")
        else:
            terminal.say(f"{f'{title}: ':<10}{which}{_shares(sample, known.shown)}")
            _tell_example(result, sample.index)
    if truth is None:
        terminal.say(f"{f'{title}: ':<10}not measured: the truth behind a captured update is not known")
    if result.scores is None and result.content is not None:
        for index in range(len(result.content.truth)):
            _tell_example(result, index)


def _tell_example(result: Result, index: int) -> None:
    if result.content is not None:
        for line in beside(laid_out(result.content, index), original_known=result.target.truth is not None):
            terminal.line(indented(line))


def _shares(sample: SampleScores, names: tuple[str, ...]) -> str:
    """The headline beside its blind guesses, then the other scores."""
    first = sample.headline
    write = MEASURES[first.name].written
    blind = ", ".join(f"{b.name} {write(b.value)}" for b in first.baselines if b.value is not None)
    more = [(name, sample.score(name)) for name in names if name != first.name]
    rest = "".join(f", {MEASURES[name].phrase} {MEASURES[name].written(s.value)}" for name, s in more if s is not None)
    return f"{write(first.value)}{f' (blind guesses: {blind})' if blind else ''}{rest}"


def _residual(result: Result) -> str:
    value = result.found.outcome.residual
    if value is None:
        return "not known: this adversary cannot replay the update" if result.found.inputs is not None else ""
    return f"{words.unexplained(value)} of the update is unexplained"


def _checking(result: Result) -> str:
    """What checking took, where there was something to check."""
    return f"; checked in {words.seconds(result.check_seconds)}" if result.found.inputs is not None else ""


def _certain(result: Result) -> str:
    """Which examples are certain, why, and what that rests on; else why none is."""
    proof, inputs = result.found.certificate, result.found.inputs
    if inputs is None:
        return ""
    if proof is None:
        return "no: nothing could be proved"
    sure = [place for place, certain in enumerate(proof.certain) if certain]
    reason = proof.note.rstrip(".")
    if not sure:
        return f"no: {reason or 'the reconstruction does not explain the update'}"
    who = "yes" if len(sure) == len(inputs) == 1 else f"{len(sure)} of {len(inputs)}"
    if 0 < len(sure) < len(inputs):
        scored = result.scores.samples if result.scores is not None else ()
        named = [sample.index for sample in scored if sample.certain] or sure  # as the scores below count them
        who += f" ({', '.join(str(place + 1) for place in named)})"
    how = "replayed, it gives the update" if proof.kind == "replay" else "the first layer's equations hold"
    moved = min(proof.sensitivity[place] for place in sure)
    rest = f"; of the others: {reason}" if reason else ""
    return (
        f"{who}: {how} to {words.unexplained(proof.residual)}, and a visible change would move it by "
        f"{words.unexplained(moved)} or more; assumes {proof.assumption}{rest}"
    )


def _labels(result: Result) -> str:
    truth = None if result.target.truth is None else result.target.truth.labels
    if truth is not None and targets_of(truth) == "positions":
        return ""  # which the tokens show
    if result.found.labels is None:
        return "not recovered"
    found = result.found.labels
    if not found.is_floating_point():
        return _classes(result, found)
    if targets_of(found) == "soft" and (truth is None or targets_of(truth) == "classes"):
        return _classes(result, found.argmax(-1))
    return _rows_of_labels(found, truth, result.label_score)


def _rows_of_labels(found: Tensor, truth: Tensor | None, score: LabelScore | None) -> str:
    """Findings, probabilities or numbers, a row for each example."""
    read = _written(found)
    if truth is None or not truth.is_floating_point():
        return read
    if score is not None:
        return f"{read}: {score.right} of {score.of} right, the truth is {_written(truth)}"
    return f"{read}, the truth is {_written(truth)}"


def _written(rows: Tensor) -> str:
    told = [[f"{value:.3g}" for value in row] for row in rows.reshape(len(rows), -1)[:SHOWN].tolist()]
    cut = [", ".join([*row[:LONG], *(["..."] if len(row) > LONG else [])]) for row in told]
    return "; ".join([*cut, *(["..."] if len(rows) > SHOWN else [])])


def _classes(result: Result, labels: Tensor) -> str:
    named = labels.tolist()
    read, truth = ", ".join(str(label) for label in named), result.target.truth
    if truth is None:
        return read
    if result.target.observation.labels is not None:
        return f"{read}, given to the attack"
    if truth.labels.ndim > 1:
        return f"{read}, the truth is {_written(truth.labels)}"
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
