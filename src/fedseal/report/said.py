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

Mark = Literal["right", "moved", "wrong", "special", "plain"]

MARKS: dict[Mark, str] = {
    "right": "right token at its place",
    "moved": "token of the sentence, at another place",
    "wrong": "token that the sentence does not have",
}
PIECES = 20_000  # tokens and table cells that a page shows, originals and reconstructions together
GAP = "▢"  # stands where an attack found no token
SPACED = ("Ġ", "▁")  # how byte-pair and unigram tokenizers begin a token that follows a space


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
class Entry:
    """One cell of a row: the original, what the attack read, whether they agree, and its confidence; "" for none."""

    column: str
    truth: str
    guess: str
    right: bool | None
    confidence: str


@dataclass(frozen=True)
class Said:
    """One private sentence or row beside its reconstruction; nothing recovered leaves the guess empty."""

    truth: tuple[Token, ...] = ()
    guess: tuple[Token, ...] = ()
    entries: tuple[Entry, ...] = ()
    found: bool = False

    @property
    def surely(self) -> bool:
        """Whether the attack gave its confidence by cell."""
        return any(entry.confidence for entry in self.entries)


def said(cell: Cell, index: int) -> Said | None:
    """One example of a cell; None for what is shown as pictures."""
    content = cell.content
    return None if content is None or index >= len(content.truth) else laid_out(content, index)


def laid_out(content: Content, index: int) -> Said:
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
    """A sentence's tokens for a page."""
    pieces = any(token.startswith("##") for token in sentence.tokens)
    spaced = any(token.startswith(SPACED) for token in sentence.tokens)
    shown = []
    for place, (token, mark) in enumerate(zip(sentence.tokens, marked, strict=True)):
        joined = token.startswith("##") if pieces else spaced and mark != "special" and not token.startswith(SPACED)
        text = token.removeprefix("##") if pieces else token.lstrip("".join(SPACED)) if spaced else token
        surely = (
            None if sentence.confidence is None or place >= len(sentence.confidence) else sentence.confidence[place]
        )
        helps = [MARKS.get(mark, ""), "" if surely is None else f"confidence {words.percent(surely)}"]
        shown.append(Token(text or GAP, mark, joined and place > 0, ", ".join(h for h in helps if h)))
    return tuple(shown)


def _sentence(texts: Texts, truth: Sentence, guess: Sentence | None) -> Said:
    plain: list[Mark] = ["special" if token in texts.special else "plain" for token in truth.tokens]
    if guess is None:
        return Said(truth=tokens(truth, plain))
    return Said(tokens(truth, plain), tokens(guess, marks(truth, guess, texts.special)), found=True)


def _row(rows: Rows, index: int) -> Said:
    truth = rows.truth[index]
    guess = rows.found[index] if rows.found is not None and index < len(rows.found) else None
    return Said(entries=tuple(_entry(name, truth, guess) for name in truth.values), found=guess is not None)


def _entry(name: str, truth: Row, guess: Row | None) -> Entry:
    right = None if guess is None or guess.right is None else guess.right.get(name)
    surely = None if guess is None or guess.confidence is None else guess.confidence.get(name)
    return Entry(
        column=name,
        truth=value(truth.values[name]),
        guess="" if guess is None else value(guess.values.get(name)),
        right=right,
        confidence="" if surely is None else words.percent(surely),
    )


def value(plain: str | float | bool | None) -> str:
    """A cell's value as text.

    >>> value(0.1 + 0.2), value(41.0), value(None), value("x")
    ('0.3', '41', '–', 'x')
    """
    if plain is None:
        return "–"
    return f"{plain:.6g}" if isinstance(plain, float) else str(plain)
