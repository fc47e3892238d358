"""A transformer's first block is found by what it computes: attention against loops in numpy, wiring against blocks
written here with other names, sizes and orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import fedseal as fs
from attack.cases import FEDSGD, seeded
from fedseal import Batch, Text, ThreatModel, zoo
from fedseal.attack.text import transformer as module
from fedseal.attack.text.transformer import Attention, Transformer, Wiring, mixed_streams, wiring
from fedseal.errors import UnfitModel

Array = NDArray[np.float64]
TOKENS = list(range(5, 40))
DRAWN = settings(max_examples=40, deadline=None, derandomize=True)


def _attended(query: Array, key: Array, value: Array, heads: int, causal: bool) -> Array:
    """Contexts `(L, width)` of one sentence's products `(L, width)`, row by row and head by head."""
    length, width = query.shape
    size = width // heads
    found = np.zeros((length, width))
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for row in range(length):
            seen = row + 1 if causal else length
            scores = np.array([query[row, part] @ key[other, part] for other in range(seen)]) / math.sqrt(size)
            shares = np.exp(scores - scores.max())
            found[row, part] = (shares / shares.sum()) @ value[:seen, part]
    return found


def _products(seed: int, count: int, length: int, width: int) -> list[Array]:
    drawn = np.random.default_rng(seed)
    return [drawn.standard_normal((count, length, width)) for _ in range(3)]


@DRAWN
@given(st.integers(0, 2**16), st.integers(1, 6), st.sampled_from([(1, 4), (2, 6), (3, 6), (4, 8)]), st.booleans())
def test_contexts_are_those_of_a_loop_over_heads_and_rows(
    seed: int, length: int, shape: tuple[int, int], causal: bool
) -> None:
    heads, width = shape
    parts = _products(seed, 2, length, width)
    query, key, value = parts
    expected = np.stack([_attended(query[n], key[n], value[n], heads, causal) for n in range(2)])
    found = mixed_streams(*Attention(heads, (0, 1, 2)).split([torch.from_numpy(part) for part in parts]), causal=causal)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


def test_contexts_are_those_of_torchs_own_attention() -> None:
    query, key, value = (torch.from_numpy(part).view(2, 5, 2, 3) for part in _products(0, 2, 5, 6))
    for causal in (True, False):
        found = mixed_streams(query / 3**0.5, key, value, causal=causal)
        q, k, v = (part.transpose(1, 2) for part in (query, key, value))
        whole = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        torch.testing.assert_close(found, whole.transpose(1, 2).flatten(-2))


ORDERS = [(0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 0, 1), (1, 2, 0), (2, 1, 0)]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_heads_and_order_are_found_from_what_attention_gave(
    heads: int, order: tuple[int, int, int], causal: bool, fused: bool
) -> None:
    query, key, value = _products(heads, 2, 5, 8)
    contexts = np.stack([_attended(query[n], key[n], value[n], heads, causal) for n in range(2)])
    outputs: list[Tensor] = [torch.empty(0)] * 3
    for place, part in zip(order, (query, key, value), strict=True):
        outputs[place] = torch.from_numpy(part)
    given_ = [torch.cat(outputs, -1)] if fused else outputs
    assert module._attention(given_, torch.from_numpy(contexts), causal) == Attention(heads, order)


def test_what_is_not_softmax_attention_is_not_called_so() -> None:
    query, key, value = _products(0, 2, 5, 8)
    outputs = [torch.from_numpy(part) for part in (query, key, value)]
    contexts = torch.from_numpy(np.stack([_attended(query[n], key[n], value[n], 2, False) for n in range(2)]))
    assert module._attention(outputs, 1.001 * contexts, False) is None
    assert module._attention(outputs, contexts, True) is None
    assert module._attention(outputs[:2], contexts, False) is None
    assert module._attention([outputs[0][..., :4], *outputs[1:]], contexts, False) is None


class Transposed(nn.Module):
    """A linear product with its weight `(inputs, outputs)`, as GPT-2's; the class bears the name of GPT-2's."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) / 3), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x @ self.weight + self.bias
        return out


Transposed.__name__ = "Conv1D"


class Block(nn.Module):
    """One block; `style`: normalized before its parts or behind them, or not at all."""

    def __init__(self, width: int, heads: int, style: str, causal: bool, fused: bool, transposed: bool) -> None:
        super().__init__()
        product: Callable[[int, int], nn.Module] = Transposed if transposed else nn.Linear
        self.heads, self.style, self.causal = heads, style, causal
        # in another order than they are used in
        self.wide, self.thin = product(width, 2 * width), product(2 * width, width)
        self.out = product(width, width)
        self.readers = nn.ModuleList([product(width, 3 * width)] if fused else [product(width, width) for _ in "vqk"])
        self.early, self.late = (nn.LayerNorm(width) if style != "bare" else nn.Identity() for _ in range(2))

    def attended(self, x: Tensor) -> Tensor:
        if len(self.readers) == 1:
            value, query, key = self.readers[0](x).chunk(3, -1)
        else:
            value, query, key = (reader(x) for reader in self.readers)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        mixed_ = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = self.out(mixed_.transpose(1, 2).flatten(-2))
        return out

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "before":
            x = x + self.attended(self.early(x))
            out: Tensor = x + self.thin(self.wide(self.late(x)).tanh())
            return out
        x = self.early(x + self.attended(x))
        behind: Tensor = self.late(x + self.thin(self.wide(x).tanh()))
        return behind


class Reader(nn.Module):
    """Tokens and places into blocks, the mean into a head."""

    def __init__(
        self, *, width: int = 8, heads: int = 2, style: str = "behind", causal: bool = False, **how: bool
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(2000, width), nn.Embedding(32, width)
        blocks = (
            Block(width, heads, style, causal, how.get("fused", False), how.get("transposed", False)) for _ in "ab"
        )
        self.tower = nn.ModuleList(blocks)
        self.head = nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.tower:
            x = block(x)
        out: Tensor = self.head(x.mean(1))
        return out


def _made(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
    generator = seeded(1)
    with torch.no_grad():
        for parameter in model.parameters():  # no weight is one, no bias is zero
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def _transformer(model: nn.Module) -> Transformer:
    batch = Batch(torch.tensor([[7, 8, 9, 10]]), torch.tensor([1]))
    update = fs.local_update(model, batch, training=FEDSGD)
    return Transformer(ThreatModel.honest_but_curious().observe(model, update, modality=Text(zoo.bpe(), length=4)))


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("style", ["before", "behind"])
def test_the_parts_are_found_by_what_they_are_given(style: str, causal: bool, fused: bool, transposed: bool) -> None:
    model = _made(lambda: Reader(style=style, causal=causal, fused=fused, transposed=transposed))
    readers = ("tower.0.readers.0",) if fused else tuple(f"tower.0.readers.{k}" for k in range(3))
    assert wiring(_transformer(model), TOKENS) == Wiring(
        block="tower.0",
        readers=readers,
        mixer="tower.0.out",
        feeder="tower.0.wide",
        entry="tower.0.early" if style == "before" else None,
        norm="tower.0.late" if style == "before" else "tower.0.early",
        causal=causal,
        skip="block",
        attention=Attention(2, (1, 2, 0)),
    )


def test_a_block_without_normalization_names_none() -> None:
    wired = wiring(_transformer(_made(lambda: Reader(style="bare"))), TOKENS)
    assert (wired.entry, wired.norm, wired.skip, wired.feeder) == (None, None, None, "tower.0.wide")
    assert wired.attention == Attention(2, (1, 2, 0))


def test_reference_models_are_wired_as_their_papers_say() -> None:
    decoder, encoder = (wiring(_transformer(model), TOKENS) for model in (_gpt2(), zoo.tiny_bert(num_classes=3)))
    assert (decoder.causal, decoder.skip, len(decoder.readers)) == (True, "block", 1)
    assert decoder.entry is not None
    assert decoder.attention == Attention(2, (0, 1, 2))
    assert (encoder.causal, encoder.skip, len(encoder.readers)) == (False, "block", 3)
    assert encoder.attention == Attention(2, (0, 1, 2))


def _gpt2() -> nn.Module:
    """Its rows' mean into three classes, so that a sentence has a label."""
    body = zoo.gpt2(width=16, layers=1, heads=2)

    class Classified(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, nn.Linear(2000, 3)

        def forward(self, ids: Tensor) -> Tensor:
            found = self.body(ids)
            out: Tensor = self.head(found.mean(1) if found.shape[1] == ids.shape[1] else found.mean(2))
            return out

    return _made(Classified)


@pytest.mark.parametrize("transposed", [True, False])
def test_what_a_part_is_given_is_what_the_model_computes_in_double_precision(transposed: bool) -> None:
    model = _made(lambda: Reader(transposed=transposed))
    transformer = _transformer(model)
    ids = torch.tensor([[7, 11, 3], [4, 4, 9]])
    double = model.double()
    tower = double.get_submodule("tower.0")
    assert isinstance(tower, Block)
    with torch.no_grad():
        x = double.get_submodule("words")(ids) + double.get_submodule("places")(torch.arange(3))
        behind = tower.early(x + tower.attended(x))
    torch.testing.assert_close(transformer.input_of(ids, "tower.0.readers.2"), x)
    torch.testing.assert_close(transformer.input_of(ids, "tower.0.wide"), behind)
    seen = transformer.run(ids, ["tower.0.out", "tower.0.early"], last="tower.0.wide")
    assert [call.name for call in seen] == ["tower.0.out", "tower.0.early", "tower.0.wide"]
    torch.testing.assert_close(seen[1].output, behind)
    torch.testing.assert_close(seen[1].input, x + seen[0].output)
    rows = seen[0].input
    weight = transformer.matrix("tower.0.out")
    assert transformer.weight_name("tower.0.out") == "tower.0.out.weight"
    bias = transformer.tensor("tower.0.out", "bias")
    assert bias is not None
    torch.testing.assert_close(rows @ weight.T + bias, seen[0].output)


def test_nothing_is_left_on_the_model_when_a_run_ends_early() -> None:
    transformer = _transformer(_made(Reader))
    transformer.input_of(torch.tensor([[7, 8, 9]]), "tower.0.wide")
    for part in transformer.model.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


class Flat(nn.Module):
    """Products, and no row of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(2000, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.words(ids).mean(1))
        return out


class Shallow(Flat):
    """A row of blocks whose products all read the same rows, but one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.last = (nn.Linear(8, 8) for _ in range(3))
        self.tower = nn.ModuleList([nn.ModuleList([self.one, self.other, self.last])])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        out: Tensor = self.head(self.last(self.one(x) * self.other(x)).mean(1))
        return out


def test_a_model_without_blocks_is_refused_with_the_reason() -> None:
    with pytest.raises(UnfitModel, match="no row of transformer blocks"):
        wiring(_transformer(_made(Flat)), TOKENS)


def test_a_block_with_nothing_behind_its_attention_is_refused_with_the_reason() -> None:
    with pytest.raises(UnfitModel, match=r"'tower\.0' has no products behind its attention"):
        wiring(_transformer(_made(Shallow)), TOKENS)
