"""A patch embedding whose positions are added: what a vision transformer does first, found by what it computes.

One layer takes in all patches of a picture, each on its own, and a table of learned positions is added to what it
gives. Where which entry of the table is added to which output is found out by letting numbers flow through the
operators in between, which only move them: no operator, module or parameter is known by its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fedseal.attack.evidence.trace import MARK, PROBE, Trace, ancestors, dependents, module_name

aten = torch.ops.aten
ADDS = (aten.add.Tensor, aten.add_.Tensor)
CASTS = (aten._to_copy.default, aten.detach.default, MARK, aten.clone.default)
MOVING = (
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "movedim", "expand",
    "slice", "select", "cat", "slice_scatter", "squeeze", "unsqueeze", "alias", "clone", "contiguous", "_to_copy",
)  # fmt: skip
PLACED = ("device", "pin_memory", "layout")  # options of operators that make constants, which are made here on the CPU
SIZES = (1e-3, 1.0, 1e3)  # of tables that are tried: what mixes rows does so whatever they hold
Reading = Callable[[Tensor], Tensor]
NO_PATCHES = "the first layer takes in no patches, each on its own"


@dataclass(frozen=True)
class PatchEmbedding:
    """A layer on patches `(places, pixels)` of what the model enters, and the table that is added to what it gives.

    Args:
        weight: of the layer, `(width, pixels)` once flattened, by name.
        bias: by name, None where there is none.
        table: the learned positions, by name.
        shape: of what the layer takes in, for one example.
        kernel: the sides of a patch, None where the layer takes in rows of patches as they are.
        places: number of patches.
        width: outputs for each.
        state: names of the parameters and buffers that stand before the layer.
        operators: what is computed before the layer, in order.
        dropout_before: dropout modules on the way to the layer.
        dropout: those between the layer and where the positions are added.
        indices: buffers of whole numbers that say where positions are, by name.
        reading: for given buffers, what makes of the table's gradient that by what the layer gives, `(width, places)`
            in float64; None where the table does not show it.
    """

    weight: str
    bias: str | None
    table: str
    shape: tuple[int, ...]
    kernel: tuple[int, ...] | None
    places: int
    width: int
    state: tuple[str, ...]
    operators: tuple[str, ...]
    dropout_before: tuple[str, ...]
    dropout: tuple[str, ...]
    indices: tuple[str, ...]
    reading: Callable[[Mapping[str, Tensor]], Reading | None]

    def rows(self, entered: Tensor) -> Tensor:
        """Patches `(places, pixels)` of what the layer takes in, `(1, *shape)`."""
        if self.kernel is None:
            return entered.reshape(self.places, -1)
        return torch.nn.functional.unfold(entered, self.kernel, stride=self.kernel)[0].T

    def entered(self, rows: Tensor) -> Tensor:
        """What the layer takes in, `(1, *shape)`, from its patches; zeros where no patch reaches."""
        if self.kernel is None:
            return rows.reshape(1, *self.shape)
        return torch.nn.functional.fold(rows.T[None], self.shape[1:], self.kernel, stride=self.kernel)


@dataclass(frozen=True)
class _Layer:
    """The operator that takes in patches, and what is known of it."""

    node: Node
    data: Node
    weight: Node
    bias: Node | None
    kernel: tuple[int, ...] | None
    places: int
    width: int


def patch_embedding(trace: Trace) -> PatchEmbedding | str:
    """The patch embedding that a model begins with, or why it begins with none."""
    layer = _first_layer(trace)
    if isinstance(layer, str):
        return layer
    if len(_uses(layer.weight, trace)) > 1:
        return f"the patches' layer '{trace.parameters[layer.weight]}' is used a second time"
    found = _where_added(trace, layer)
    if isinstance(found, str):
        return found
    table, added, data, crossed = found
    needed, parameters = ancestors(layer.data), trace.parameters
    behind = dependents(trace.graph, trace.inputs)
    between = [node for node in trace.graph.nodes if node in needed and node in behind and node is not trace.inputs]
    indices = tuple(
        parameters[node] for node in ancestors(added) if node in parameters and not node.meta["val"].is_floating_point()
    )

    def reading(buffers: Mapping[str, Tensor]) -> Reading | None:
        return _reading(trace, layer, table, added, data, buffers)

    shape = layer.data.meta["val"].shape
    return PatchEmbedding(
        parameters[layer.weight],
        None if layer.bias is None else parameters[layer.bias],
        parameters[table],
        tuple(shape[1:]) if layer.kernel is not None else (layer.places, shape[-1]),
        layer.kernel,
        layer.places,
        layer.width,
        tuple(name for node, name in parameters.items() if node in needed),
        tuple(module_name(node.target) for node in between if node.op == "call_function"),
        trace.dropout[layer.data],
        tuple(name for name in crossed if name not in trace.dropout[layer.data]),
        indices,
        reading,
    )


def _first_layer(trace: Trace) -> _Layer | str:
    behind, parameters = dependents(trace.graph, trace.inputs), trace.parameters
    mixing = (aten.convolution.default, aten.mm.default, aten.addmm.default, aten.bmm.default)
    first = next((node for node in trace.graph.nodes if node in behind and node.target in mixing), None)
    if first is None or first.target is aten.bmm.default:
        return NO_PATCHES
    if first.target is aten.convolution.default:
        data, used, added, stride, padding, dilation, transposed, _, groups = first.args
        weight = _parameter(used, parameters)
        kernel = tuple(used.meta["val"].shape[2:])
        if weight is None or transposed or groups != 1 or any(padding) or len(kernel) != 2:
            return NO_PATCHES
        if data.meta["val"].shape[0] != PROBE:
            return f"{NO_PATCHES}: one example enters it as several, such as each channel alone"
        if tuple(stride) != kernel or any(step != 1 for step in dilation):
            return f"{NO_PATCHES}: its windows of {_sides(kernel)} move by {_sides(stride)}"
        width, *grid = first.meta["val"].shape[1:]
        places = math.prod(grid)
    else:
        added, data, turned = first.args if first.target is aten.addmm.default else (None, *first.args)
        rows, weight, kernel = first.meta["val"].shape[0], _parameter(turned, parameters), None
        if weight is None or weight.meta["val"].shape != turned.meta["val"].shape[::-1] or rows % PROBE:
            return NO_PATCHES
        places, width = rows // PROBE, first.meta["val"].shape[1]
    bias = _parameter(added, parameters)
    if places < 2 or data not in behind or (added is not None and bias is None):
        return NO_PATCHES
    return _Layer(first, data, weight, bias, kernel, places, width)


def _parameter(node: Any, parameters: Mapping[Node, str]) -> Node | None:
    """The parameter that an operand is, if need be in another number format or turned; None if it is none."""
    while isinstance(node, Node) and node not in parameters and node.target in (*CASTS, aten.t.default):
        node = node.args[0]
    return node if isinstance(node, Node) and node in parameters else None


def _sides(numbers: Iterable[int]) -> str:
    return " x ".join(map(str, numbers))


def _uses(parameter: Node, trace: Trace) -> set[Node]:
    """What a parameter goes into, in whatever number format, turned or not."""
    found: set[Node] = set()
    waiting = [user for user in parameter.users if not _aside(user)]
    while waiting:
        user = waiting.pop()
        if user.target in (*CASTS, aten.t.default):
            waiting += [again for again in user.users if not _aside(again)]
        else:
            found.add(user)
    return found


def _where_added(trace: Trace, layer: _Layer) -> tuple[Node, Node, Node, tuple[str, ...]] | str:
    """The table, what is added of it, what it is added to, and the dropout modules met until there."""
    behind, node = dependents(trace.graph, trace.inputs), layer.node
    while True:
        users = [user for user in node.users if user.target is not aten.detach.default]
        if len(users) != 1:
            return "no learned positions are added to what the patches' layer gives before it goes several ways"
        user = users[0]
        if user.target in ADDS and not user.kwargs:
            other = next((arg for arg in user.args if arg is not node), None)
            if isinstance(other, Node) and other not in behind:
                table = _table(other, user, trace)
                if table is not None:
                    return table, other, node, trace.dropout[node]
        elif not _moves(user, behind):
            return (
                f"no learned positions are added to what the patches' layer gives before '{module_name(user.target)}'"
            )
        node = user


def _table(added: Node, where: Node, trace: Trace) -> Node | None:
    """The one parameter of fractions that what is added is made of, used there alone; None for a bias or a constant."""
    inside = ancestors(added)
    floats = [node for node in inside if node in trace.parameters and node.meta["val"].is_floating_point()]
    if len(floats) != 1 or added.meta["val"].ndim < 2 or math.prod(added.meta["val"].shape[-3:-1]) < 2:
        return None
    used = [user for node in inside if floats[0] in ancestors(node) for user in node.users]
    return floats[0] if all(user in inside or user is where or _aside(user) for user in used) else None


def _aside(node: Node) -> bool:
    return node.target is aten.detach.default


def _moves(node: Node, behind: set[Node]) -> bool:
    """Whether an operator moves values and changes none; other values may be set beside them."""
    return module_name(node.target) in MOVING and sum(parent in behind for parent in node.all_input_nodes) == 1


def _codes(layer: _Layer) -> Tensor:
    """A number for each output of the layer, in its shape; two examples."""
    shape = layer.node.meta["val"].shape
    return torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)


def _reading(
    trace: Trace, layer: _Layer, table: Node, added: Node, data: Node, buffers: Mapping[str, Tensor]
) -> Reading | None:
    """See `PatchEmbedding.reading`."""
    known: dict[Node, Any] = {layer.node: _codes(layer)}
    for node, name in trace.parameters.items():
        value = node.meta["val"]
        whole = not value.is_floating_point()
        known[node] = buffers[name] if whole and name in buffers else torch.full(value.shape, math.nan)
    shape = table.meta["val"].shape

    def at_places(own: Tensor) -> Tensor:
        """What is added to each output and patch of the first example, `(width, places)`, for a table."""
        found: Tensor = _value(added, {**known, table: own}).expand(data.meta["val"].shape)[0].double().flatten()
        return found[places]

    try:
        places = _places(layer, _value(data, dict(known), layer.node))
        if places is None:
            return None
        codes = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
        entries, beside = at_places(codes), at_places(torch.zeros_like(codes))
        moved = entries - beside  # what is added beside the table is no matter
        if _each_once(moved, codes.numel()) and torch.equal(at_places(codes + 1) - beside, moved + 1):
            return lambda gradient: gradient.double().flatten()[moved.long()]
        return _unmixing(lambda own: at_places(own) - beside, shape, layer)
    except (RuntimeError, TypeError, IndexError, NotImplementedError):
        return None


def _each_once(entries: Tensor, count: int) -> bool:
    """Whether they are numbers of that many entries, each one's at most once."""
    whole = bool((entries == entries.round()).all()) and bool(((entries >= 0) & (entries < count)).all())
    return whole and len(set(entries.flatten().tolist())) == entries.numel()


def _places(layer: _Layer, moved: Tensor) -> Tensor | None:
    """Where each output of the layer stands once it was moved, `(width, places)`; None unless there once."""
    moved, codes = moved[0].double().flatten(), _codes(layer)
    here = moved.isfinite().nonzero()[:, 0]
    if len(here) != layer.width * layer.places:  # some stand there twice
        return None
    found = torch.full((codes.numel(),), -1, dtype=torch.long)
    found[moved[here].long()] = here
    own = codes[0].flatten(1) if layer.kernel is not None else codes[: layer.places].T
    places = found[own.long()]
    return None if bool((places < 0).any()) or int((found >= 0).sum()) != places.numel() else places


def _unmixing(at_places: Callable[[Tensor], Tensor], shape: torch.Size, layer: _Layer) -> Reading | None:
    """For a table that is resized before it is added: every row that is added is a mixture of its rows, the same for
    all channels. None where it is not, or not for rows of every size, as behind a clip, or where more rows are added
    than it has.
    """
    if shape[-1] != layer.width or math.prod(shape[:-1]) < layer.places:
        return None
    table = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        mixed = at_places(table)
    mixing = torch.zeros(layer.places, math.prod(shape[:-1]), dtype=torch.float64)
    for first in range(0, layer.places, layer.width):
        own = torch.arange(first, min(first + layer.width, layer.places))
        chosen = torch.zeros_like(mixed)
        chosen[own - first, own] = 1.0
        (back,) = torch.autograd.grad(mixed, table, chosen, retain_graph=True)
        mixing[own] = back.reshape(-1, layer.width)[:, own - first].T
    probe = torch.linspace(-1, 1, table.numel(), dtype=torch.float64).sin().reshape(shape)
    for size in SIZES:
        added, expected = at_places(size * probe), (mixing @ (size * probe).reshape(-1, layer.width)).T
        if not bool((added - expected).abs().max() <= 1e-6 * expected.abs().max()):
            return None
    if int(torch.linalg.matrix_rank(mixing)) < layer.places:
        return None
    inverse = torch.linalg.pinv(mixing.T)
    return lambda gradient: (inverse @ gradient.double().reshape(-1, layer.width)).T


def _value(node: Node, known: dict[Node, Any], followed: Node | None = None) -> Any:
    """What a node computes, from what is known.

    Args:
        followed: what gives numbers that stand for places; a bias or a constant that is added moves none of them.
    """
    if node not in known:
        if not callable(node.target):
            raise NotImplementedError(node.op)
        arguments = torch.fx.node.map_arg(node.args, lambda one: _value(one, known, followed))
        options = torch.fx.node.map_arg(node.kwargs, lambda one: _value(one, known, followed))
        if followed is not None and node.target in ADDS:
            kept = [
                one
                for one, parent in zip(arguments, node.args, strict=True)
                if isinstance(parent, Node) and followed in ancestors(parent)
            ]
            if len(kept) != 1:
                raise NotImplementedError("what is added cannot be told from what it is added to")
            known[node] = kept[0]
        elif node.target in CASTS:
            known[node] = arguments[0]  # codes stay whole in whatever format
        else:
            known[node] = node.target(
                *arguments, **{k: v for k, v in options.items() if k not in ("device", "pin_memory")}
            )
    return known[node]
