"""Sentences and rows laid out: what of a reconstruction is right, wrong, or right at another place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from fedseal.audit.record import Cell, Content, Row, Rows, Sentence, Texts
from fedseal.report import words
from fedseal.report.picture import PANELS, Budget
from fedseal.vocabulary import SPACED

Mark = Literal["right", "moved", "wrong", "special", "plain"]

MARKS: dict[Mark, str] = {
    "right": "right token at its place",
    "moved": "token of the sentence, at another place",
    "wrong": "token that the sentence does not have",
}
PIECES = 20_000  # tokens and table cells that a page shows, originals and reconstructions together
GAP = "▢"  # stands where an attack found no token
CLOSED = "</w>"  # how other byte-pair tokenizers end a word
BLANK = "␣"  # stands where a token is nothing but a space


@dataclass(frozen=True)
class Token:
    """A token as a page shows it.

    Args:
        joined: whether it goes on with the word before it.
        help: what the mark means, and the attack's confidence where it has one.
    """

    text: str
    mark: Mark
    joined: bool
    help: str


@dataclass(frozen=True)
class ExampleEntry:
    """One cell of a row: the original, what the attack read, whether they agree, and its confidence; "" for none.

    Long names and values are shortened; the record keeps them whole.
    """

    column: str
    truth: str
    guess: str
    right: bool | None
    confidence: str


@dataclass(frozen=True)
class ExamplePair:
    """One private sentence or row beside its reconstruction; nothing recovered leaves the guess empty."""

    truth: tuple[Token, ...] = ()
    guess: tuple[Token, ...] = ()
    entries: tuple[ExampleEntry, ...] = ()
    found: bool = False

    @property
    def has_confidence(self) -> bool:
        """Whether the attack gave its confidence by cell."""
        return any(entry.confidence for entry in self.entries)


def example_of(cell: Cell, index: int) -> ExamplePair | None:
    """One example of a cell; None for what is shown as pictures."""
    content = cell.content
    return None if content is None or index >= len(content.truth) else laid_out(content, index)


def laid_out(content: Content, index: int) -> ExamplePair:
    """One example of what a cell holds."""
    if isinstance(content, Texts):
        guess = content.found[index] if content.found is not None and index < len(content.found) else None
        return _sentence(content, content.truth[index], guess)
    return _row(content, index)


def text_budget(cells: Sequence[Cell]) -> Budget:
    """What a page affords of sentences and rows: fewer examples of each cell, and for the later cells none of them."""
    lengths = [2 * _pieces(cell) for cell in cells]  # beside each other
    for most in PANELS:
        panels = tuple(min(cell.key.batch_size, most) for cell in cells)
        spent = list(accumulate(n * length for n, length in zip(panels, lengths, strict=True)))
        if not spent or spent[-1] <= PIECES:
            break
    return Budget(0, 0, 0, panels, tuple(pieces <= PIECES for pieces in spent), (False,) * len(cells))


def _pieces(cell: Cell) -> int:
    """Tokens of the longest sentence, or columns of a row."""
    if cell.content is None:
        return 0
    if isinstance(cell.content, Texts):
        return max(len(sentence.tokens) for sentence in cell.content.truth)
    return max(len(row.values) for row in cell.content.truth)


def marks(truth: Sentence, guess: Sentence, special: Collection[str]) -> list[Mark]:
    """For every token of the guess how it stands to the truth; each true token serves once.

    >>> marks(Sentence(text="", tokens=("a", "b", "c")), Sentence(text="", tokens=("a", "c", "x")), ())
    ['right', 'moved', 'wrong']
    """
    pairs = [(token, truth.tokens[i] if i < len(truth.tokens) else None) for i, token in enumerate(guess.tokens)]
    missing = Counter(truth.tokens) - Counter(token for token, true in pairs if token == true)
    found: list[Mark] = []
    for token, true in pairs:
        if token in special:
            found.append("special")
        elif token == true:
            found.append("right")
        elif missing[token] > 0:
            missing[token] -= 1
            found.append("moved")
        else:
            found.append("wrong")
    return found


def tokens(sentence: Sentence, marked: Collection[Mark]) -> tuple[Token, ...]:
    """A sentence's tokens for a page; those that make one character together, or a space and what follows, are one."""
    cut = any(token.startswith("##") for token in sentence.tokens)
    bytewise = sentence.pieces is not None and not any(token.endswith(CLOSED) for token in sentence.tokens)
    spaced = not cut and (bytewise or any(token.startswith(SPACED) for token in sentence.tokens))
    shown: list[Token] = []
    for places, text, mark in _together(sentence, marked, spaced):
        token = sentence.tokens[places[0]]
        after_space = spaced and token.startswith(SPACED)
        joined = token.startswith("##") if cut else spaced and mark != "special" and not after_space
        text = text.removeprefix("##") if cut else text.lstrip(token[0]) if after_space else text
        known = [confidence for place, confidence in enumerate(sentence.confidence or ()) if place in places]
        helps = [MARKS.get(mark, ""), f"confidence {words.percent(min(known))}" if known else ""]
        nothing = BLANK if token else GAP
        shown.append(
            Token(words.printed(text) or nothing, mark, joined and places[0] > 0, ", ".join(h for h in helps if h))
        )
    return tuple(shown)


def _together(sentence: Sentence, marked: Collection[Mark], spaced: bool) -> list[tuple[tuple[int, ...], str, Mark]]:
    """Places and text of what is shown as one, and the mark of its worst token."""
    pieces = sentence.tokens if sentence.pieces is None else sentence.pieces
    found: list[tuple[tuple[int, ...], str, Mark]] = []
    opened = False  # the last one is nothing but a space so far
    for place, (token, piece, mark) in enumerate(zip(sentence.tokens, pieces, marked, strict=True)):
        goes_on = bool(token) and not piece
        follows = opened and bool(piece) and mark != "special" and not token.startswith(SPACED)
        if found and (goes_on or follows):
            places, text, before = found[-1]
            found[-1] = ((*places, place), text + piece, max(before, mark, key=_WORSE.index))
        else:
            found.append(((place,), piece, mark))
        opened = spaced and token in SPACED
    return found


_WORSE: tuple[Mark, ...] = ("special", "plain", "right", "moved", "wrong")


def _sentence(texts: Texts, truth: Sentence, guess: Sentence | None) -> ExamplePair:
    plain: list[Mark] = ["special" if token in texts.special else "plain" for token in truth.tokens]
    if guess is None:
        return ExamplePair(truth=tokens(truth, plain))
    return ExamplePair(tokens(truth, plain), tokens(guess, marks(truth, guess, texts.special)), found=True)


def _row(rows: Rows, index: int) -> ExamplePair:
    truth = rows.truth[index]
    guess = rows.found[index] if rows.found is not None and index < len(rows.found) else None
    return ExamplePair(entries=tuple(_entry(name, truth, guess) for name in truth.values), found=guess is not None)


def _entry(name: str, truth: Row, guess: Row | None) -> ExampleEntry:
    right = None if guess is None or guess.right is None else guess.right.get(name)
    confidence = None if guess is None or guess.confidence is None else guess.confidence.get(name)
    return ExampleEntry(
        column=words.abbreviated(name),
        truth=words.abbreviated(example_value(truth.values[name])),
        guess="" if guess is None else words.abbreviated(example_value(guess.values.get(name))),
        right=right,
        confidence="" if confidence is None else words.percent(confidence),
    )


def example_value(plain: str | float | bool | None) -> str:
    """A cell's value as text.

    >>> example_value(0.1 + 0.2), example_value(41.0), example_value(None), example_value("x")
    ('0.3', '41', '–', 'x')
    """
    if plain is None:
        return "–"
    return f"{plain:.6g}" if isinstance(plain, float) else str(plain)
