"""Which tokens a client used, without optimization and mostly without the weights.

A token's embedding gets a gradient only if the token occurs: rows that are not zero name the tokens (Melis et al., IEEE
S&P 2019, arXiv:1805.04049), also in a sum over many clients and after local epochs. Where the output layer shares the
embedding matrix it fills every row, but with combinations of the features at places with a loss; these features are
what the rows of unused tokens span, and only a token of the input has a part beside that span.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from fedseal.attack.base import refused
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.route import Route
from fedseal.attack.text.span import Span, span_of
from fedseal.errors import UnfitUpdate
from fedseal.modality.text import Text
from fedseal.types import Observation, Outcome, ProgressCallback, Reconstruction

BESIDE = 1e-3  # part of a row beside the unused tokens' span from which on the token was in the input
OUTLIER = 6.0  # standard errors of a row's squared norm, under noise, from which on a token was used


@dataclass(frozen=True)
class TokenSet:
    """Tokens that occur in a batch, in no order.

    Args:
        ids: of the inputs, ascending, without padding.
        labels: of the labels, where the output layer has a bias that tells them; None if unknown.
        note: what limits the reading.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...] | None = None
    note: str = ""


def token_set(observation: Observation) -> TokenSet:
    """The tokens used in an update's batch or batches.

    Raises:
        UnfitUpdate: the embedding matrix says nothing, with the reason.

    >>> import fedseal as fs
    >>> model, text = fs.zoo.tiny_bert(), fs.Text(fs.zoo.bpe(), length=8)
    >>> batch = fs.zoo.text_batch(text, ["We the People"])
    >>> update = fs.local_update(model, batch, training=fs.LocalTraining.fedsgd())
    >>> found = token_set(fs.ThreatModel.eavesdropper().observe(model, update, modality=text))
    >>> set(found.ids) == set(text.ids(batch.inputs[0]))
    True
    """
    name, tied = embedding_of(observation)
    rows = observation.update.tensors[name].double()
    pad = cast(Text, observation.modality).pad
    used = rows.any(1)
    note = ""
    if tied:
        used, note = _more_than_the_head(rows), "the output layer shares the embedding; its part was projected out"
    elif bool(used.all()):
        used, note = _above_noise(rows), "every row has a gradient; those above the noise were taken"
    ids = tuple(i for i in used.nonzero().flatten().tolist() if i != pad)
    if not ids:
        raise UnfitUpdate("no row of the embedding's gradient stands out", "use an update with less noise")
    return TokenSet(ids, _labels(observation) if tied else None, note)


def embedding_of(observation: Observation) -> tuple[str, bool]:
    """The name of the embedding matrix, and whether another layer shares it.

    Raises:
        UnfitUpdate: the inputs are no tokens, or the matrix is not trained.
    """
    model, modality = observation.model, observation.modality
    if not isinstance(modality, Text):
        raise UnfitUpdate("the inputs are no token ids", "use an attack for them")
    parameters = dict(model.named_parameters())
    known = getattr(model, "embedding_name", None)
    found = [
        (name, m.weight)
        for name, m in model.named_modules()
        if isinstance(m, nn.Embedding) and m.num_embeddings >= modality.size
    ]
    weight = parameters.get(known) if isinstance(known, str) else found[0][1] if found else None
    name = next((n for n, p in parameters.items() if p is weight), None)
    if weight is None or name is None or name not in observation.update.tensors:
        raise UnfitUpdate("the update has no gradient of a token embedding", "let the client train the embedding")
    if len(weight) < modality.size:
        raise UnfitUpdate(
            f"the tokenizer has {modality.size} tokens and the embedding {len(weight)} rows",
            "give the tokenizer that the model was trained with",
        )
    holders = sum(p is weight for m in model.modules() for p in m._parameters.values())
    return name, holders > 1


def beside_the_head(rows: Tensor) -> Tensor | None:
    """Directions in which the output layer's part of a shared embedding's gradient is nothing; None if it fills all."""
    span = _span_of_unused(rows)
    return None if span.full or span.tilt > 1e-2 else span.complement


def _span_of_unused(rows: Tensor) -> Span:
    """What the smaller half of the rows spans: the features at places with a loss."""
    unused = rows[rows.norm(dim=1).argsort()[: len(rows) // 2]]
    return span_of(unused / unused.norm(dim=1, keepdim=True).clamp_min(1e-300))


def _more_than_the_head(rows: Tensor) -> Tensor:
    """Rows that hold more than combinations of what the smaller half of the rows holds, `(V,)` bool."""
    norms, span = rows.norm(dim=1), _span_of_unused(rows)
    if span.full or span.tilt > 1e-2:
        raise UnfitUpdate(
            "the output layer shares the embedding and its part fills every row of the gradient",
            "fewer places with a loss than the model is wide could be told apart",
        )
    beside: Tensor = (span.distance(rows) > max(BESIDE, 10 * span.tilt)) & (norms > 0)
    return beside


def _above_noise(rows: Tensor) -> Tensor:
    """Rows larger than independent noise of one size makes them, `(V,)` bool."""
    squares, width = rows.square().sum(1), rows.shape[1]
    noise = squares.median() / width
    above: Tensor = squares > noise * (width + OUTLIER * (2 * width) ** 0.5)
    return above


def _labels(observation: Observation) -> tuple[int, ...] | None:
    """Tokens whose output bias has a gradient with a label's sign."""
    size = cast(Text, observation.modality).size
    sign = -1.0 if observation.update.kind == "difference" else 1.0
    for name, tensor in observation.update.tensors.items():
        if name.endswith("bias") and tensor.shape[0] >= size:
            return tuple((sign * tensor < 0).nonzero().flatten().tolist())
    return None


@dataclass(frozen=True)
class Tokens(Route):
    """Name the tokens used, as one row of ids; `token_set` gives the same as a plain value."""

    name: str = "tokens"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this route does not apply, None if it does."""
        try:
            embedding_of(evidence.observation)
        except UnfitUpdate as error:
            return error.fact
        return None

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Closed form; draws nothing."""
        started = time.perf_counter()
        try:
            found = token_set(evidence.observation)
        except UnfitUpdate as error:
            return refused(self.name, error.fact, started)
        ids = torch.tensor([found.ids], device=evidence.observation.like.device)
        note = "; ".join(filter(None, ["a set: order and sentences are unknown", found.note]))
        outcome = Outcome("budget", self.name, None, 0, time.perf_counter() - started, note)
        return Reconstruction(ids, None, outcome)
