"""What the report says of each kind of input: its noun, its measures, and when an example counts as recovered.

The definitions here are the only ones: findings, verdict, tables and the page's own words all come from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from fedseal.audit.record import Cell, Record
from fedseal.metric.scores import SampleScores
from fedseal.report import words

Finding = Literal["recovered", "traces", "none", "unmeasured"]

MARGIN = 3.0  # decibels above the best blind guess: half its squared error
ROUGE = 0.9  # ROUGE-1 from which a sentence is as good as read
TENTH = 0.1  # of ROUGE-1 or of the columns, above the best blind guess: more than luck


@dataclass(frozen=True)
class Measure:
    """How a score is called and written.

    Args:
        title: heads a column.
        phrase: in a sentence, after "a" or "a median".
        full: the value at the right end of a bar.
    """

    title: str
    phrase: str
    full: float
    written: Callable[[float | None], str]


MEASURES: Mapping[str, Measure] = {
    "psnr": Measure("PSNR", "PSNR", 60.0, words.decibel),
    "ssim": Measure("SSIM", "SSIM", 1.0, words.number),
    "mse": Measure("MSE", "mean squared error", 1.0, words.number),
    "rouge1": Measure("ROUGE-1", "ROUGE-1", 1.0, words.number),
    "rouge2": Measure("ROUGE-2", "ROUGE-2", 1.0, words.number),
    "rougeL": Measure("ROUGE-L", "ROUGE-L", 1.0, words.number),
    "tokens": Measure("Tokens in place", "share of tokens in place", 1.0, words.percent),
    "sentence": Measure("Whole sentence", "share of whole sentences", 1.0, words.percent),
    "columns": Measure("Columns right", "share of right columns", 1.0, words.percent),
    "row": Measure("Whole row", "share of whole rows", 1.0, words.percent),
}


@dataclass(frozen=True)
class ExampleKind:
    """One kind of input.

    Args:
        noun: of one example.
        headline: the score that findings go by.
        shown: the scores on a card.
        listed: further scores in the table of all cells.
        gallery: whether examples are identified in one.
        judge: what one reconstruction says of one private example.
        definition: the same in words, for readers.
        limit: what its scores do not show.
        terms: entries of the glossary that only this kind needs.
    """

    noun: str
    headline: str
    shown: tuple[str, ...]
    listed: tuple[str, ...]
    gallery: bool
    judge: Callable[[SampleScores], Finding]
    definition: str
    limit: str
    terms: tuple[tuple[str, str], ...]

    @property
    def measure(self) -> Measure:
        """How the headline is written."""
        return MEASURES[self.headline]


def _picture(scores: SampleScores) -> Finding:
    identification = scores.identification
    best = scores.headline.best_baseline
    measured = words.was_measured(scores.headline.value) and best is not None
    if not measured and identification is None:
        return "unmeasured"
    closer = measured and (scores.headline.value or 0.0) - (best.value if best and best.value else 0.0) >= MARGIN
    if closer and (identification is None or identification.hit):
        return "recovered"
    return "traces" if closer or (identification is not None and identification.hit) else "none"


def _share(scores: SampleScores, whole: float) -> Finding:
    """Recovered from `whole` on and above the blind guess, which counts as nothing where none is known."""
    value, best = scores.headline.value, scores.headline.best_baseline
    if value is None or not words.was_measured(value):
        return "unmeasured"
    blind = 0.0 if best is None or best.value is None else best.value
    if value >= whole and value > blind:
        return "recovered"
    return "traces" if value >= blind + TENTH - 1e-9 else "none"


def _sentence(scores: SampleScores) -> Finding:
    return _share(scores, ROUGE)


def _row(scores: SampleScores) -> Finding:
    return _share(scores, 1.0)


PICTURE = ExampleKind(
    noun="picture",
    headline="psnr",
    shown=("psnr", "ssim"),
    listed=("ssim",),
    gallery=True,
    judge=_picture,
    definition="“Recovered” means that the reconstruction has at most half the squared error of the best blind guess "
    "(3 dB more) and picks the original out of the gallery. “Traces” means that only one of the two holds.",
    limit="The scores compare pixels and structure. A reconstruction can score low and still reveal what matters, such "
    "as a label or a telling detail: look at the pictures.",
    terms=(
        (
            "PSNR",
            "Peak signal-to-noise ratio, in decibels: how close two pictures are, pixel by pixel. 10 dB more means a "
            "tenth of the squared error. Around 30 dB differences are hard to see; from 60 dB the pictures are the "
            "same for any purpose.",
        ),
        (
            "SSIM",
            "Structural similarity: how alike edges and textures are, from about 0 (unrelated) to 1 (identical).",
        ),
        (
            "Identification",
            "Whether the reconstruction alone picks the private picture out of a gallery of similar ones. Beside it "
            "stands the chance level: how often a blind guess would hit.",
        ),
    ),
)

SENTENCE = ExampleKind(
    noun="sentence",
    headline="rouge1",
    shown=("rouge1", "rouge2", "tokens"),
    listed=("rouge2", "rougeL", "tokens", "sentence"),
    gallery=False,
    judge=_sentence,
    definition="“Recovered” means that the reconstruction has a ROUGE-1 of at least 0.9, and more than the best blind "
    "guess: nearly every word is there. “Traces” means less, but a ROUGE-1 at least 0.1 above the best blind guess.",
    limit="The scores compare words. A reconstruction can score low and still reveal what matters, such as one name or "
    "one diagnosis: read the sentences.",
    terms=(
        (
            "ROUGE-1, ROUGE-2, ROUGE-L",
            "How many words two sentences share, from 0 to 1: single words in whatever order, pairs of neighbors, and "
            "the longest run of words in the same order. 1 for all of them means the same words in the same order.",
        ),
        (
            "Token",
            "What a language model reads: a word, or a part of one. “In place” means that the right token stands at "
            "the right position. Tokens without text, such as those that begin and end a sentence, are not counted.",
        ),
    ),
)

ROW = ExampleKind(
    noun="row",
    headline="columns",
    shown=("columns",),
    listed=("row",),
    gallery=False,
    judge=_row,
    definition="“Recovered” means that every column of the row is right, where the best blind guess is not: categories "
    "are equal, numbers within 0.319 standard deviations of their column. “Traces” means less, but at least a tenth of "
    "the columns more than the best blind guess.",
    limit="The scores count columns alike. A row can score low and still reveal what matters, such as one diagnosis or "
    "one balance: read the rows.",
    terms=(
        (
            "Columns right",
            "The share of a row's cells that agree with the original: the same category, or a number within 0.319 "
            "standard deviations of its column.",
        ),
        (
            "Confidence",
            "How sure the attack itself is of a token or a cell, which it knows without the original: such as how many "
            "of its independent guesses agree.",
        ),
    ),
)

# kind of a modality, as it describes itself -> how the report speaks of it
KINDS: Mapping[str, ExampleKind] = {"image": PICTURE, "text": SENTENCE, "tabular": ROW}
_OTHER = ExampleKind(**{**vars(PICTURE), "noun": "example"})  # scored as pictures are, whatever it is
_BY_HEADLINE = {kind.headline: kind for kind in KINDS.values()}


def kind_of(record: Record) -> ExampleKind:
    """The kind of input that a record is about."""
    return KINDS.get(str(record.header.config.modality.get("kind")), _OTHER)


def kind_of_cell(cell: Cell) -> ExampleKind:
    """The kind of a cell's examples, from the content of the cell itself."""
    if cell.content is None:
        return PICTURE
    return SENTENCE if cell.content.kind == "text" else ROW


def judge(scores: SampleScores) -> Finding:
    """What one reconstruction says of one private example."""
    return _BY_HEADLINE.get(scores.headline.name, PICTURE).judge(scores)
