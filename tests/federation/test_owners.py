"""Rules of owners against arithmetic written out here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from federation.small import data, gap, net, owners
from fedseal import defense
from fedseal.client import state_of
from fedseal.errors import BadConfig, UnfitUpdate
from fedseal.federation.federation import Federation
from fedseal.federation.owners import (
    DataOwner,
    Local,
    ModelOwner,
    evaluate,
    gradient_step,
    local_steps,
    move,
    reptile,
)
from fedseal.federation.packing import Packing
from fedseal.types import Batch, LocalTraining, Tensors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_reptile_is_so_many_steps_of_sgd_each_on_other_examples() -> None:
    whole, model = data(12), net()
    update = reptile(lr=0.2, batch_size=2, iterations=3)(model, whole, generator())
    rows = torch.randperm(12, generator=generator())[:6]
    hand = net()
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.2)
    for first in (0, 2, 4):
        chosen = rows[first : first + 2]
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(hand(whole.inputs[chosen]), whole.labels[chosen]))
        optimizer.step()
    moved = {name: tensor - state_of(model)[name] for name, tensor in state_of(hand).items()}
    assert gap(dict(update.tensors), moved) < 1e-6
    assert (update.kind, update.num_examples) == ("difference", 6)


def test_a_gradient_step_draws_its_examples_anew_each_round() -> None:
    rule = gradient_step(4)
    one, again, other = (rule(net(), data(), generator(seed)) for seed in (0, 0, 1))
    assert one.num_examples == 4
    assert gap(dict(one.tensors), dict(again.tensors)) == 0
    assert gap(dict(one.tensors), dict(other.tensors)) > 0
    assert gradient_step()(net(), data(), generator()).num_examples == 12


def test_local_steps_run_the_clients_own_training() -> None:
    assert local_steps(lr=0.1, epochs=2, batch_size=3).training == LocalTraining.fedavg(
        lr=0.1, epochs=2, batch_size=3, shuffle=True
    )


def test_rules_that_mean_nothing() -> None:
    with pytest.raises(BadConfig, match="0 examples are to be drawn"):
        gradient_step(0)
    with pytest.raises(BadConfig, match="0 steps"):
        reptile(lr=0.1, batch_size=2, iterations=0)
    with pytest.raises(BadConfig, match="memory from round to round"):
        Local(LocalTraining.fedsgd(), defense=defense.parse("topk:0.1"))
    with pytest.raises(BadConfig, match="learning rate"):
        ModelOwner(net(), learning_rate=0)


@pytest.mark.parametrize("name", ["krum", "median", "trimmed_mean"])
def test_an_aggregator_that_needs_single_updates_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(BadConfig, match="nobody sees a client's update"):
        ModelOwner(net(), aggregator_fn=name)


def krum(updates: Sequence[Tensors]) -> Tensors:
    return updates[0]


def mine(total: Tensors, weight: int, model: nn.Module) -> Tensors:
    return {name: torch.zeros_like(tensor) for name, tensor in state_of(model).items()}


def test_functions_of_ones_own_must_take_the_opened_sum() -> None:
    with pytest.raises(BadConfig, match="'krum' compares"):
        ModelOwner(net(), aggregator_fn=krum)  # type: ignore[arg-type]
    with pytest.raises(BadConfig, match="does not take"):
        ModelOwner(net(), aggregator_fn=lambda updates: updates)  # type: ignore[arg-type,misc]
    with pytest.raises(BadConfig, match="no aggregator 'mode'"):
        ModelOwner(net(), aggregator_fn="mode")
    new = ModelOwner(net(), aggregator_fn=mine).aggregate({}, 1, net())
    assert all(not bool(tensor.any()) for tensor in new.values())


def test_an_aggregator_must_return_the_models_tensors() -> None:
    for wrong in ({"none": torch.zeros(1)}, {"1.weight": torch.zeros(2)}):

        def foreign(total: Tensors, weight: int, model: nn.Module, wrong: Tensors = wrong) -> Tensors:
            return wrong

        owner = ModelOwner(net(), aggregator_fn=foreign)
        with pytest.raises(BadConfig, match="that the model does not have"):
            Federation(owner, owners(), "plain").fit(1)


def test_move_rounds_counts_and_leaves_the_rest() -> None:
    model = nn.BatchNorm1d(2)
    total = {"running_mean": torch.tensor([2.0, 4.0]).double(), "num_batches_tracked": torch.tensor(5.0).double()}
    new = move(total, 2, model, lr=0.1)
    assert new["running_mean"].tolist() == [1.0, 2.0]  # statistics take no learning rate
    assert (int(new["num_batches_tracked"]), new["num_batches_tracked"].dtype) == (2, torch.int64)
    assert torch.equal(new["weight"], model.weight)


def test_evaluation_is_the_mean_over_all_examples() -> None:
    model, many = net(), data(1201)
    found = evaluate(model, many)
    outputs = model(many.inputs).detach()
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(outputs, many.labels)), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float((outputs.argmax(1) == many.labels).float().mean()))
    assert model.training  # as it was
    probabilities = Batch(many.inputs, torch.full((1201, 3), 1 / 3))
    assert set(evaluate(model, probabilities)) == {"loss"}


def test_metrics_stay_within_their_bounds() -> None:
    def odd(model: nn.Module, batch: Batch) -> dict[str, float]:
        return {"loss": math.inf, "gain": -9.0, "lost": math.nan, "fine": 0.5}

    bounds = {"loss": 2.0, "gain": 3.0, "lost": 4.0, "fine": 1.0}
    owner = DataOwner.holding(data(), metrics_fn=odd, bounds=bounds)
    assert owner.metrics(net(), data(), bounds) == {"loss": 2.0, "gain": -3.0, "lost": 4.0, "fine": 0.5}
    with pytest.raises(BadConfig, match="does not measure 'depth'"):
        owner.metrics(net(), data(), {"depth": 1.0})


def test_packing_goes_there_and_back() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[0].bias.requires_grad_(False)
    packing, batch = Packing.of(model), Batch(data().inputs[:, :3], data().labels % 2)
    update = gradient_step()(model, batch, generator())
    vector = packing.pack(update, state_of(model))
    assert vector.shape == (packing.size,) == (6 + 4 + 4,)
    back = packing.unpack(vector)
    assert gap({n: -t for n, t in update.tensors.items()}, {n: back[n] for n in update.tensors}) == 0
    assert update.buffers is not None
    changed: dict[str, Tensor] = {n: update.buffers[n] - state_of(model)[n] for n, _ in packing.buffers}
    assert gap(changed, {n: back[n] for n in changed}) < 1e-7
    with pytest.raises(UnfitUpdate, match=r"'0\.weight' is missing"):
        packing.pack(type(update)("gradient", {}), state_of(model))


def test_a_slice_does_not_carry_its_whole_set_along() -> None:
    owner = DataOwner.holding(data(1000)[:2])
    assert owner.build_data().inputs.untyped_storage().nbytes() == 2 * 6 * 4
