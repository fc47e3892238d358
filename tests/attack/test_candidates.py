"""The attacker who knows the candidates: the likelihood by hand, the game in theory, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attack.cases import initialized
from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, Update, local_update
from fedseal.attack.inference.candidates import Hypotheses, KnownCandidates
from fedseal.client import state_of
from fedseal.defense import Hooks, dpsgd, gaussian
from fedseal.errors import BadConfig, UnknownToAdversary
from fedseal.mechanism import Mechanism
from fedseal.types import Defense, Tensors

FEDSGD, CLIP = LocalTraining.fedsgd(), 0.5
MODEL = initialized(nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4)), dtype=torch.float32)
EXAMPLES = Batch(torch.rand(12, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 4)
CANDIDATES, KNOWN = EXAMPLES[:5], EXAMPLES[5:8]


def _dpsgd(noise: float) -> Defense:
    return dpsgd(noise, clip=CLIP)


def _batch(target: int, known: Batch | None = KNOWN) -> Batch:
    one = CANDIDATES[target : target + 1]
    if known is None:
        return one
    return Batch(torch.cat([known.inputs, one.inputs]), torch.cat([known.labels, one.labels]))


def _observe(
    target: int,
    defense: Defense,
    *,
    known: Batch | None = KNOWN,
    seed: int = 0,
    threat: ThreatModel | None = None,
    training: LocalTraining = FEDSGD,
    rounds: int = 1,
) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    sent = [
        local_update(MODEL, _batch(target, known), training=training, defense=defense, generator=generator)
        for _ in range(rounds)
    ]
    threat = threat or ThreatModel.honest_but_curious()
    pairs = [(state_of(MODEL), update) for update in sent]
    return threat.observe_rounds(MODEL, pairs, modality=Image(shape=(3, 2, 2)), defense=defense)


def _flat(tensors: Tensors) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors.values()])


def _log_density(error: Tensor, sigma: float) -> Tensor:
    """Of independent normal errors, up to a constant."""
    return -(error / sigma).square().sum() / 2


@pytest.mark.parametrize("known", [KNOWN, None], ids=["among others", "alone"])
@pytest.mark.parametrize("target", range(5))
def test_little_noise_hides_nobody(target: int, known: Batch | None) -> None:
    observation = _observe(target, _dpsgd(0.01), known=known)
    found = KnownCandidates(CANDIDATES, known)(observation)
    assert found.choice == target
    assert found.posterior[target] > 0.999


def test_the_posterior_is_bayes_rule_over_normal_densities() -> None:
    """Written anew: densities of the observed update around what a client without noise sends for each candidate."""
    count, noise = 4, 1.0
    prior = (0.1, 0.2, 0.3, 0.15, 0.25)
    observation = _observe(2, _dpsgd(noise), rounds=2)
    quiet = [_flat(_observe(k, _dpsgd(1e-9)).update.tensors) for k in range(5)]
    logs = torch.tensor(prior, dtype=torch.float64).log()
    for round in observation.rounds:
        logs = logs + torch.stack(
            [_log_density(_flat(round.update.tensors) - mean, noise * CLIP / count) for mean in quiet]
        )
    found = KnownCandidates(CANDIDATES, KNOWN, prior=prior)(observation)
    assert found.posterior == pytest.approx(logs.softmax(0).tolist(), rel=1e-4)


def test_where_the_target_may_be_absent_both_cases_count() -> None:
    rate, observation = 0.3, _observe(1, _dpsgd(1.0), rounds=3)
    attack = KnownCandidates(CANDIDATES, KNOWN, sample_rate=rate)
    seen = [_flat(round.update.tensors) for round in observation.rounds]
    quiet = [_flat(_observe(k, _dpsgd(1e-9)).update.tensors) for k in range(5)]
    three = local_update(
        MODEL, KNOWN, training=FEDSGD, defense=_dpsgd(1e-9), generator=torch.Generator().manual_seed(0)
    )
    rest = 0.75 * _flat(three.tensors)  # divided by four also where only three are there
    logs = torch.zeros(5, dtype=torch.float64)
    for one in seen:
        absent = _log_density(one - rest, CLIP / 4) + math.log(1 - rate)
        present = torch.stack([_log_density(one - mean, CLIP / 4) for mean in quiet]) + math.log(rate)
        logs = logs + torch.logaddexp(present, absent)
    assert attack(observation).posterior == pytest.approx(logs.softmax(0).tolist(), rel=1e-4)


def test_the_likeliest_of_two_opposite_gradients_is_right_as_often_as_theory_says() -> None:
    """Success Phi(1 / noise): on the bound itself, so that a filter with any flaw falls below."""
    direction = torch.zeros(1, 1, 3, dtype=torch.float64)
    direction[..., 0] = 1
    added = torch.cat([direction, -direction], 1)
    ones = torch.ones(1, 3, dtype=torch.float64)
    judge = Hypotheses(5 * ones, added, ones, torch.tensor([0.5, 0.5], dtype=torch.float64).log())
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(2, (20_000,), generator=generator)
    seen = 5 + added[0][target] + torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    success = float((judge.log_posterior(seen[:, None]).argmax(-1) == target).double().mean())
    assert success == pytest.approx(0.8413, abs=4 * math.sqrt(0.84 * 0.16 / 20_000))


def test_much_noise_leaves_the_prior() -> None:
    prior = (0.1, 0.2, 0.3, 0.15, 0.25)
    found = KnownCandidates(CANDIDATES, KNOWN, prior=prior)(_observe(0, _dpsgd(1e6)))
    assert found.posterior == pytest.approx(prior, abs=1e-3)


def test_an_update_of_another_example_does_not_favor_the_place_of_the_target() -> None:
    """The truth is nowhere in the observation: an update of none of the candidates is judged alike at any place."""
    generator = torch.Generator().manual_seed(0)
    update = local_update(MODEL, EXAMPLES[8:9], training=FEDSGD, defense=_dpsgd(1.0), generator=generator)
    seen = ThreatModel.honest_but_curious().observe(MODEL, update, modality=Image(shape=(3, 2, 2)), defense=_dpsgd(1.0))
    found = KnownCandidates(CANDIDATES)(seen)
    order = torch.tensor([3, 1, 4, 0, 2])
    other = KnownCandidates(Batch(CANDIDATES.inputs[order], CANDIDATES.labels[order]))(seen)
    assert other.posterior == pytest.approx([found.posterior[i] for i in order.tolist()], rel=1e-6)


@pytest.mark.parametrize(
    "training", [FEDSGD, LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=2)], ids=["fedsgd", "fedavg"]
)
def test_noise_on_a_finished_update_is_met_too(training: LocalTraining) -> None:
    observation = _observe(3, gaussian(1e-4), training=training)
    assert KnownCandidates(CANDIDATES, KNOWN)(observation).choice == 3


def test_an_update_shrunk_as_a_whole_is_compared_with_shrunk_ones() -> None:
    def shrink(update: Update, generator: torch.Generator) -> Update:
        factor = 0.01 / _flat(update.tensors).norm()
        return replace(update, tensors={n: (t * factor).to(t.dtype) for n, t in update.tensors.items()})

    clip = Hooks("clip:0.01", (Mechanism("clip", {"norm": 0.01}),), update=shrink)
    assert KnownCandidates(CANDIDATES, KNOWN)(_observe(4, clip)).choice == 4


def test_the_observation_is_untouched_and_nothing_is_drawn() -> None:
    observation, world = _observe(0, _dpsgd(1.0)), torch.get_rng_state()
    before = _flat(observation.update.tensors)
    attack = KnownCandidates(CANDIDATES, KNOWN)
    assert attack(observation) == attack(observation)
    assert torch.equal(_flat(observation.update.tensors), before)
    assert torch.equal(torch.get_rng_state(), world)


def test_what_it_needs_and_does_not_get_is_named() -> None:
    attack, defense = KnownCandidates(CANDIDATES, KNOWN), _dpsgd(1.0)
    with pytest.raises(UnknownToAdversary, match="'unaware' withholds; grant 'defense'"):
        attack(_observe(0, defense, threat=ThreatModel.unaware()))
    with pytest.raises(UnknownToAdversary, match="weights"):
        attack(_observe(0, defense, threat=ThreatModel.eavesdropper()))
    with pytest.raises(BadConfig, match="may be absent"):
        KnownCandidates(CANDIDATES, KNOWN, sample_rate=0.5)(_observe(0, gaussian(0.1)))


def test_bad_input_is_named() -> None:
    with pytest.raises(BadConfig, match="at least 2"):
        KnownCandidates(CANDIDATES[:1])
    for prior in ((0.5, 0.5), (0.2, 0.2, 0.2, 0.2, 0.3), (0.0, 0.25, 0.25, 0.25, 0.25)):
        with pytest.raises(BadConfig, match="prior over 5"):
            KnownCandidates(CANDIDATES, prior=prior)
    for rate in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(BadConfig, match="sampling rate"):
            KnownCandidates(CANDIDATES, sample_rate=rate)
    assert KnownCandidates(CANDIDATES).kappa == 0.2
    assert KnownCandidates(CANDIDATES, prior=(0.1, 0.2, 0.3, 0.15, 0.25)).kappa == 0.3
