"""Reading a model's layers off its operators, so that `nn.Sigmoid()`, `torch.sigmoid` and `F.sigmoid` are one thing.

The architecture is traced on the meta device, without weights and without computing anything. Exact routes need the
layers in a row; where the row breaks, the structure says at which operator, and that sentence reaches the user.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.fx import Graph, Node

from fedseal.attack.evidence.patches import NO_PATCHES, PatchEmbedding, patch_embedding
from fedseal.attack.evidence.trace import MARK, PROBE, ancestors, dependents, draws, module_name, traced
from fedseal.criterion import Link, LinkStep
from fedseal.errors import UnfitModel

aten = torch.ops.aten


@dataclass(frozen=True)
class Linear:
    """A fully connected layer on `(N, inputs)`; weight `(outputs, inputs)` and bias by parameter name."""

    weight: str
    bias: str | None
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]


@dataclass(frozen=True)
class Conv:
    """A convolution on `(N, C, *sides)` of one to three sides with zero padding; weight `(O, C / groups, *kernel)`."""

    weight: str
    bias: str | None
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


@dataclass(frozen=True)
class Activation:
    """An elementwise nonlinearity: "sigmoid", "tanh", "leaky_relu" with its slope, or "relu"."""

    kind: str
    slope: float = 0.0


@dataclass(frozen=True)
class Reshape:
    """A change of shape that keeps examples apart."""

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]


Layer = Linear | Conv | Activation | Reshape


@dataclass(frozen=True)
class Entrance:
    """What a model does to its input before its first layer: whatever is more than a change of shape.

    Args:
        weight: the first layer's, which the data meets next.
        shape: of what that layer takes in, for one example.
        state: names of the parameters and buffers that it uses.
        dropout: names of the dropout modules in it.
        operators: what it computes, in order.
    """

    weight: str
    shape: tuple[int, ...]
    state: tuple[str, ...]
    dropout: tuple[str, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """A model read from both ends; shapes are those of one example.

    Args:
        layers: the layers in a row from the input on, up to the obstacle; behind the entrance if there is one.
        obstacle: why the row does not reach the output, None if it does.
        head: the classification head: the linear layer that makes the outputs, None if there is none.
        tail: the layers in a row that end in the head's input, as far back as they stand in a row; the whole row
            without the head where it reaches the output.
        num_classes: number of outputs; 1 also where the model gives one number for each example, without an axis.
        nonsmooth: whether an operator without a useful second derivative (ReLU, max pooling) occurs anywhere.
        entrance: what stands before the first of the layers, None if that is no more than a change of shape.
        dropout: for every parameter, the dropout modules that the data passes on its way to it; for "", to the output.
        random: operators that draw random numbers although every dropout module is still.
        link: what the model applies to the head's scores before it gives them.
        folds: whether an operator occurs that may give one value for several, such as GELU or a product of values.
        patches: the patch embedding that the model begins with, or why it begins with none.
    """

    layers: tuple[Layer, ...]
    obstacle: str | None
    head: Linear | None
    tail: tuple[Layer, ...]
    num_classes: int
    nonsmooth: bool
    entrance: Entrance | None = None
    dropout: tuple[tuple[str, tuple[str, ...]], ...] = ()
    random: tuple[str, ...] = ()
    link: Link = ()
    folds: bool = False
    patches: PatchEmbedding | str = NO_PATCHES

    def dropout_before(self, weight: str) -> tuple[str, ...]:
        """The dropout modules that the data passes on its way to this parameter, by name."""
        return dict(self.dropout).get(weight, ())


_ACTIVATIONS: dict[Any, Callable[[Node], Activation]] = {
    aten.sigmoid.default: lambda node: Activation("sigmoid"),
    aten.tanh.default: lambda node: Activation("tanh"),
    aten.relu.default: lambda node: Activation("relu"),
    aten.leaky_relu.default: lambda node: Activation(
        "leaky_relu",
        float(node.args[1]) if len(node.args) > 1 else 0.01,  # type: ignore[arg-type]
    ),
}
_VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)
_NONSMOOTH = ("relu", "max_pool2d", "hardtanh", "threshold")
# What gives each value its own, or is linear; of anything else that data passes two values may give one.
_UNFOLDED = (
    "embedding", "relu", "leaky_relu", "sigmoid", "tanh", "elu", "softplus", "hardtanh", "hardsigmoid", "threshold",
    "clamp", "clamp_min", "clamp_max", "log_sigmoid_forward", "exp", "log", "add", "add_", "sub", "rsub", "neg",
    "mean", "sum", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "max_pool1d", "max_pool2d_with_indices", "max_pool3d_with_indices", "native_batch_norm",
    "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "native_layer_norm",
    "native_group_norm", "_softmax", "_log_softmax", "native_dropout", "bernoulli_", "view", "_unsafe_view",
    "reshape", "permute", "transpose", "t", "expand", "slice", "select", "cat", "stack", "split",
    "split_with_sizes", "unbind", "squeeze", "unsqueeze", "alias", "clone", "detach", "_to_copy", "contiguous",
    "flip", "constant_pad_nd", "unfold", "im2col", "repeat", "roll", "index", "index_select", "gather", "copy_",
    "slice_scatter", "upsample_nearest2d", "upsample_bilinear2d",
)  # fmt: skip
_PRODUCTS = ("mul", "mul_", "div", "div_", "mm", "addmm", "bmm", "baddbmm", "matmul", "convolution")
_MIXING = tuple(
    operator.default
    for operator in (aten.convolution, aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.matmul, aten.embedding)
)


def structure_of(model: nn.Module, shape: tuple[int, ...], *, whole: bool = False) -> Structure:
    """Read an architecture (on the meta device) for inputs of this shape, without the batch dimension.

    Args:
        whole: inputs are whole numbers, such as token ids.

    Raises:
        UnfitModel: the model does not accept such inputs, or its output is not `(N, classes)`.
    """
    trace = traced(model, shape, whole=whole)
    graph, inputs, result, parameters, dropout = trace
    if not isinstance(result, Node) or _shape(result) is None or len(_shape(result) or ()) > 1:
        raise UnfitModel(
            f"{type(model).__name__} does not give one row of class scores for each input",
            "wrap it so that forward(inputs) returns (N, classes), or (N,)",
        )
    start, entrance = inputs, None
    if not whole:
        start, entrance = _entrance(graph, inputs, result, parameters, dropout)
    classes = _shape(result)
    assert classes is not None
    calls = [node.target for node in graph.nodes if node.op == "call_function"]
    last, link = _last_linear(result)
    behind = dependents(graph, inputs)
    head = _linear(last, parameters)
    layers, obstacle = _row(start, result if head is None else last, parameters)
    return Structure(
        layers,
        obstacle,
        head,
        () if head is None else _tail(last, start, parameters),
        classes[0] if classes else 1,
        any(any(word in str(call) for word in _NONSMOOTH) for call in calls),
        entrance,
        (("", dropout[result]), *((name, dropout[node]) for node, name in parameters.items() if dropout[node])),
        tuple(dict.fromkeys(module_name(call) for call in calls if draws(call))),
        () if head is None else link,
        any(_folds(node, behind) for node in graph.nodes if node in behind and node.op == "call_function"),
        NO_PATCHES if whole or len(shape) != 3 else patch_embedding(trace),
    )


def _folds(node: Node, behind: set[Node]) -> bool:
    """Whether an operator may give one value for several."""
    name = module_name(node.target)
    if name in _PRODUCTS:  # of what follows from the data and what does not
        return sum(parent in behind for parent in node.all_input_nodes) > 1 or (
            name == "div" and node.args[0] not in behind
        )
    return name not in _UNFOLDED and "getitem" not in name


def _entrance(
    graph: Graph, inputs: Node, result: Node, parameters: dict[Node, str], dropout: dict[Node, tuple[str, ...]]
) -> tuple[Node, Entrance | None]:
    """Where the first layer takes the data in, and what stands before; the input and None where nothing more than a
    change of shape does, or where the data reaches the output beside that layer as well.
    """
    behind = {inputs}  # what depends on the input
    first, data = None, None
    for node in graph.nodes:
        if not behind.intersection(node.all_input_nodes):
            continue
        behind.add(node)
        if node.target in _MIXING:
            first, data = node, _data(node, parameters)
            break
    layer = None if first is None or data is None else _layer(first, data, parameters)
    if not isinstance(layer, (Linear, Conv)) or first is None or data is None:
        return inputs, None
    needed, matters = ancestors(data), ancestors(result)
    region = [node for node in graph.nodes if node in needed and node in behind and node is not inputs]
    inside = {inputs, *region}
    beside = [user for node in inside for user in node.users if user in matters and user not in inside]
    if set(beside) != {first}:
        return inputs, None
    met = dropout[data]
    if not met and all(node.target in _VIEWS and node.meta["val"].shape[0] == PROBE for node in region):
        return inputs, None
    shape = _shape(data)
    assert shape is not None
    state = tuple(name for node, name in parameters.items() if node in needed)
    operators = tuple(module_name(node.target) for node in region if isinstance(node.target, OpOverload))
    return data, Entrance(layer.weight, shape, state, met, operators)


def _shape(node: Node) -> tuple[int, ...] | None:
    """The shape for one example, None for what is no tensor with a row an example."""
    value = node.meta.get("val")
    return tuple(value.shape[1:]) if isinstance(value, torch.Tensor) and value.ndim else None


def _row(node: Node, end: Node, parameters: dict[Node, str]) -> tuple[tuple[Layer, ...], str | None]:
    layers: list[Layer] = []
    while node is not end:
        users = [user for user in node.users if user.target is not aten.detach.default and user.op != "output"]
        if len(users) != 1:
            after = f"after layer {len(layers)}" if layers else "at the input"
            return tuple(layers), f"{after} the data takes {len(users)} ways (a residual or attention block)"
        if users[0].target is not MARK:
            layer = _layer(users[0], node, parameters)
            if isinstance(layer, str):
                return tuple(layers), layer
            layers.append(layer)
        node = users[0]
    return tuple(layers), None


def _layer(user: Node, node: Node, parameters: dict[Node, str]) -> Layer | str:
    """The layer that `user` applies to `node`, or why it is none that can be inverted."""
    target, operator = user.target, module_name(user.target)
    in_shape, out_shape = _shape(node), _shape(user)
    if target in _ACTIVATIONS:
        return _ACTIVATIONS[target](user)
    if in_shape is None or out_shape is None:
        return f"the operator '{operator}' has no closed-form inverse here"
    if target in _VIEWS:
        value = user.meta["val"]
        if value.shape[0] != PROBE or math.prod(in_shape) != math.prod(out_shape):
            return "a layer is shared by the positions of one example (tokens), so its gradient is a sum over them"
        return Reshape(in_shape, out_shape)
    again = _used_again(user, parameters)
    if again is not None:
        return f"the parameter '{again}' is used a second time, so that its gradient is a sum of two"
    linear = _linear(user, parameters)
    if linear is not None:
        return linear
    if target is aten.convolution.default:
        _, weight, bias, stride, padding, dilation, transposed, _, groups = user.args
        if weight not in parameters or transposed:
            return "a convolution that is transposed, or whose weight is computed"
        return Conv(
            parameters[weight],  # type: ignore[index]
            parameters.get(bias) if isinstance(bias, Node) else None,
            in_shape,
            out_shape,
            tuple(weight.meta["val"].shape[2:]),  # type: ignore[union-attr]
            tuple(stride),  # type: ignore[arg-type]
            tuple(padding),  # type: ignore[arg-type]
            tuple(dilation),  # type: ignore[arg-type]
            int(groups),  # type: ignore[arg-type]
        )
    return (
        f"the operator '{operator}' after {len(_weights(user, parameters))} weight(s) cannot be inverted in closed form"
    )


def _used_again(user: Node, parameters: dict[Node, str]) -> str | None:
    """A parameter of a layer that something else than the layer uses too, by name; looking tokens up does not count,
    whose gradient shows by its rows.
    """
    for operand in user.all_input_nodes:
        own = operand.all_input_nodes[0] if operand.target is aten.t.default else operand
        if own not in parameters:
            continue
        users = {use for step in own.users for use in (step.users if step.target is aten.t.default else (step,))}
        if {use for use in users if use.target not in (aten.detach.default, aten.embedding.default)} - {user}:
            return parameters[own]
    return None


def _weights(user: Node, parameters: dict[Node, str]) -> list[str]:
    return [parameters[n] for n in user.all_input_nodes if n in parameters]


def _linear(node: Node, parameters: dict[Node, str]) -> Linear | None:
    """The fully connected layer that a matrix product is, None if it is none."""
    if node.target is aten.addmm.default and len(node.args) == 3:
        bias, inputs, transposed = node.args
    elif node.target is aten.mm.default:
        bias, (inputs, transposed) = None, node.args
    else:
        return None
    if not (isinstance(inputs, Node) and isinstance(transposed, Node) and transposed.target is aten.t.default):
        return None
    weight = transposed.args[0]
    in_shape, out_shape = _shape(inputs), _shape(node)
    rows = inputs.meta["val"].shape[0]
    if weight not in parameters or in_shape is None or out_shape is None or rows != PROBE:
        return None
    bias_name = parameters.get(bias) if isinstance(bias, Node) else None
    return Linear(parameters[weight], bias_name, in_shape, out_shape)  # type: ignore[index]


def _last_linear(result: Node) -> tuple[Node, Link]:
    """The operator that makes the scores, and what is applied to them: a log-softmax, a sigmoid, or an axis less."""
    steps: list[LinkStep] = []
    applied: dict[Any, LinkStep] = {aten._log_softmax.default: "log_softmax", aten.sigmoid.default: "sigmoid"}
    node = result
    while node.target in (*applied, MARK, *_VIEWS, aten.select.int, aten.squeeze.dim, aten.squeeze.dims):
        parent = node.args[0]
        assert isinstance(parent, Node)
        if node.target in applied:
            steps.append(applied[node.target])
        elif _shape(node) == () and _shape(parent) == (1,):
            steps.append("column")
        node = parent
    return node, tuple(reversed(steps))


def _tail(head: Node, inputs: Node, parameters: dict[Node, str]) -> tuple[Layer, ...]:
    """Back from the head's input to where the data comes or goes more ways than one, or to what is no known layer."""
    layers: list[Layer] = []
    node = _data(head, parameters)
    while node is not None and node is not inputs:
        before = _data(node, parameters)
        if before is None or len([user for user in before.users if user.target is not aten.detach.default]) != 1:
            break
        if node.target is not MARK:
            layer = _layer(node, before, parameters)
            if isinstance(layer, str):
                break
            layers.append(layer)
        node = before
    return tuple(reversed(layers))


def _data(node: Node, parameters: dict[Node, str]) -> Node | None:
    """The one operand of a node that is no weight, None if there are several."""
    operands = [n for n in node.all_input_nodes if n not in parameters and n.target is not aten.t.default]
    return operands[0] if len(operands) == 1 else None
