"""Targets that the loss does not take are refused at the door that every training of examples passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fedseal.errors import EngineFailure, UnfitBatch
from fedseal.federation import DataOwner, Federation, ModelOwner, Secure, gradient_step, local_steps, reptile, train
from fedseal.federation.gossip import Gossip
from fedseal.federation.owners import Local, evaluate
from fedseal.types import Batch, LocalTraining

RULES = {"gradient": gradient_step(), "steps": local_steps(lr=0.1), "reptile": reptile(lr=0.1, batch_size=2)}
WRONG = [
    (torch.tensor([[0.5, 0.5], [0.9, 0.9], [0, 1]]), 2, r"example 1.* \(0.9, 0.9\) are no probabilities"),
    (torch.tensor([[1.5, -0.5], [0.5, 0.5], [0, 1]]), 2, r"example 0.* \(1.5, -0.5\) are no probabilities"),
    (torch.tensor([[0.5], [1.0], [0.0]]), 1, "one number each"),
    (torch.tensor([0.5, 1.0, 0.0]), 1, "one number each"),
    (torch.tensor([2.5, 1.0, 0.0]), 2, "one number each"),
    (torch.tensor([0, 1, 0]), 1, "the model has one output"),
    (torch.tensor([0, -1, 0]), 2, r"example 1.* has the class -1"),
    (torch.tensor([0, 1, 2]), 2, r"example 2.* has the class 2, and the model those of 0 to 1"),
]


def batch(labels: Tensor) -> Batch:
    return Batch(torch.rand(3, 4, generator=torch.Generator().manual_seed(0)), labels)


def itself(data: Batch) -> Batch:
    return data


def owner(data: Batch, rule: Local) -> DataOwner:
    """Of examples that are loaded where it is."""
    return DataOwner(partial(itself, data), rule)


def simulated(kind: type[Federation | Gossip], rule: Local, data: Batch, outputs: int) -> object:
    return kind(ModelOwner(nn.Linear(4, outputs)), [owner(data, rule) for _ in range(2)]).fit(1)


def alone(rule: Local, data: Batch, outputs: int) -> object:
    one = train(nn.Linear(4, outputs), [data], training=rule.training, rounds=1, generator=torch.Generator())
    return next(iter(one))


WAYS: dict[str, Callable[[Local, Batch, int], object]] = {
    "star": partial(simulated, Federation),
    "gossip": partial(simulated, Gossip),
    "alone": alone,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("labels", "outputs", "told"), WRONG)
def test_targets_that_are_none_are_refused(way: str, rule: str, labels: Tensor, outputs: int, told: str) -> None:
    with pytest.raises(UnfitBatch, match=told):
        WAYS[way](RULES[rule], batch(labels), outputs)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 1]), torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.0, 1.0]])])
def test_targets_that_are_some_are_trained_on(way: str, labels: Tensor) -> None:
    WAYS[way](RULES["steps"], batch(labels), 2)


def test_examples_in_memory_are_looked_at_at_once() -> None:
    with pytest.raises(UnfitBatch, match="are no probabilities"):
        DataOwner.holding(batch(torch.ones(3, 2)), gradient_step())


@pytest.mark.parametrize(
    ("loss", "labels", "outputs"),
    [
        ("mse", torch.tensor([[2.5, -1.0], [0.9, 0.9], [0, 1]]), 2),
        ("mse", torch.tensor([[2.5], [0.9], [0]]), 1),
        ("bce", torch.tensor([[1.0, 1.0], [0, 0], [0, 1]]), 2),
        (nn.L1Loss(), torch.tensor([[2.5, -1.0], [0.9, 0.9], [0, 1]]), 2),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_another_loss_takes_its_own_targets(way: str, loss: str | nn.Module, labels: Tensor, outputs: int) -> None:
    WAYS[way](Local(LocalTraining.fedavg(lr=0.1, loss=loss)), batch(labels), outputs)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(torch.tensor([1.0, 2.0]), reduction="sum")]
)
def test_cross_entropy_by_another_name_is_that(way: str, loss: nn.Module) -> None:
    with pytest.raises(UnfitBatch, match="are no probabilities"):
        WAYS[way](Local(LocalTraining.fedavg(lr=0.1, loss=loss)), batch(torch.ones(3, 2)), 2)


def test_an_owner_on_its_own_host_refuses_and_says_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """Where the numbers are agreed on, the examples are loaded by the owner alone."""
    good, bad = batch(torch.tensor([0, 1, 1])), batch(torch.ones(3, 2))
    owners = [owner(good, RULES["steps"]), owner(bad, RULES["steps"]), owner(good, RULES["steps"])]
    secure = Secure("sharing", minimum=2, max_weight=3)
    (report,) = Federation(ModelOwner(nn.Linear(4, 2)), owners, secure).fit(1).history
    assert (report.clients, report.refused) == (2, {"data owner 1": "UnfitBatch"})
    assert "targets of example 0 (1, 1) are no probabilities" in caplog.text
    with pytest.raises(EngineFailure):
        Federation(ModelOwner(nn.Linear(4, 2)), [owners[1]] * 3, secure).fit(3)


def test_validation_by_cross_entropy_takes_its_targets() -> None:
    with pytest.raises(UnfitBatch, match=r"example 0 of the validation data \(1, 1\) are no probabilities"):
        ModelOwner(nn.Linear(4, 2), validation=batch(torch.ones(3, 2)))
    ModelOwner(
        nn.Linear(4, 2), validation=batch(torch.ones(3, 2)), evaluator_fn=lambda model, data: evaluate(model, data)
    )
