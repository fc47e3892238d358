"""The first block of a transformer, read through the model's own code.

Attention mixes what stands in one sentence, and nothing else does. Up to there every row depends on one token and its
place alone, so that a table over tokens and places holds all that can occur; behind it, the next linear product sees
rows that depend on the whole sentence. Which modules these are is found by running a probe and watching what they are
given, not by their names; how attention mixes is checked against the model's own result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedseal.client import forward
from fedseal.errors import UnfitModel
from fedseal.types import Observation, Tensors

PROBE = 5  # tokens in the probe's sentences
SAME = 1e-9  # relative difference up to which two float64 results are one


class _EnoughError(Exception):
    """Ends a forward pass once everything wanted was seen."""


class ModuleCall(NamedTuple):
    """A module's first input and output in a forward pass."""

    name: str
    input: Tensor
    output: Tensor


@dataclass(frozen=True)
class Attention:
    """How the block mixes its rows: softmax of scaled products, as checked against the model.

    Args:
        heads: number of heads; order: which of the readers' outputs are query, key and value.
    """

    heads: int
    order: tuple[int, int, int]

    def split(self, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value `(..., heads, width / heads)`, the query scaled."""
        parts = list(outputs) if len(outputs) == 3 else list(outputs[0].chunk(3, -1))
        query, key, value = (parts[i].reshape(*parts[i].shape[:-1], self.heads, -1) for i in self.order)
        return query / query.shape[-1] ** 0.5, key, value


@dataclass(frozen=True)
class Wiring:
    """Where in a model the first block's parts are, by module names.

    Args:
        block: the block; readers: the linear products that read its rows (query, key and value, or all in one).
        mixer: the product behind attention; feeder: the next one, whose input rows depend on the sentence.
        entry, norm: the normalizations that make the readers' and the feeder's input, None if there are none.
        causal: whether a row depends on the tokens up to its own alone.
        skip: what is added to the mixer's output: "block" (its input) or "readers" (theirs), None if neither.
        attention: None where the model's own result could not be had from query, key and value.
    """

    block: str
    readers: tuple[str, ...]
    mixer: str
    feeder: str
    entry: str | None
    norm: str | None
    causal: bool
    skip: str | None
    attention: Attention | None


class Transformer:
    """A model under observation in float64, run as far as needed."""

    def __init__(self, observation: Observation) -> None:
        state = observation.require_state("reading a transformer's first block")
        self.model = observation.model
        self.state: Tensors = {n: t.double() if t.is_floating_point() else t for n, t in state.items()}
        self.device = observation.like.device
        self.modules = dict(self.model.named_modules())

    def weight_name(self, module: str, kind: str = "weight") -> str | None:
        """Under what name the observation knows a module's tensor."""
        tensor = getattr(self.modules[module], kind, None)
        return next((name for name, p in self.model.named_parameters() if p is tensor), None)

    def tensor(self, module: str, kind: str = "weight") -> Tensor | None:
        """A module's tensor in float64."""
        name = self.weight_name(module, kind)
        return None if name is None else self.state[name]

    def matrix(self, module: str) -> Tensor:
        """The weight of a linear product as `(outputs, inputs)`."""
        weight = self.tensor(module)
        assert weight is not None
        return weight if isinstance(self.modules[module], nn.Linear) else weight.T

    def run(self, ids: Tensor, wanted: Sequence[str], *, last: str | None = None) -> list[ModuleCall]:
        """Calls of the wanted modules on token ids `(N, L)`, in order; stops once `last` is given its input."""
        seen: list[ModuleCall] = []

        def note(name: str) -> object:
            def hook(
                module: nn.Module, inputs: tuple[Tensor, ...], kwargs: Mapping[str, Tensor], output: object
            ) -> None:
                first = inputs[0] if inputs else next(iter(kwargs.values()))
                result = output[0] if isinstance(output, tuple) else output
                assert isinstance(result, Tensor)
                seen.append(ModuleCall(name, first, result))

            return self.modules[name].register_forward_hook(hook, with_kwargs=True)

        def stop(module: nn.Module, inputs: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> None:
            first = inputs[0] if inputs else next(iter(kwargs.values()))
            seen.append(ModuleCall(last or "", first, first))
            raise _EnoughError

        handles = [note(name) for name in wanted if name != last]
        if last is not None:
            handles.append(self.modules[last].register_forward_pre_hook(stop, with_kwargs=True))
        try:
            with torch.no_grad():
                forward(self.model, self.state, ids.to(self.device))
        except _EnoughError:
            pass
        finally:
            for handle in handles:
                handle.remove()  # type: ignore[attr-defined]
        return seen

    def input_of(self, ids: Tensor, module: str) -> Tensor:
        """The input of a module for token ids `(N, L)`."""
        return self.run(ids, (), last=module)[-1].input


def is_product(module: nn.Module) -> bool:
    """Whether a module is a linear product: torch's, or GPT-2's with its weight transposed."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def wiring(transformer: Transformer, tokens: Sequence[int]) -> Wiring:
    """Find the parts of the first block.

    Args:
        tokens: ids of ordinary tokens to probe with; at least three.

    Raises:
        UnfitModel: there is no block with attention as expected.
    """
    modules = transformer.modules
    block = _first_block(modules)
    probe = torch.tensor([[tokens[(i + j * (1 + i)) % len(tokens)] for j in range(PROBE)] for i in range(2)])
    inner = [n for n, m in modules.items() if n.startswith(block + ".") and not list(m.children())]
    outer = [n for n, m in modules.items() if not n.startswith(block + ".") and not list(m.children())]
    products = [name for name in inner if is_product(modules[name])]
    norms = [name for name in [*inner, *outer] if _is_norm(modules[name])]
    seen = transformer.run(probe, [*dict.fromkeys([*norms, *products]), block])
    calls = [call for call in seen if call.name in products]
    readers = [call for call in calls if call.input is calls[0].input or _same(call.input, calls[0].input)]
    rest = [call for call in calls if call not in readers]
    if len(rest) < 2:
        raise UnfitModel(f"the block '{block}' has no products behind its attention", "use another attack")
    mixer, feeder = rest[0], next((call for call in rest[1:]), rest[1])
    entry = next((c for c in seen if c.name in norms and _same(c.output, calls[0].input)), None)
    norm = next((c for c in seen if c.name in norms and _same(c.output, feeder.input)), None)
    whole = next(call for call in seen if call.name == block)
    other = probe.clone()
    other[:, -1] = next(t for t in tokens if t not in other[:, -1].tolist())
    changed = transformer.input_of(other, feeder.name)
    skip = None
    if norm is not None:
        starts = {"block": whole.input, "readers": calls[0].input}
        skip = next((n for n, start in starts.items() if _same(norm.input, start + mixer.output)), None)
    causal = _same(changed[:, :-1], feeder.input[:, :-1])
    return Wiring(
        block=block,
        readers=tuple(call.name for call in readers),
        mixer=mixer.name,
        feeder=feeder.name,
        entry=None if entry is None else entry.name,
        norm=None if norm is None else norm.name,
        causal=causal,
        skip=skip,
        attention=_attention([call.output for call in readers], mixer.input, causal),
    )


def mixed_streams(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """Attention's contexts `(..., L, heads * size)` from query, key and value `(..., L, heads, size)`."""
    scores = torch.einsum("...ihc,...jhc->...hij", query, key)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return torch.einsum("...hij,...jhc->...ihc", scores.softmax(-1), value).flatten(-2)


def _first_block(modules: Mapping[str, nn.Module]) -> str:
    for name, module in modules.items():
        if isinstance(module, nn.ModuleList) and len(module) > 0:
            inside = [m for m in module[0].modules() if is_product(m)]
            if len(inside) >= 3:
                return f"{name}.0"
    raise UnfitModel("the model has no row of transformer blocks", "use an attack that needs none")


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 1


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= SAME * other.norm())


def _attention(outputs: Sequence[Tensor], contexts: Tensor, causal: bool) -> Attention | None:
    """Heads and order for which softmax attention gives the contexts that the model gave."""
    width = contexts.shape[-1]
    if [o.shape[-1] for o in outputs] not in ([width] * 3, [3 * width]):
        return None
    for heads in [h for h in range(1, width + 1) if width % h == 0]:
        for order in ((0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 0, 1), (1, 2, 0), (2, 1, 0)):
            attention = Attention(heads, order)
            if _same(mixed_streams(*attention.split(outputs), causal=causal), contexts):
                return attention
    return None
