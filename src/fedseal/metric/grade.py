"""Grade a reconstruction against the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from fedseal.errors import UnfitBatch
from fedseal.metric.labels import binary, score_findings, score_labels, targets_of
from fedseal.metric.picture import PictureJudge
from fedseal.metric.rows import RowJudge
from fedseal.metric.scores import Baseline, Identification, LabelScore, SampleScores, Score, Scores
from fedseal.metric.text import Sentences
from fedseal.types import Batch, Modality, Reconstruction


class Judge(Protocol):
    """Compares examples of one kind; what an example is after reading is the judge's own affair."""

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of one reconstructed example; None where any size will do."""

    def read(self, inputs: Tensor) -> tuple[list[int], Sequence[Any]]:
        """The examples of model inputs `(N, ...)` that can be compared, and their places."""

    def match(self, truths: Sequence[Any], guesses: Sequence[Any]) -> tuple[int | None, ...]:
        """For each truth the index of its guess, None for those left over."""

    def blind(self, truth: Any) -> Mapping[str, tuple[Baseline, ...]]:
        """For every score what blind guesses reach."""

    def scores(self, truth: Any, guess: Any, blind: Mapping[str, tuple[Baseline, ...]]) -> tuple[Score, ...]:
        """All scores, the headline first; without values if the guess is None."""

    def identify(self, truth: Any, guess: Any) -> Identification | None:
        """Whether the guess picks the truth out of a gallery; None where none is looked at."""


# kind of a modality, as it describes itself -> its judge, made of the modality and the gallery
JUDGES: Mapping[str, Callable[[Any, Tensor | None], Judge]] = {
    "image": PictureJudge,
    "text": Sentences,
    "tabular": RowJudge,
}


def score(reconstruction: Reconstruction, batch: Batch, *, modality: Modality, gallery: Tensor | None = None) -> Scores:
    """Score every true example against the reconstruction matched to it, beside what blind guesses score.

    A reconstruction without inputs scores None throughout; an input of it that is not finite, or that holds no text, is
    matched to nothing. Pictures score by "psnr", "ssim" and "mse"; sentences by "rouge1", "rouge2", "rougeL", "tokens"
    (the share at the right place) and "sentence" (1 for the very same); rows of a table by "columns" (the share that
    agrees) and "row" (1 if all do).

    Args:
        reconstruction: inputs `(M, ...)` as the model is fed them, or None.
        batch: the truth, inputs `(N, ...)`.
        modality: what an input is.
        gallery: inputs unrelated to the batch: pictures `(G, C, H, W)` in [0, 1], such as `zoo.gallery` gives, token
            ids `(G, L)`, or encoded rows `(G, width)`. Blind guesses are made of it; None leaves those without a value
            that need it. The first 99 pictures serve identification too.

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
        batch: the truth, inputs `(N, ...)`.
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
        _check("batch", self.batch.inputs, self.modality.shape)
        _ = self.judge

    @cached_property
    def judge(self) -> Judge:
        """What compares the examples; a modality of an unknown kind is judged as pictures are."""
        return JUDGES.get(self.modality.kind, PictureJudge)(self.modality, self.gallery)

    @cached_property
    def baselines(self) -> tuple[Mapping[str, tuple[Baseline, ...]], ...]:
        """For every true example what blind guesses score, by metric."""
        return tuple(self.judge.blind(truth) for truth in self._truths)

    def score(self, reconstruction: Reconstruction) -> Scores:
        """The scores of a reconstruction; see `fedseal.metric.score`.

        Raises:
            UnfitBatch: the reconstruction is not of the modality's shape.
        """
        _check("reconstruction", reconstruction.inputs, self.judge.shape)
        judge, truths = self.judge, self._truths
        places, guesses = ([], []) if reconstruction.inputs is None else judge.read(reconstruction.inputs)
        sure = reconstruction.certain
        samples = []
        for index, (truth, column) in enumerate(zip(truths, judge.match(truths, guesses), strict=True)):
            guess = None if column is None else guesses[column]
            place = None if column is None else places[column]
            label = self._label_right(index, place, reconstruction.labels)
            certain = place is not None and place < len(sure) and bool(sure[place])
            found = None if guess is None else judge.identify(truth, guess)
            scores = judge.scores(truth, guess, self.baselines[index])
            samples.append(SampleScores(index, place, scores, found, label, certain))
        return Scores(tuple(samples))

    def score_labels(self, reconstruction: Reconstruction) -> LabelScore | None:
        """How many of the batch's labels a reconstruction names, in whatever order; None if it names none.

        Of soft labels the likeliest class counts, and of several findings each. Labels of positions and numbers are
        not counted.
        """
        if self._findings(reconstruction.labels):
            return score_findings(self.batch.labels.cpu(), reconstruction.labels)
        true = _indices(self.batch.labels)
        return None if true is None else score_labels(true, _indices(reconstruction.labels), self.classes)

    def _label_right(self, index: int, place: int | None, labels: Tensor | None) -> bool | None:
        """Whether the label named for an example is its own; None where nothing was named, or nothing can be compared.

        Of several findings all have to be right.
        """
        if labels is None or place is None or place >= len(labels):
            return None
        if self._findings(labels):
            true, said = self.batch.labels[index].reshape(-1).cpu(), labels[place].reshape(-1).cpu()
            return bool(((said >= 0.5) == (true > 0.5)).all()) if said.shape == true.shape else None
        wanted, named = _indices(self.batch.labels), _indices(labels)
        return None if wanted is None or named is None else wanted[index] == named[place]

    def _findings(self, labels: Tensor | None) -> bool:
        """Whether the batch's labels are findings; classes are where more than one, or 0 to 1 of one, were named."""
        true = self.batch.labels
        kind = targets_of(true)
        named = labels is not None and targets_of(labels) in ("findings", "numbers")
        return kind == "findings" or (kind in ("soft", "classes") and binary(true) and named)

    @cached_property
    def _truths(self) -> Sequence[Any]:
        places, truths = self.judge.read(self.batch.inputs)
        if len(places) < len(self.batch):
            lost = next(place for place in range(len(self.batch)) if place not in places)
            raise UnfitBatch(f"example {lost} of the batch holds nothing to compare", "leave it out")
        return truths


def _indices(labels: Tensor | None) -> list[int] | None:
    """Class indices, of soft labels the likeliest class; None where there are none, or where labels are no classes."""
    if labels is None or targets_of(labels) not in ("classes", "soft"):
        return None
    return [int(label) for label in (labels.argmax(-1) if labels.ndim == 2 else labels)]


def _check(what: str, inputs: Tensor | None, wanted: Sequence[int | None]) -> None:
    given = None if inputs is None else tuple(inputs.shape[1:])
    if given is None or (len(given) == len(wanted) and all(w in (None, g) for w, g in zip(wanted, given, strict=True))):
        return
    sizes = ", ".join("any" if size is None else str(size) for size in wanted)
    raise UnfitBatch(f"the {what}'s inputs have shape {tuple(inputs.shape)}", f"give (N, {sizes})")  # type: ignore[union-attr]
