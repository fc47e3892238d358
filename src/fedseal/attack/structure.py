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
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

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
    """A 2-D convolution on `(N, C, H, W)` with zero padding; weight `(O, C / groups, kH, kW)`."""

    weight: str
    bias: str | None
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
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
class Structure:
    """A model read from both ends; shapes are those of one example.

    Args:
        layers: the layers in a row from the input on, up to the obstacle.
        obstacle: why the row does not reach the output, None if it does.
        head: the classification head: the linear layer that makes the outputs, None if there is none.
        tail: the layers in a row that end in the head's input, as far back as they stand in a row; the whole row
            without the head where it reaches the output.
        num_classes: number of outputs.
        nonsmooth: whether an operator without a useful second derivative (ReLU, max pooling) occurs anywhere.
    """

    layers: tuple[Layer, ...]
    obstacle: str | None
    head: Linear | None
    tail: tuple[Layer, ...]
    num_classes: int
    nonsmooth: bool


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
_PROBE = 2  # examples in the traced batch: two, so that BatchNorm in train mode accepts a 1x1 map


def structure_of(model: nn.Module, shape: tuple[int, ...], *, whole: bool = False) -> Structure:
    """Read an architecture (on the meta device) for inputs of this shape, without the batch dimension.

    Args:
        whole: inputs are whole numbers, such as token ids.

    Raises:
        UnfitModel: the model does not accept such inputs, or its output is not `(N, classes)`.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = list(tensors)
    dtype = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), torch.float32)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):  # fake, not meta: a forward may build constants on the CPU
            fake = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}
            inputs = torch.empty(_PROBE, *shape, dtype=torch.long if whole else dtype)
            graph = make_fx(lambda state, x: functional_call(model, state, (x,)))(fake, inputs).graph
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnfitModel(
            f"{type(model).__name__} does not accept inputs of shape {(_PROBE, *shape)} ({first})",
            "give the modality the shape that the model was trained on",
        ) from error
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    parameters = dict(zip(placeholders[:-1], names, strict=True))
    output = next(node for node in graph.nodes if node.op == "output").args[0]
    result = output[0] if isinstance(output, (list, tuple)) and len(output) == 1 else output
    if not isinstance(result, Node) or _shape(result) is None or len(_shape(result) or ()) != 1:
        raise UnfitModel(
            f"{type(model).__name__} does not give one row of class scores for each input",
            "wrap it so that forward(inputs) returns (N, classes)",
        )
    layers, obstacle = _row(placeholders[-1], result, parameters)
    classes = _shape(result)
    assert classes is not None
    nonsmooth = any(any(word in str(node.target) for word in _NONSMOOTH) for node in graph.nodes)
    last = _last_linear(result)
    head = _linear(last, parameters)
    tail = () if head is None else _tail(last, placeholders[-1], parameters)
    return Structure(layers, obstacle, head, tail, classes[0], nonsmooth)


def _shape(node: Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape[1:]) if isinstance(value, torch.Tensor) else None


def _row(node: Node, end: Node, parameters: dict[Node, str]) -> tuple[tuple[Layer, ...], str | None]:
    layers: list[Layer] = []
    while node is not end:
        users = [user for user in node.users if user.target is not aten.detach.default and user.op != "output"]
        if len(users) != 1:
            after = f"after layer {len(layers)}" if layers else "at the input"
            return tuple(layers), f"{after} the data takes {len(users)} ways (a residual or attention block)"
        layer = _layer(users[0], node, parameters)
        if isinstance(layer, str):
            return tuple(layers), layer
        layers.append(layer)
        node = users[0]
    return tuple(layers), None


def _layer(user: Node, node: Node, parameters: dict[Node, str]) -> Layer | str:
    """The layer that `user` applies to `node`, or why it is none that can be inverted."""
    target, operator = user.target, str(user.target).removeprefix("aten.").split(".")[0]
    in_shape, out_shape = _shape(node), _shape(user)
    if target in _ACTIVATIONS:
        return _ACTIVATIONS[target](user)
    if in_shape is None or out_shape is None:
        return f"the operator '{operator}' has no closed-form inverse here"
    if target in _VIEWS:
        value = user.meta["val"]
        if value.shape[0] != _PROBE or math.prod(in_shape) != math.prod(out_shape):
            return "a layer is shared by the positions of one example (tokens), so its gradient is a sum over them"
        return Reshape(in_shape, out_shape)
    linear = _linear(user, parameters)
    if linear is not None:
        return linear
    if target is aten.convolution.default:
        _, weight, bias, stride, padding, dilation, transposed, _, groups = user.args
        if weight not in parameters or transposed or len(in_shape) != 3:
            return "a convolution that is transposed, not 2-D, or whose weight is computed"
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
    if weight not in parameters or in_shape is None or out_shape is None or rows != _PROBE:
        return None
    bias_name = parameters.get(bias) if isinstance(bias, Node) else None
    return Linear(parameters[weight], bias_name, in_shape, out_shape)  # type: ignore[index]


def _last_linear(result: Node) -> Node:
    """The operator that makes the scores; a log-softmax behind it changes neither cross-entropy nor its gradient."""
    while result.target in (aten._log_softmax.default, *_VIEWS, aten.select.int, aten.squeeze.dim):
        parent = result.args[0]
        assert isinstance(parent, Node)
        result = parent
    return result


def _tail(head: Node, inputs: Node, parameters: dict[Node, str]) -> tuple[Layer, ...]:
    """Back from the head's input to where the data comes or goes more ways than one, or to what is no known layer."""
    layers: list[Layer] = []
    node = _data(head, parameters)
    while node is not None and node is not inputs:
        before = _data(node, parameters)
        if before is None or len([user for user in before.users if user.target is not aten.detach.default]) != 1:
            break
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
