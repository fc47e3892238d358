"""The truth of *determined*: the Jacobian of a client's update by its true batch, in float64.

An example's sensitivity is the smallest relative change of the update, to first order, that moving this example by 0.01
(root mean square over its values) causes, whatever the other examples of the batch do meanwhile, and under a loss with
real-valued targets, whatever the targets do. With J the Jacobian of the update by everything that may move, it is
0.01 sqrt(values) / |update| over the root of the largest eigenvalue of the example's block of (J^T J)^-1, which is the
smallest singular value of the example's columns after those of all others are projected out. An example is
*oracle-determined* if its sensitivity exceeds 100 times the rounding (`finfo.eps`) of the format that was sent.

Where the client drew dropout masks or an order of its examples, they are drawn again as it drew them, and the Jacobian
is that of the deterministic net that results. All arithmetic here is its own: nothing is shared with attacks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

import fedseal as fs

VISIBLE = 0.01  # root mean square of the change that an example is moved by
ROOM = 100.0  # units of rounding that the update must change by
FLOOR = 1e-15  # singular values below this share of the largest are rounding of float64 itself
CHUNK = 128  # columns of the Jacobian that are worked out together

Tensors = dict[str, Tensor]


def determined(found: Tensor, dtype: torch.dtype) -> Tensor:
    """Which examples of these sensitivities `(N,)` an update of that format determines, `(N,)` booleans."""
    return found > ROOM * torch.finfo(dtype).eps


def sensitivities(model: nn.Module, batch: fs.Batch, training: fs.LocalTraining, *, seed: int) -> Tensor:
    """Of every example, `(N,)` in float64; infinite never, 0 where a direction leaves no trace at all.

    Args:
        model: with its weights; not changed.
        seed: of the generator that the client's `local_update` drew from.
    """
    twin = Twin(model, batch, training, seed)
    count = len(batch)
    inputs = batch.inputs.detach().double()
    values = inputs[0].numel()
    columns = [_jacobian(lambda x: twin.update(x, twin.labels), inputs)]
    if twin.real_targets:
        columns.append(_jacobian(lambda y: twin.update(inputs, y), twin.labels))
    norm = twin.update(inputs, twin.labels).detach().norm()
    scale: Tensor = VISIBLE * math.sqrt(values) / norm
    return scale * smallest(torch.cat(columns, 1), count, values)


def _jacobian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Of a vector-valued function, `(P, at.numel())`, by derivatives of its vector-Jacobian product.

    That product is linear in its vector, so its own derivatives are the Jacobian's columns.
    """
    at = at.detach().requires_grad_()
    value = function(at)
    vector = torch.zeros_like(value, requires_grad=True)
    (product,) = torch.autograd.grad(value, at, vector, create_graph=True, materialize_grads=True)
    if product.grad_fn is None:  # the function does not depend on this
        return torch.zeros(len(value), at.numel(), dtype=at.dtype)
    columns = []
    for directions in torch.split(torch.eye(at.numel(), dtype=at.dtype).view(-1, *at.shape), CHUNK):
        columns.append(torch.autograd.grad(product, vector, directions, retain_graph=True, is_grads_batched=True)[0])
    return torch.cat(columns).detach().T


def _singular(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition, by a slower driver where the fast one does not converge."""
    try:
        found: tuple[Tensor, Tensor, Tensor] = torch.linalg.svd(matrix)
    except RuntimeError:  # torch raises its LinAlgError, one of these
        left, values, right = scipy.linalg.svd(matrix.numpy(), lapack_driver="gesvd")
        return torch.from_numpy(left), torch.from_numpy(values), torch.from_numpy(right)
    return found


def smallest(jacobian: Tensor, count: int, values: int) -> Tensor:
    """Smallest singular value of each example's columns with those of all others projected out, `(count,)`.

    Args:
        jacobian: `(P, count * values + nuisances)`, the examples' columns first.
    """
    wide = jacobian.shape[1]
    if len(jacobian) > wide:
        jacobian = torch.linalg.qr(jacobian, mode="r").R
    else:  # rows of zeros, for all right singular vectors
        jacobian = torch.cat([jacobian, jacobian.new_zeros(wide - len(jacobian), wide)])
    _, scales, directions = _singular(jacobian)
    if float(scales[0]) == 0:
        return torch.zeros(count, dtype=scales.dtype)
    scales = scales.clamp_min(FLOOR * float(scales[0]))
    found = []
    for number in range(count):
        block = directions[:, number * values : (number + 1) * values] / scales[:, None]
        found.append(1 / torch.linalg.matrix_norm(block, 2))
    return torch.stack(found)


class Twin:
    """The client again in float64: a function from inputs and labels to its update as one vector.

    >>> model, batch = fs.zoo.lenet(), fs.zoo.photos(size=32)[:1]
    >>> twin = Twin(model, batch, fs.LocalTraining.fedsgd(), 0)
    >>> sent = fs.local_update(model, batch, training=fs.LocalTraining.fedsgd())
    >>> torch.allclose(twin.update(batch.inputs.double(), twin.labels), flat(sent.tensors), atol=1e-5)
    True
    """

    def __init__(self, model: nn.Module, batch: fs.Batch, training: fs.LocalTraining, seed: int) -> None:
        self.training = training
        self.model = copy.deepcopy(model).double()
        if training.mode != "as_is":
            self.model.train(training.mode == "train")
        self.real_targets = batch.labels.is_floating_point() and not bool(((batch.labels % 1) == 0).all())
        self.labels = batch.labels.double() if batch.labels.is_floating_point() else batch.labels
        named = dict(self.model.named_parameters())
        self.weights = {name: p.detach().requires_grad_() for name, p in named.items() if p.requires_grad}
        frozen = {name: p.detach() for name, p in named.items() if not p.requires_grad}
        self.loss = _loss(training.loss)
        generator = torch.Generator().manual_seed(seed)
        self.rows = _rows(training, len(batch), generator)
        _still_statistics(self.model)
        self.fixed: Tensors = {**frozen, **dict(self.model.named_buffers())}
        self._fix_masks(batch.inputs.double(), generator)

    def update(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """What the client sends, `(P,)`: its trainable parameters' tensors in a row."""
        for mask in self.masks:
            mask.again()
        weights = self.weights
        if self.training.kind == "gradient":
            return flat(self._gradient(weights, inputs, labels))
        moved, optimizer = dict(weights), _optimizer(self.training)
        for row in self.rows:
            moved = optimizer(moved, self._gradient(moved, inputs[row], labels[row]))
        return flat({name: moved[name] - weights[name] for name in weights})

    def _gradient(self, weights: Tensors, inputs: Tensor, labels: Tensor) -> Tensors:
        outputs = functional_call(self.model, {**weights, **self.fixed}, (inputs,))
        found = torch.autograd.grad(
            self.loss(outputs, labels), list(weights.values()), create_graph=True, materialize_grads=True
        )
        return dict(zip(weights, found, strict=True))

    def _fix_masks(self, inputs: Tensor, generator: torch.Generator) -> None:
        """Put in place of active dropout what the client's own draw was, by running the client once."""
        self.masks: list[Mask] = []
        for parent in list(self.model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, _DropoutNd) and child.training and child.p > 0:
                    self.masks.append(Mask(child))
                    setattr(parent, name, self.masks[-1])
        if not self.masks:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.update(inputs, self.labels)
        for mask in self.masks:
            mask.drawn = True


class Mask(nn.Module):
    """Dropout that draws as its module does the first time it runs, and repeats those draws from then on."""

    def __init__(self, dropout: nn.Module) -> None:
        super().__init__()
        self.dropout, self.drawn = dropout, False
        self.kept: list[Tensor] = []
        self.place = 0

    def again(self) -> None:
        """Start over with the first draw."""
        self.place = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """The inputs times the mask of this call."""
        if not self.drawn:
            self.kept.append(self.dropout(torch.ones(inputs.shape, dtype=torch.float64)))
        self.place += 1
        return inputs * self.kept[self.place - 1]


def flat(tensors: Tensors | fs.types.Tensors) -> Tensor:
    """All tensors in a row, float64."""
    return torch.cat([tensor.double().flatten() for tensor in tensors.values()])


def _loss(loss: str | Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    if isinstance(loss, str):
        assert loss == "cross_entropy"
        return F.cross_entropy
    return copy.deepcopy(loss).double() if isinstance(loss, nn.Module) else loss


def _still_statistics(model: nn.Module) -> None:
    """Running statistics that training moves but does not use would be written to inside the Jacobian."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.training:
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None


def _rows(training: fs.LocalTraining, count: int, generator: torch.Generator) -> list[Tensor]:
    size, found = training.batch_size or count, []
    for _ in range(training.epochs):
        order = torch.randperm(count, generator=generator) if training.shuffle else torch.arange(count)
        found += list(torch.split(order, size))
    return found


def _optimizer(training: fs.LocalTraining) -> Callable[[Tensors, Tensors], Tensors]:
    """Torch's SGD or Adam as a function of weights and gradients, with its state inside."""
    lr, decay = training.lr or 0.0, training.weight_decay
    velocity: Tensors = {}
    first: Tensors = {}
    second: Tensors = {}
    steps = 0

    def sgd(weights: Tensors, grads: Tensors) -> Tensors:
        for name, value in grads.items():
            value = value + decay * weights[name]
            velocity[name] = training.momentum * velocity[name] + value if name in velocity else value
        return {name: weights[name] - lr * velocity[name] for name in weights}

    def adam(weights: Tensors, grads: Tensors) -> Tensors:
        nonlocal steps
        steps += 1
        (one, two), moved = training.betas, {}
        for name, value in grads.items():
            value = value + decay * weights[name]
            first[name] = one * first.get(name, torch.zeros_like(value)) + (1 - one) * value
            second[name] = two * second.get(name, torch.zeros_like(value)) + (1 - two) * value.square()
            still = second[name] == 0
            root = torch.where(still, 1.0, second[name]).sqrt() / math.sqrt(1 - two**steps)
            step = first[name] / (1 - one**steps) / (root + training.eps)
            moved[name] = weights[name] - lr * torch.where(still, 0.0, step)
        return moved

    return adam if training.optimizer == "adam" else sgd
