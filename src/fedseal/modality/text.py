"""Sentences as model inputs: rows of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from fedseal.errors import BadConfig, UnfitBatch
from fedseal.vocabulary import SPACED

BROKEN = "\ufffd"  # what a tokenizer's decoder gives for bytes that are no whole character


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    pad_token_id: int | None
    all_special_ids: list[int]

    def __len__(self) -> int:
        """Number of tokens."""

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Any:
        """A mapping with `input_ids`."""

    def convert_ids_to_tokens(self, ids: list[int]) -> Any:
        """The tokens' strings."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> Any:
        """The text."""


@dataclass(frozen=True, eq=False)
class Text:
    """Sentences, fed to the model as token ids `(N, length)`, filled up at the end with the padding token.

    The tokenizer is public, and so is the length to which the client pads; how long the sentences are is not.

    Args:
        tokenizer: a transformers tokenizer with a padding token.
        length: tokens in a row, special ones and padding included.

    Raises:
        BadConfig: no padding token, or no room for a token.

    >>> import fedseal as fs
    >>> text = fs.Text(fs.zoo.bpe(), length=8)
    >>> text.sentence(text.encode(["We the People"])[0])
    'We the People'
    """

    tokenizer: Tokenizer = field(repr=False)
    length: int

    def __post_init__(self) -> None:
        if self.tokenizer.pad_token_id is None:
            raise BadConfig("the tokenizer has no padding token", "name one: tokenizer.pad_token = tokenizer.eos_token")
        if self.length <= len(self.frame[0]) + len(self.frame[1]):
            raise BadConfig(f"rows of {self.length} tokens have no room for a word", "give a larger length")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: `(length,)`."""
        return (self.length,)

    @cached_property
    def size(self) -> int:
        """Number of tokens in the vocabulary."""
        return len(self.tokenizer)

    @property
    def pad(self) -> int:
        """The padding token's id."""
        assert self.tokenizer.pad_token_id is not None
        return self.tokenizer.pad_token_id

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids that stand for no text."""
        return frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that every sentence begins with, and those it ends with, such as `[CLS]` and `[SEP]`."""
        inner = list(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        whole = list(self.tokenizer("a")["input_ids"])
        place = next((i for i in range(len(whole)) if whole[i : i + len(inner)] == inner), 0)
        return tuple(whole[:place]), tuple(whole[place + len(inner) :])

    def encode(self, sentences: Sequence[str], *, truncate: bool = False) -> Tensor:
        """Token ids `(N, length)`.

        Args:
            truncate: cut sentences that are too long, their closing tokens kept, instead of refusing them.

        Raises:
            UnfitBatch: no sentence, one without a token, or one that is too long.
        """
        if not sentences:
            raise UnfitBatch("there is no sentence", "give at least one")
        rows = torch.full((len(sentences), self.length), self.pad, dtype=torch.long)
        for row, sentence in zip(rows, sentences, strict=True):
            ids, close = list(self.tokenizer(sentence)["input_ids"]), self.frame[1]
            if len(ids) <= len(self.frame[0]) + len(close):
                raise UnfitBatch(
                    f"the sentence {sentence[:40]!r} holds no token", "give text that the vocabulary covers"
                )
            if len(ids) > self.length and not truncate:
                raise UnfitBatch(
                    f"the sentence '{sentence[:40]}...' has {len(ids)} tokens, and a row {self.length}",
                    "give a larger length, or cut it with truncate=True",
                )
            if len(ids) > self.length:
                ids = [*ids[: self.length - len(close)], *close]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def ids(self, row: Tensor) -> list[int]:
        """The ids of one row `(length,)` without padding."""
        return [int(i) for i in row.tolist() if int(i) != self.pad]

    def words(self, row: Tensor) -> tuple[str, ...]:
        """The tokens of one row as strings, without padding; ids that the tokenizer does not know as "<?>"."""
        known = [i if 0 <= i < self.size else None for i in self.ids(row)]
        return tuple("<?>" if i is None else str(self.tokenizer.convert_ids_to_tokens([i])[0]) for i in known)

    def pieces(self, row: Tensor) -> tuple[str, ...]:
        """What every token of `words` stands for, as text: bytes are joined over tokens before they are decoded.

        A character whose bytes lie in several tokens stands with the first of them, and the others are empty. The sign
        of a space before a token is kept. Bytes that make no character are shown as "\\ufffd".
        """
        ids, shown, place = self.ids(row), list(self.words(row)), 0
        while place < len(ids):
            count, text = self._whole(ids[place:])
            raw = shown[place]
            sign = raw[: len(raw) - len(raw.lstrip(raw[0]))] if raw.startswith(SPACED) else ""
            if text is not None:
                shown[place] = sign + (text.lstrip(" ") if sign else text or BROKEN)
            shown[place + 1 : place + count] = [""] * (count - 1)
            place += count
        return tuple(shown)

    def _whole(self, ids: list[int]) -> tuple[int, str | None]:
        """How many of these tokens make whole characters, and their text; None for a token that nobody knows."""
        text, count = self._text(ids[:1]), 1
        while text is not None and self._broken(ids[:count], text) and count < len(ids):
            after = self._text(ids[count : count + 1])
            if after is None or not (after.startswith(BROKEN) or self._broken(ids[count : count + 1], after)):
                break
            count += 1
            text = self._text(ids[:count])
        return count, text

    def _text(self, ids: list[int]) -> str | None:
        known = all(0 <= i < self.size for i in ids)
        return str(self.tokenizer.decode(ids, skip_special_tokens=False)) if known else None

    def _broken(self, ids: list[int], text: str) -> bool:
        """Whether the last character misses bytes; some decoders leave such bytes out, so that nothing is left."""
        signs = all(str(token).strip("".join(SPACED)) == "" for token in self.tokenizer.convert_ids_to_tokens(ids))
        return text.endswith(BROKEN) or (not text and not signs)

    def sentence(self, row: Tensor) -> str:
        """One row as a person reads it, without padding and special tokens."""
        known = [i for i in self.ids(row) if 0 <= i < self.size]
        return str(self.tokenizer.decode(known, skip_special_tokens=True)).strip()

    @property
    def kind(self) -> str:
        """What attacks, metrics and reports treat it as."""
        return "text"

    def start(self, noise: Tensor) -> Tensor:
        """Token ids at random, `(N, length)`: the normal noise's ranks among ordinary tokens, between frame tokens."""
        ordinary = torch.tensor(sorted(set(range(self.size)) - self.special))
        share = 0.5 * (1 + torch.erf(noise / 2**0.5))
        ids = ordinary[(share * len(ordinary)).long().clamp(max=len(ordinary) - 1).cpu()]
        before, after = self.frame
        for place, token in [*enumerate(before), *enumerate(after, self.length - len(after))]:
            ids[:, place] = token
        return ids.to(noise.device)

    def forward(self, candidate: Tensor) -> Tensor:
        """Candidates are token ids `(N, L)` already."""
        return candidate if not candidate.is_floating_point() else candidate.round().long()

    def project(self, candidate: Tensor) -> Tensor:
        """Ids clamped to the vocabulary."""
        return candidate.clamp(0, self.size - 1)

    def decode(self, inputs: Tensor) -> Tensor:
        """The ids themselves; `words` and `sentence` make text of a row."""
        return inputs

    def describe(self) -> dict[str, object]:
        """All fields as plain values, for records; of the tokenizer its size."""
        return {"kind": self.kind, "length": self.length, "tokens": self.size}
