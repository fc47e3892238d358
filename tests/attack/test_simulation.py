"""Models of the update: each predicts what its assumption says, and an attack says which of its facts are assumed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack.cases import initialized, observed, pictures, seeded
from fedseal import Batch, Image, LocalTraining, Observation, Progress, ThreatModel, attack, local_update, zoo
from fedseal.attack.base import precision
from fedseal.attack.labels import way_to_labels
from fedseal.attack.search.init import grey
from fedseal.attack.search.label_source import Oracle
from fedseal.attack.search.matching import Adam, GradientMatching, Search
from fedseal.attack.search.objective import cosine_distance
from fedseal.attack.search.prior import EpochOrder, OutOfRange, Scene
from fedseal.attack.search.update_model import (
    MeanGradient,
    Prediction,
    Simulate,
    Surrogate,
    UpdateModel,
    free_bytes,
    merged,
)
from fedseal.client import state_of
from fedseal.errors import BadConfig, UnfitUpdate, UnknownToAdversary

UNTOLD = ThreatModel("untold", ThreatModel.honest_but_curious().grants - {"training"})
SHUFFLED = LocalTraining.fedavg(lr=0.05, epochs=3, batch_size=2, shuffle=True)


def _model(seed: int = 0) -> nn.Module:
    return initialized(
        nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, 5)),
        seed=seed,
    )


def _observed(batch: Batch, training: LocalTraining, threat: ThreatModel | None = None, seed: int = 0) -> Observation:
    update = local_update(_model(), batch, training=training, generator=seeded(seed))
    threat = threat or ThreatModel.oracle()
    return threat.observe(_model(), update, modality=Image(shape=(3, 8, 8)), labels=batch.labels)


def _bound(model: UpdateModel, observation: Observation, count: int, seed: int = 0) -> Prediction:
    return model.bind(observation, "test", count, observation.like.new_empty(0), seeded(seed))


def _gradient(batch: Batch, weights: dict[str, Tensor]) -> list[Tensor]:
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    loss = F.cross_entropy(torch.func.functional_call(_model(), leaves, (batch.inputs,)), batch.labels)
    return list(torch.autograd.grad(loss, list(leaves.values())))


def test_one_local_step_is_one_gradient() -> None:
    batch = pictures(3)
    prediction = _bound(MeanGradient(), _observed(batch, LocalTraining.fedavg(lr=0.05)), 3)
    for target, grad in zip(prediction.targets[0], _gradient(batch, state_of(_model())), strict=True):
        torch.testing.assert_close(target, grad)
    for guess, target in zip(prediction.predict(0, batch.inputs, batch.labels), prediction.targets[0], strict=True):
        torch.testing.assert_close(guess, target)


def test_the_mean_gradient_is_scaled_by_the_number_of_steps() -> None:
    batch = pictures(5)
    training = LocalTraining.fedavg(lr=1e-4, epochs=2, batch_size=2)  # hardly moves: the mean of three steps, twice
    target = _bound(MeanGradient(), _observed(batch, training), 5).targets[0]
    parts = [_gradient(batch[first : first + 2], state_of(_model())) for first in (0, 2, 4)]
    for tensor, grads in zip(target, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(tensor, torch.stack(grads).mean(0), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_a_surrogate_is_the_gradient_on_the_way(place: float) -> None:
    batch, start = pictures(3), state_of(_model())
    observation = _observed(batch, LocalTraining.fedavg(lr=0.5, epochs=3))
    prediction = _bound(Surrogate(start=place), observation, 3)
    point = {name: weight + place * observation.update.tensors[name] for name, weight in start.items()}
    for guess, grad in zip(prediction.predict(0, batch.inputs, batch.labels), _gradient(batch, point), strict=True):
        torch.testing.assert_close(guess, grad)
    for target, sent in zip(prediction.targets[0], observation.update.tensors.values(), strict=True):
        torch.testing.assert_close(target, -sent)


def test_the_place_on_the_way_is_learned_by_steps_of_its_rate_and_stays_on_the_way() -> None:
    batch = pictures(2)
    observation = _observed(batch, LocalTraining.fedavg(lr=0.5, epochs=4))

    def place(start: float, steps: int) -> float:
        model = Surrogate(start=start, lr=0.05)
        still = GradientMatching("m", labels=Oracle(), objective=cosine_distance, optimizer=Adam(lr=0.0), steps=steps)
        search = Search(replace(still, start=batch.inputs, update_model=model), observation, seeded())
        search.advance(steps)
        return search.prediction.leaves[0].tensor.item()

    assert abs(place(0.0, 1) - 0.05) < 1e-6
    assert 0.2 < place(0.0, 30) < 0.8  # the mean gradient of a path lies near its middle
    assert 0.2 < place(1.0, 30) < 0.8
    bound = _bound(Surrogate(), observation, 2)
    with torch.no_grad():
        bound.leaves[0].tensor.fill_(1.5)
    bound.settle()
    assert bound.leaves[0].tensor.item() == 1.0
    assert _bound(Surrogate(), _observed(batch, LocalTraining.fedsgd()), 2).leaves == ()


def test_a_surrogate_explains_long_training_better_than_the_start_does() -> None:
    batch = pictures(2)
    observation = _observed(batch, LocalTraining.fedavg(lr=0.5, epochs=8))
    costs = []
    for model in (MeanGradient(), Surrogate(start=0.5)):
        prediction = _bound(model, observation, 2)
        guess = prediction.predict(0, batch.inputs, batch.labels)
        costs.append(cosine_distance(guess, prediction.targets[0]).item())
    assert costs[1] < 0.5 * costs[0]


@pytest.mark.parametrize("copies", [False, True])
def test_a_simulation_in_the_clients_own_order_is_the_update(copies: bool) -> None:
    """The attacker's generator is given the client's seed, so that it happens to draw the same order."""
    batch = pictures(5)
    observation = _observed(batch, SHUFFLED, seed=7)
    prediction = _bound(Simulate(copies=copies), observation, 5, seed=7)
    assert prediction.copies == (3 if copies else 1)
    inputs, labels = batch.inputs.repeat(prediction.copies, 1, 1, 1), batch.labels.repeat(prediction.copies)
    for guess, target in zip(prediction.predict(0, inputs, labels), prediction.targets[0], strict=True):
        torch.testing.assert_close(guess, target)
    other = _bound(Simulate(copies=copies), observation, 5, seed=8).predict(0, inputs, labels)
    assert any((a - b).detach().abs().max().item() > 1e-6 for a, b in zip(other, prediction.targets[0], strict=True))


def test_a_coarse_simulation_needs_no_order_and_few_steps() -> None:
    """As near the update as a simulation of every step in a wrong order, at a fifth of the steps."""
    batch = pictures(10)
    fine = LocalTraining.fedavg(lr=0.02, epochs=5, batch_size=2, shuffle=True)
    observation = _observed(batch, fine)

    def cost(model: UpdateModel) -> float:
        prediction = _bound(model, observation, 10, seed=8)
        return cosine_distance(prediction.predict(0, batch.inputs, batch.labels), prediction.targets[0]).item()

    assert cost(Simulate(coarse=5)) < 5 * cost(Simulate())
    assert cost(Simulate(coarse=5)) < 0.1 * cost(MeanGradient())
    assert cost(Simulate(coarse=25)) == pytest.approx(cost(Simulate()))  # no fewer steps than the client's


def test_copies_are_made_only_where_the_order_is_secret_and_matters() -> None:
    batch = pictures(4)
    whole = LocalTraining.fedavg(lr=0.05, epochs=3, shuffle=True)
    in_order = LocalTraining.fedavg(lr=0.05, epochs=3, batch_size=2)
    for training in (whole, in_order, LocalTraining.fedsgd()):
        assert _bound(Simulate(copies=True), _observed(batch, training), 4).copies == 1


def test_copies_are_matched_among_equal_labels_and_averaged() -> None:
    batch = pictures(6, seed=3)
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    swapped = batch.inputs[[1, 0, 4, 2, 3, 5]]
    noise = [0.1 * torch.randn(batch.inputs.shape, generator=seeded(k), dtype=torch.float64) for k in range(3)]
    found = merged(torch.cat([batch.inputs + noise[0], swapped + noise[1], batch.inputs + noise[2]]), labels, 3)
    error = (found - batch.inputs).square().mean()
    assert error < 0.5 * noise[0].square().mean()
    crossed = merged(torch.cat([batch.inputs, batch.inputs.flip(0)]), labels, 2)
    torch.testing.assert_close(crossed[5], (batch.inputs[5] + batch.inputs[0]) / 2)  # the label forbids the twin


@pytest.mark.parametrize("features", ["pixels", "conv"])
@pytest.mark.parametrize("pool", ["mean", "max"])
def test_the_order_prior_sees_epochs_as_sets(features: str, pool: str) -> None:
    batch = pictures(4)
    observation = _observed(batch, SHUFFLED)
    made = EpochOrder(features, pool)  # type: ignore[arg-type]
    prior = made.bind(Scene(observation, None, 2, observation.like.new_empty(0), seeded()))
    assert prior(torch.cat([batch.inputs, batch.inputs[[2, 0, 3, 1]]])).item() < 1e-20
    assert prior(torch.cat([batch.inputs, pictures(4, seed=5).inputs])).item() > 1e-4
    alone = made.bind(Scene(observation, None, 1, observation.like.new_empty(0), seeded()))
    assert alone(batch.inputs).item() == 0


def test_the_order_prior_is_the_mean_over_pairs_of_epochs() -> None:
    inputs = pictures(6, seed=1).inputs
    observation = _observed(pictures(2), SHUFFLED)
    prior = EpochOrder().bind(Scene(observation, None, 3, observation.like.new_empty(0), seeded()))
    means = [inputs[2 * epoch : 2 * epoch + 2].mean(0) for epoch in range(3)]
    pairs = [(means[a] - means[b]).square().mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(prior(inputs), torch.stack(pairs).mean())


def test_leaving_the_valid_range_costs_the_square_of_the_way_back() -> None:
    observation = _observed(pictures(2), LocalTraining.fedsgd())
    prior = OutOfRange().bind(Scene(observation, None, 1, observation.like.new_empty(0), seeded()))
    inputs = torch.full((2, 3, 8, 8), 0.5, dtype=torch.float64)
    assert prior(inputs).item() == 0
    inputs[0, 0, 0, :2] = torch.tensor([1.5, -1.0], dtype=torch.float64)
    assert prior(inputs).item() == pytest.approx((0.25 + 1.0) / 2)


def test_a_simulation_that_outgrows_the_memory_offers_the_surrogate() -> None:
    observation = _observed(pictures(4), SHUFFLED)
    with pytest.raises(BadConfig, match=r"graph of 6 local steps.*'sme'"):
        _bound(Simulate(memory=1000), observation, 4)
    _bound(Simulate(memory=10**9), observation, 4)
    _bound(Simulate(memory=0), _observed(pictures(4), LocalTraining.fedsgd()), 4)  # one step is not estimated
    assert free_bytes(torch.device("cpu")) > 10**6


@pytest.mark.parametrize("name", ["sme:steps=3,labels=joint", "geng:steps=3,labels=joint"])
def test_with_the_training_withheld_models_that_need_none_still_work(name: str) -> None:
    observation = _observed(pictures(3), SHUFFLED, UNTOLD)
    assert observation.training is None
    found = attack.parse(name)(observation, generator=seeded())
    assert found.inputs is not None
    assert found.inputs.shape == (3, 3, 8, 8)
    assert (found.outcome.status, found.outcome.residual) == ("budget", None)


@pytest.mark.parametrize("name", ["dimitrov:steps=3", "inverting_gradients:steps=3", "dlg_batch:steps=3"])
def test_with_the_training_withheld_a_simulation_refuses(name: str) -> None:
    with pytest.raises(UnknownToAdversary, match="needs the local training"):
        attack.parse(name)(_observed(pictures(3), SHUFFLED, UNTOLD), generator=seeded())


def test_state_of_an_optimizer_that_was_not_sent_stops_the_simulation_and_not_the_surrogate() -> None:
    batch = pictures(2)
    carried = LocalTraining.fedavg(lr=0.05, epochs=2, momentum=0.9)
    observation = _observed(batch, carried)
    stale = replace(observation, training=replace(carried, fresh_optimizer=False))
    with pytest.raises(UnfitUpdate, match="state"):
        GradientMatching("m", labels=Oracle(), steps=2)(stale, generator=seeded())
    found = attack.parse("sme:steps=2,labels=oracle")(stale, generator=seeded())
    assert (found.outcome.status, found.outcome.residual) == ("budget", None)


def test_the_residual_of_an_unknown_order_is_no_certificate_and_says_so() -> None:
    batch = pictures(4)
    still = GradientMatching("m", labels=Oracle(), start=batch.inputs, optimizer=Adam(lr=0.0), steps=1)
    shuffled, plain = _observed(batch, SHUFFLED), _observed(batch, replace(SHUFFLED, shuffle=False))
    found = still(shuffled, generator=seeded(99))
    assert found.outcome.residual is not None
    assert found.outcome.residual > precision(shuffled)  # although it is the truth
    assert found.outcome.status == "budget"
    assert found.certificate is not None
    assert "order is unknown" in found.certificate.note
    known = still(plain, generator=seeded())
    assert known.outcome.residual is not None
    assert known.outcome.residual <= precision(plain)
    assert known.certificate is not None
    assert "order" not in known.certificate.note


def test_inferred_labels_of_parts_of_a_batch_stand_in_a_drawn_order() -> None:
    batch = Batch(pictures(6).inputs, torch.tensor([0, 0, 1, 2, 3, 4]))
    parts, whole = (
        _observed(batch, LocalTraining.fedavg(lr=1e-3, batch_size=size), ThreatModel.honest_but_curious())
        for size in (2, None)
    )
    found = GradientMatching("m", labels=way_to_labels("geng_bias"), steps=1)

    def labels(observation: Observation, seed: int) -> list[int]:
        search = Search(found, observation, seeded(seed))
        assert search.labels is not None
        return [int(label) for label in search.labels]

    assert len({tuple(labels(parts, seed)) for seed in range(4)}) > 1
    assert labels(whole, 0) == sorted(labels(whole, 0))


def test_epoch_copies_end_in_one_picture_each_and_lower_the_objective() -> None:
    batch = pictures(4)
    observation = _observed(batch, SHUFFLED)
    seen: list[Progress] = []
    found = attack.parse("dimitrov:steps=15,lr=0.03,labels=oracle")(
        observation, generator=seeded(), progress=seen.append
    )
    assert found.inputs is not None
    assert found.inputs.shape == batch.inputs.shape
    assert found.labels is not None
    assert found.labels.shape == (4,)
    assert seen[-1].objective < 0.7 * seen[0].objective
    assert all(report.inputs is not None and report.inputs.shape == batch.inputs.shape for report in seen)


def test_two_rounds_of_one_batch_beat_one() -> None:
    """Several updates of the same batch (Geng et al.): a narrow net's update does not determine the batch, two do."""
    batch = pictures(3, seed=2)
    model = initialized(nn.Sequential(nn.Flatten(), nn.Linear(192, 2), nn.Tanh(), nn.Linear(2, 5)), dtype=torch.float64)
    other = initialized(nn.Sequential(nn.Flatten(), nn.Linear(192, 2), nn.Tanh(), nn.Linear(2, 5)), seed=1)
    one, two = (observed(net, batch, threat=ThreatModel.oracle()) for net in (model, other))
    both = replace(one, rounds=(*one.rounds, *two.rounds))
    recipe = attack.parse("geng:steps=250,labels=oracle,tv=0.0,lr=0.05")
    errors = []
    for observation in (one, both):
        found = recipe(observation, generator=seeded())
        assert found.inputs is not None
        errors.append(float((found.inputs.clamp(0, 1) - batch.inputs).square().mean()))
    assert errors[1] < 0.9 * errors[0]


def test_one_at_a_time_moves_one_example_a_step() -> None:
    batch = pictures(3, dtype=torch.float32)
    observation = observed(zoo.lenet(size=8, width=4, num_classes=5), batch)
    recipe = attack.dlg_batch(steps=4)
    assert isinstance(recipe, GradientMatching)
    search = Search(recipe, observation, seeded())
    before = search.candidate()
    for step in range(4):
        search.advance(1)
        after = search.candidate()
        moved = (after.inputs != before.inputs).flatten(1).any(1).tolist()
        assert moved == [number == step % 3 for number in range(3)]
        assert (after.labels != before.labels).any(1).tolist() == moved
        before = after


def test_each_example_lowers_the_objective_of_the_whole_batch() -> None:
    batch = pictures(2, dtype=torch.float32)
    observation = observed(zoo.lenet(size=8, width=4, num_classes=5), batch)
    seen: list[Progress] = []
    attack.dlg_batch(steps=30)(observation, generator=seeded(1), progress=seen.append)
    assert seen[-1].objective < 0.3 * seen[0].objective
    assert math.isfinite(seen[-1].objective)


def test_a_box_and_a_start_hold_for_every_piece() -> None:
    batch = pictures(3, dtype=torch.float32)
    observation = observed(zoo.lenet(size=8, width=4, num_classes=5), batch)
    boxed = GradientMatching("m", init=grey, optimizer=Adam(lr=5.0), steps=3, box=True, one_at_a_time=True)
    found = boxed(observation, generator=seeded())
    assert found.inputs is not None
    assert float(found.inputs.min()) >= 0
    assert float(found.inputs.max()) <= 1
