"""OUTPOST: what is pruned, where the noise falls, how strong it is, and how often a step is perturbed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedseal import LocalTraining, local_update, zoo
from fedseal.defense.outpost import outpost
from fedseal.errors import BadConfig
from fedseal.types import LocalStep

GENERATOR = torch.Generator().manual_seed(7)
GRADS = {name: scale * torch.randn(shape, generator=GENERATOR) for name, (scale, shape) in {
    "large": (1.0, (100, 100)), "small": (0.01, (50, 20)), "bias": (1.0, (1,)),
}.items()}  # fmt: skip
SPREAD = {"large": 0.5, "small": 3.0, "bias": 1.0}
STATE = {name: SPREAD[name] * torch.randn(grad.shape, generator=GENERATOR) for name, grad in GRADS.items()}


def _step(number: int = 0) -> LocalStep:
    return LocalStep(number, nn.Identity(), STATE, torch.zeros(1, 1), torch.zeros(1, dtype=torch.long))


def _perturbed(seed: int = 0, number: int = 0, **options: float) -> dict[str, Tensor]:
    return dict(outpost(**options).on_gradient(GRADS, _step(number), torch.Generator().manual_seed(seed)))


def test_the_smallest_of_every_tensor_are_zero_where_there_is_no_noise() -> None:
    sent = _perturbed(phi=0.1, prune=0.8)
    assert int((sent["small"] == 0).sum()) == 800  # all of the information is in the large tensor
    kept = sent["small"] != 0
    assert torch.equal(sent["small"][kept], GRADS["small"][kept])
    assert GRADS["small"][kept].abs().min() >= GRADS["small"][~kept].abs().max()


def test_noise_falls_on_the_most_informative_entries_of_all_tensors_at_the_strength_of_the_spread_of_weights() -> None:
    sent = _perturbed(phi=0.4, prune=0.0, noise=0.8)
    moved = {name: sent[name] != grad for name, grad in GRADS.items()}
    total = sum(grad.numel() for grad in GRADS.values())
    assert (
        sum(int(where.sum()) for where in moved.values()) == int(0.4 * total) - 1
    )  # the bias: one number has no spread
    assert not moved["small"].any()
    where = moved["large"]
    assert GRADS["large"][where].abs().min() > GRADS["large"][~where].abs().max()
    noise = (sent["large"] - GRADS["large"])[where]
    assert noise.std().item() == pytest.approx(0.8 * STATE["large"].var().item(), rel=0.05)
    assert torch.equal(sent["bias"], GRADS["bias"])


def test_the_strength_is_bounded_however_wide_the_weights_are() -> None:
    sent = _perturbed(phi=1.0, prune=0.0, noise=0.5)
    assert (sent["small"] - GRADS["small"]).std().item() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("number", [0, 8, 40])
def test_a_later_step_is_perturbed_less_often(number: int) -> None:
    hits = sum(_perturbed(seed, number)["large"] is not GRADS["large"] for seed in range(300))
    chance = 1 / (1 + 0.125 * number)
    assert hits / 300 == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 300) ** 0.5)


def test_local_steps_are_numbered_and_each_meets_its_own_weights() -> None:
    model, batch = zoo.lenet(size=8, width=4, num_classes=5), zoo.photos(size=8, num_classes=5)[:3]
    training = LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=2)
    clean_after_first = outpost(0.4, beta=1e9)
    sent = local_update(
        model, batch, training=training, defense=clean_after_first, generator=torch.Generator().manual_seed(0)
    )
    step = local_update(
        model, batch[:2], training=LocalTraining.fedsgd(), defense=clean_after_first,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    moved = zoo.lenet(size=8, width=4, num_classes=5)
    start = {name: tensor.detach().clone() for name, tensor in moved.named_parameters()}
    tensors = {name: tensor - 0.1 * step.tensors[name] for name, tensor in start.items()}
    for part in (batch[2:], batch[:2], batch[2:]):
        moved.load_state_dict(tensors)
        plain = local_update(moved, part, training=LocalTraining.fedsgd())
        tensors = {name: tensor - 0.1 * plain.tensors[name] for name, tensor in tensors.items()}
    assert all(torch.allclose(sent.tensors[n], tensors[n] - start[n], atol=1e-6) for n in start)


def test_its_name_keeps_what_is_not_the_default_and_its_public_part_the_pruning() -> None:
    other = outpost(0.3, noise=0.1, prune=0.0)
    assert (outpost().name, other.name) == ("outpost:0.4", "outpost:0.3,noise=0.1,prune=0")
    assert [step.kind for step in outpost().public] == ["prune", "unknown_noise"]
    assert [step.kind for step in other.public] == ["unknown_noise"]


@pytest.mark.parametrize(
    "options",
    [{"phi": 0.0}, {"phi": 1.1}, {"prune": 1.0}, {"prune": -0.1}, {"noise": 0.0}, {"noise": -1.0}, {"beta": -1.0}],
)
def test_figures_that_mean_nothing(options: dict[str, float]) -> None:
    with pytest.raises(BadConfig, match="OUTPOST"):
        outpost(**options)
