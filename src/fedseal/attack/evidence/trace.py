"""A model's operators, recorded without weights and without computing anything.

Dropout modules are still in an adversary's copy of the model; here each leaves a mark, so that it is known which of
them the data passes on its way to a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_hook

from fedseal.errors import UnfitModel

aten = torch.ops.aten
MARK = aten.alias.default  # what a dropout module is among the operators
PROBE = 2  # examples in the traced batch: two, so that BatchNorm in train mode accepts a 1x1 map


class Trace(NamedTuple):
    """The operators on some examples.

    Args:
        inputs: the node of the model's input, of which `result` is made.
        parameters: the nodes of parameters and buffers, and their names.
        dropout: for every node, the dropout modules that the data passed up to there; for a parameter, up to where it
            is used.
    """

    graph: Graph
    inputs: Node
    result: object
    parameters: dict[Node, str]
    dropout: dict[Node, tuple[str, ...]]


def traced(model: nn.Module, shape: tuple[int, ...], *, whole: bool = False, examples: int = PROBE) -> Trace:
    """Record an architecture (on the meta device) on so many inputs of this shape, whole numbers or not.

    Raises:
        UnfitModel: the model does not accept such inputs.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    dtype = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), torch.float32)
    places: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, _DropoutNd)
    }
    met: list[str] = []

    def mark(module: nn.Module, output: Tensor) -> Tensor:
        met.append(places[module])
        marked: Tensor = MARK(output)
        return marked

    try:
        # fake, not meta: a forward may build constants on the CPU
        with FakeTensorMode(allow_non_fake_inputs=True), at_dropout(model, mark):
            fake = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}
            inputs = torch.empty(examples, *shape, dtype=torch.long if whole else dtype)
            graph = make_fx(lambda state, x: functional_call(model, state, (x,)))(fake, inputs).graph
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnfitModel(
            f"{type(model).__name__} does not accept inputs of shape {(examples, *shape)} ({first})",
            "give the modality the shape that the model was trained on",
        ) from error
    for node in graph.nodes:
        if draws(node.target) and _still(node):
            node.target = Still(node.target)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    parameters = dict(zip(placeholders[:-1], tensors, strict=True))
    output = next(node for node in graph.nodes if node.op == "output").args[0]
    result = output[0] if isinstance(output, (list, tuple)) and len(output) == 1 else output
    return Trace(graph, placeholders[-1], result, parameters, _passed(graph, met, parameters))


@contextmanager
def at_dropout(model: nn.Module, change: Callable[[nn.Module, Tensor], Tensor]) -> Iterator[None]:
    """Let `change` make of every dropout module's output, as it is called, what the model goes on with."""
    own = {module for module in model.modules() if isinstance(module, _DropoutNd)}
    handle = register_module_forward_hook(
        lambda module, _, output: change(module, output) if module in own else None  # type: ignore[arg-type]
    )
    try:
        yield
    finally:
        handle.remove()


def module_name(target: object) -> str:
    """An operator's name without namespace and overload, such as "addmm"."""
    return str(target).removeprefix("aten.").split(".")[0]


def draws(target: object) -> bool:
    """Whether an operator draws random numbers; in a trace, one whose arguments keep it from that does not."""
    return isinstance(target, OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


class Still(NamedTuple):
    """An operator that could draw random numbers, where its arguments say that it does not."""

    operator: OpOverload

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the operator gives."""
        return self.operator(*args, **kwargs)

    def __str__(self) -> str:
        """The operator's name."""
        return str(self.operator)


def _still(node: Node) -> bool:
    """Whether dropout has probability 0, as in attention without it, or an operator is told not to train."""
    assert isinstance(node.target, OpOverload)
    for place, argument in enumerate(node.target._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, default)
        if argument.name in ("dropout_p", "dropout", "p") and isinstance(value, (int, float)) and value == 0:
            return True
        if argument.name in ("train", "training") and value is False:
            return True
    return False


def _passed(graph: Graph, modules: Sequence[str], parameters: dict[Node, str]) -> dict[Node, tuple[str, ...]]:
    """For every node, the dropout modules that the data passed up to there; for a parameter, up to where it is used."""
    marks = [node for node in graph.nodes if node.target is MARK]
    # a model with aliases of its own: any of its dropout may stand before anything
    named = dict(zip(marks, modules, strict=True)) if len(marks) == len(modules) else dict.fromkeys(marks, "")
    every = tuple(dict.fromkeys(modules))
    passed: dict[Node, tuple[str, ...]] = {}
    for node in graph.nodes:
        before = [name for parent in node.all_input_nodes if parent not in parameters for name in passed[parent]]
        own = [] if node not in named else [named[node]] if named[node] else list(every)
        passed[node] = tuple(dict.fromkeys([*before, *own]))
        for parent in node.all_input_nodes:
            used = parent.args[0] if parent.target is aten.t.default else parent
            if used in parameters:
                passed[used] = tuple(dict.fromkeys([*passed[used], *before]))
    return passed


def dependents(graph: Graph, node: Node) -> set[Node]:
    """The node and everything that is made of it."""
    found = {node}
    for other in graph.nodes:
        if found.intersection(other.all_input_nodes):
            found.add(other)
    return found


def ancestors(node: Node) -> set[Node]:
    """The node and everything it is made of."""
    found, waiting = {node}, [node]
    while waiting:
        for parent in waiting.pop().all_input_nodes:
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found
