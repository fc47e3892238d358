"""All tokens at all places, and which of them can stand in one sentence.

Behind attention and the block's first skip connection stands z = x + b + sum over heads h and tokens j of the sentence
of P_ij^h W_h v_j^h, with P the softmax of known products. What the next linear product reads is a normalization of z,
a scaled and centered z plus a constant, so that (z - mean) times the normalization's weight, called D z, lies in the
span of that product's inputs and the constant. In the directions N beside that span N D z = 0: an equation for every
token of every sentence, in which the only unknown is who else stands there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedseal.attack.text.span import Span, complement
from fedseal.attack.text.transformer import Attention, Transformer, Wiring

DIRECTIONS = 256  # beside the span, that are looked at


@dataclass(frozen=True)
class Board:
    """Tokens at places that may have stood in a sentence; E of them.

    Args:
        token: indices into the list of tokens `(E,)`; place: `(E,)`.
        query, key: `(E, heads, size)`; base: what a token has beside the span by itself, `(E, k)`; mix: what it adds to
            a row that looks at it alone, by head, `(E, heads, k)`; size: norm of `D z` without attention `(E,)`.
        causal: whether a row sees earlier ones alone.
    """

    token: Tensor
    place: Tensor
    query: Tensor
    key: Tensor
    base: Tensor
    mix: Tensor
    size: Tensor
    causal: bool

    def __len__(self) -> int:
        return len(self.token)

    def part(self, keep: Tensor) -> Board:
        """Some of them, by index."""
        tensors = ("token", "place", "query", "key", "base", "mix", "size")
        return replace(self, **{name: getattr(self, name)[keep] for name in tensors})

    def misfit(self, sentence: Sequence[int]) -> Tensor:
        """How far every row of a sentence, indices of its tokens in order, lies from the span; 0 for true ones."""
        rows = torch.tensor(sentence, device=self.base.device)
        scores = torch.einsum("ihc,jhc->hij", self.query[rows], self.key[rows])
        if self.causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
        return self._misfit(rows, torch.einsum("hij,jhk->ik", scores.softmax(-1), self.mix[rows]))

    def last_misfit(self, prefix: Sequence[int], last: Tensor) -> Tensor:
        """How far the row of each of the tokens `last` lies from the span if it stands behind the prefix."""
        rows = torch.tensor(prefix, dtype=torch.long, device=self.base.device)
        scores = torch.einsum("ihc,jhc->ihj", self.query[last], self.key[rows])
        own = torch.einsum("ihc,ihc->ih", self.query[last], self.key[last])
        shares = torch.cat([scores, own[..., None]], -1).softmax(-1)
        seen = torch.einsum("ihj,jhk->ik", shares[..., :-1], self.mix[rows])
        return self._misfit(last, seen + torch.einsum("ih,ihk->ik", shares[..., -1], self.mix[last]))

    def exchange(self, sentence: Sequence[int], at: int, others: Tensor) -> Tensor:
        """Misfit of every row, `(len(others), L)`, if another token stands at one place; without causality."""
        rows = torch.tensor(sentence, device=self.base.device)
        rest = torch.cat([rows[:at], rows[at + 1 :]])
        if len(rest) == 0:
            return self.last_misfit((), others)[:, None]
        scores = torch.einsum("ihc,jhc->ihj", self.query[rest], self.key[rest])
        new = torch.einsum("ihc,jhc->ihj", self.query[rest], self.key[others])
        top = torch.maximum(scores.amax(-1), new.amax(-1))[..., None]
        weights, added = (scores - top).exp(), (new - top).exp()
        seen = torch.einsum("ihj,jhk->ihk", weights, self.mix[rest])
        share = 1 / (weights.sum(-1)[..., None] + added)  # (rest, heads, others)
        value = torch.einsum("iho,ihk->oik", share, seen) + torch.einsum(
            "iho,ohk->oik", share * added, self.mix[others]
        )
        kept = (self.base[rest] + value).norm(dim=-1) / self.size[rest]
        own = self.last_misfit(rest.tolist(), others)[:, None]
        return torch.cat([kept[:, :at], own, kept[:, at:]], 1)

    def _misfit(self, rows: Tensor, seen: Tensor) -> Tensor:
        misfit: Tensor = (self.base[rows] + seen).norm(dim=-1) / self.size[rows]
        return misfit


def board(
    transformer: Transformer, wired: Wiring, attention: Attention, sentence_span: Span, tokens: Tensor, length: int
) -> Board:
    """All the tokens at all places up to a length.

    Args:
        sentence_span: of the inputs of the product behind attention.
        tokens: ids `(T,)`.
    """
    ids = tokens[:, None].expand(-1, length)
    seen = {call.name: call for call in transformer.run(ids, [*wired.readers, *_entries(wired)], last=wired.mixer)}
    inputs = seen[wired.readers[0]].input
    start = inputs
    if wired.skip == "block":
        start = transformer.input_of(ids, wired.block)
    query, key, value = attention.split([seen[name].output for name in wired.readers])
    mixer, bias = transformer.matrix(wired.mixer), transformer.tensor(wired.mixer, "bias")
    behind = _Normalization.of(transformer, wired)
    known = sentence_span.basis if behind.shift is None else _with(sentence_span.basis, behind.shift)
    beside = complement(known)
    if len(beside) > DIRECTIONS:
        beside = beside[:DIRECTIONS]
    beside = behind.adjoint(beside)  # what the directions beside the span are before the normalization
    heads = torch.einsum("kd,dhc->khc", beside, mixer.reshape(len(mixer), attention.heads, -1))
    whole = start if bias is None else start + bias
    place = torch.arange(length, device=inputs.device).expand(len(tokens), -1)
    token = torch.arange(len(tokens), device=inputs.device)[:, None].expand(-1, length)
    return Board(
        token=token.flatten(),
        place=place.flatten(),
        query=query.flatten(0, 1),
        key=key.flatten(0, 1),
        base=(whole @ beside.T).flatten(0, 1),
        mix=torch.einsum("khc,ehc->ehk", heads, value.flatten(0, 1)),
        size=behind(whole).norm(dim=-1).flatten(),
        causal=wired.causal,
    )


@dataclass(frozen=True)
class _Normalization:
    """A normalization without its division: center and weigh; then comes the shift."""

    weight: Tensor
    shift: Tensor | None
    centers: bool

    @classmethod
    def of(cls, transformer: Transformer, wired: Wiring) -> _Normalization:
        assert wired.norm is not None
        weight = transformer.tensor(wired.norm)
        assert weight is not None
        centers = isinstance(transformer.modules[wired.norm], torch.nn.LayerNorm)
        return cls(weight, transformer.tensor(wired.norm, "bias"), centers)

    def __call__(self, rows: Tensor) -> Tensor:
        return self.weight * (rows - rows.mean(-1, keepdim=True) if self.centers else rows)

    def adjoint(self, rows: Tensor) -> Tensor:
        weighed = rows * self.weight
        return weighed - weighed.mean(-1, keepdim=True) if self.centers else weighed


def _entries(wired: Wiring) -> list[str]:
    return [] if wired.entry is None else [wired.entry]


def _with(basis: Tensor, row: Tensor) -> Tensor:
    """The basis and one more direction, orthonormal; the basis itself where the direction is in it."""
    rest = row - (row @ basis.T) @ basis
    if float(rest.norm()) <= 1e-6 * max(float(row.norm()), 1e-300):
        return basis
    return torch.cat([basis, (rest / rest.norm())[None]])
