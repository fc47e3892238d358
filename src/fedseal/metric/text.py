"""The judge of sentences: ROUGE of their words, tokens by position, whole sentences."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedseal.errors import BadConfig
from fedseal.metric.scores import Baseline, Identification, Score

ROUGE = ("rouge1", "rouge2", "rougeL")
DIGITS = 6  # of a ROUGE value that count
NAMES = (*ROUGE, "tokens", "sentence")
# Scripts that set no spaces between words; of them every character counts as a word.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


class TokenJudge(Protocol):
    """What is used of a text modality."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(L,)`."""

    @property
    def pad(self) -> int:
        """The padding token's id."""

    @property
    def special(self) -> frozenset[int]:
        """Ids that stand for no text."""

    def sentence(self, row: Tensor) -> str:
        """One row of ids `(L,)` as text."""


def words(text: str) -> list[str]:
    """The words of a text as ROUGE counts them: runs of letters and digits in lower case; pictograms one by one.

    Of English text these are those of the published scorer (Lin, ACL workshop 2004). Scripts without spaces between
    words count by characters.

    >>> words("We, the People!"), words("日本 ☕")
    (['we', 'the', 'people'], ['日', '本', '☕'])
    """
    found: list[str] = []
    inside = False
    for char in text.lower():
        alone = unicodedata.category(char) == "So" or unicodedata.name(char, "").startswith(UNSPACED)
        letter = char.isalnum() or unicodedata.category(char).startswith("M")
        if alone and (letter or unicodedata.category(char) == "So"):
            found.append(char)
        elif letter and inside:
            found[-1] += char
        elif letter:
            found.append(char)
        inside = letter and not alone
    return found


def rouge(guess: str, truth: str) -> dict[str, float | None]:
    """ROUGE-1, -2 and -L, F-measures from 0 to 1; None where the truth has too few words (Lin, ACL workshop 2004).

    >>> {name: round(value, 3) for name, value in rouge("the people we", "We the People").items()}
    {'rouge1': 1.0, 'rouge2': 0.5, 'rougeL': 0.667}
    """
    from torchmetrics.functional.text import rouge_score  # late: it takes seconds

    wanted = words(truth)
    found = rouge_score(guess, truth, rouge_keys=ROUGE, normalizer=str, tokenizer=words)
    enough = {"rouge1": 1, "rouge2": 2, "rougeL": 1}
    # It comes in float32, in which nine words of ten are a little less than .9.
    values = {name: round(float(found[f"{name}_fmeasure"]), DIGITS) for name in ROUGE}
    return {name: values[name] if len(wanted) >= enough[name] else None for name in ROUGE}


class Sentences:
    """Compares rows of token ids `(L,)`; special tokens and padding count nowhere. Guesses may be of any length.

    Args:
        modality: a text modality, such as `fs.Text`.
        gallery: unrelated sentences, ids `(G, L)`; None leaves the blind guesses that need it without a value.

    Raises:
        BadConfig: the gallery is not of the modality's length, or empty.
    """

    shape: tuple[None] = (None,)

    def __init__(self, modality: TokenJudge, gallery: Tensor | None) -> None:
        if gallery is not None and (tuple(gallery.shape[1:]) != tuple(modality.shape) or len(gallery) == 0):
            raise BadConfig(f"the gallery has shape {tuple(gallery.shape)}", f"give token ids (G, {modality.shape[0]})")
        self._modality, self._gallery = modality, gallery

    def read(self, inputs: Tensor) -> tuple[list[int], Sequence[Tensor]]:
        """The rows that hold any text, and their places."""
        ids = inputs.detach().cpu()
        if ids.is_floating_point():
            ids = ids.nan_to_num(self._modality.pad).round().long()
        missing = max(0, self._modality.shape[0] - ids.shape[1])
        ids = torch.nn.functional.pad(ids, (0, missing), value=self._modality.pad)
        places = [place for place, row in enumerate(ids) if self._content(row).any()]
        return places, [ids[place] for place in places]

    def match(self, truths: Sequence[Tensor], guesses: Sequence[Tensor]) -> tuple[int | None, ...]:
        """Pairs that share most tokens, where they stand and at all (Kuhn, 1955)."""
        from scipy.optimize import linear_sum_assignment  # late: it takes longer than all of fedseal's own modules

        matched: list[int | None] = [None] * len(truths)
        if truths and guesses:
            shared = np.array([[self._shared(truth, guess) for guess in guesses] for truth in truths])
            for row, column in zip(*linear_sum_assignment(-shared), strict=True):
                matched[int(row)] = int(column)
        return tuple(matched)

    def blind(self, truth: Tensor) -> Mapping[str, tuple[Baseline, ...]]:
        """Blind guesses, scored by the very metrics, weakest idea first.

        "special tokens only" has no text; "most frequent tokens" are as many as the truth has, from the unrelated
        sentences; "best of G unrelated sentences" is the best by each metric.
        """
        nothing = dict.fromkeys(NAMES, 0.0)
        known = self._values(truth, torch.full_like(truth, self._modality.pad))
        empty = {name: nothing[name] if known[name] is not None else None for name in NAMES}
        if self._gallery is None:
            frequent, best, many = dict.fromkeys(NAMES), dict.fromkeys(NAMES), "unrelated"
        else:
            frequent = self._values(truth, self._frequent(truth))
            tried = [self._values(truth, row) for row in self._gallery.cpu()]
            best = {name: max((v for t in tried if (v := t[name]) is not None), default=None) for name in NAMES}
            many = f"{len(self._gallery)} unrelated"
        return {
            name: (
                Baseline("special tokens only", empty[name]),
                Baseline("most frequent tokens", frequent[name]),
                Baseline(f"best of {many} sentences", best[name]),
            )
            for name in NAMES
        }

    def scores(
        self, truth: Tensor, guess: Tensor | None, blind: Mapping[str, tuple[Baseline, ...]]
    ) -> tuple[Score, ...]:
        """ROUGE-1 first, then -2 and -L, the share of tokens at their place, and 1 for the very sentence."""
        values: Mapping[str, float | None] = dict.fromkeys(NAMES) if guess is None else self._values(truth, guess)
        return tuple(Score(name, "", values[name], True, blind[name]) for name in NAMES)

    def identify(self, truth: Tensor, guess: Tensor) -> Identification | None:
        """Sentences are judged by their words: no gallery is looked at."""
        del truth, guess
        return None

    def _values(self, truth: Tensor, guess: Tensor) -> dict[str, float | None]:
        places = self._content(truth).nonzero().flatten()  # a guess may be longer
        right = guess[places] == truth[places]
        same = torch.equal(truth[places], guess[self._content(guess)])
        return {
            **rouge(self._modality.sentence(guess), self._modality.sentence(truth)),
            "tokens": float(right.double().mean()) if len(right) else None,
            "sentence": float(same),
        }

    def _shared(self, truth: Tensor, guess: Tensor) -> float:
        places = self._content(truth).nonzero().flatten()
        wanted, said = Counter(truth[places].tolist()), Counter(guess[self._content(guess)].tolist())
        overlap = 2 * (wanted & said).total() / max(1, wanted.total() + said.total())
        return overlap + float((guess[places] == truth[places]).double().mean() if len(places) else 0.0)

    def _content(self, row: Tensor) -> Tensor:
        """Where a row holds text, `(L,)` bool."""
        return ~torch.isin(row, self._silent)

    def _frequent(self, truth: Tensor) -> Tensor:
        places = self._content(truth).nonzero().flatten()[: len(self._ranking)]
        guess = torch.full_like(truth, self._modality.pad)
        guess[places] = self._ranking[: len(places)]
        return guess

    @cached_property
    def _silent(self) -> Tensor:
        return torch.tensor(sorted({*self._modality.special, self._modality.pad}))

    @cached_property
    def _ranking(self) -> Tensor:
        """The unrelated sentences' tokens, the most frequent first."""
        assert self._gallery is not None
        ids = self._gallery.cpu()
        counts = Counter(ids[self._content(ids)].tolist())
        return torch.tensor([token for token, _ in counts.most_common()], dtype=torch.long)
