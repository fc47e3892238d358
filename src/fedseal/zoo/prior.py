"""What an attacker may know of language: a small causal model trained on bundled clauses that no client holds.

The clauses are split for good by a hash of their first words: one part is for clients, the other for the prior, less
every clause that shares a run of words with the first part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from fedseal.errors import BadConfig
from fedseal.modality import Text
from fedseal.modality.language import LanguageModel, next_tokens
from fedseal.zoo.language import gpt2, sentences
from fedseal.zoo.models import seeded

RUN = 5  # words in a row that no clause of the prior shares with one that is held out
OPENING = 5  # words that decide on which side a clause stands


@dataclass(frozen=True, eq=False)
class LanguagePrior:
    """How unlikely token ids are under a causal model."""

    model: LanguageModel = field(repr=False)

    def __call__(self, ids: Tensor) -> Tensor:
        """Mean negative log-likelihood of a token after the first, in nats: `(N, L)` -> `(N,)`."""
        device = next(self.model.parameters()).device
        with torch.no_grad():
            return _surprise(self.model, ids.to(device)).to(ids.device)


def held_out_sentences(count: int, *, seed: int = 0, words: tuple[int, int] = (6, 14)) -> list[str]:
    """Sentences for clients, on which `language_prior` is not trained; arguments as of `sentences`.

    >>> len(held_out_sentences(2))
    2
    """
    found = [line for line in sentences(seed=seed, words=words) if _is_held(line)]
    if count > len(found):
        raise BadConfig(f"{count} sentences", f"there are {len(found)} held out from the prior")
    return found[:count]


def prior_clauses(exclude: Sequence[str] = ()) -> list[str]:
    """Whole clauses that share no run of five words with a held-out or an excluded one."""
    clauses = sentences(words=(RUN, 80))
    forbidden = {run for line in [*filter(_is_held, clauses), *exclude] for run in _runs(line)}
    return [clause for clause in clauses if not _is_held(clause) and forbidden.isdisjoint(_runs(clause))]


def language_prior(
    text: Text, *, steps: int = 400, exclude: Sequence[str] = (), width: int = 128, layers: int = 2, seed: int = 0
) -> LanguagePrior:
    """A small GPT-2 trained on `prior_clauses` with the tokenizer of the attacked model; about a minute on one core.

    Args:
        text: gives the tokenizer and the length of a row; longer clauses are cut.
        steps: of AdamW on 16 clauses each.
        exclude: sentences that are attacked though they are not held out.
    """
    rows = text.encode(prior_clauses(exclude), truncate=True)
    model = gpt2(width=width, layers=layers, tokens=text.size, positions=max(128, text.length), pad=text.pad, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1)
        for _ in range(steps):
            batch = rows[torch.randint(len(rows), (16,), generator=generator)]
            optimizer.zero_grad()
            torch.autograd.backward(_surprise(model, batch).mean())
            optimizer.step()
            rate.step()
    return LanguagePrior(model.eval().requires_grad_(False))


def _surprise(model: LanguageModel, ids: Tensor) -> Tensor:
    labels = next_tokens(ids, model.pad)
    lost = F.cross_entropy(model(ids), labels, reduction="none")
    return lost.sum(1) / (labels >= 0).sum(1).clamp_min(1)


def _is_held(clause: str) -> bool:
    """Whether a clause is for clients; a cut clause stands on its whole one's side."""
    opening = " ".join(_words(clause)[:OPENING])
    return hashlib.sha256(opening.encode()).digest()[0] % 4 == 0


def _runs(clause: str) -> set[tuple[str, ...]]:
    words = _words(clause)
    return {tuple(words[i : i + RUN]) for i in range(max(1, len(words) - RUN + 1))}


def _words(clause: str) -> list[str]:
    return [word for word in ("".join(c for c in w if c.isalnum()) for w in clause.lower().split()) if word]
