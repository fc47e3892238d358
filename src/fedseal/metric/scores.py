"""Scores as values: no score travels without its baselines, and what was not measured is None."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Baseline:
    """What somebody scores who never saw the update."""

    name: str
    value: float | None


@dataclass(frozen=True)
class Score:
    """One measured value, its unit, and what blind guesses score on the same sample.

    Args:
        name: such as "psnr"; `grade.JUDGES` says which a kind of input has.
        unit: "dB", or "" for shares and indices.
        value: None where nothing could be measured.
        higher_is_leakier: how to compare it with its baselines.
    """

    name: str
    unit: str
    value: float | None
    higher_is_leakier: bool
    baselines: tuple[Baseline, ...]

    @property
    def best_baseline(self) -> Baseline | None:
        """The baseline hardest to beat."""
        known = [b for b in self.baselines if b.value is not None]
        sign = 1 if self.higher_is_leakier else -1
        return max(known, key=lambda b: sign * (b.value or 0.0), default=None)


@dataclass(frozen=True)
class Identification:
    """Whether the truth is the nearest to the reconstruction in a gallery that holds it once.

    Args:
        hit: True if it is.
        rank: 1 for the nearest.
        gallery: number of pictures in the gallery, the truth included; chance is one in that many.
    """

    hit: bool
    rank: int
    gallery: int

    @property
    def chance(self) -> float:
        """The probability that a blind guess hits."""
        return 1.0 / self.gallery


@dataclass(frozen=True)
class LabelScore:
    """How many of a batch's labels an attack named, in whatever order.

    Args:
        right: true labels among the named ones; of several findings for each example, those that are right.
        of: examples of the batch, or all their findings.
        baselines: shares; the last is that of somebody who names one class for all and was told the most frequent, or
            for each finding whether it is commoner to be there.
    """

    right: int
    of: int
    baselines: tuple[Baseline, ...]

    @property
    def value(self) -> float:
        """Share of the true labels that were named."""
        return self.right / self.of

    @property
    def chance(self) -> float | None:
        """The share that the better of the blind guessers expects, none of whom was told anything; None if unknown."""
        return max((b.value for b in self.baselines[:-1] if b.value is not None), default=None)


@dataclass(frozen=True)
class SampleScores:
    """How well one true example was recovered.

    Args:
        index: its place in the batch.
        matched: the place of the reconstruction that was matched to it, None if there is none.
        scores: every measure of its kind of input; the first is the one that findings and rankings go by.
        identification: None where no gallery was looked at.
        label_correct: None where the attack gave no label, or where labels belong to positions or are numbers; of
            several findings, whether all are right.
        certain: whether the example is certain, by the reconstruction's certificate; None where no record says.
    """

    index: int
    matched: int | None
    scores: tuple[Score, ...]
    identification: Identification | None
    label_correct: bool | None
    certain: bool | None = None

    @property
    def headline(self) -> Score:
        """The score that findings and rankings go by."""
        return self.scores[0]

    def score(self, name: str) -> Score | None:
        """The score of that name, None if this kind of input has none."""
        return next((score for score in self.scores if score.name == name), None)

    @property
    def psnr(self) -> Score:
        """Peak signal-to-noise ratio of an image in dB."""
        return self._named("psnr")

    @property
    def ssim(self) -> Score:
        """Structural similarity of an image."""
        return self._named("ssim")

    @property
    def mse(self) -> Score:
        """Mean squared error of an image."""
        return self._named("mse")

    def _named(self, name: str) -> Score:
        found = self.score(name)
        if found is None:
            raise AttributeError(f"there is no score '{name}' among {', '.join(score.name for score in self.scores)}")
        return found


@dataclass(frozen=True)
class Scores:
    """The scores of a reconstruction, one entry for each true example."""

    samples: tuple[SampleScores, ...]

    @property
    def headline(self) -> str:
        """The name of the score that findings and rankings go by."""
        return self.samples[0].headline.name

    def mean(self, name: str) -> float | None:
        """Mean of a score over the batch; None if any sample has none."""
        values = [None if (score := sample.score(name)) is None else score.value for sample in self.samples]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    @property
    def psnr(self) -> float | None:
        """Mean peak signal-to-noise ratio over the batch in dB; None if any sample has none, or is no picture."""
        return self.mean("psnr")

    @property
    def identified(self) -> float | None:
        """Share of samples identified in the gallery."""
        hits = [s.identification.hit for s in self.samples if s.identification is not None]
        return sum(hits) / len(hits) if len(hits) == len(self.samples) else None
