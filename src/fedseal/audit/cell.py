"""One cell of an audit: observe, attack, verify, score."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fedseal.audit.case import Case, stream
from fedseal.audit.content import decoded
from fedseal.audit.executor import Computed
from fedseal.audit.frames import Frames
from fedseal.audit.kinds import input_kind
from fedseal.audit.record import Cell, CellCertificate, CellKey
from fedseal.audit.verification import DOOR, Verified, verified
from fedseal.errors import BadConfig, FedsealError, Misfit, UnfitModel, UnfitUpdate
from fedseal.metric import Grader, Scores
from fedseal.threat import ThreatModel
from fedseal.types import Attack, Batch, Defense, Observation, Progress, Reconstruction

GALLERY = 200  # unrelated pictures or sentences
NOTHING = -1  # the label of a true example that no reconstruction was matched to


@dataclass(eq=False)
class _Watch:
    """Keeps an attack's iterations and tells who looks on; `broken` once that raised, which is no crash of the cell."""

    frames: Frames
    on_step: Callable[[Progress], None]
    broken: bool = False

    def __call__(self, progress: Progress) -> None:
        self.frames.add(progress)
        self.broken = True
        self.on_step(progress)
        self.broken = False


@dataclass(frozen=True, eq=False)
class Worker:
    """Computes cells, each from its key alone.

    Args:
        attacks, defenses, threats: the values behind the names that keys hold.
        lr: of local epochs, where keys name any and the case's own training has none.
        recorded: what was recorded of a key's examples; None to simulate the client.
    """

    case: Case
    attacks: Mapping[str, Attack]
    defenses: Mapping[str, Defense]
    threats: Mapping[str, ThreatModel]
    lr: float | None = None
    recorded: Callable[[CellKey], Observation] | None = None
    _graders: dict[tuple[int, int], Grader] = field(default_factory=dict, repr=False)

    def compute(self, key: CellKey, on_step: Callable[[Progress], None]) -> Computed:
        """The finished cell and its pictures if it has any, as the record stores them.

        Raises:
            FedsealError: what the case's model and data do not allow for whatever cell, which ends the audit.
        """
        truth, started = self.case.part(key.first, key.batch_size), time.perf_counter()
        watch = _Watch(Frames(self.case.inputs_as), on_step)
        try:
            return self._computed(key, truth, started, watch)
        except FedsealError:
            raise
        except Exception as error:
            if watch.broken:
                raise
            return self._failed(key, truth, error, started)

    def _computed(self, key: CellKey, truth: Batch, started: float, watch: _Watch) -> Computed:
        # An update that holds nothing to read, a defense that this model or local training leaves no place for, and an
        # attack that does not fit are findings about this cell. A model that does not take the data ends the audit.
        try:
            observation = self._observe(key)
        except (UnfitUpdate, BadConfig) as error:
            return self._refused(key, truth, error, started)
        except UnfitModel as error:
            if key.defense == "none":
                raise
            return self._refused(key, truth, error, started)
        try:
            answer = verified(self.attacks[key.attack], observation, generator=stream("attack", key.id), progress=watch)
        except FedsealError as error:
            if isinstance(error, DOOR) and not isinstance(error, Misfit):
                return self._refused(key, truth, error, started)
            return self._failed(key, truth, error, started)
        return self._finished(key, truth, answer._replace(found=answer.found.to("cpu")), watch.frames)

    def _observe(self, key: CellKey) -> Observation:
        if self.recorded is not None:
            return self.recorded(key)
        observation, _ = self.case.over(key.epochs, self.lr).observe(
            first=key.first,
            batch_size=key.batch_size,
            defense=self.defenses[key.defense],
            threat=self.threats[key.threat],
            seed=key.seed,
        )
        return observation

    def _finished(self, key: CellKey, truth: Batch, answer: Verified, frames: Frames) -> Computed:
        modality, found = self.case.inputs_as, answer.found
        grader = self.grader(key.first, truth)
        scores = None if found.inputs is None else grader.score(found)
        order = matches(scores)
        images = self._pictured(truth)
        if found.inputs is not None and images:
            images["reconstruction"] = arranged(decoded(modality, found.inputs), order)
        if frames.pictures is not None:
            images["frames"] = arranged(frames.pictures.transpose(0, 1), order).transpose(0, 1)
        labels = None if found.labels is None else arranged(found.labels, order, blank=NOTHING)
        end = found.outcome
        cell = Cell(
            key=key,
            status=end.status,
            route=end.route,
            residual=end.residual,
            steps=end.steps,
            seconds=end.seconds,
            check_seconds=answer.check_seconds if found.inputs is not None else None,
            note=end.note,
            explanation=found.explanation,
            certificate=_certificate(found, order),
            knows=tuple(sorted(self.threats[key.threat].grants)),
            true_labels=_indices(truth.labels),
            labels=None if labels is None else _indices(labels),
            true_targets=_targets(truth.labels),
            targets=None if labels is None else _targets(labels),
            scores=scores,
            label_score=grader.score_labels(found),
            frame_steps=tuple(frames.steps),
            content=input_kind(modality).content(modality, truth, found, order, grader.judge),
        )
        return Computed(cell, images)

    def _refused(self, key: CellKey, truth: Batch, error: FedsealError, started: float) -> Computed:
        """The attack said at its door why it cannot."""
        return Computed(self._without(key, truth, "refused", str(error), started), self._pictured(truth))

    def _failed(self, key: CellKey, truth: Batch, error: Exception, started: float) -> Computed:
        """Something crashed, which is no finding about the data; its traceback goes to the run folder."""
        words = (
            str(error) if isinstance(error, FedsealError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        )
        cell = self._without(key, truth, "failed", words.rstrip(": "), started)
        return Computed(cell, self._pictured(truth), "".join(traceback.format_exception(error)))

    def _without(
        self, key: CellKey, truth: Batch, status: Literal["refused", "failed"], note: str, started: float
    ) -> Cell:
        return Cell(
            key=key,
            status=status,
            route="",
            residual=None,
            steps=0,
            seconds=time.perf_counter() - started,
            note=note,
            explanation=(),
            knows=tuple(sorted(self.threats[key.threat].grants)),
            true_labels=_indices(truth.labels),
            labels=None,
            true_targets=_targets(truth.labels),
            scores=None,
            frame_steps=(),
            content=input_kind(self.case.inputs_as).content(self.case.inputs_as, truth, None, None),
        )

    def _pictured(self, truth: Batch) -> dict[str, Tensor]:
        """The true examples, where they are shown as pictures; others lie in the cell itself."""
        modality = self.case.inputs_as
        return {"truth": decoded(modality, truth.inputs)} if input_kind(modality).pictured else {}

    def grader(self, first: int, truth: Batch) -> Grader:
        """What grades every attack on this truth, made once: blind guesses take longer to score than attacks do."""
        place = (first, len(truth))
        if place not in self._graders:
            self._graders[place] = Grader(
                truth.to("cpu"),
                modality=self.case.inputs_as,
                gallery=self._gallery(first, truth),
                classes=self.case.num_classes,
            )
        return self._graders[place]

    def _gallery(self, first: int, truth: Batch) -> Tensor | None:
        inputs = self.case.batch.inputs.cpu()
        others = torch.cat([inputs[:first], inputs[first + len(truth) :]])
        other = input_kind(self.case.inputs_as).unrelated
        return other(self.case.inputs_as, truth, own=self.case.gallery, others=others, count=GALLERY)


def matches(scores: Scores | None) -> list[int | None] | None:
    """For every true example the place of its reconstruction."""
    return None if scores is None else [s.matched for s in sorted(scores.samples, key=lambda s: s.index)]


def _certificate(found: Reconstruction, order: Sequence[int | None] | None) -> CellCertificate | None:
    """The certificate with its examples in the order of the true ones."""
    proof = found.certificate
    if proof is None:
        return None
    places = list(range(len(proof.certain))) if order is None else order
    return CellCertificate(
        kind=proof.kind,
        residual=proof.residual,
        tolerance=proof.tolerance,
        sensitivity=tuple(
            proof.sensitivity[place] if place is not None and proof.sensitivity else None for place in places
        ),
        certain=tuple(place is not None and proof.certain[place] for place in places),
        assumption=proof.assumption,
        note=proof.note,
    )


def arranged(rows: Tensor, order: Sequence[int | None] | None, blank: float = 0) -> Tensor:
    """The rows in the order of the true examples, blank where there is none; as they are if nothing was matched."""
    if order is None or any(place is not None and place >= len(rows) for place in order):
        return rows
    filled = rows.new_full((len(order), *rows.shape[1:]), blank)
    for row, place in enumerate(order):
        if place is not None:
            filled[row] = rows[place]
    return filled


def _targets(labels: Tensor) -> tuple[tuple[float, ...], ...] | None:
    """Findings or numbers, `(N, outputs)` or `(N,)`, as rows; None for class indices, and for those of positions."""
    if not labels.is_floating_point():
        return None
    return tuple(tuple(float(value) for value in row) for row in labels.reshape(len(labels), -1).tolist())


def _indices(labels: Tensor) -> tuple[int, ...] | None:
    """Class indices of the examples; None for rows and numbers, and for those of positions."""
    if labels.ndim != 1 or labels.is_floating_point():
        return None
    return tuple(int(label) for label in labels.tolist())
