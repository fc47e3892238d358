"""The simulated client does what a real one does: torch's own autograd, SGD and modules are the oracle."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedseal import Batch, LocalTraining, defense, local_update, zoo
from fedseal.client import (
    architecture,
    local_training,
    simulation_bytes,
    state_of,
    step_indices,
    twice_differentiable,
)
from fedseal.criterion import loss_function
from fedseal.defense import Hooks
from fedseal.errors import BadConfig, Misfit, UnfitBatch, UnfitModel, UnfitUpdate, UnknownName
from fedseal.types import LossFunction

FEDSGD = LocalTraining.fedsgd()


def _normed(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A convolution with BatchNorm whose statistics are not the defaults."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5), nn.BatchNorm1d(5)
        )
        for norm in (model[1], model[5]):
            assert isinstance(norm.running_mean, Tensor)
            assert isinstance(norm.running_var, Tensor)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
    return model.to(dtype)


def _batch(count: int = 6, size: int = 8, classes: int = 5, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(count)
    inputs = torch.rand(count, 3, size, size, generator=generator, dtype=dtype)
    return Batch(inputs, torch.randint(classes, (count,), generator=generator))


MODELS = {
    "batch norm": _normed(),
    "residual": zoo.resnet(width=4, blocks=(1, 1), num_classes=5).double(),
    "attention": zoo.vit(size=8, width=8, depth=1, heads=2, num_classes=5).double(),
    "max pooling": zoo.convnet(size=8, width=4, num_classes=5).double(),
}


def _real_gradient(model: nn.Module, batch: Batch, mode: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    real = copy.deepcopy(model)
    if mode != "as_is":
        real.train(mode == "train")
    F.cross_entropy(real(batch.inputs), batch.labels).backward()  # type: ignore[no-untyped-call]
    grads = {name: p.grad for name, p in real.named_parameters() if p.grad is not None}
    return grads, {name: buffer.clone() for name, buffer in real.named_buffers()}


@pytest.mark.parametrize("mode", ["train", "eval", "as_is"])
@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_autograds_and_the_buffers_are_the_modules(name: str, mode: str) -> None:
    model, batch = MODELS[name].eval(), _batch()
    update = local_update(model, batch, training=LocalTraining.fedsgd(mode=mode))  # type: ignore[arg-type]
    grads, buffers = _real_gradient(model, batch, mode)
    _assert_close(update.tensors, grads)
    _assert_close(update.buffers or {}, buffers)
    assert (update.kind, update.num_examples) == ("gradient", 6)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("epochs", "size"), [(1, None), (1, 2), (2, 4), (3, 1)])
def test_fedavg_is_torchs_sgd(epochs: int, size: int | None, mode: str) -> None:
    if mode == "train" and size == 1:
        size = 3  # BatchNorm refuses a single example
    model, batch = MODELS["batch norm"], _batch()
    training = LocalTraining.fedavg(lr=0.3, epochs=epochs, batch_size=size, mode=mode)  # type: ignore[arg-type]
    real = copy.deepcopy(model).train(mode == "train")
    optimizer = torch.optim.SGD(real.parameters(), lr=0.3)
    for _ in range(epochs):
        for first in range(0, 6, size or 6):
            rows = slice(first, first + (size or 6))
            optimizer.zero_grad()
            F.cross_entropy(real(batch.inputs[rows]), batch.labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    before = dict(model.named_parameters())
    update = local_update(model, batch, training=training)
    _assert_close(update.tensors, {name: p.detach() - before[name].detach() for name, p in real.named_parameters()})
    _assert_close(update.buffers or {}, dict(real.named_buffers()))
    assert update.kind == "difference"


OPTIMIZERS: dict[str, dict[str, object]] = {
    "momentum": {"momentum": 0.9},
    "weight decay": {"weight_decay": 0.1},
    "momentum and weight decay": {"momentum": 0.5, "weight_decay": 0.02},
    "adam": {"optimizer": "adam"},
    "adam, all options": {"optimizer": "adam", "betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.1},
    "adam without memory": {"optimizer": "adam", "betas": (0.0, 0.0)},
}


def _real_difference(
    model: nn.Module, batch: Batch, training: LocalTraining, rows: list[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a client with torch's own optimizer and modules would send."""
    real = copy.deepcopy(model).train(training.mode == "train")
    optimizer: torch.optim.Optimizer
    assert training.lr is not None
    if training.optimizer == "adam":
        optimizer = torch.optim.Adam(
            real.parameters(),
            lr=training.lr,
            betas=training.betas,
            eps=training.eps,
            weight_decay=training.weight_decay,
        )
    else:
        optimizer = torch.optim.SGD(
            real.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
        )
    for part in rows:
        optimizer.zero_grad()
        F.cross_entropy(real(batch.inputs[part]), batch.labels[part]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    before = dict(model.named_parameters())
    difference = {name: p.detach() - before[name].detach() for name, p in real.named_parameters() if p.requires_grad}
    return difference, dict(real.named_buffers())


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("case", OPTIMIZERS)
def test_every_optimizer_is_torchs(case: str, mode: str) -> None:
    """Several epochs, a last batch of three where the first has four, BatchNorm in both modes."""
    model, batch = MODELS["batch norm"], _batch(7)
    training = LocalTraining.fedavg(lr=0.05, epochs=3, batch_size=4, mode=mode, **OPTIMIZERS[case])  # type: ignore[arg-type]
    rows = [torch.arange(4), torch.arange(4, 7)] * 3
    difference, buffers = _real_difference(model, batch, training, rows)
    update = local_update(model, batch, training=training)
    # a bias before BatchNorm in train mode has no gradient but rounding's, which Adam divides by its own size
    tolerance = 1e-7 if case == "adam" and mode == "train" else 1e-10
    _assert_close(update.tensors, difference, tolerance)
    _assert_close(update.buffers or {}, buffers, tolerance)


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_a_weight_that_the_loss_does_not_depend_on_stays(case: str) -> None:
    model = Tied().double()
    model.spare = nn.Parameter(torch.ones(2, dtype=torch.float64))
    batch = Batch(torch.randn(4, 6, generator=_seed(1), dtype=torch.float64), torch.tensor([0, 1, 2, 1]))
    training = LocalTraining.fedavg(lr=0.05, epochs=2, **OPTIMIZERS[case])  # type: ignore[arg-type]
    difference, _ = _real_difference(model, batch, training, [torch.arange(4)] * 2)
    update = local_update(model, batch, training=training)
    _assert_close(update.tensors, difference)
    assert update.tensors["spare"].tolist() == [0.0, 0.0]


def test_frozen_parameters_do_not_decay() -> None:
    model = _normed()
    model[0].requires_grad_(False)
    training = LocalTraining.fedavg(lr=0.1, epochs=2, momentum=0.9, weight_decay=0.1)
    difference, _ = _real_difference(model, _batch(), training, [torch.arange(6)] * 2)
    _assert_close(local_update(model, _batch(), training=training).tensors, difference)


SHUFFLED = LocalTraining.fedavg(lr=0.1, epochs=3, batch_size=4, momentum=0.9, shuffle=True)


def test_a_shuffling_client_takes_every_example_once_an_epoch_in_a_new_order() -> None:
    steps = step_indices(SHUFFLED, 10, generator=_seed(0))
    assert [len(step) for step in steps] == [4, 4, 2] * 3
    orders = [torch.cat(steps[first : first + 3]).tolist() for first in (0, 3, 6)]
    assert [sorted(order) for order in orders] == [list(range(10))] * 3
    assert len({tuple(order) for order in (*orders, range(10))}) == 4
    again = step_indices(SHUFFLED, 10, generator=_seed(0))
    assert all(torch.equal(one, same) for one, same in zip(steps, again, strict=True))


def test_steps_in_order_draw_nothing_and_copies_are_counted_on() -> None:
    training = LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=2)
    assert [step.tolist() for step in step_indices(training, 3)] == [[0, 1], [2], [0, 1], [2]]
    assert [step.tolist() for step in step_indices(FEDSGD, 3)] == [[0, 1, 2]]
    copies = step_indices(SHUFFLED, 4, generator=_seed(0), copies=True)
    assert [sorted(step.tolist()) for step in copies] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(BadConfig, match="0 examples takes no step"):
        step_indices(training, 0)


def test_the_order_comes_from_the_clients_generator_alone() -> None:
    """The update is the one torch makes of the order that the generator gives; without one there is none."""
    model, batch = MODELS["batch norm"], _batch()
    with pytest.raises(BadConfig, match="a shuffled order draws random numbers"):
        local_update(model, batch, training=SHUFFLED)
    with pytest.raises(BadConfig, match="shuffles"):
        step_indices(SHUFFLED, 6)
    difference, buffers = _real_difference(model, batch, SHUFFLED, step_indices(SHUFFLED, 6, generator=_seed(5)))
    update = local_update(model, batch, training=SHUFFLED, generator=_seed(5))
    _assert_close(update.tensors, difference)
    _assert_close(update.buffers or {}, buffers)
    other = local_update(model, batch, training=SHUFFLED, generator=_seed(6))
    assert not torch.allclose(update.tensors["0.weight"], other.tensors["0.weight"])


def test_rows_are_the_course_of_the_training() -> None:
    """In the batch's order they change nothing; with a copy of the examples an epoch neither; reversed they do."""
    training = LocalTraining.fedavg(lr=0.2, epochs=2, batch_size=4, momentum=0.9)
    model, batch = MODELS["batch norm"], _batch()
    bare, state = architecture(model, training), state_of(model)
    plain = local_training(bare, state, batch.inputs, batch.labels, training).tensors
    steps = step_indices(training, 6)
    _assert_close(
        local_training(bare, state, batch.inputs, batch.labels, training, rows=steps).tensors, plain, tolerance=0.0
    )
    copies = step_indices(training, 6, copies=True)
    doubled = local_training(
        bare, state, batch.inputs.repeat(2, 1, 1, 1), batch.labels.repeat(2), training, rows=copies
    )
    _assert_close(doubled.tensors, plain, tolerance=0.0)
    back = local_training(bare, state, batch.inputs, batch.labels, training, rows=steps[::-1]).tensors
    assert not torch.allclose(back["0.weight"], plain["0.weight"])
    # where the client shuffles, nobody but it knows the order: a replay takes the batch's
    shuffled = replace(training, shuffle=True)
    _assert_close(local_training(bare, state, batch.inputs, batch.labels, shuffled).tensors, plain, tolerance=0.0)


def test_a_gradient_is_the_mean_over_the_rows_and_takes_one_step() -> None:
    model, batch = MODELS["batch norm"], _batch()
    bare, state = architecture(model, FEDSGD), state_of(model)
    rows = torch.tensor([5, 0, 3])
    part = local_training(bare, state, batch.inputs, batch.labels, FEDSGD, rows=[rows]).tensors
    _assert_close(part, local_training(bare, state, batch.inputs[rows], batch.labels[rows], FEDSGD).tensors)
    for wrong in ([], [rows, rows]):
        with pytest.raises(BadConfig, match=f"{len(wrong)} local steps are named for FedSGD"):
            local_training(bare, state, batch.inputs, batch.labels, FEDSGD, rows=wrong)
    with pytest.raises(BadConfig, match="0 local steps"):
        local_training(bare, state, batch.inputs, batch.labels, SHUFFLED, rows=[])


@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"optimizer": "adam"}])
def test_an_optimizer_whose_state_was_not_sent_cannot_be_simulated(options: dict[str, object]) -> None:
    training = LocalTraining.fedavg(lr=0.1, fresh_optimizer=False, **options)  # type: ignore[arg-type]
    with pytest.raises(UnfitUpdate, match="went on with its state from an earlier round, which no update sends"):
        local_update(_normed(), _batch(), training=training)


@pytest.mark.parametrize("training", [FEDSGD, LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=3)])
def test_the_model_is_not_changed(training: LocalTraining) -> None:
    model = _normed()
    model[1].eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    local_update(model, _batch(), training=training)
    _assert_close(model.state_dict(), before, tolerance=0.0)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_batch_is_not_changed() -> None:
    batch = _batch()
    inputs, labels = batch.inputs.clone(), batch.labels.clone()
    local_update(
        _normed(), batch, training=LocalTraining.fedavg(lr=0.1), defense=defense.prune(0.5), generator=_seed(0)
    )
    assert torch.equal(batch.inputs, inputs)
    assert torch.equal(batch.labels, labels)
    assert not batch.inputs.requires_grad


class Tied(nn.Module):
    """One weight used by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.two(torch.tanh(self.one(x)))))
        return out


@pytest.mark.parametrize("training", [FEDSGD, LocalTraining.fedavg(lr=0.5, epochs=3)])
def test_tied_parameters_stay_tied(training: LocalTraining) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Tied().double()
    batch = Batch(torch.randn(4, 6, generator=_seed(1), dtype=torch.float64), torch.tensor([0, 1, 2, 1]))
    real = copy.deepcopy(model)
    optimizer = torch.optim.SGD(real.parameters(), lr=training.lr or 1.0)
    for _ in range(max(1, training.epochs)):
        optimizer.zero_grad()
        F.cross_entropy(real(batch.inputs), batch.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    before, scale = dict(model.named_parameters()), 1.0 if training.lr else -1.0
    expected = {name: scale * (p.detach() - before[name].detach()) for name, p in real.named_parameters()}
    _assert_close(local_update(model, batch, training=training).tensors, expected)
    bare = architecture(model)
    assert isinstance(bare, Tied)
    assert bare.one.weight is bare.two.weight


def test_frozen_parameters_are_not_sent_and_do_not_move() -> None:
    model = _normed()
    model[0].requires_grad_(False)
    update = local_update(model, _batch(), training=LocalTraining.fedavg(lr=0.1, epochs=2))
    assert update.tensors.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert "0.weight" not in update.tensors


def test_an_unused_parameter_has_a_zero_gradient() -> None:
    model = Tied().double()
    model.spare = nn.Parameter(torch.ones(2))
    batch = Batch(torch.ones(1, 6, dtype=torch.float64), torch.tensor([0]))
    assert local_update(model, batch, training=FEDSGD).tensors["spare"].tolist() == [0.0, 0.0]


def test_dropout_asks_for_a_generator_and_repeats_with_its_seed() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Dropout(0.5), nn.Linear(32, 5)).double()
    with pytest.raises(BadConfig, match="dropout"):
        local_update(model, _batch(), training=FEDSGD)
    world = torch.get_rng_state()
    one, same, other = (
        local_update(model, _batch(), training=FEDSGD, generator=_seed(seed)).tensors["1.weight"] for seed in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), world)
    local_update(model, _batch(), training=LocalTraining.fedsgd(mode="eval"))  # no dropout, no generator


def test_a_defense_asks_for_a_generator() -> None:
    with pytest.raises(BadConfig, match=r"prune:0\.5"):
        local_update(_normed(), _batch(), training=FEDSGD, defense=defense.prune(0.5))


def test_rows_of_probabilities_are_labels_too() -> None:
    model, batch = MODELS["batch norm"], _batch()
    soft = Batch(batch.inputs, F.one_hot(batch.labels, 5).double())
    _assert_close(
        local_update(model, batch, training=FEDSGD).tensors, local_update(model, soft, training=FEDSGD).tensors
    )


def test_a_loss_can_be_a_function() -> None:
    training = LocalTraining.fedsgd(loss=lambda outputs, labels: 3.0 * F.cross_entropy(outputs, labels))
    model, batch = MODELS["residual"], _batch()
    plain = local_update(model, batch, training=FEDSGD).tensors
    _assert_close(local_update(model, batch, training=training).tensors, {n: 3 * t for n, t in plain.items()})


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(UnknownName, match="crossentropy"):
        loss_function("crossentropy")


TRAININGS = {
    "gradient": FEDSGD,
    "difference": LocalTraining.fedavg(lr=0.4, epochs=2, batch_size=4),
    **{
        name: LocalTraining.fedavg(lr=0.05, epochs=2, batch_size=4, **options)  # type: ignore[arg-type]
        for name, options in OPTIMIZERS.items()
        if name != "adam without memory"  # the sign of the gradient: flat, with jumps that no difference quotient sees
    },
}


@pytest.mark.parametrize("case", TRAININGS)
def test_a_differentiable_training_gives_the_same_numbers_and_a_right_derivative(case: str) -> None:
    """Against central differences along a random direction of the inputs, in float64."""
    training = TRAININGS[case]
    model, batch = MODELS["batch norm"], _batch(7)
    bare, state = architecture(model, training), state_of(model)
    direction = torch.randn(batch.inputs.shape, generator=_seed(2), dtype=torch.float64)

    def size(inputs: Tensor, differentiable: bool) -> Tensor:
        tensors = local_training(bare, state, inputs, batch.labels, training, differentiable=differentiable).tensors
        return torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum()

    inputs = batch.inputs.clone().requires_grad_()
    value = size(inputs, True)
    torch.testing.assert_close(value, size(batch.inputs, False), rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(value, inputs)
    step = 1e-7
    numeric = (size(batch.inputs + step * direction, False) - size(batch.inputs - step * direction, False)) / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), numeric, rtol=1e-6, atol=0)


def test_the_derivative_through_adam_is_finite_and_right_where_a_gradient_is_exactly_zero() -> None:
    """Pixel 2 is black in every example, so the gradient of its weights is 0 and so are both moments.

    There Adam moves by lr * g / (|g| + eps), with slope lr / eps: the closed form of one step on a linear model.
    """
    model = nn.Linear(4, 3).double()
    batch = Batch(torch.randn(5, 4, generator=_seed(0), dtype=torch.float64), torch.tensor([0, 1, 2, 1, 1]))
    batch.inputs[:, 2] = 0.0
    eps = 0.5
    for epochs in (1, 3):
        training = LocalTraining.fedavg(lr=0.1, epochs=epochs, optimizer="adam", eps=eps)
        inputs = batch.inputs.clone().requires_grad_()
        state = state_of(model)
        bare = architecture(model, training)
        moved = local_training(bare, state, inputs, batch.labels, training, differentiable=True).tensors["weight"]
        assert torch.equal(moved[:, 2], torch.zeros(3, dtype=torch.float64))
        (slope,) = torch.autograd.grad(moved[0, 2], inputs)
        assert bool(torch.isfinite(slope).all())
        if epochs == 1:
            scores = F.linear(batch.inputs, state["weight"], state["bias"]).softmax(-1)
            error = (scores[:, 0] - (batch.labels == 0).double()) / 5
            torch.testing.assert_close(slope[:, 2], -0.1 / eps * error, rtol=1e-12, atol=0)
    (total,) = torch.autograd.grad(
        local_training(bare, state, inputs, batch.labels, training, differentiable=True)
        .tensors["weight"]
        .square()
        .sum(),
        inputs,
    )
    assert bool(torch.isfinite(total).all())


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes that tensors made under it held at one time: an allocator's own account, whoever keeps them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: dict[weakref.ref[torch.UntypedStorage], int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple[object, ...] = (), kwargs: Any = None
    ) -> object:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = weakref.ref(storage, self._freed)
                if key not in self.held:
                    self.held[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
        return made

    def _freed(self, key: weakref.ref[torch.UntypedStorage]) -> None:
        self.now -= self.held.pop(key, 0)


SIMULATED = {
    "fedsgd": FEDSGD,
    "five steps": LocalTraining.fedavg(lr=0.1, epochs=5),
    "ragged": LocalTraining.fedavg(lr=0.1, epochs=3, batch_size=3, momentum=0.9, weight_decay=0.1, shuffle=True),
    "adam": LocalTraining.fedavg(lr=0.1, epochs=4, batch_size=4, optimizer="adam"),
}


@pytest.mark.parametrize("case", SIMULATED)
@pytest.mark.parametrize("name", ["lenet", "batch norm", "residual", "attention"])
def test_the_memory_of_a_simulation_is_known_before_it_runs(name: str, case: str) -> None:
    model = zoo.lenet(size=8) if name == "lenet" else MODELS[name]
    training, dtype = SIMULATED[case], torch.float32 if name == "lenet" else torch.float64
    batch = _batch(8, dtype=dtype)
    bare, state = architecture(model, training), state_of(model)
    inputs = batch.inputs.clone().requires_grad_()
    estimate = simulation_bytes(bare, state, (3, 8, 8), training, 8)
    with twice_differentiable(), Peak() as peak:
        tensors = local_training(bare, state, inputs, batch.labels, training, differentiable=True).tensors
        torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().backward()  # type: ignore[no-untyped-call]
    assert peak.most / 3 < estimate < 3 * peak.most


class Looking(nn.Module):
    """Looks at values, which a tensor without values does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.flatten(1) if x.sum() >= 0 else -x.flatten(1))
        return out


def test_the_memory_of_a_model_that_looks_at_values_is_known_too() -> None:
    training = LocalTraining.fedavg(lr=0.1, epochs=2)
    model = Looking()
    same = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    one, other = (simulation_bytes(architecture(m), state_of(m), (12,), training, 4) for m in (model, same))
    assert other / 2 < one < 2 * other


def test_the_state_is_not_written_to() -> None:
    model = _normed()
    state = state_of(model)
    before = {name: tensor.clone() for name, tensor in state.items()}
    bare = architecture(model, FEDSGD)
    local_training(
        bare, state, _batch().inputs, _batch().labels, LocalTraining.fedavg(lr=0.1, epochs=2), differentiable=True
    )
    _assert_close(state, before, tolerance=0.0)
    assert not any(tensor.requires_grad for tensor in state.values())


def test_an_architecture_holds_no_values_and_leaves_the_model_alone() -> None:
    model = _normed()
    before = copy.deepcopy(model.state_dict())
    bare = architecture(model, LocalTraining.fedsgd(mode="eval"))
    assert all(tensor.is_meta for tensor in (*bare.parameters(), *bare.buffers()))
    assert not bare.training
    assert model.training
    _assert_close(model.state_dict(), before, tolerance=0.0)
    assert [name for name, _ in bare.named_parameters()] == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("model", [nn.Flatten(), nn.Linear(3, 3).requires_grad_(False)])
def test_a_model_without_trainable_parameters_is_refused(model: nn.Module) -> None:
    with pytest.raises(UnfitModel, match="no trainable parameters"):
        local_update(model, _batch(), training=FEDSGD)


MISFITS = {
    "shape": Batch(torch.zeros(2, 1, 8, 8).double(), torch.tensor([0, 1])),
    "dtype": Batch(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])),
    "label too large": Batch(torch.zeros(2, 3, 8, 8).double(), torch.tensor([0, 5])),
    "label too small": Batch(torch.zeros(2, 3, 8, 8).double(), torch.tensor([0, -1])),
    "width of the soft labels": Batch(torch.zeros(2, 3, 8, 8).double(), torch.zeros(2, 4).double()),
    "one example for BatchNorm": _batch(1),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_batch_that_the_model_does_not_accept_is_refused_with_its_shape(case: str) -> None:
    with pytest.raises(UnfitBatch, match=r"cannot train on inputs \(\d, \d, 8, 8\)"):
        local_update(_normed(), MISFITS[case], training=FEDSGD)


def _broken(*_: object, **__: object) -> Any:
    raise TypeError("a fault of our own")


@pytest.mark.parametrize("hook", ["batch", "gradient", "example_grads", "update"])
def test_a_fault_of_a_defense_stays_a_crash(hook: str) -> None:
    """It used to be told as a batch that does not fit."""
    with pytest.raises(TypeError, match="a fault of our own"):
        local_update(
            zoo.mlp(inputs=192, widths=(4,), num_classes=3), zoo.photos(size=8, num_classes=3)[:2], training=FEDSGD,
            defense=Hooks("broken", **cast("Any", {hook: _broken})), generator=torch.Generator(),
        )  # fmt: skip


@pytest.mark.parametrize(
    "loss",
    [_broken, lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="none"), lambda o, y: torch.zeros(())],
    ids=["raises", "a number for each example", "no graph"],
)
@pytest.mark.parametrize("training", [LocalTraining.fedsgd, partial(LocalTraining.fedavg, lr=0.1)])
def test_a_loss_that_does_not_take_the_batch_is_a_misfit(
    loss: LossFunction, training: Callable[..., LocalTraining]
) -> None:
    batch = zoo.photos(size=8, num_classes=3)[:2]
    with pytest.raises(Misfit, match="cannot train"):
        local_update(zoo.mlp(inputs=192, widths=(4,), num_classes=3), batch, training=training(loss=loss))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_lack_of_memory_is_no_misfit(error: Exception) -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        raise error

    with pytest.raises(RuntimeError, match="memory") as caught:
        local_update(zoo.lenet(), zoo.photos(size=32)[:1], training=LocalTraining.fedsgd(loss=loss))
    assert caught.value is error


def _seed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _assert_close(one: object, other: object, tolerance: float = 1e-10) -> None:
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)
