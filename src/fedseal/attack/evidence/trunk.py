"""What a model makes of its input before any weight that was sent has a part in it.

An update says of the inputs what is left of them behind this trunk: a frozen layer, a normalization, features that the
forward pass computes. Where two inputs come out of it alike, no update tells them apart, however many entries it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.structure import Conv, Linear, Reshape
from fedseal.attack.evidence.trace import ancestors, dependents, module_name, traced
from fedseal.types import Tensors

# Every value that one of these takes in comes out as it is.
_MOVED = (
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "alias", "clone",
    "contiguous", "flip",
)  # fmt: skip


@dataclass(frozen=True)
class Trunk:
    """The part of a graph that ends where the first weights that were sent come in.

    Args:
        nodes: of which it consists, in order, with what operators write to in place.
        parameters: the nodes of parameters and buffers, and their names.
        inputs: the node of the model's input.
        ends: what leaves it.
        waist: the fewest values of one example that all data passes through behind a node with more values than the
            input; infinite if there is none.
    """

    graph: Graph
    nodes: tuple[Node, ...]
    parameters: Mapping[Node, str]
    inputs: Node
    ends: tuple[Node, ...]
    waist: float

    def __call__(self, state: Tensors, inputs: Tensor) -> Tensor:
        """What leaves it, `(values,)`, for model inputs `(N, *shape)`, as many as it was traced for; differentiable.

        Args:
            state: parameters and buffers by name.

        Raises:
            RuntimeError: an operator insists on a format.
        """
        known: dict[Node, Any] = {}
        for node in self.nodes:
            if node is self.inputs:
                known[node] = inputs * 1  # which an operator may write to
            elif node in self.parameters:
                tensor = state[self.parameters[node]]
                known[node] = tensor.to(inputs.dtype, copy=True) if tensor.is_floating_point() else tensor.clone()
            elif node.op == "get_attr":
                known[node] = getattr(self.graph.owning_module, str(node.target))
            else:
                assert not isinstance(node.target, str)
                args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
                known[node] = node.target(*args, **kwargs)
        return torch.cat([known[end].to(inputs.dtype).flatten() for end in self.ends])


def trunk(evidence: Evidence, count: int) -> Trunk | None:
    """The trunk for as many examples; None where the data meets weights that were sent as it is, or value by value
    scaled and shifted.

    Raises:
        UnfitModel: the model does not accept so many examples.
    """
    return None if _direct(evidence) else evidence.once(f"trunk of {count}", lambda: _read(evidence, count))


def _moved(evidence: Evidence) -> frozenset[str]:
    """The weights that moved; what was sent as zeros may be frozen."""
    rounds = evidence.observation.rounds
    return frozenset(name for r in rounds for name, tensor in r.update.tensors.items() if bool(tensor.any()))


def _direct(evidence: Evidence) -> bool:
    """Whether the first layer moved and takes the data in, behind nothing that cannot be undone."""
    first = next((layer for layer in evidence.structure.layers if not isinstance(layer, Reshape)), None)
    return isinstance(first, (Linear, Conv)) and bool({first.weight, first.bias} & _moved(evidence))


def _read(evidence: Evidence, count: int) -> Trunk | None:
    seen, sent = evidence.observation, _moved(evidence)
    graph, inputs, result, parameters, _ = traced(seen.model, seen.modality.shape, examples=count)
    assert isinstance(result, Node)
    behind, matters = dependents(graph, inputs), ancestors(result)
    weights = {node for node, name in parameters.items() if name in sent}
    inside = {inputs}
    for node in graph.nodes:
        parents = set(node.all_input_nodes)
        if node not in behind and parents & weights:
            weights.add(node)
        elif node in behind and not parents & weights and parents & behind <= inside:
            inside.add(node)
    ends = tuple(
        node
        for node in graph.nodes
        if node in inside and node in matters
        if node is result or any(user in matters and user not in inside for user in node.users)
    )
    if any(_as_it_is(end, inputs) for end in ends):
        return None
    order = list(graph.nodes)
    order = order[: 1 + max(map(order.index, ends))]
    region = {node for end in ends for node in ancestors(end)} & inside
    waist = _waist([node for node in order if node in region], ends, math.prod(seen.modality.shape), count)
    run = tuple(node for node in order if node in inside or (node not in behind and node not in weights))
    return Trunk(graph, run, parameters, inputs, ends, waist)


def _as_it_is(end: Node, inputs: Node) -> bool:
    """Whether the data comes to this node by changes of shape and order alone."""
    while end is not inputs:
        if module_name(end.target) not in _MOVED or len(end.all_input_nodes) != 1:
            return False
        end = end.all_input_nodes[0]
    return True


def _waist(region: list[Node], ends: tuple[Node, ...], numel: int, count: int) -> float:
    """See `Trunk.waist`; all data passes a node behind which nothing of before is needed."""
    place = {node: number for number, node in enumerate(region)}
    needed = {node: max((place[user] for user in node.users if user in place), default=0) for node in region}
    needed |= dict.fromkeys(ends, len(region))
    fewest, open_until, widened = math.inf, 0, False
    for number, node in enumerate(region):
        values = _values(node) / count
        if widened and open_until <= number:
            fewest = min(fewest, values)
        widened |= values > numel
        open_until = max(open_until, needed[node])
    return fewest


def _values(node: Node) -> int:
    value = node.meta.get("val")
    parts = value if isinstance(value, (list, tuple)) else [value]
    return max((part.numel() for part in parts if isinstance(part, Tensor)), default=0)
