"""The one arithmetic: what the simulated client runs, what attacks differentiate, and what certificates replay.

`local_training` is that arithmetic, a pure and differentiable function of weights and examples. `local_update` wraps it
for a client with a real model and a real batch.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fedseal.criterion import loss_function, settle_loss
from fedseal.errors import BadConfig, Misfit, UnfitBatch, UnfitModel, UnfitUpdate
from fedseal.layout import canonical
from fedseal.types import Batch, Defense, LocalStep, LocalTraining, LossFunction, Tensors, Update


class TrainedState(NamedTuple):
    """The result of local training: tensors of the update, and all buffers afterwards."""

    tensors: dict[str, Tensor]
    buffers: dict[str, Tensor]


class RandomLayer(nn.Module):
    """A layer that draws from torch's global generator in whatever mode; the draw is the client's secret.

    `local_update` alone turns `draws` on, in its own copy: who evaluates or attacks the model gets its mean, or where
    the draw became known, sets `drawn` to have it repeated.
    """

    draws: bool = False
    drawn: Tensor | None = None


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
    """Walk the modules once for each architecture: `local_training` stands in the innermost loop of every search."""
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


def misfits(model: nn.Module, state: Tensors) -> list[str]:
    """Names of a state that the model does not have, or has in another shape, sorted."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return sorted(name for name, tensor in state.items() if name not in own or own[name].shape != tensor.shape)


def put_state(model: nn.Module, state: Tensors) -> None:
    """Write tensors into a model's parameters and buffers of these names; all must fit, see `misfits`."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers by name, also of buffers that a state dict omits."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: canonical(tensor.detach()).clone() for name, tensor in tensors}


def architecture(model: nn.Module, training: LocalTraining | None = None) -> nn.Module:
    """A copy of the model without a single weight: its parameters and buffers lie on the meta device.

    Tied parameters stay tied, and the given model is not touched. With a `training`, the copy is put in its mode.
    """
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, object] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    try:
        bare = copy.deepcopy(model, memo)
    except RuntimeError as error:  # torch copies no tensor that was computed from others
        raise UnfitModel(
            f"{type(model).__name__} cannot be copied ({str(error).splitlines()[0]})",
            "let it keep no computed tensor as an attribute, such as torch.nn.utils.weight_norm does; "
            "torch.nn.utils.parametrizations.weight_norm does not",
        ) from None
    if training is not None and training.mode != "as_is":
        bare.train(training.mode == "train")
    return bare


def local_training(
    model: nn.Module,
    state: Tensors,
    inputs: Tensor,
    labels: Tensor,
    training: LocalTraining,
    *,
    rows: Sequence[Tensor] | None = None,
    differentiable: bool = False,
    on_gradient: Callable[[Tensors, LocalStep], Tensors] | None = None,
) -> TrainedState:
    """Run the local training, as a function of everything it depends on. Its optimizer starts without state.

    Args:
        model: an `architecture` in the training's mode.
        state: parameters and buffers by name; not written to.
        inputs: `(N, ...)`.
        labels: class indices `(N,)` or probabilities `(N, C)`.
        rows: one index tensor for each local step, as `step_indices` gives them; this is the whole course of the
            training, and may use more inputs than the client has, such as one copy an epoch. None for the batch's
            order, also where the client shuffles: its order is its secret.
        differentiable: keep the graph, so that the result can be differentiated by inputs, labels and state.
        on_gradient: what a defense makes of each step's gradient; only the client itself knows it.

    Returns:
        The mean gradient (FedSGD) or the weight difference (FedAvg), and the buffers.

    Raises:
        UnfitUpdate: the training went on with an optimizer's state that was not sent.
        Misfit: the model or the loss does not take the examples.
        BadConfig: `rows` without a local step, or with several for FedSGD.
    """
    if not training.fresh_optimizer:
        raise UnfitUpdate(
            f"the local {training.optimizer} went on with its state from an earlier round, which no update sends, so "
            "the training cannot be simulated",
            "use an attack that replays nothing, or let clients start each round with a fresh optimizer",
        )
    if rows is not None and (len(rows) == 0 or (len(rows) > 1 and training.kind == "gradient")):
        raise BadConfig(
            f"{len(rows)} local steps are named for {'FedSGD' if training.kind == 'gradient' else 'FedAvg'}",
            "name at least one step; FedSGD takes one",
        )
    names, inputs = _slots(model), canonical(inputs)
    buffers = {name: state[name].clone() for name in names.buffers}
    weights = {
        name: state[name] if state[name].requires_grad else state[name].detach().requires_grad_()
        for name in names.trainable
    }
    frozen = {name: state[name] for name in names.frozen}

    def gradient(weights: Tensors, part: slice | Tensor, number: int) -> dict[str, Tensor | None]:
        fed, told = inputs[part], labels[part]
        with explained(model, fed, told):
            outputs = forward(model, {**weights, **frozen, **buffers}, fed)
            loss = _in_dtype(loss_function(training.loss), outputs)(outputs, told)
            grads = torch.autograd.grad(loss, list(weights.values()), create_graph=differentiable, allow_unused=True)
        found: dict[str, Tensor | None] = dict(zip(weights, grads, strict=True))
        if on_gradient is None:
            return found
        step = LocalStep(number, model, {**weights, **frozen, **buffers}, fed, told)
        return {**found, **on_gradient({name: grad for name, grad in found.items() if grad is not None}, step)}

    if training.kind == "gradient":
        grads = gradient(weights, slice(None) if rows is None else rows[0], 0)
        sent = {name: torch.zeros_like(weights[name]) if grad is None else grad for name, grad in grads.items()}
        return TrainedState(sent, buffers)
    descend, moved = _Descent(training), weights
    parts: Sequence[slice | Tensor] = _in_order(training, len(inputs)) if rows is None else rows
    for number, part in enumerate(parts):
        grads = gradient(moved, part, number)
        with torch.set_grad_enabled(differentiable):
            moved = {name: descend(name, weight, grads[name]) for name, weight in moved.items()}
        if not differentiable:
            moved = {name: weight.requires_grad_() for name, weight in moved.items()}
    with torch.set_grad_enabled(differentiable):
        return TrainedState({name: moved[name] - weights[name] for name in weights}, buffers)


def _in_order(training: LocalTraining, count: int) -> list[slice]:
    """The local steps over a batch in its order; slices, which copy nothing."""
    step = training.batch_size or count
    return [slice(first, min(first + step, count)) for first in range(0, count, step)] * training.epochs


def step_indices(
    training: LocalTraining, count: int, *, generator: torch.Generator | None = None, copies: bool = False
) -> list[Tensor]:
    """Which examples each local step takes: index tensors into a batch of `count`, as `local_training` takes them.

    Args:
        generator: where the training shuffles, a new permutation every epoch is drawn from it.
        copies: every epoch has its own copy of the examples, in a batch of `epochs * count`.

    Raises:
        BadConfig: no examples, or a training that shuffles without a generator.

    >>> steps = step_indices(LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=2), 3, copies=True)
    >>> [step.tolist() for step in steps]
    [[0, 1], [2], [3, 4], [5]]
    """
    if count < 1:
        raise BadConfig(f"a local training on {count} examples takes no step", "give at least 1")
    size = training.batch_size or count
    steps: list[Tensor] = []
    for epoch in range(max(1, training.epochs)):
        order = torch.arange(count)
        if training.shuffle:
            if generator is None:
                raise BadConfig("a training that shuffles draws random numbers", "pass generator=torch.Generator()")
            order = torch.randperm(count, generator=generator)
        order = order + epoch * count if copies else order
        steps += [order[first : first + size] for first in range(0, count, size)]
    return steps


class _Descent:
    """The optimizer of one local training: moves one weight at a time and keeps its state, which starts empty.

    As torch's SGD and Adam, which leave a weight alone that the loss does not depend on.
    """

    def __init__(self, training: LocalTraining) -> None:
        assert training.lr is not None
        self.training, self.lr = training, training.lr
        self.velocity: dict[str, Tensor] = {}
        self.moments: dict[str, tuple[Tensor, Tensor, int]] = {}

    def __call__(self, name: str, weight: Tensor, grad: Tensor | None) -> Tensor:
        if grad is None:
            return weight
        if self.training.weight_decay:
            grad = grad + self.training.weight_decay * weight
        if self.training.optimizer == "adam":
            return self._adam(name, weight, grad)
        if self.training.momentum:
            if name in self.velocity:
                grad = self.training.momentum * self.velocity[name] + grad
            self.velocity[name] = grad
        return weight - self.lr * grad

    def _adam(self, name: str, weight: Tensor, grad: Tensor) -> Tensor:
        (one, two), eps = self.training.betas, self.training.eps
        first, second, steps = self.moments.get(name, (torch.zeros_like(grad), torch.zeros_like(grad), 0))
        first, second, steps = one * first + (1 - one) * grad, two * second + (1 - two) * grad.square(), steps + 1
        self.moments[name] = first, second, steps
        # Where the second moment is 0 so is the first, and the root's infinite slope would turn 0 * inf into NaN.
        moves = second > 0
        root = torch.where(moves, torch.where(moves, second, 1.0).sqrt(), 0.0)
        scale = self.lr / (1 - one**steps)
        return weight - scale * first / (root / math.sqrt(1 - two**steps) + eps)


def simulation_bytes(
    model: nn.Module, state: Tensors, inputs_shape: Sequence[int], training: LocalTraining, count: int
) -> int:
    """About how many bytes a differentiable `local_training` holds: weights and activations of all its local steps.

    One step is run without values, on the meta device, and what its graph keeps is multiplied by the number of steps.
    The estimate leaves out what the backward pass through it needs for a moment.

    Args:
        model: an `architecture`.
        inputs_shape: of one example.
        count: examples in the batch.

    >>> import fedseal as fs
    >>> model, one = fs.zoo.lenet(), LocalTraining.fedavg(lr=0.1)
    >>> few, many = (simulation_bytes(model, state_of(model), (3, 32, 32), one, n) for n in (1, 8))
    >>> few < many < 8 * few
    True
    """
    sizes = [len(step) for step in step_indices(replace(training, shuffle=False), count)]
    once = replace(training, epochs=min(1, training.epochs), batch_size=None)
    return sum(sizes.count(size) * _graph_bytes(model, state, (size, *inputs_shape), once) for size in set(sizes))


def _graph_bytes(model: nn.Module, state: Tensors, shape: tuple[int, ...], training: LocalTraining) -> int:
    """What the graph of one differentiable step on zeros keeps."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def run(device: torch.device | str, course: LocalTraining = training) -> None:
        kept.clear()
        there = {name: torch.empty_like(tensor, device=device).zero_() for name, tensor in state.items()}
        weight = there[next(iter(_slots(model).trainable))]
        inputs = weight.new_zeros(shape, requires_grad=True)
        labels = torch.zeros(shape[0], dtype=torch.long, device=device)
        with twice_differentiable(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            local_training(model, there, inputs, labels, course, differentiable=True)

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a loss that wants targets in another shape than classes
        there = next(iter(state.values())).device
        try:
            run("meta")
        except (RuntimeError, Misfit):  # an operator that looks at values
            try:
                run(there)
            except Misfit:  # a loss whose targets are no classes: it keeps little more than the outputs
                run(there, replace(training, loss=_squares))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _in_dtype(loss: LossFunction, outputs: Tensor) -> LossFunction:
    """A loss with tensors of its own, such as class weights, in the precision that is computed in."""
    if not isinstance(loss, nn.Module):
        return loss
    own = [tensor.dtype for tensor in (*loss.parameters(), *loss.buffers()) if tensor.is_floating_point()]
    return loss if all(dtype == outputs.dtype for dtype in own) else copy.deepcopy(loss).to(outputs.dtype)


def _squares(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs.square().sum()


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
        generator: needed where the training is random (dropout in train mode, shuffled) or a defense is given.

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
    layers = [module for module in bare.modules() if isinstance(module, RandomLayer)]
    for layer in layers:
        layer.draws = True
    dropout = any(isinstance(m, _DropoutNd) and m.training and m.p > 0 for m in bare.modules())
    if (dropout or layers or training.shuffle or defense is not None) and generator is None:
        chance = "a random layer" if layers else "a shuffled order"
        what = "dropout" if dropout else chance if defense is None else f"the defense '{defense.name}'"
        raise BadConfig(f"{what} draws random numbers", "pass generator=torch.Generator().manual_seed(0)")
    _check_labels(bare, model, batch, training)
    hook = None
    if defense is not None and generator is not None:
        if defense.per_example:
            _check_examples_apart(bare, training, defense)
        defense = defense.fit(model)
        batch = defense.on_batch(batch, generator)
        if defense.per_step and not defense.per_example:  # else after the single examples' gradients
            hook = partial(_on_gradient, defense, generator)
    rows = step_indices(training, len(batch), generator=generator) if training.shuffle else None
    with _random_numbers_of(generator if dropout or layers else None):
        trained = local_training(
            bare, state_of(model), batch.inputs, batch.labels, training, rows=rows, on_gradient=hook
        )
        if defense is not None and generator is not None and defense.per_example:
            _check_buffers_kept(state_of(model), trained.buffers, defense)
            trained = TrainedState(
                _defended_gradient(bare, model, batch, training, defense, generator), trained.buffers
            )
    update = Update(
        kind=training.kind,
        tensors={name: canonical(tensor.detach()) for name, tensor in trained.tensors.items()},
        buffers={name: buffer.detach() for name, buffer in trained.buffers.items()},
        num_examples=len(batch),
        training=training,
    )
    return update if defense is None or generator is None else defense.on_update(update, generator)


def _check_labels(bare: nn.Module, model: nn.Module, batch: Batch, training: LocalTraining) -> None:
    """Refuse labels in another form than the loss takes: torch broadcasts some of them, and trains on nonsense.

    Raises:
        UnfitBatch: the loss is one that was recognized, and takes other labels.
    """
    outputs = _outputs_of(bare, model, batch.inputs)
    if outputs is None or len(outputs) > 2:
        return
    one = len(outputs) == 1
    criterion = settle_loss(
        training.loss,
        1 if one else outputs[1],
        link=("column",) if one else (),
        device=batch.labels.device,
    )
    wrong = criterion.misfit(batch.labels)
    if wrong is not None:
        column, flat = "column" in criterion.forms[0], batch.labels.ndim == 1
        shaped = "labels[:, 0]" if column and not flat else "labels.float()" if column else "labels in that form"
        shaped = "labels.float()[:, None]" if flat and not column and criterion.outputs == 1 else shaped
        raise UnfitBatch(
            f"the labels have shape {tuple(batch.labels.shape)} of {batch.labels.dtype}, the model's outputs "
            f"{tuple(outputs)}, and {wrong}",
            f"give {shaped}, or let the loss reshape them",
        )


def _outputs_of(bare: nn.Module, model: nn.Module, inputs: Tensor) -> tuple[int, ...] | None:
    """The shape of what the model gives for these inputs, by a pass of two of them; None where there is no telling.

    A pass without values would do, but loads a compiler first, which takes longer than the training of small models.
    """
    own = dict(model.named_parameters()) | {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        try:
            outputs = forward(bare, own, inputs[:2])
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
            return None  # training says what is wrong
    return (len(inputs), *outputs.shape[1:]) if isinstance(outputs, Tensor) and outputs.ndim else None


def _check_examples_apart(bare: nn.Module, training: LocalTraining, defense: Defense) -> None:
    """Refuse to change single examples' gradients where there are none."""
    if training.kind != "gradient":
        raise BadConfig(
            f"the defense '{defense.name}' changes single examples' gradients, and the training takes local steps",
            "use LocalTraining.fedsgd()",
        )
    for name, module in bare.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise UnfitModel(
                f"the defense '{defense.name}' changes single examples' gradients, and '{name}' is a BatchNorm that "
                "normalizes by the batch, so that no example has a gradient of its own",
                "train with mode='eval', or with GroupNorm in its place",
            )


def _check_buffers_kept(before: Tensors, after: Tensors, defense: Defense) -> None:
    """Refuse to send beside defended gradients what the examples left in the buffers, undefended."""
    for name, buffer in after.items():
        if not torch.equal(buffer, before[name]):
            raise UnfitModel(
                f"training changes the buffer '{name}', which would be sent beside single gradients under "
                f"'{defense.name}' without any defense",
                "train with mode='eval', or take the statistics out of the model",
            )


def example_gradients(
    model: nn.Module, state: Tensors, inputs: Tensor, labels: Tensor, training: LocalTraining
) -> dict[str, Tensor]:
    """The gradient of each example alone, `(N, *parameter.shape)` by name.

    All at once where the model's operators can be vectorized over examples, else one after the other.

    Args:
        model: an `architecture` in the training's mode.
        state: parameters and buffers by name; not written to.
        inputs: `(N, ...)`.
        labels: class indices `(N,)`, probabilities `(N, C)`, or indices of positions `(N, P)`.
        training: of which the loss counts, evaluated on batches of one.

    >>> import fedseal as fs
    >>> model, batch = fs.zoo.lenet(), fs.zoo.photos(size=32)[:3]
    >>> grads = example_gradients(model, state_of(model), batch.inputs, batch.labels, LocalTraining.fedsgd())
    >>> grads["0.weight"].shape
    torch.Size([3, 12, 3, 5, 5])
    """
    names = _slots(model)
    weights = {name: state[name].detach() for name in names.trainable}
    rest = {name: state[name].detach() for name in names.frozen}

    def loss(weights: Tensors, one: Tensor, label: Tensor) -> Tensor:
        buffers = {name: state[name].clone() for name in names.buffers}
        outputs = forward(model, {**weights, **rest, **buffers}, one[None])
        value: Tensor = _in_dtype(loss_function(training.loss), outputs)(outputs, label[None])
        return value

    all_at_once = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), randomness="different")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            found = all_at_once(weights, inputs, labels)
        return {name: found[name].detach() for name in weights}
    except (RuntimeError, ValueError, IndexError, TypeError):
        # An operator without a batching rule, one that looks at values, or a misfit, which is then explained below.
        singles = [local_training(model, state, inputs[[i]], labels[[i]], training).tensors for i in range(len(inputs))]
        return {name: torch.stack([single[name].detach() for single in singles]) for name in weights}


def _defended_gradient(
    bare: nn.Module,
    model: nn.Module,
    batch: Batch,
    training: LocalTraining,
    defense: Defense,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The mean of single examples' gradients after the defense's hook."""
    state = state_of(model)
    stacked = example_gradients(bare, state, batch.inputs, batch.labels, training)
    mean = {name: grads.mean(0) for name, grads in defense.on_example_grads(stacked, generator).items()}
    if not defense.per_step:
        return mean
    return dict(defense.on_gradient(mean, LocalStep(0, bare, state, batch.inputs, batch.labels), generator))


def _on_gradient(defense: Defense, generator: torch.Generator, grads: Tensors, step: LocalStep) -> Tensors:
    return defense.on_gradient(grads, step, generator)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Let scaled-dot-product attention run as plain matrix products: its fused kernels have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def explained(model: nn.Module, inputs: Tensor, labels: Tensor) -> Iterator[None]:
    """Turn what torch says of a misfit between model, inputs and labels into a `Misfit`.

    Only a model's own forward pass, its loss and their gradient stand in it: around anything of ours it would turn a
    crash into the user's mistake. A lack of memory stays what it is.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if "can't allocate memory" in str(error):  # the CPU's allocator raises a plain RuntimeError
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Misfit(
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
