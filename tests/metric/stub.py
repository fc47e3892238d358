"""A tokenizer of whole words, so that tests of sentences need no library of models."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedseal.modality import Text

FRAME = ("[PAD]", "[CLS]", "[SEP]")


@dataclass
class Words:
    """Words become ids as they first occur; every sentence stands between [CLS] and [SEP]."""

    vocabulary: list[str] = field(default_factory=lambda: list(FRAME))
    pad_token_id: int | None = 0
    all_special_ids: list[int] = field(default_factory=lambda: [0, 1, 2])

    def __len__(self) -> int:
        return 1000

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = []
        for word in text.split():
            if word not in self.vocabulary:
                self.vocabulary.append(word)
            ids.append(self.vocabulary.index(word))
        return {"input_ids": [1, *ids, 2] if add_special_tokens else ids}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.vocabulary[i] if i < len(self.vocabulary) else f"word{i}" for i in ids]

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return " ".join(self.convert_ids_to_tokens([i for i in ids if i > 2 or not skip_special_tokens]))


def text(length: int = 10) -> Text:
    return Text(Words(), length=length)


def ids(modality: Text, *sentences: str) -> Tensor:
    return modality.encode(list(sentences)) if sentences else torch.empty(0, *modality.shape, dtype=torch.long)
