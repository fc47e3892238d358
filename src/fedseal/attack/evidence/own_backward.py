"""Whether a model's own backward makes gradients as its forward says: tried on weights and data of our own.

An autograd function or a hook may hand back other gradients than the derivative. The algebra of a first layer takes for
granted that the gradient by its weight is the sum of outer products of what it takes in and the gradient by what it
gives; whoever holds the architecture can see whether that is so. Weights, inputs and gradients are drawn, and what is
off comes back relative to the gradient, infinite where nothing can be seen.

Labels are read off rows and signs of the head's gradient. Of that no more is asked than that it is the derivative,
which the outputs tell without autograd, at weights moved back and forth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.modes import in_mode
from fedseal.attack.evidence.patch_equations import PatchEquations
from fedseal.attack.evidence.patches import ADDS
from fedseal.attack.evidence.preprocessing import bounds
from fedseal.attack.evidence.structure import Linear
from fedseal.types import Observation
from fedseal.vocabulary import OWN_SEED

TRIES = 3  # of draws, each with weights half as large, until a gradient shows
ROUNDED = 4.0  # units in the last place up to which a gradient is off by its arithmetic alone
DRAWS = 2  # of directions in which weights are moved
ROOM = 4.0  # for what a difference is off, over what its second difference says
EXACT = 64.0  # units in the last place that a difference is off at least
VAGUE = 0.3  # share of a difference that it may be off for it to tell anything
SMALL = 20_000_000  # parameters up to which a model is tried in double precision
NOT_DERIVED = "the model's own backward does not give the derivative by its head, off whose gradient labels are read"
FAILURES = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)  # of a model on weights not its own


def layer_strays(evidence: Evidence, count: int) -> float:
    """How far the gradient of a fully connected first layer is from outer products with what so many drawn examples
    give it, by the architecture's own backward.
    """
    return evidence.once(f"own backward of {count}", lambda: _in_modes(evidence, _of_layer(evidence, count)))


def derives(evidence: Evidence, *inner: Linear) -> bool:
    """Whether the gradients sent of the head, and of inner layers that are read with it, are derivatives of the outputs
    by the architecture's own backward: no row in another's place, no sign turned.
    """
    head = evidence.structure.head
    layers = inner if head is None else (head, *inner)
    sent = evidence.observation.update.tensors
    names = tuple(
        dict.fromkeys(n for layer in layers for n in (layer.weight, layer.bias) if n is not None and n in sent)
    )
    found = evidence.once(
        f"own backward by {', '.join(names)}",
        lambda: _in_modes(
            evidence, _of_outputs(evidence, names, smooth=all(one is head or one == head for one in inner))
        ),
    )
    return bool(names) and found == 0.0


def patches_stray(equations: PatchEquations) -> float:
    """How far `delta^T rows` is from the gradient by the patches' layer, by the architecture's own backward; no more of
    the model is computed than up to where the positions are added.
    """
    evidence = equations.evidence
    return evidence.once("own backward of patches", lambda: _in_modes(evidence, _of_patches(equations)))


def _in_modes(evidence: Evidence, strays: Callable[[nn.Module, torch.Generator, float], float | None]) -> float:
    """The largest over the modes in which the client may have run the model."""
    observation = evidence.observation
    modes = {observation.model.training} if observation.training is not None else {True, False}
    found = 0.0
    for training in sorted(modes):
        model, generator = in_mode(observation.model, training), torch.Generator().manual_seed(OWN_SEED)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(OWN_SEED)
            tried = (strays(model, generator, 0.5**number) for number in range(TRIES))
            found = max(found, next((value for value in tried if value is not None), math.inf))
    return found if found > ROUNDED * torch.finfo(observation.like.dtype).eps else 0.0


def _of_layer(evidence: Evidence, count: int) -> Callable[[nn.Module, torch.Generator, float], float | None]:
    observation, layer = evidence.observation, evidence.first_linear
    assert layer is not None
    assert layer.bias is not None
    before = evidence.preprocessing
    kept = () if before is None else before.entrance.state
    names = (layer.weight, layer.bias)

    def strays(model: nn.Module, generator: torch.Generator, size: float) -> float | None:
        state = _drawn_state(observation, kept, size, generator)
        inputs = _drawn_inputs(observation, count, generator)
        wanted = [state[name].requires_grad_() for name in names]
        try:
            outputs = functional_call(model, state, (observation.modality.forward(inputs),))
            back = torch.randn(outputs.shape, generator=generator).to(outputs.dtype)
            grads = torch.autograd.grad(outputs, wanted, back, allow_unused=True)
        except FAILURES:
            return None
        if any(grad is None for grad in grads):
            return None
        gradient = torch.cat([grads[0].double(), grads[1].double()[:, None]], 1)
        rows = evidence.first_rows(inputs).double()
        rows = torch.cat([rows, torch.ones(count, 1, dtype=torch.float64)], 1)
        return _share(gradient - gradient @ torch.linalg.pinv(rows) @ rows, gradient)

    return strays


def _of_outputs(
    evidence: Evidence, names: tuple[str, ...], *, smooth: bool
) -> Callable[[nn.Module, torch.Generator, float], float | None]:
    """Differences of the outputs, against gradients by what is named.

    Args:
        smooth: the scores are linear in all that is named.
    """
    observation, count = evidence.observation, evidence.batch_size or 1
    linear = smooth and set(evidence.structure.link) <= {"column"}
    parameters = sum(tensor.numel() for tensor in observation.model.parameters())

    def strays(model: nn.Module, generator: torch.Generator, size: float) -> float | None:
        state = _drawn_state(observation, (), size, generator)
        noise = torch.randn(count, *observation.modality.shape, generator=generator)
        inputs = observation.modality.project(observation.modality.start(noise)).to(observation.like.dtype)
        found = None
        if parameters <= SMALL:  # a format with more digits shows more
            found = _off(_Outputs(observation, model, _double(state), inputs.double()), names, generator, linear)
        return (
            found if found is not None else _off(_Outputs(observation, model, state, inputs), names, generator, linear)
        )

    return strays


def _off(outputs: _Outputs, names: tuple[str, ...], generator: torch.Generator, linear: bool) -> float | None:
    """How far gradients by what is named are from differences, relative; 0 as far as rounding goes."""
    wanted = {name: outputs.state[name].detach().requires_grad_() for name in names}

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    try:
        scores = outputs(wanted)
        here = scores.detach().double()
        rows = here.reshape(len(here), -1)
        label = torch.randint(rows.shape[1], (len(rows), 1), generator=generator)
        signal = rows.softmax(1).scatter_add(1, label, -torch.ones(label.shape, dtype=torch.float64)).view_as(here)
        backs = [drawn(here), 1e-4 * drawn(here), signal if rows.shape[1] > 1 else drawn(here)]
        backs = [back.to(scores.dtype) for back in backs]
        grads = [
            torch.autograd.grad(scores, list(wanted.values()), back, retain_graph=True, allow_unused=True)
            for back in backs
        ]
        if any(grad is None or not 0 < float(grad.double().norm()) < math.inf for each in grads for grad in each):
            return None
        digits = max(torch.finfo(tensor.dtype).eps for tensor in (scores, *grads[0]))
        step = 1.0 if linear else digits**0.25
        # each tensor moves the scores by as much as the others
        sizes = [step * float(backs[0].double().norm() / grad.double().norm()) for grad in grads[0]]
        worst = 0.0
        for _ in range(DRAWS):
            moves = [(size * drawn(grad)).to(grad.dtype) for size, grad in zip(sizes, grads[0], strict=True)]
            with torch.no_grad():
                ahead, behind = (
                    outputs({n: w + sign * move for (n, w), move in zip(wanted.items(), moves, strict=True)}).double()
                    for sign in (1, -1)
                )
            for back, each in zip(backs, grads, strict=True):
                products = [float((g.double() * m.double()).sum()) for g, m in zip(each, moves, strict=True)]
                scale = math.hypot(*(float(g.double().norm()) * s for g, s in zip(each, sizes, strict=True)))
                off = abs(sum(products) - float((back.double() * (ahead - behind) / 2).sum()))
                unknown = ROOM * float(back.double().norm() * (ahead + behind - 2 * here).norm()) / 2
                if not unknown <= VAGUE * scale or not math.isfinite(off):
                    return None
                if off > unknown + EXACT * digits * scale:
                    worst = max(worst, off / scale)
    except FAILURES:
        return None
    return worst


class _Outputs:
    """A model's outputs as a function of some of its tensors; what it draws is the same each time."""

    def __init__(self, observation: Observation, model: nn.Module, state: dict[str, Tensor], inputs: Tensor) -> None:
        self.observation, self.model, self.state, self.inputs = observation, model, state, inputs
        self.buffers = {name for name, _ in model.named_buffers()}

    def __call__(self, tensors: Mapping[str, Tensor]) -> Tensor:
        state = {n: t.clone() if n in self.buffers else t for n, t in self.state.items()}  # training writes to them
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(OWN_SEED)
            outputs: Tensor = functional_call(
                self.model, {**state, **tensors}, (self.observation.modality.forward(self.inputs),)
            )
        return outputs


def _double(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _of_patches(equations: PatchEquations) -> Callable[[nn.Module, torch.Generator, float], float | None]:
    observation, layer = equations.evidence.observation, equations.layer
    length = float(equations.delta.square().mean().sqrt()) or 1.0  # a coarse backward rounds by size

    def strays(model: nn.Module, generator: torch.Generator, size: float) -> float | None:
        own = (layer.weight, layer.table, *filter(None, [layer.bias]))
        state = _drawn_state(observation, layer.state, size, generator, only=own)
        inputs = _drawn_inputs(observation, 1, generator)
        weight, table = (state[name].requires_grad_() for name in (layer.weight, layer.table))
        try:
            with _UntilAdded(weight, table):
                functional_call(model, state, (observation.modality.forward(inputs),))
        except _Met as met:
            sides = met.sides
        except FAILURES:
            return None
        else:
            return None
        shape = (sides[0].detach() + sides[1].detach()).shape
        back = length * torch.randn(shape, generator=generator)
        try:
            by_weight, by_table = torch.autograd.grad(
                sides, [weight, table], [back.to(side.dtype).sum_to_size(side.shape) for side in sides]
            )
        except FAILURES:
            return None
        gradient = by_weight.double().flatten(1)
        return _share(equations.reading(by_table) @ equations.rows(inputs) - gradient, gradient)

    return strays


def _share(rest: Tensor, gradient: Tensor) -> float | None:
    """What is off, relative; None where the gradient shows nothing."""
    size, off = float(gradient.norm()), float(rest.norm())
    return off / size if 0 < size < math.inf and math.isfinite(off) else None


def _drawn_inputs(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Valid inputs, in the client's format."""
    low, high = bounds(observation.modality)
    shares = torch.rand(count, len(low), generator=generator, dtype=torch.float64)
    inputs = (low + shares * (high - low)).reshape(count, *observation.modality.shape)
    return inputs.to(observation.like.dtype)


def _drawn_state(
    observation: Observation,
    kept: tuple[str, ...],
    size: float,
    generator: torch.Generator,
    only: tuple[str, ...] | None = None,
) -> dict[str, Tensor]:
    """Weights drawn in the size in which layers begin, beside buffers and what is known of the tensors to keep.

    Args:
        only: what is drawn, by name; the rest takes no memory.
    """
    model, known = observation.model, _known(observation)
    state = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        whole = not tensor.is_floating_point()
        if name in known and (whole or name in kept or name in dict(model.named_buffers())):
            state[name] = known[name].detach().cpu().clone()
        elif whole:
            state[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)
        elif only is not None and name not in only:
            state[name] = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        elif tensor.ndim > 1:
            fan = math.prod(tensor.shape[1:])
            state[name] = (size * torch.randn(tensor.shape, generator=generator) / math.sqrt(fan)).to(tensor.dtype)
        else:  # a bias, a factor or a variance
            state[name] = (0.1 + 0.1 * torch.rand(tensor.shape, generator=generator)).to(tensor.dtype)
    return state


def _known(observation: Observation) -> Mapping[str, Tensor]:
    return (observation.update.buffers or {}) if observation.state is None else observation.state


class _Met(Exception):
    """Where the positions are added: both operands."""

    def __init__(self, sides: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.sides = sides


class _UntilAdded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Ends a forward pass where what follows from the one tensor is added to what follows from the other.

    What an autograd function adds within does not count, whose backward stands behind that.
    """

    def __init__(self, weight: Tensor, table: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.leaves = (weight, table)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func in ADDS and not kwargs and torch.is_grad_enabled() and all(isinstance(arg, Tensor) for arg in args):
            made = [{leaf for leaf in (0, 1) if _follows(arg, self.leaves[leaf])} for arg in args]
            if made in ([{0}, {1}], [{1}, {0}]):
                raise _Met((args[0], args[1]))
        return func(*args, **(kwargs or {}))


def _follows(tensor: Tensor, leaf: Tensor) -> bool:
    """Whether a gradient by the tensor gives one by the leaf."""
    if tensor is leaf:
        return True
    seen: set[Any] = set()
    waiting: list[Any] = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if getattr(node, "variable", None) is leaf:
            return True
        seen.add(node)
        waiting += [parent for parent, _ in node.next_functions]
    return False
