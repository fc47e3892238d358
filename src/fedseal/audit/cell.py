"""One cell of an audit: observe, attack, score."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from fedseal import zoo
from fedseal.audit.case import Case, stream
from fedseal.audit.content import content, kind
from fedseal.audit.frames import Frames, decoded
from fedseal.audit.record import Cell, CellKey
from fedseal.errors import BadConfig, FedsealError, UnfitUpdate
from fedseal.metric import Grader, Scores
from fedseal.modality import Text
from fedseal.threat import ThreatModel
from fedseal.types import Attack, Batch, Defense, Modality, Observation, Progress, Reconstruction

GALLERY = 200  # unrelated pictures or sentences
ROWS = 2000  # unrelated rows
SAME = 0.5 / 255  # largest difference of two pictures that are the same once stored in 8 bits
NOTHING = -1  # the label of a true example that no reconstruction was matched to


@dataclass(frozen=True, eq=False)
class Worker:
    """Computes cells, each from its key alone.

    Args:
        attacks, defenses, threats: the values behind the names that keys hold.
        lr: of local epochs, where keys name any and the case's own training has none.
        seen: what was recorded of a key's examples; None to simulate the client.
    """

    case: Case
    attacks: Mapping[str, Attack]
    defenses: Mapping[str, Defense]
    threats: Mapping[str, ThreatModel]
    lr: float | None = None
    seen: Callable[[CellKey], Observation] | None = None
    _graders: dict[tuple[int, int], Grader] = field(default_factory=dict, repr=False)

    def compute(self, key: CellKey, on_step: Callable[[Progress], None]) -> tuple[Cell, dict[str, Tensor]]:
        """The finished cell and its pictures if it has any, as the record stores them."""
        truth = self.case.part(key.first, key.batch_size)
        frames = Frames(self.case.inputs_as)
        started = time.perf_counter()

        def watch(progress: Progress) -> None:
            frames.add(progress)
            on_step(progress)

        # An update that holds nothing to read, a defense that this local training leaves no place for, and an attack
        # that does not fit are findings about this cell. Whatever else goes wrong says nothing about leakage, and ends
        # the audit.
        try:
            observation = self._observe(key)
        except (UnfitUpdate, BadConfig) as error:
            return self._refused(key, truth, error, started)
        try:
            found = self.attacks[key.attack](observation, generator=stream("attack", key.id), progress=watch)
        except FedsealError as error:
            return self._refused(key, truth, error, started)
        return self._finished(key, truth, _on_cpu(found), frames)

    def _observe(self, key: CellKey) -> Observation:
        if self.seen is not None:
            return self.seen(key)
        observation, _ = self.case.over(key.epochs, self.lr).observe(
            first=key.first,
            batch_size=key.batch_size,
            defense=self.defenses[key.defense],
            threat=self.threats[key.threat],
            seed=key.seed,
        )
        return observation

    def _finished(
        self, key: CellKey, truth: Batch, found: Reconstruction, frames: Frames
    ) -> tuple[Cell, dict[str, Tensor]]:
        modality = self.case.inputs_as
        grader = self._grader(key.first, truth)
        scores = None if found.inputs is None else grader.score(found)
        order = _order(scores)
        images = self._pictured(truth)
        if found.inputs is not None and images:
            images["reconstruction"] = _arranged(decoded(modality, found.inputs), order)
        if frames.pictures is not None:
            images["frames"] = _arranged(frames.pictures.transpose(0, 1), order).transpose(0, 1)
        labels = None if found.labels is None else _arranged(found.labels, order, blank=NOTHING)
        end = found.outcome
        cell = Cell(
            key=key,
            status=end.status,
            route=end.route,
            residual=end.residual,
            steps=end.steps,
            seconds=end.seconds,
            note=end.note,
            explanation=found.explanation,
            knows=tuple(sorted(self.threats[key.threat].grants)),
            true_labels=_indices(truth.labels),
            labels=None if labels is None else _indices(labels),
            scores=scores,
            label_score=grader.score_labels(found),
            frame_steps=tuple(frames.steps),
            content=content(modality, truth, found, order, grader.judge),
        )
        return cell, images

    def _refused(
        self, key: CellKey, truth: Batch, error: FedsealError, started: float
    ) -> tuple[Cell, dict[str, Tensor]]:
        cell = Cell(
            key=key,
            status="refused",
            route="",
            residual=None,
            steps=0,
            seconds=time.perf_counter() - started,
            note=str(error),
            explanation=(),
            knows=tuple(sorted(self.threats[key.threat].grants)),
            true_labels=_indices(truth.labels),
            labels=None,
            scores=None,
            frame_steps=(),
            content=content(self.case.inputs_as, truth, None, None),
        )
        return cell, self._pictured(truth)

    def _pictured(self, truth: Batch) -> dict[str, Tensor]:
        """The true examples, where they are shown as pictures; others lie in the cell itself."""
        modality = self.case.inputs_as
        return {} if kind(modality) in ("text", "tabular") else {"truth": decoded(modality, truth.inputs)}

    def _grader(self, first: int, truth: Batch) -> Grader:
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
        return unrelated(self.case.inputs_as, truth, own=self.case.gallery, others=others, count=GALLERY)


def unrelated(
    modality: Modality, truth: Batch, *, own: Tensor | None = None, others: Tensor | None = None, count: int
) -> Tensor | None:
    """Other inputs than the truth, for blind guesses and identification; None where there are none.

    Args:
        own: the user's pictures `(G, C, H, W)`; None for the zoo's.
        others: rows `(G, width)` of the same table. Of sentences the zoo's are taken.
        count: of the zoo's pictures or sentences.
    """
    if kind(modality) == "text":
        return _sentences(cast("Text", modality), truth, count)
    if kind(modality) == "tabular":
        return others[:ROWS].cpu() if others is not None and len(others) else None
    pixels = decoded(modality, truth.inputs)
    if own is not None:
        far = torch.stack([(own.cpu() - picture).abs().flatten(1).amax(1) > SAME for picture in pixels]).all(0)
        return own.cpu()[far] if bool(far.any()) else None
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        return None
    _, channels, height, width = pixels.shape
    return zoo.gallery((channels, height, width), exclude=pixels, count=count)


def _sentences(text: Text, truth: Batch, count: int) -> Tensor:
    """The zoo's sentences as token ids, without those of the truth."""
    ids = text.encode(zoo.sentences(count), truncate=True)
    same = (ids[:, None] == truth.inputs.cpu()[None]).all(2).any(1)
    return ids[~same]


def _on_cpu(found: Reconstruction) -> Reconstruction:
    inputs, labels, surely = (
        None if tensor is None else tensor.detach().cpu() for tensor in (found.inputs, found.labels, found.confidence)
    )
    return replace(found, inputs=inputs, labels=labels, confidence=surely)


def _order(scores: Scores | None) -> list[int | None] | None:
    """For every true example the place of its reconstruction."""
    return None if scores is None else [s.matched for s in sorted(scores.samples, key=lambda s: s.index)]


def _arranged(rows: Tensor, order: Sequence[int | None] | None, blank: float = 0) -> Tensor:
    """The rows in the order of the true examples, blank where there is none; as they are if nothing was matched."""
    if order is None or any(place is not None and place >= len(rows) for place in order):
        return rows
    arranged = rows.new_full((len(order), *rows.shape[1:]), blank)
    for row, place in enumerate(order):
        if place is not None:
            arranged[row] = rows[place]
    return arranged


def _indices(labels: Tensor) -> tuple[int, ...] | None:
    """Class indices of the examples; None for soft labels, and for those of positions."""
    return tuple(int(label) for label in labels.tolist()) if labels.ndim == 1 else None
