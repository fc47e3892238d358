"""Whole batches of sentences from a transformer's gradient, exactly (DAGER; Petrov et al., NeurIPS 2024,
arXiv:2405.15586).

The gradient of a linear product spans the rows that went into it. The first attention's span tells which tokens
occur, and the span behind that attention which of them stand in one sentence, in which order. Written from the paper's
idea; how sentences are put together is ours: see `board`, `sentences` and `incidence`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from fedseal.attack.base import conclude, refused
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.route import Route
from fedseal.attack.text.compatibility import Board, board
from fedseal.attack.text.incidence import Incidence, incidence, place_rows
from fedseal.attack.text.sentence_labels import completed, labels_of
from fedseal.attack.text.sentences import Frame, ReadSentence, assemble, grow
from fedseal.attack.text.span import CLEAN, Span, span_of
from fedseal.attack.text.tokens import beside_the_head, embedding_of, token_set
from fedseal.attack.text.transformer import Transformer, Wiring, wiring
from fedseal.errors import UnfitModel, UnfitUpdate
from fedseal.modality.language import next_tokens
from fedseal.modality.text import Text
from fedseal.types import Candidate, Observation, Outcome, ProgressCallback, Reconstruction

CHUNK = 2**15  # rows of the table over the vocabulary at a time


class SpanPlan(NamedTuple):
    """What a reading starts from."""

    transformer: Transformer
    wired: Wiring
    first: Span
    second: Span


@dataclass(frozen=True)
class Dager(Route):
    """Read the sentences off the spans before and behind the first attention."""

    name: str = "dager"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this route does not apply, None if it does."""
        try:
            self._plan(evidence)
        except (UnfitModel, UnfitUpdate) as error:
            return error.fact
        return None

    def _plan(self, evidence: Evidence) -> SpanPlan:
        """The preparations, made once for the door and for the reading."""
        return evidence.once(self.name, lambda: prepare(evidence.observation))

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Closed form and a search among finitely many sentences; draws nothing."""
        started = time.perf_counter()
        observation = evidence.observation
        try:
            plan = self._plan(evidence)
            ids, note = read_sentences(observation, plan)
        except (UnfitModel, UnfitUpdate) as error:
            return refused(self.name, error.fact, started)
        pad = cast(Text, observation.modality).pad
        if plan.wired.causal and getattr(observation.model, "task", None) == "causal":
            ids = completed(observation, plan.transformer, ids, pad=pad)
            labels: Tensor | None = next_tokens(ids, pad)
        else:
            labels = labels_of(observation, plan.transformer, ids, pad=pad)
        if labels is None:
            note = "; ".join(filter(None, [note, "the labels are not determined, so nothing can be replayed"]))
            return Reconstruction(ids, None, Outcome("budget", self.name, None, 0, time.perf_counter() - started, note))
        return conclude(
            observation, Candidate(ids, labels), route=self.name, steps=0, started=started, status="exact", note=note
        )


def prepare(observation: Observation) -> SpanPlan:
    """The model's wiring and the two spans.

    Raises:
        UnfitModel: no transformer as expected.
        UnfitUpdate: no weights, no tokens, or too many.
    """
    embedding_of(observation)
    text = cast(Text, observation.modality)
    if observation.state is None:
        raise UnfitUpdate(
            f"it computes rows with the model's weights, which the threat model '{observation.threat}' withholds; "
            "'tokens' needs none",
            "grant 'state'",
        )
    transformer = Transformer(observation)
    ordinary = [i for i in range(text.size) if i not in text.special and i != text.pad][:64]
    wired = wiring(transformer, ordinary)
    first = span_of(torch.cat([_gradient(transformer, observation, name) for name in wired.readers]))
    second = span_of(_gradient(transformer, observation, wired.feeder))
    if second.full or second.rank >= second.basis.shape[1] - 1:
        raise UnfitUpdate(
            f"the sentences hold as many tokens as the model is wide ({second.basis.shape[1]}), or more, so that every "
            "row lies in the gradient's span; which tokens occur can still be read by 'tokens'",
            "use a smaller batch",
        )
    if not wired.causal and (wired.attention is None or wired.norm is None or wired.skip is None):
        raise UnfitModel(f"how the block '{wired.block}' mixes its rows was not understood", "use another attack")
    return SpanPlan(transformer, wired, first, second)


def _gradient(transformer: Transformer, observation: Observation, module: str) -> Tensor:
    """The update of a product's weight as `(outputs, inputs)`."""
    name = transformer.weight_name(module)
    if name is None or name not in observation.update.tensors:
        raise UnfitUpdate(f"the client does not train '{module}'", "let it, or use another attack")
    gradient = observation.update.tensors[name]
    return gradient if isinstance(transformer.modules[module], torch.nn.Linear) else gradient.T


def read_sentences(observation: Observation, plan: SpanPlan) -> tuple[Tensor, str]:
    """Token ids `(N, L)` of all sentences, and what limits them."""
    text = cast(Text, observation.modality)
    transformer, wired, first, second = plan
    tokens, length = _tokens(observation, plan), _length(observation)
    if wired.attention is None or wired.norm is None or wired.skip is None:
        found = _grow_by_forward(plan, tokens, text)
        rows = [list(sentence) for sentence in found]
        return _padded(rows, text, observation), ""
    table = board(transformer, wired, wired.attention, second, tokens, length)
    inputs = transformer.input_of(tokens[:, None].expand(-1, length), wired.readers[0]).flatten(0, 1)
    possible = torch.ones(len(table), dtype=torch.bool, device=inputs.device)
    if first.tilt <= CLEAN and not first.full:
        possible = first.distance(inputs) <= first.tolerance
    table = table.part(possible.nonzero().flatten())
    if wired.causal:
        sentences = grow(table, second.tolerance)
        read = len({s.rows[: i + 1] for s in sentences for i in range(len(s.rows))})
    else:
        sentences = _encoder(observation, plan, table, tokens, length)
        read = sum(len(s.rows) for s in sentences)
    if not sentences:
        raise UnfitUpdate("no sentence fits the gradient's spans", "use an update with less noise")
    doubtful = sum(s.misfit > second.tolerance for s in sentences)
    note = f"{doubtful} of {len(sentences)} sentences do not fit" if doubtful else ""
    if read != second.rank:
        note = "; ".join(filter(None, [note, f"{read} tokens read, where the gradient's rank tells {second.rank}"]))
    return _padded([tokens[table.token[list(s.rows)]].tolist() for s in sentences], text, observation), note


def _tokens(observation: Observation, plan: SpanPlan) -> Tensor:
    """Ids of the tokens that occur: by the embedding's gradient, else all that lie in the first span somewhere."""
    device = observation.like.device
    try:
        return torch.tensor(token_set(observation).ids, device=device)
    except UnfitUpdate:
        if plan.first.full or plan.first.tilt > CLEAN:
            raise
    text = cast(Text, observation.modality)
    length = _length(observation)
    ids = torch.tensor([i for i in range(text.size) if i != text.pad], device=device)
    inside: list[Tensor] = []
    for part in torch.split(ids, max(1, CHUNK // length)):
        rows = plan.transformer.input_of(part[:, None].expand(-1, length), plan.wired.readers[0])
        inside.append(part[(plan.first.distance(rows) <= plan.first.tolerance).any(1)])
    return torch.cat(inside)


def _length(observation: Observation) -> int:
    """Tokens of the longest sentence, as far as the places' embedding tells."""
    rows = place_rows(observation)
    return int(observation.modality.shape[0]) if rows is None else len(rows)


def _encoder(observation: Observation, plan: SpanPlan, table: Board, tokens: Tensor, length: int) -> list[ReadSentence]:
    text = cast(Text, observation.modality)
    index = {int(token): i for i, token in enumerate(tokens)}
    before, after = ([index[t] for t in part if t in index] for part in text.frame)
    share = _incidence(observation, plan, tokens, length)
    if share is None:
        likely, anchors = torch.ones(len(table), dtype=torch.bool), list(range(len(table)))
    else:
        at, single = share.share.argmax(0), share.single
        likely = ~single[table.token] | (at[table.token] == table.place)
        value = (share.share[table.place, table.token] - 1).abs()
        value = value + 10.0 * (~single[table.token] | ~likely)
        order: Sequence[int] = value.argsort().tolist()
        framing = {*before, *after}
        anchors = [i for i in order if int(table.token[i]) not in framing or len(tokens) <= len(framing)]
    return assemble(
        table,
        likely=likely,
        anchors=anchors,
        rows=plan.second.rank,
        tolerance=plan.second.tolerance,
        frame=Frame(tuple(before), tuple(after)),
    )


def _incidence(observation: Observation, plan: SpanPlan, tokens: Tensor, length: int) -> Incidence | None:
    """Which token stood where, from the embeddings' gradients, or where the output layer shares them from the first
    attention's.
    """
    name, tied = embedding_of(observation)
    places = place_rows(observation)
    if places is None:
        return None
    rows = observation.update.tensors[name].double()
    if not tied:
        return incidence(rows[tokens], places)
    beside = beside_the_head(rows)
    signals = _signals(observation, plan, tokens, length)
    if beside is None or signals is None:
        return None if signals is None else incidence(*signals)
    ours = rows[tokens] @ beside.T, places @ beside.T
    sizes = ours[0].norm(), signals[0].norm()
    pairs = zip(ours, signals, strict=True)
    return incidence(*(torch.cat([one / sizes[0], other / sizes[1]], 1) for one, other in pairs))


def _signals(observation: Observation, plan: SpanPlan, tokens: Tensor, length: int) -> tuple[Tensor, Tensor] | None:
    """What came back to tokens and places through query, key and value: the coefficients of their gradient in the
    normalized tokens and places, which are independent directions.
    """
    transformer, wired = plan.transformer, plan.wired
    if wired.entry is None:
        return None
    start = transformer.run(tokens[:, None].expand(-1, length), [wired.entry], last=wired.readers[0])[0].input
    weight, shift = transformer.tensor(wired.entry), transformer.tensor(wired.entry, "bias")
    assert weight is not None
    parts = torch.cat([start[:, 0], start[0] - start[0, :1]])  # a token at the first place; places against the first
    parts = parts - parts.mean(-1, keepdim=True)
    rows = torch.cat([parts * weight, *([] if shift is None or not bool(shift.any()) else [shift[None]])])
    gradient = torch.cat([_gradient(transformer, observation, name) for name in wired.readers]).double()
    signals = (gradient @ torch.linalg.pinv(rows)).T
    of_tokens, of_places = signals[: len(tokens)], signals[len(tokens) : len(tokens) + length].clone()
    of_places[0] = of_tokens.sum(0) - of_places[1:].sum(0)
    return of_tokens, of_places


def _grow_by_forward(plan: SpanPlan, tokens: Tensor, text: Text) -> list[tuple[int, ...]]:
    """Sentences of a decoder whose attention is not understood, such as one with rotary places: by its own forward."""
    done: list[tuple[int, ...]] = []
    prefixes: list[tuple[int, ...]] = [()]
    while prefixes:
        longer: list[tuple[int, ...]] = []
        for prefix in prefixes:
            start = torch.tensor(prefix, dtype=torch.long, device=tokens.device).expand(len(tokens), -1)
            rows = plan.transformer.input_of(torch.cat([start, tokens[:, None]], 1), plan.wired.feeder)[:, -1]
            fits = plan.second.distance(rows) <= plan.second.tolerance
            longer += [(*prefix, token) for token in tokens[fits].tolist()]
            if prefix and not bool(fits.any()):
                done.append(prefix)
        prefixes = longer if longer and len(longer[0]) <= text.length else []
    return done


def _padded(rows: Sequence[Sequence[int]], text: Text, observation: Observation) -> Tensor:
    full = torch.full((len(rows), text.length), text.pad, dtype=torch.long, device=observation.like.device)
    for row, ids in zip(full, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids, device=full.device)[: text.length]
    return full
