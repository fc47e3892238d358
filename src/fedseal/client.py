"""The one arithmetic: what the simulated client runs, what attacks differentiate, and what certificates replay.

`train` is that arithmetic, a pure and differentiable function of weights and examples. `local_update` wraps it for a
client with a real model and a real batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.dropout import _DropoutNd

from fedseal.errors import BadConfig, UnfitBatch, UnfitModel, UnknownName
from fedseal.types import Batch, Defense, LocalTraining, LossFunction, Tensors, Update

LOSSES: dict[str, LossFunction] = {"cross_entropy": F.cross_entropy}


class Trained(NamedTuple):
    """The result of local training: tensors of the update, and all buffers afterwards."""

    tensors: dict[str, Tensor]
    buffers: dict[str, Tensor]


class _Slot(NamedTuple):
    """One place in a module that holds a tensor, and the name under which `state_of` knows that tensor."""

    holder: dict[str, Any]
    key: str
    name: str


class _Slots(NamedTuple):
    """The names of a model's tensors by kind, and every place that holds one; tied tensors have several."""

    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    buffers: tuple[str, ...]
    places: tuple[_Slot, ...]


_KNOWN: WeakKeyDictionary[nn.Module, _Slots] = WeakKeyDictionary()


def _slots(model: nn.Module) -> _Slots:
    """Walk the modules once for each architecture: `train` stands in the innermost loop of every search."""
    if model not in _KNOWN:
        parameters, buffers = list(model.named_parameters()), list(model.named_buffers())
        name_of = {id(tensor): name for name, tensor in [*parameters, *buffers]}
        _KNOWN[model] = _Slots(
            tuple(name for name, parameter in parameters if parameter.requires_grad),
            tuple(name for name, parameter in parameters if not parameter.requires_grad),
            tuple(name for name, _ in buffers),
            tuple(
                _Slot(holder, key, name_of[id(tensor)])
                for module in model.modules()
                for holder in (module._parameters, module._buffers)
                for key, tensor in holder.items()
                if tensor is not None
            ),
        )
    return _KNOWN[model]


def forward(model: nn.Module, tensors: Tensors, inputs: Tensor) -> Tensor:
    """What the model gives for these inputs with these parameters and buffers, by name, in place of its own.

    As `torch.func.functional_call`, whose walk over all names costs a tenth of a small model's step.
    """
    places = _slots(model).places
    own = [slot.holder[slot.key] for slot in places]
    try:
        for slot in places:
            slot.holder[slot.key] = tensors[slot.name]
        outputs: Tensor = model(inputs)
    finally:
        for slot, tensor in zip(places, own, strict=True):
            slot.holder[slot.key] = tensor
    return outputs


def loss_function(loss: str | LossFunction) -> LossFunction:
    """The function behind a loss's name; a function is returned as it is.

    Raises:
        UnknownName: no such loss.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise UnknownName("loss", loss, LOSSES)
    return LOSSES[loss]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers by name, also of buffers that a state dict omits."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in tensors}


def architecture(model: nn.Module, training: LocalTraining | None = None) -> nn.Module:
    """A copy of the model without a single weight: its parameters and buffers lie on the meta device.

    Tied parameters stay tied, and the given model is not touched. With a `training`, the copy is put in its mode.
    """
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, object] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    bare = copy.deepcopy(model, memo)
    if training is not None and training.mode != "as_is":
        bare.train(training.mode == "train")
    return bare


def train(
    model: nn.Module,
    state: Tensors,
    inputs: Tensor,
    labels: Tensor,
    training: LocalTraining,
    *,
    differentiable: bool = False,
) -> Trained:
    """Run the local training, as a function of everything it depends on.

    Args:
        model: an `architecture` in the training's mode.
        state: parameters and buffers by name; not written to.
        inputs: `(N, ...)`.
        labels: class indices `(N,)` or probabilities `(N, C)`.
        differentiable: keep the graph, so that the result can be differentiated by inputs, labels and state.

    Returns:
        The mean gradient (FedSGD) or the weight difference (FedAvg, SGD over the batch in its order), and the buffers.
    """
    names = _slots(model)
    buffers = {name: state[name].clone() for name in names.buffers}
    weights = {
        name: state[name] if state[name].requires_grad else state[name].detach().requires_grad_()
        for name in names.trainable
    }
    frozen = {name: state[name] for name in names.frozen}

    def gradient(weights: Tensors, rows: slice) -> dict[str, Tensor]:
        outputs = forward(model, {**weights, **frozen, **buffers}, inputs[rows])
        loss = loss_function(training.loss)(outputs, labels[rows])
        grads = torch.autograd.grad(loss, list(weights.values()), create_graph=differentiable, materialize_grads=True)
        return dict(zip(weights, grads, strict=True))

    if training.kind == "gradient":
        return Trained(gradient(weights, slice(None)), buffers)
    assert training.lr is not None
    step = training.batch_size or len(inputs)
    moved = dict(weights)
    for _ in range(training.epochs):
        for first in range(0, len(inputs), step):
            grads = gradient(moved, slice(first, first + step))
            moved = {name: weight - training.lr * grads[name] for name, weight in moved.items()}
            if not differentiable:
                moved = {name: weight.detach().requires_grad_() for name, weight in moved.items()}
    with torch.set_grad_enabled(differentiable):
        return Trained({name: moved[name] - weights[name] for name in weights}, buffers)


def local_update(
    model: nn.Module,
    batch: Batch,
    *,
    training: LocalTraining,
    defense: Defense | None = None,
    generator: torch.Generator | None = None,
) -> Update:
    """What a client with this model and batch sends. The model is not changed.

    Args:
        batch: inputs as the model is fed them, `(N, ...)`.
        generator: needed where the training is random (dropout in train mode) or a defense is given.

    Raises:
        UnfitModel: no trainable parameter, or the model does not accept the batch.
        BadConfig: randomness without a generator.

    >>> import fedseal as fs
    >>> batch = fs.zoo.photos(size=32)[:1]
    >>> update = fs.local_update(fs.zoo.lenet(), batch, training=fs.LocalTraining.fedavg(lr=0.1, epochs=2))
    >>> update.kind
    'difference'
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UnfitModel("the model has no trainable parameters", "unfreeze some, or attack another model")
    bare = architecture(model, training)
    dropout = any(isinstance(m, _DropoutNd) and m.training and m.p > 0 for m in bare.modules())
    if (dropout or defense is not None) and generator is None:
        what = "dropout" if dropout else f"the defense '{defense.name if defense else ''}'"
        raise BadConfig(f"{what} draws random numbers", "pass generator=torch.Generator().manual_seed(0)")
    if defense is not None and generator is not None:
        batch = defense.on_batch(batch, generator)
    with _random_numbers_of(generator if dropout else None), explained(model, batch.inputs, batch.labels):
        trained = train(bare, state_of(model), batch.inputs, batch.labels, training)
        if defense is not None and generator is not None and defense.per_example:
            trained = Trained(_defended_gradient(bare, model, batch, training, defense, generator), trained.buffers)
    update = Update(
        kind=training.kind,
        tensors={name: tensor.detach() for name, tensor in trained.tensors.items()},
        buffers={name: buffer.detach() for name, buffer in trained.buffers.items()},
        num_examples=len(batch),
        training=training,
    )
    return update if defense is None or generator is None else defense.on_update(update, generator)


def _defended_gradient(
    bare: nn.Module,
    model: nn.Module,
    batch: Batch,
    training: LocalTraining,
    defense: Defense,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The mean of single examples' gradients after the defense's hook."""
    if training.kind != "gradient":
        raise BadConfig(
            f"the defense '{defense.name}' changes single examples' gradients, and the training takes local steps",
            "use LocalTraining.fedsgd()",
        )
    state = state_of(model)
    singles = [
        train(bare, state, batch[i : i + 1].inputs, batch[i : i + 1].labels, training) for i in range(len(batch))
    ]
    stacked = {name: torch.stack([single.tensors[name] for single in singles]) for name in singles[0].tensors}
    return {name: grads.mean(0) for name, grads in defense.on_example_grads(stacked, generator).items()}


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Let scaled-dot-product attention run as plain matrix products: its fused kernels have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def explained(model: nn.Module, inputs: Tensor, labels: Tensor) -> Iterator[None]:
    """Turn what torch says of a misfit between model, inputs and labels into an `UnfitBatch`."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnfitBatch(
            f"{type(model).__name__} cannot train on inputs {tuple(inputs.shape)} of {inputs.dtype} with labels "
            f"{tuple(labels.shape)} ({first})",
            "check the input shape and dtype, and that every label is below the number of outputs",
        ) from error


@contextmanager
def _random_numbers_of(generator: torch.Generator | None) -> Iterator[None]:
    """Let modules that draw from torch's global generator, such as dropout, draw from this one instead."""
    if generator is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
