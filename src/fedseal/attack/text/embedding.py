"""Sentences made continuous: the derived observation on which a search over embeddings runs.

The model is the same with its embedding matrix frozen, the update is the same without that matrix, and an input is
embeddings `(P, d)` in place of tokens, or a mixture of tokens. A search's end is decoded to tokens that the update
leaks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.text.incidence import of_one_sentence, place_rows
from fedseal.attack.text.tokens import token_set
from fedseal.client import architecture
from fedseal.errors import UnfitBatch, UnfitModel, UnfitUpdate, UnknownToAdversary
from fedseal.modality import LanguageModel, Text
from fedseal.types import Observation, Tensors

FREE = -1  # a place whose token is unknown
TIES = 1.0  # standard deviation of a mixture's first logits
HINT, SURE = 5.0, 50.0  # logit of a token at the place where the incidence puts it; where it leaves no doubt
CLEAR = 0.1  # distance from zero and one up to which the incidence leaves none
CHUNK = 4096  # places compared with the vocabulary at a time


@dataclass(frozen=True)
class Embedded:
    """A modality whose inputs are embeddings `(P, d)` in place of tokens; an embedding of zeros is padding."""

    shape: tuple[int, int]
    scale: float

    @property
    def kind(self) -> str:
        """What attacks, metrics and reports treat it as."""
        return "embedded"

    def start(self, noise: Tensor) -> Tensor:
        """Normal noise of the size of embeddings."""
        return noise * self.scale

    def forward(self, candidate: Tensor) -> Tensor:
        """The embeddings themselves."""
        return candidate

    def project(self, candidate: Tensor) -> Tensor:
        """The embeddings themselves: they have no range."""
        return candidate

    def decode(self, inputs: Tensor) -> Tensor:
        """The embeddings themselves."""
        return inputs

    def describe(self) -> dict[str, object]:
        """All fields as plain values."""
        return {"kind": self.kind, "length": self.shape[0], "width": self.shape[1]}


@dataclass(frozen=True)
class Mixed(Embedded):
    """The same for candidates that are logits `(N, P, K)` of K tokens at every place: the model is fed the mixture of
    their embeddings. Embeddings pass.

    Args:
        choices: the embeddings of the K tokens, `(K, d)`.
        fixed: embeddings of known places `(N, P, d)`.
        free: which places are not known, `(N, P)` bool.
    """

    choices: Tensor = field(repr=False)
    fixed: Tensor = field(repr=False)
    free: Tensor = field(repr=False)

    def forward(self, candidate: Tensor) -> Tensor:
        """Embeddings `(N, P, d)`."""
        if candidate.shape[:-1] != self.free.shape or candidate.shape[-1] != len(self.choices):
            return candidate
        mixed = candidate.softmax(-1) @ self.choices.to(candidate)
        return torch.where(self.free[..., None], mixed, self.fixed.to(mixed))


@dataclass(frozen=True)
class RelaxedSentences:
    """A text observation made continuous.

    Args:
        original: with token ids `(N, L)`.
        observation: with embeddings `(N, P, d)`, P the tokens of the longest sentence.
        table: the embedding matrix `(V, d)`.
        allowed: ids that a place may hold, `(K,)`.
        known: the id of every place, `(N, P)`; `FREE` where unknown.
        scale: standard deviation of an embedding's entries.
        noise: standard deviation of an entry of the update where there should be none.
        note: what the update told of tokens and lengths.
    """

    original: Observation
    observation: Observation
    table: Tensor = field(repr=False)
    allowed: Tensor
    known: Tensor
    scale: float
    noise: float
    note: str

    @property
    def free(self) -> Tensor:
        """Which places are searched, `(N, P)` bool."""
        return self.known == FREE

    @property
    def fixed(self) -> Tensor:
        """The embeddings of the known tokens, `(N, P, d)`; meaningless elsewhere."""
        return self.table[self.known.clamp_min(0)]

    @property
    def mixtures(self) -> Observation:
        """The same for candidates that are logits `(N, P, K)` over the allowed tokens."""
        shape = (self.known.shape[1], self.table.shape[1])
        mixed = Mixed(shape, self.scale, self.table[self.allowed], self.fixed, self.free)
        return replace(self.observation, modality=mixed)

    def undecided(self, generator: torch.Generator) -> Tensor:
        """Logits `(N, P, K)` of normal noise, which sets sentences and places apart; a single sentence's from its
        incidence, from which a search that cannot reproduce the client, whose dropout is unknown, must not walk away.
        """
        noise = torch.randn(*self.known.shape, len(self.allowed), generator=generator).to(self.table)
        hint = token_incidence(self.original, self.allowed) if len(self.known) == 1 else None
        if hint is None:
            return TIES * noise
        found = hint[self.free[0]]
        one = found.round()
        clear = bool((one.sum(1) == 1).all() and (found - one).abs().le(CLEAR).all())
        return TIES * noise + (SURE if clear else HINT) * hint.to(noise)

    def coordinates(self, moves: Tensor) -> Tensor:
        """Moves `(N * P * d, 1)` in units of an embedding's entries, as embeddings; known places stay."""
        return moves.view(*self.known.shape, -1) * (self.scale * self.free[..., None])

    def random(self, generator: torch.Generator) -> Tensor:
        """A start `(N, P, d)`: normal noise of the size of embeddings at the free places."""
        noise = torch.randn(*self.known.shape, self.table.shape[1], generator=generator)
        return torch.where(self.free[..., None], self.scale * noise.to(self.table), self.fixed)

    def nearest(self, inputs: Tensor) -> Tensor:
        """The allowed tokens whose embeddings have the smallest angle to `(..., N, P, d)`, as ids `(..., N, P)`."""
        table = F.normalize(self.table[self.allowed], dim=1)
        flat = F.normalize(inputs.detach().to(table).reshape(-1, table.shape[1]), dim=1)
        best = torch.cat([(rows @ table.T).argmax(1) for rows in torch.split(flat, CHUNK)])
        return self.allowed[best].view(inputs.shape[:-1])

    def rows(self, found: Tensor) -> Tensor:
        """Ids `(..., N, P)` as rows `(..., N, L)`: known tokens in their places, and nothing after a closing token."""
        modality = self.original.modality
        assert isinstance(modality, Text)
        found, close = torch.where(self.free, found, self.known), modality.frame[1]
        if close:
            ended = (found == close[-1]).cumsum(-1) - (found == close[-1]).long() > 0
            found = found.masked_fill(ended, modality.pad)
        return F.pad(found, (0, modality.length - found.shape[-1]), value=modality.pad)

    def ids(self, inputs: Tensor) -> Tensor:
        """Token ids `(..., N, L)` of a search's inputs: embeddings `(..., N, P, d)`."""
        return self.rows(self.nearest(inputs))

    def likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids `(N, L)` of logits `(N, P, K)`, and the share of each in its mixture, `(N, L)`."""
        share, best = logits.detach().softmax(-1).max(-1)
        share = torch.where(self.free, share, 1.0)
        ids = self.rows(self.allowed[best])
        return ids, F.pad(share, (0, ids.shape[-1] - share.shape[-1]), value=1.0)


def relaxed_sentences(observation: Observation, who: str) -> RelaxedSentences:
    """A text observation made continuous; see `RelaxedSentences`.

    Args:
        who: the attack's name, for errors.

    Raises:
        UnfitBatch: the inputs are no text.
        UnfitModel: the model is no language model that classifies sentences.
        UnknownToAdversary: weights or batch size are withheld and needed.
    """
    model, modality = observation.model, observation.modality
    if not isinstance(modality, Text):
        raise UnfitBatch(f"{who} searches for sentences, and the inputs are none", "use 'auto', or a recipe for them")
    if not isinstance(model, LanguageModel):
        raise UnfitModel(f"{who} feeds embeddings to the model, which is no fs.LanguageModel", "wrap it in one")
    if model.task != "sequence":
        raise UnfitModel(
            f"{who} needs one label a sentence, and those of the task '{model.task}' belong to single tokens",
            "use 'dager', which needs no labels",
        )
    state, count = observation.require_state(who), Evidence(observation).batch_size
    if count is None:
        raise UnknownToAdversary(
            f"{who} needs the batch size, which the threat model '{observation.threat}' withholds",
            "grant 'num_examples'",
        )
    like, name = observation.like, model.embedding_name
    table = state[name].to(like.dtype if like.dtype == torch.float64 else torch.float32)
    longest, leaked = longest_sentence(observation), leaked_tokens(observation)
    places = longest or modality.length
    every = torch.arange(len(table), device=table.device) if leaked is None else leaked
    known = _frame(modality, count, places, exact=longest is not None)
    taken = {modality.pad, *(known.flatten().tolist() if int(known[0, -1]) != FREE else [])}
    allowed = every[~torch.isin(every, torch.tensor(sorted(taken), device=every.device))]
    scale = float(table[allowed].std())
    return RelaxedSentences(
        original=observation,
        observation=_without_embedding(observation, model, Embedded((places, table.shape[1]), scale)),
        table=table,
        allowed=allowed,
        known=known.to(table.device),
        scale=scale,
        noise=_noise(observation, model),
        note=_told(leaked, longest, count),
    )


def leaked_tokens(observation: Observation) -> Tensor | None:
    """The ids of the batch's tokens `(K,)`, without padding, as `exact.tokens` reads them; None where that tells
    nothing.
    """
    try:
        found = token_set(observation).ids
    except UnfitUpdate:
        return None
    most = (Evidence(observation).batch_size or len(found)) * observation.modality.shape[0]
    return torch.tensor(found, device=observation.like.device) if len(found) <= most else None


def longest_sentence(observation: Observation) -> int | None:
    """Tokens of the longest sentence; None where the table of places does not tell."""
    rows = place_rows(observation)
    return None if rows is None else len(rows)


def token_incidence(observation: Observation, allowed: Tensor) -> Tensor | None:
    """Which of the allowed tokens stands at which place of a single sentence, `(P, K)`, between 0 and 1; None where
    places have no table or the embedding is not sent. Steps of plain SGD keep what a gradient tells.
    """
    rows, model = place_rows(observation), observation.model
    assert isinstance(model, LanguageModel)
    if rows is None or len(rows) > rows.shape[1]:
        return None
    return of_one_sentence(observation.update.tensors[model.embedding_name][allowed].double(), rows)


def _noise(observation: Observation, model: LanguageModel) -> float:
    """The root mean square of the embedding row of middling size: most tokens of a vocabulary do not occur."""
    if leaked_tokens(observation) is None or model.embedding_name not in observation.update.tensors:
        return 0.0
    squares = observation.update.tensors[model.embedding_name].double().square().mean(1)
    return float(squares.median().sqrt())


def _told(leaked: Tensor | None, longest: int | None, count: int) -> str:
    """What an update told, as a clause."""
    tokens = "any token may occur" if leaked is None else f"the update leaks {len(leaked)} tokens"
    if longest is None:
        return f"{tokens}; lengths are unknown, rows are taken as full"
    return (
        f"{tokens}; {'the sentence has' if count == 1 else 'all sentences are taken as long as the longest,'} {longest}"
    )


def _frame(modality: Text, count: int, places: int, *, exact: bool) -> Tensor:
    """The opening tokens, and the closing ones where a single sentence's length is known; `(N, P)`."""
    known = torch.full((count, places), FREE)
    before, after = modality.frame
    known[:, : len(before)] = torch.tensor(before, dtype=torch.long)
    if exact and count == 1 and places > len(before) + len(after):
        known[:, places - len(after) :] = torch.tensor(after, dtype=torch.long)
    return known


def _without_embedding(observation: Observation, model: LanguageModel, modality: Embedded) -> Observation:
    """The same observation of a client whose embedding matrix is frozen, and who is fed embeddings."""
    name, bare = model.embedding_name, architecture(observation.model)
    bare.get_parameter(name).requires_grad_(False)

    def rest(tensors: Tensors) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in tensors.items() if key != name}

    rounds = tuple(
        replace(round, update=replace(round.update, tensors=rest(round.update.tensors))) for round in observation.rounds
    )
    return replace(observation, model=bare, modality=modality, rounds=rounds)
