"""Labels after local training, and soft labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack.cases import initialized, observed, seeded
from fedseal import Batch, LocalTraining, zoo
from fedseal.attack.labels import METHODS
from fedseal.attack.labels.head import read_head
from fedseal.attack.labels.rlu import RLU, by_class, drift
from fedseal.attack.labels.soft import nearest
from fedseal.errors import UnfitBatch, UnfitUpdate

POOL = zoo.fashion_mnist()


def rows(count: int, seed: int) -> Batch:
    chosen = torch.randperm(500, generator=seeded(seed))[:count]
    return Batch(POOL.inputs[chosen], POOL.labels[chosen])


# ---- local training


@pytest.mark.parametrize("name", ["geng_bias", "dimitrov", "rlu", "moments"])
def test_sixteen_epochs_of_four_batches_are_counted(name: str) -> None:
    shares = []
    for seed in range(2):
        batch = rows(64, seed)
        training = LocalTraining.fedavg(lr=0.01, epochs=16, batch_size=16)
        found = METHODS[name].infer(observed(zoo.mlp(seed=seed), batch, training=training), generator=seeded())
        true = torch.bincount(batch.labels, minlength=10)
        shares.append(float(torch.minimum(found.counts, true).sum()) / 64)
    assert sum(shares) / 2 >= (1.0 if name == "moments" else 0.95)


TRAININGS = {
    "one step": LocalTraining.fedavg(lr=0.01),
    "epochs and batches": LocalTraining.fedavg(lr=0.001, epochs=4, batch_size=8),
    "a smaller last batch": LocalTraining.fedavg(lr=0.001, epochs=2, batch_size=12),
    "momentum": LocalTraining.fedavg(lr=0.0005, epochs=3, batch_size=8, momentum=0.9),
    "weight decay": LocalTraining.fedavg(lr=0.001, epochs=3, batch_size=8, weight_decay=0.5),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_the_mean_gradient_over_local_steps_has_the_gradient_s_scale(name: str) -> None:
    """With small steps it is nearly the first gradient; a toolkit that counted a step as 1 / (batches x batch size) in
    place of 1 / (batches x epochs) was off by their ratio."""
    batch = rows(32, 0)
    first = read_head(observed(zoo.mlp(), batch), "test")
    mean = read_head(observed(zoo.mlp(), batch, training=TRAININGS[name]), "test")
    assert first.bias_gradient is not None
    assert mean.bias_gradient is not None
    for one, other in ((first.gradient, mean.gradient), (first.bias_gradient, mean.bias_gradient)):
        assert float((one - other).norm() / one.norm()) < (0.4 if name == "a smaller last batch" else 0.15)


def test_adam_forgets_the_gradient_s_size() -> None:
    training = LocalTraining.fedavg(lr=0.001, epochs=2, optimizer="adam")
    with pytest.raises(UnfitUpdate, match="adam rescales"):
        METHODS["moments"].infer(observed(zoo.mlp(), rows(8, 0), training=training), generator=seeded())


def test_the_simulated_client_drifts_as_the_real_one() -> None:
    """On the true examples, its softmax explains the update to the last digit: c = sum p - K db over all steps."""
    batch = rows(32, 1)
    training = LocalTraining.fedavg(lr=0.2, epochs=3, batch_size=8)
    observation = observed(zoo.mlp(), batch, training=training)
    head = read_head(observation, "test")
    assert observation.state is not None
    assert head.bias_gradient is not None
    softmax = drift(observation, observation.state, training, head, batch.inputs, batch.labels, seeded())
    counts = softmax.sum(0) - 32 * head.bias_gradient
    torch.testing.assert_close(counts, torch.bincount(batch.labels, minlength=10).double(), atol=1e-3, rtol=0)


def test_a_class_without_examples_takes_the_mean_softmax() -> None:
    softmax = torch.tensor([[0.5, 0.25, 0.25], [0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], dtype=torch.float64)
    means = by_class(softmax, torch.tensor([0, 0, 1]), 3)
    torch.testing.assert_close(means[0], softmax[:2].mean(0))
    torch.testing.assert_close(means[2], softmax.mean(0))
    assert RLU(rounds=2) == replace(RLU(), rounds=2)


# ---- soft labels


def smoothed(label: int, share: float, classes: int = 6) -> Tensor:
    return (1 - share) * F.one_hot(torch.tensor([label]), classes).double() + share / classes


def mixed(one: int, other: int, share: float, classes: int = 6) -> Tensor:
    target = torch.zeros(1, classes, dtype=torch.float64)
    target[0, one], target[0, other] = share, 1 - share
    return target


TARGETS = {
    "hard": (smoothed(2, 0.0), "hard"),
    "smoothed": (smoothed(4, 0.1), "smoothed by 0.1000"),
    "mixed": (mixed(3, 1, 0.7), "classes 3 and 1 mixed 0.7000 to 0.3000"),
    "mixed evenly": (mixed(0, 5, 0.501), "classes 0 and 5 mixed 0.5010 to 0.4990"),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()])
def test_one_example_s_target_is_read_in_full(target: str, bias: bool, activation: nn.Module) -> None:
    labels, words = TARGETS[target]
    layers = [nn.Flatten(), nn.Linear(16, 24), activation, nn.Linear(24, 6, bias=bias)]
    model = initialized(nn.Sequential(*layers), 3)
    batch = Batch(torch.rand(1, 1, 4, 4, generator=seeded(), dtype=torch.float64), labels)
    found = METHODS["soft"].infer(observed(model, batch), generator=seeded())
    assert found.soft is not None
    torch.testing.assert_close(found.soft, labels, atol=1e-5, rtol=0)
    assert found.labels.tolist() == [int(labels.argmax())]
    assert found.note == words
    assert found.certified == bias  # without one, the features' length is a guess of what the target looks like


def test_soft_refuses_several_examples() -> None:
    with pytest.raises(UnfitBatch, match="2 examples"):
        METHODS["soft"].infer(observed(zoo.mlp(), rows(2, 0)), generator=seeded())


def test_a_target_of_no_known_form_is_not_certified() -> None:
    form = nearest(torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64))
    assert form.distance > 0.05
