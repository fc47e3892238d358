"""The simulated client does what a real one does: torch's own autograd, SGD and modules are the oracle."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedseal import Batch, LocalTraining, defense, local_update, zoo
from fedseal.client import architecture, loss_function, state_of, train
from fedseal.errors import BadConfig, UnfitBatch, UnfitModel, UnknownName

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


@pytest.mark.parametrize("kind", ["gradient", "difference"])
def test_a_differentiable_training_gives_the_same_numbers_and_a_right_derivative(kind: str) -> None:
    """Against central differences along a random direction of the inputs, in float64."""
    training = FEDSGD if kind == "gradient" else LocalTraining.fedavg(lr=0.4, epochs=2, batch_size=3)
    model, batch = MODELS["batch norm"], _batch()
    bare, state = architecture(model, training), state_of(model)
    direction = torch.randn(batch.inputs.shape, generator=_seed(2), dtype=torch.float64)

    def size(inputs: Tensor, differentiable: bool) -> Tensor:
        tensors = train(bare, state, inputs, batch.labels, training, differentiable=differentiable).tensors
        return torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum()

    inputs = batch.inputs.clone().requires_grad_()
    value = size(inputs, True)
    torch.testing.assert_close(value, size(batch.inputs, False), rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(value, inputs)
    step = 1e-5
    numeric = (size(batch.inputs + step * direction, False) - size(batch.inputs - step * direction, False)) / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), numeric, rtol=1e-6, atol=0)


def test_the_state_is_not_written_to() -> None:
    model = _normed()
    state = state_of(model)
    before = {name: tensor.clone() for name, tensor in state.items()}
    bare = architecture(model, FEDSGD)
    train(bare, state, _batch().inputs, _batch().labels, LocalTraining.fedavg(lr=0.1, epochs=2), differentiable=True)
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


def _seed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _assert_close(one: object, other: object, tolerance: float = 1e-10) -> None:
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)
