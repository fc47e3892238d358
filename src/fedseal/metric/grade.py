"""Grade a reconstruction against the truth."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedseal.errors import BadConfig, UnfitBatch
from fedseal.metric.baseline import baselines
from fedseal.metric.identify import GALLERY, identify
from fedseal.metric.image import METRICS
from fedseal.metric.labels import score_labels
from fedseal.metric.match import match
from fedseal.metric.scores import Baseline, LabelScore, SampleScores, Score, Scores
from fedseal.types import Batch, Modality, Reconstruction


def score(reconstruction: Reconstruction, batch: Batch, *, modality: Modality, gallery: Tensor | None = None) -> Scores:
    """Score every true example against the reconstruction matched to it, beside what blind guesses score.

    Both sides are decoded by the modality, in float64. A reconstruction without inputs scores None throughout; an
    input of it that is not finite is matched to nothing.

    Args:
        reconstruction: inputs `(M, C, H, W)` as the model is fed them, or None.
        batch: the truth, inputs `(N, C, H, W)`.
        modality: what an input is.
        gallery: pictures `(G, C, H, W)` in [0, 1] unrelated to the batch, such as `zoo.gallery` gives. All serve the
            baselines, the first 99 identification; None leaves both without a value, the grey baseline aside.

    Raises:
        UnfitBatch: the batch or the reconstruction is not of the modality's shape.
        BadConfig: the gallery is not of the modality's shape, or empty.

    >>> import fedseal as fs
    >>> batch = fs.zoo.photos(size=16)[:2]
    >>> outcome = fs.Outcome("exact", "told", 0.0, 0, 0.0)
    >>> perfect = fs.Reconstruction(batch.inputs.flip(0), batch.labels.flip(0), outcome)
    >>> scores = score(perfect, batch, modality=fs.Image(shape=(3, 16, 16)))
    >>> scores.psnr, [sample.matched for sample in scores.samples]
    (200.0, [1, 0])
    """
    return Grader(batch, modality=modality, gallery=gallery).score(reconstruction)


@dataclass(frozen=True, eq=False)
class Grader:
    """One truth, ready to grade many reconstructions of it; what blind guesses score is computed once.

    Args:
        batch: the truth, inputs `(N, C, H, W)`.
        modality: what an input is.
        gallery: as for `score`.
        classes: number of classes, for blind guesses of labels; None if unknown.

    Raises:
        UnfitBatch: the batch is not of the modality's shape.
        BadConfig: the gallery is not of the modality's shape, or empty.
    """

    batch: Batch
    _: KW_ONLY
    modality: Modality
    gallery: Tensor | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.modality.shape)
        _check("batch", self.batch.inputs, self.modality)
        if self.gallery is not None and (tuple(self.gallery.shape[1:]) != shape or len(self.gallery) == 0):
            raise BadConfig(
                f"the gallery has shape {tuple(self.gallery.shape)}", f"give (G, {', '.join(map(str, shape))})"
            )

    @cached_property
    def baselines(self) -> tuple[dict[str, tuple[Baseline, ...]], ...]:
        """For every true example what blind guesses score, by metric."""
        truths, unrelated = _decoded(self.batch.inputs, self.modality), self._unrelated()
        return tuple({name: baselines(name, truth, unrelated) for name in METRICS} for truth in truths)

    def score(self, reconstruction: Reconstruction) -> Scores:
        """The scores of a reconstruction; see `fedseal.metric.score`.

        Raises:
            UnfitBatch: the reconstruction is not of the modality's shape.
        """
        _check("reconstruction", reconstruction.inputs, self.modality)
        truths, unrelated = _decoded(self.batch.inputs, self.modality), self._unrelated()
        places, guesses = _guesses(reconstruction, self.modality)
        labels = _indices(self.batch.labels)
        said = None if reconstruction.labels is None else _indices(reconstruction.labels)
        samples = []
        for index, (truth, column) in enumerate(zip(truths, match(truths, guesses), strict=True)):
            guess = None if column is None else guesses[column]
            place = None if column is None else places[column]
            scores = {name: _score(name, guess, truth, self.baselines[index][name]) for name in METRICS}
            label = None if said is None or place is None or place >= len(said) else said[place] == labels[index]
            found = None
            if guess is not None and unrelated is not None:
                found = identify(guess, truth, unrelated[: GALLERY - 1])
            samples.append(SampleScores(index, place, **scores, identification=found, label_correct=label))
        return Scores(tuple(samples))

    def score_labels(self, reconstruction: Reconstruction) -> LabelScore | None:
        """How many of the batch's labels a reconstruction names, in whatever order; None if it names none.

        Of soft labels the likeliest class counts.
        """
        named = None if reconstruction.labels is None else _indices(reconstruction.labels)
        return score_labels(_indices(self.batch.labels), named, self.classes)

    def _unrelated(self) -> Tensor | None:
        return None if self.gallery is None else self.gallery.detach().cpu().double()


def _score(name: str, guess: Tensor | None, truth: Tensor, blind: tuple[Baseline, ...]) -> Score:
    function, unit, higher = METRICS[name]
    values = None if guess is None else function(guess[None], truth)
    return Score(name, unit, None if values is None else values[0], higher, blind)


def _decoded(inputs: Tensor, modality: Modality) -> Tensor:
    return modality.decode(inputs.detach().cpu().double())


def _guesses(reconstruction: Reconstruction, modality: Modality) -> tuple[list[int], Tensor]:
    """The finite reconstructed examples, decoded, and their places in the reconstruction."""
    if reconstruction.inputs is None:
        return [], torch.empty(0, *modality.shape, dtype=torch.float64)
    finite = torch.isfinite(reconstruction.inputs).flatten(1).all(1)
    return finite.nonzero().flatten().tolist(), _decoded(reconstruction.inputs[finite], modality)


def _indices(labels: Tensor) -> list[int]:
    """Class indices; of soft labels the likeliest class."""
    return [int(label) for label in (labels.argmax(-1) if labels.ndim == 2 else labels)]


def _check(what: str, inputs: Tensor | None, modality: Modality) -> None:
    shape = tuple(modality.shape)
    if inputs is not None and tuple(inputs.shape[1:]) != shape:
        raise UnfitBatch(
            f"the {what}'s inputs have shape {tuple(inputs.shape)}", f"give (N, {', '.join(map(str, shape))})"
        )
