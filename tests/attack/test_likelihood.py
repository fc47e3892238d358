"""The likelihood counts what a defense leaves and nothing else, and the most probable picture is nearer than others."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attack.cases import observed, psnr, seeded
from attack.releases import clipped, noisy, pruned, released
from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, attack, defense, local_update, zoo
from fedseal.attack.search.likelihood import Likelihood, objective_for
from fedseal.mechanism import Mechanism

LENET = zoo.lenet(size=8, width=6, num_classes=5)
BATCH = zoo.photos(size=8, num_classes=5)[:1]
PLAIN = observed(LENET, BATCH)
TRUTH = list(PLAIN.update.tensors.values())


def _nats(observation: Observation, guess: list[Tensor], softness: float = 1e-5) -> float:
    own = list(observation.update.tensors.values())
    return float(objective_for(observation, softness=softness)(guess, own))


def _drawn(observation: Observation, *steps: Mechanism) -> Observation:
    return replace(observation, defense=steps)


def _moved(amount: float) -> list[Tensor]:
    generator = seeded(5)
    return [t + amount * torch.randn(t.shape, generator=generator) for t in TRUTH]


def _entries() -> int:
    return sum(tensor.numel() for tensor in TRUTH)


def test_gaussian_noise_is_measured_in_standard_errors() -> None:
    nats = _nats(noisy(PLAIN, 0.5), TRUTH)
    assert nats == pytest.approx(0.5 * _entries(), rel=0.1)
    assert _nats(noisy(PLAIN, 0.5), _moved(1.0)) > 3 * nats


def test_laplacian_noise_is_measured_by_its_absolute_size() -> None:
    generator, scale = seeded(1), 0.3
    uniform = [torch.rand(t.shape, generator=generator) - 0.5 for t in TRUTH]
    places = iter(-scale * u.sign() * torch.log1p(-2 * u.abs()) for u in uniform)
    seen = released(PLAIN, lambda tensor: tensor + next(places), Mechanism("laplace", {"scale": scale}))
    assert _nats(seen, TRUTH) == pytest.approx(_entries(), rel=0.15)  # |error| / scale has the mean 1
    far = [g + 100 * scale for g in TRUTH]
    assert _nats(seen, far) == pytest.approx(100 * _entries(), rel=0.05)  # and grows with the distance, not its square


def test_what_pruning_dropped_is_only_held_below_what_it_kept() -> None:
    seen = pruned(PLAIN, 0.5)
    assert _nats(seen, TRUTH) < 1e-3
    masks = [tensor != 0 for tensor in seen.update.tensors.values()]
    least = [t.abs()[m].min() for t, m in zip(TRUTH, masks, strict=True)]
    below = [torch.where(m, t, 0.9 * low) for t, m, low in zip(TRUTH, masks, least, strict=True)]
    above = [torch.where(m, t, 1.5 * low) for t, m, low in zip(TRUTH, masks, least, strict=True)]
    kept = [torch.where(m, 1.01 * t, t) for t, m in zip(TRUTH, masks, strict=True)]
    assert _nats(seen, below) < 1e-3
    assert _nats(seen, above) > 100
    assert _nats(seen, kept) > 100


def test_a_layer_that_is_tampered_with_counts_as_far_as_it_was_sent() -> None:
    name = list(PLAIN.update.tensors)[-2]
    half = PLAIN.update.tensors[name].clone()
    half[:, ::2] = 0
    tampered = replace(PLAIN.rounds[0], update=replace(PLAIN.update, tensors={**PLAIN.update.tensors, name: half}))
    seen = replace(PLAIN, rounds=(tampered,), defense=(Mechanism("masked_layer", where=(name,)),))
    assert _nats(seen, TRUTH) == 0.0
    assert _nats(_drawn(seen), TRUTH) > 1e3
    assert _nats(seen, _moved(0.1)) > 1e3


def test_clipping_is_repeated_on_the_candidate() -> None:
    seen = clipped(PLAIN, 0.1)
    assert _nats(seen, TRUTH) < 0.1
    assert _nats(seen, [2 * t for t in TRUTH]) < 0.1  # the length is lost
    assert _nats(_drawn(seen), TRUTH) > 1e3


def test_clipping_counts_noise_that_the_update_already_carries() -> None:
    loud, clip = noisy(PLAIN, 0.5), Mechanism("clip", {"norm": 1.0})
    length = math.sqrt(sum(float(t.square().sum()) for t in loud.update.tensors.values()))
    seen = released(loud, lambda tensor: tensor / length, Mechanism("gaussian", {"sigma": 0.5}), clip)
    assert _nats(seen, TRUTH) == pytest.approx(0.5 * _entries(), rel=0.1)


def test_noise_over_pruning_hides_the_mask_and_the_candidate_is_pruned_by_its_own_sizes() -> None:
    seen = noisy(pruned(PLAIN, 0.5), 1e-3)
    seen = _drawn(seen, Mechanism("prune", {"fraction": 0.5}), Mechanism("gaussian", {"sigma": 1e-3}))
    assert _nats(seen, TRUTH) == pytest.approx(0.5 * _entries(), rel=0.15)


def test_signs_are_counted_whatever_the_size() -> None:
    seen = released(PLAIN, lambda tensor: tensor.sign() * tensor.abs().mean(), Mechanism("sign"))
    assert _nats(seen, TRUTH, 1e-3) == _nats(seen, [7 * t for t in TRUTH], 1e-3) == 0.0
    assert _nats(seen, [-t for t in TRUTH], 1e-3) > 100


def test_noise_of_unknown_strength_is_fitted() -> None:
    seen = _drawn(noisy(PLAIN, 0.1), Mechanism("unknown_noise"))
    assert _nats(seen, TRUTH) < _nats(seen, _moved(0.2)) < _nats(seen, _moved(0.4))
    gain = (_nats(seen, _moved(0.4)) - _nats(seen, _moved(0.2))) / _entries()
    assert gain == pytest.approx(0.5 * math.log((0.4**2 + 0.1**2) / (0.2**2 + 0.1**2)), rel=0.1)


def test_who_was_not_told_takes_the_defense_for_none() -> None:
    seen = noisy(PLAIN, 0.5)
    assert _nats(replace(seen, defense=None), TRUTH) == _nats(_drawn(seen), TRUTH) > 100 * _nats(seen, TRUTH)


def test_the_search_gets_it_for_each_value_of_the_candidate() -> None:
    seen = noisy(PLAIN, 0.5)
    own = list(seen.update.tensors.values())
    assert float(Likelihood().bind(seen, 0, own, 192)(TRUTH, own)) == pytest.approx(_nats(seen, TRUTH) / 192)


def _seen(
    specification: str,
    batch: Batch = BATCH,
    *,
    threat: ThreatModel | None = None,
    training: LocalTraining | None = None,
) -> Observation:
    guard, training = defense.parse(specification), training or LocalTraining.fedsgd()
    model = guard.on_model(LENET)
    update = local_update(model, batch, training=training, defense=guard, generator=seeded(3))
    threat = threat or ThreatModel.honest_but_curious()
    return threat.observe(model, update, modality=Image(shape=(3, 8, 8)), defense=guard)


@pytest.mark.parametrize("specification", ["prune:0.5", "gaussian:0.01", "clip:0.1+gaussian:0.0001"])
def test_whoever_knows_the_defense_comes_nearer(specification: str) -> None:
    search = attack.bayes(steps=8)
    knows = search(_seen(specification), generator=seeded())
    guesses = search(_seen(specification, threat=ThreatModel.unaware()), generator=seeded())
    assert psnr(knows, BATCH) > psnr(guesses, BATCH) + 3
    assert psnr(knows, BATCH) > 18
    assert torch.equal(knows.labels if knows.labels is not None else torch.empty(0), BATCH.labels)


@pytest.mark.parametrize("specification", ["mixup:1", "instahide:2", "sign", "dpsgd:0.01,clip=1"])
def test_a_batch_of_four_comes_out_whole(specification: str) -> None:
    four = zoo.photos(size=8, num_classes=5)[:4]
    found = attack.bayes(steps=1)(_seen(specification, four), generator=seeded())
    assert found.inputs is not None
    assert found.inputs.shape == four.inputs.shape
    assert bool(torch.isfinite(found.inputs).all())


def test_local_steps_are_simulated_and_the_likelihood_compares() -> None:
    steps = LocalTraining.fedavg(lr=0.1, epochs=2)
    search = attack.bayes(steps=8)
    knows = search(_seen("prune:0.5", training=steps), generator=seeded())
    guesses = search(_seen("prune:0.5", training=steps, threat=ThreatModel.unaware()), generator=seeded())
    assert psnr(knows, BATCH) > psnr(guesses, BATCH) + 3
