"""What an observation says by itself: label, batch size, scale of the gradient, precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attack.cases import FEDSGD, initialized, observed, pictures
from attack.releases import clipped, masked, pruned
from fedseal import Batch, LocalTraining, ThreatModel
from fedseal.attack.evidence.evidence import Evidence


def _net(classes: int, bias: bool, activation: nn.Module, seed: int) -> nn.Module:
    return initialized(
        nn.Sequential(nn.Flatten(), nn.Linear(36, 12), activation, nn.Linear(12, classes, bias=bias)), seed
    )


ONE_STEP, STEPS = LocalTraining.fedavg(lr=0.1), LocalTraining.fedavg(lr=0.01, epochs=3)


@pytest.mark.parametrize(
    ("classes", "training"),
    [
        (3, FEDSGD), (3, ONE_STEP), (3, STEPS), (10, FEDSGD),
        *(pytest.param(10, training, marks=pytest.mark.slow) for training in (ONE_STEP, STEPS)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Sigmoid(), nn.ReLU(), nn.Identity()], ids=str)
def test_every_label_of_a_single_example_is_read(
    classes: int, activation: nn.Module, bias: bool, training: LocalTraining
) -> None:
    """Tanh and identity make features of both signs, where the sum over a row of the head says nothing."""
    for label in range(classes):
        picture = pictures(shape=(1, 6, 6), seed=label).inputs
        observation = observed(
            _net(classes, bias, activation, label), Batch(picture, torch.tensor([label])), training=training
        )
        assert Evidence(observation).label == label


def test_two_classes_without_bias_leave_the_label_open_or_right() -> None:
    """Both rows of the head's gradient oppose each other, whichever is the label's."""
    for label in (0, 1):
        batch = Batch(pictures(shape=(1, 6, 6)).inputs, torch.tensor([label]))
        assert Evidence(observed(_net(2, False, nn.Tanh(), 0), batch)).label in (None, label)


def test_no_label_is_read_off_two_examples_another_loss_or_no_head() -> None:
    model = _net(5, True, nn.Tanh(), 0)
    assert Evidence(observed(model, pictures(2, shape=(1, 6, 6)))).label is None
    other = LocalTraining.fedsgd(loss=nn.functional.multi_margin_loss)
    assert Evidence(observed(model, pictures(shape=(1, 6, 6)), training=other)).label is None
    headless = nn.Sequential(model, nn.Tanh())
    assert Evidence(observed(headless, pictures(shape=(1, 6, 6)))).label is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_withheld_batch_size_is_the_rank_of_the_heads_gradient(count: int) -> None:
    threat = ThreatModel("no count", ThreatModel.honest_but_curious().grants - {"num_examples"})
    evidence = Evidence(observed(_net(5, True, nn.Tanh(), 0), pictures(count, shape=(1, 6, 6)), threat=threat))
    assert evidence.observation.update.num_examples is None
    assert evidence.batch_size == count


def test_a_batch_size_that_rank_cannot_tell_stays_unknown() -> None:
    threat = ThreatModel("no count", ThreatModel.honest_but_curious().grants - {"num_examples"})
    batch = pictures(9, shape=(1, 6, 6))
    assert Evidence(observed(_net(5, True, nn.Tanh(), 0), batch, threat=threat)).batch_size is None
    steps = LocalTraining.fedavg(lr=0.1, epochs=2)
    assert Evidence(observed(_net(5, True, nn.Tanh(), 0), batch[:1], training=steps, threat=threat)).batch_size is None


Training = Callable[[], LocalTraining]
SCALES: dict[str, tuple[Training, int, float | None]] = {
    "gradient": (LocalTraining.fedsgd, 3, 1.0),
    "one step": (lambda: LocalTraining.fedavg(lr=0.25), 3, -4.0),
    "one step of a large enough batch": (lambda: LocalTraining.fedavg(lr=0.25, batch_size=3), 3, -4.0),
    "several batches": (lambda: LocalTraining.fedavg(lr=0.25, batch_size=2), 3, None),
    "several epochs": (lambda: LocalTraining.fedavg(lr=0.25, epochs=2), 3, None),
    "one step with fresh momentum": (lambda: LocalTraining.fedavg(lr=0.25, momentum=0.9), 3, -4.0),
    "weight decay": (lambda: LocalTraining.fedavg(lr=0.25, weight_decay=0.1), 3, None),
    "Adam": (lambda: LocalTraining.fedavg(lr=0.25, optimizer="adam"), 3, None),
}


@pytest.mark.parametrize("case", SCALES)
def test_the_gradient_behind_an_update_is_known_where_it_is_a_multiple_of_one(case: str) -> None:
    training, count, scale = SCALES[case]
    model, batch = _net(5, True, nn.Tanh(), 0), pictures(count, shape=(1, 6, 6))
    evidence = Evidence(observed(model, batch, training=training()))
    assert evidence.gradient_scale == scale
    gradient = evidence.gradient("1.weight")
    if scale is None:
        assert gradient is None
        return
    assert gradient is not None
    truth = observed(model, batch).update.tensors["1.weight"]
    torch.testing.assert_close(gradient, truth, rtol=1e-9, atol=1e-12)


def test_the_stated_error_covers_what_float32_and_a_difference_of_weights_really_lose() -> None:
    """Against the same training in float64: the mean error of a row is within three standard errors."""
    for training in (FEDSGD, LocalTraining.fedavg(lr=0.1)):
        model, batch = _net(5, True, nn.Tanh(), 1), pictures(shape=(1, 6, 6), dtype=torch.float32)
        exact = Evidence(observed(model, Batch(batch.inputs.double(), batch.labels), training=training))
        rounded = Evidence(observed(model.float(), batch, training=training))
        for name in ("1.weight", "3.weight"):
            ours, truth = rounded.gradient(name), exact.gradient(name)
            assert ours is not None
            assert truth is not None
            error: Tensor = (ours - truth).square().mean(1).sqrt()
            assert bool((error < 3 * rounded.noise(name)).all())
            assert float(rounded.noise(name).max()) < 1e3 * float(error.max())


def test_a_missing_bias_gradient_falls_back_to_the_weights() -> None:
    observation = observed(_net(5, True, nn.Tanh(), 0), pictures(shape=(1, 6, 6)))
    first = observation.rounds[0]
    tensors = {name: tensor for name, tensor in first.update.tensors.items() if name != "3.bias"}
    cut = replace(observation, rounds=(replace(first, update=replace(first.update, tensors=tensors)),))
    assert Evidence(cut).label == Evidence(observation).label


@pytest.mark.parametrize("training", [FEDSGD, LocalTraining.fedavg(lr=0.1)], ids=["gradient", "step"])
def test_the_label_is_read_where_chance_dropped_its_own_entry(training: LocalTraining) -> None:
    """Half of the masks take the label's entry of the bias, the only negative one."""
    taken = 0
    for seed in range(20):
        plain = observed(_net(10, True, nn.Sigmoid(), seed), pictures(shape=(1, 6, 6), seed=seed), training=training)
        defended = masked(plain, 0.5, seed)
        label = Evidence(plain).label
        assert label is not None
        taken += int(defended.update.tensors["3.bias"][label] == 0)
        assert Evidence(defended).label == label
    assert 5 < taken < 15


@pytest.mark.parametrize("training", [FEDSGD, LocalTraining.fedavg(lr=0.1)], ids=["gradient", "step"])
def test_the_factor_of_clipping_is_read_off_the_head(training: LocalTraining) -> None:
    plain = observed(_net(5, True, nn.Tanh(), 0), pictures(shape=(1, 6, 6)), training=training)
    evidence = Evidence(clipped(plain, 0.25))
    assert evidence.shrink == pytest.approx(0.25, rel=1e-6)
    ours, truth = evidence.gradient("1.weight"), Evidence(plain).gradient("1.weight")
    assert ours is not None
    assert truth is not None
    torch.testing.assert_close(ours, truth, rtol=1e-6, atol=1e-9)


def test_an_entry_that_was_dropped_has_the_error_its_bound_leaves() -> None:
    plain = observed(_net(5, True, nn.Tanh(), 0), pictures(shape=(1, 6, 6)))
    defended = pruned(plain, 0.5)
    evidence, seen = Evidence(defended), defended.update.tensors["1.weight"]
    error = evidence.error("1.weight")
    bound = float(seen[seen != 0].abs().min())
    torch.testing.assert_close(error[seen == 0], torch.full_like(error[seen == 0], bound / 3**0.5), rtol=1e-6, atol=0)
    assert float(error[seen != 0].max()) < 1e-9
    assert evidence.label == Evidence(plain).label
