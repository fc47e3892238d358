"""The oracle of what is determined, against closed forms; and that it computes the client's own update."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from benchmarks.worlds.generate import from_seed
from benchmarks.worlds.oracle import Twin, determined, flat, sensitivities, smallest
from torch import Tensor, nn

from fedseal import Batch, FedsealError, LocalTraining, local_update

FEDSGD = LocalTraining.fedsgd()


def rows(count: int, width: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(*layers).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1, generator=generator)
    return model


def test_schur_complement_by_hand() -> None:
    """Columns (1, 0), (cos, sin): with the other projected out, each keeps the sine of the angle."""
    angle = 0.3
    jacobian = torch.tensor([[1.0, math.cos(angle)], [0.0, math.sin(angle)]], dtype=torch.float64)
    assert torch.allclose(smallest(jacobian, 2, 1), torch.tensor([math.sin(angle)] * 2, dtype=torch.float64))


def test_blocks_are_those_of_projection() -> None:
    jacobian = torch.randn(40, 3 * 4 + 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for number, value in enumerate(smallest(jacobian, 3, 4).tolist()):
        mine = jacobian[:, number * 4 : number * 4 + 4]
        rest = torch.cat([jacobian[:, : number * 4], jacobian[:, number * 4 + 4 :]], 1)
        left = mine - rest @ torch.linalg.lstsq(rest, mine).solution
        assert value == pytest.approx(float(torch.linalg.svdvals(left)[-1]), rel=1e-9)


def test_linear_layer_in_closed_form() -> None:
    """Squared error of one output: the gradient is (d x, d) with d = 2 (w x + b - t); t moves too, so d is free.

    Moving x by v and d by e changes it by (d v + e x, e), whose least norm over e is |d| |v| where v is orthogonal to
    x, and |d| |v| / sqrt(1 + |x|^2) along x.
    """
    model, inputs = seeded(nn.Linear(6, 1)), rows(1)
    batch = Batch(inputs, torch.tensor([[0.3]], dtype=torch.float64))
    training = LocalTraining.fedsgd(loss=F.mse_loss)
    delta = 2 * (model(inputs) - batch.labels).abs().item()
    norm = delta * math.sqrt(1 + inputs.square().sum().item())
    expected = 0.01 * math.sqrt(6) * delta / math.sqrt(1 + inputs.square().sum().item()) / norm
    assert sensitivities(model, batch, training, seed=0).item() == pytest.approx(expected, rel=1e-9)


def test_duplicates_are_undetermined_and_the_third_is_not() -> None:
    inputs = rows(3)
    inputs[1] = inputs[0]
    model = seeded(nn.Linear(6, 20), nn.Sigmoid(), nn.Linear(20, 4))
    found = sensitivities(model, Batch(inputs, torch.tensor([1, 1, 2])), FEDSGD, seed=0)
    assert determined(found, torch.float64).tolist() == [False, False, True]


def test_one_example_under_two_labels_is_determined_where_the_gradients_tell_them_apart() -> None:
    inputs = rows(2)
    inputs[1] = inputs[0]
    model = seeded(nn.Linear(6, 20), nn.Sigmoid(), nn.Linear(20, 4))
    found = sensitivities(model, Batch(inputs, torch.tensor([1, 2])), FEDSGD, seed=0)
    assert determined(found, torch.float64).all()


def test_stride_that_skips_pixels() -> None:
    model = seeded(nn.Conv2d(1, 8, 1, stride=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(32, 3))
    batch = Batch(rows(1, 16).view(1, 1, 4, 4), torch.tensor([0]))
    assert sensitivities(model, batch, FEDSGD, seed=0).item() < 1e-12
    model = seeded(nn.Conv2d(1, 8, 3, stride=1, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(128, 3))
    assert determined(sensitivities(model, batch, FEDSGD, seed=0), torch.float32).all()


def test_averaged_colors() -> None:
    model = seeded(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(128, 3))
    batch = Batch(rows(1, 48).view(1, 3, 4, 4), torch.tensor([0]))
    assert determined(sensitivities(model, batch, FEDSGD, seed=0), torch.float32).all()
    first = model[0]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        first.weight[:] = first.weight.mean(1, keepdim=True)
    first.requires_grad_(False)  # else its gradient tells the colors apart
    assert sensitivities(model, batch, FEDSGD, seed=0).item() < 1e-12


def test_dead_first_layer() -> None:
    model = seeded(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    first = model[0]
    assert isinstance(first, nn.Linear)
    first.bias.data.fill_(-100)
    assert sensitivities(model, Batch(rows(1), torch.tensor([0])), FEDSGD, seed=0).item() == 0


def test_more_unknowns_than_equations() -> None:
    """Eight rows of six numbers in the 14 values of a two-class regression."""
    found = sensitivities(seeded(nn.Linear(6, 2)), Batch(rows(8), torch.arange(8) % 2), FEDSGD, seed=0)
    assert not determined(found, torch.float64).any()


def test_small_gradients_hide_an_easy_example_from_float32_alone() -> None:
    head = nn.Linear(20, 3)
    model, inputs = seeded(nn.Linear(6, 20), nn.Tanh(), head), rows(2)
    with torch.no_grad():
        head.weight.mul_(60)
    labels = model(inputs).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    found = sensitivities(model, Batch(inputs, labels), FEDSGD, seed=0)
    assert determined(found, torch.float32).tolist() == [True, False]
    assert determined(found, torch.float64).tolist() == [True, True]


@pytest.mark.parametrize(
    "training",
    [
        LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=2, shuffle=True),
        LocalTraining.fedavg(lr=0.1, epochs=3, momentum=0.9, weight_decay=0.1),
        LocalTraining.fedavg(lr=0.1, epochs=3, optimizer="adam"),
        LocalTraining.fedsgd(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]).double())),
    ],
)
def test_the_update_is_the_clients(training: LocalTraining) -> None:
    """Dropout in training and a secret order are drawn as the client draws them."""
    inside = nn.LayerNorm(8) if training.optimizer == "adam" else nn.BatchNorm1d(8)  # Adam makes much of a bias's 0
    model = seeded(nn.Dropout(0.3), nn.Linear(6, 8), inside, nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
    batch = Batch(rows(5), torch.tensor([0, 1, 2, 0, 1]))
    if training.batch_size is not None:
        batch = batch[:4]  # the last step would hold one example, which BatchNorm refuses
    sent = local_update(model, batch, training=training, generator=torch.Generator().manual_seed(7))
    twin = Twin(model, batch, training, 7)
    assert torch.allclose(twin.update(batch.inputs, twin.labels), flat(sent.tensors), rtol=1e-9, atol=1e-12)
    other = Twin(model, batch, training, 8)
    assert not torch.allclose(other.update(batch.inputs, other.labels), flat(sent.tensors), rtol=1e-3)


@pytest.mark.parametrize("seed", range(40))
def test_the_update_is_the_clients_in_any_world(seed: int) -> None:
    """In float64, in which nothing else could differ than what is computed."""
    world = from_seed(seed)
    if world.tagged("dtype") not in ("float32", "float64"):
        pytest.skip("coarse formats differ from float64 by their rounding")
    built = world.build()
    model = built.model.double()
    labels = built.batch.labels.double() if built.batch.labels.is_floating_point() else built.batch.labels
    loss = built.training.loss
    if isinstance(loss, nn.Module):
        loss.double()
    batch = Batch(built.batch.inputs.double(), labels)
    try:
        sent = local_update(model, batch, training=built.training, generator=torch.Generator().manual_seed(world.seed))
    except FedsealError:
        return
    twin = Twin(model, batch, built.training, world.seed)
    mine, theirs = twin.update(batch.inputs, twin.labels), flat(sent.tensors)
    assert (mine - theirs).norm() <= 1e-9 * theirs.norm()
