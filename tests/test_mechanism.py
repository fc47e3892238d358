"""Every kind of mechanism is classified, whoever acts on kinds acts on all of them, and defenses do what is said."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, Update, defense, local_update
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.release import Release
from fedseal.attack.planner import FOUND
from fedseal.attack.proof.reasons import CHANGED
from fedseal.attack.search.likelihood import Likelihood
from fedseal.audit.bounds import noise_multiplier
from fedseal.audit.encoding import UNWRITTEN, encoded_bytes
from fedseal.mechanism import KINDS, Effect, ErrorForm, Kept, Mechanism, MechanismKind, Stage

FIGURES = {"sigma": 0.5, "scale": 0.5, "fraction": 0.5, "eps": 0.01, "tiny": 1e-6, "levels": 3, "norm": 1e-3}
STAGES: dict[Effect, set[Stage]] = {
    "noise": {"update"},
    "rounding": {"update"},
    "mask": {"steps", "update"},
    "clip": {"examples", "update"},
    "mixture": {"inputs"},
    "transformation": {"inputs"},
    "layer": {"model"},
}
ERRORS: dict[str, set[str | None]] = {
    "noise": {"gaussian", "laplace", "unknown"},
    "rounding": {"interval", "sign"},
}
# what makes one step of this kind, as a change of the finished update
MAKES = {
    "gaussian": "gaussian:0.5",
    "gaussian_sum": "dpsgd:1,clip=0.5",
    "laplace": "laplace:0.5",
    "prune": "prune:0.5",
    "random_mask": "random_mask:0.5",
    "float": "bfloat16",
    "levels": "int8:levels=3",
    "sign": "sign",
    "clip": "clip:1",
}


def _step(kind: str) -> Mechanism:
    return Mechanism(kind, {name: FIGURES.get(name, 2.0) for name in KINDS[kind].figures})


def _seen(*steps: Mechanism) -> Observation:
    """An update of one example, half of whose entries are zero, under these steps."""
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), Batch(torch.rand(1, 1, 2, 2), torch.tensor([1]))
    update = local_update(model, batch, training=LocalTraining.fedsgd())
    sent = {
        name: torch.where(torch.arange(t.numel()).view(t.shape) % 2 == 0, t, 0) for name, t in update.tensors.items()
    }
    observation = ThreatModel.honest_but_curious().observe(
        model, replace(update, tensors=sent), modality=Image(shape=(1, 2, 2))
    )
    return replace(observation, defense=steps)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_classified(kind: str) -> None:
    facts, hints = KINDS[kind], get_type_hints(MechanismKind)
    assert facts.stage in get_args(Stage)
    assert facts.effect in get_args(Effect)
    assert facts.error is None or facts.error in get_args(ErrorForm)
    assert set(facts.keeps) <= set(get_args(Kept))
    assert facts.stage in STAGES[facts.effect]
    assert facts.error in ERRORS.get(facts.effect, {None})
    assert "sensitivity" not in facts.keeps or "privacy" in facts.keeps
    assert not facts.keeps or facts.stage == "update"
    assert hints.keys() == {field.name for field in fields(MechanismKind)}


def test_no_fact_of_a_kind_can_be_left_out() -> None:
    with pytest.raises(TypeError, match="missing 1 required"):
        MechanismKind(("sigma",), "update", "noise", "gaussian")  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", KINDS)
def test_the_release_tells_what_every_kind_leaves(kind: str) -> None:
    facts, release = KINDS[kind], Release(_seen(_step(kind)))
    tensors = release.round.update.tensors
    assert bool((release.spread("1.weight") > 0).any()) == (facts.error not in (None, "unknown"))
    assert bool((release.half_width("1.weight") > 0).any()) == (facts.error == "interval")
    assert (release.sent("1.weight") is not None) == (facts.effect == "mask")
    assert (release.family != "exact") == (facts.error not in (None, "unknown"))
    twice = {name: torch.ones_like(tensor) for name, tensor in tensors.items()}
    changed = any(not torch.equal(twice[name], tensor) for name, tensor in release.imitate(twice).items())
    assert changed == (facts.effect in ("mask", "clip"))
    assert Evidence(release.observation).altered == facts.alters


def test_a_zero_in_a_segment_was_handed_over() -> None:
    """Such as the gradient by a black pixel: what is missing is what lies outside."""
    steps = [Mechanism("segment", {"start": 3, "stop": 9}, ("1.weight",))]
    sent = Release(_seen(*steps)).sent("1.weight")
    assert sent is not None
    assert sent.flatten().tolist() == [3 <= place < 9 for place in range(12)]
    pruned = Release(_seen(*steps, _step("prune"))).sent("1.weight")
    assert pruned is not None
    assert pruned.flatten().tolist() == [3 <= place < 9 and place % 2 == 0 for place in range(12)]


@pytest.mark.parametrize("kind", KINDS)
def test_noise_behind_a_mask_hides_it_and_nothing_else_does(kind: str) -> None:
    if KINDS[kind].effect != "mask":
        release = Release(_seen(_step("prune"), _step(kind)))
        assert (release.sent("1.weight") is None) == (KINDS[kind].effect == "noise")


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_reckons_with_every_kind_that_alters_the_update(kind: str) -> None:
    facts = KINDS[kind]

    def nats(*steps: Mechanism) -> Tensor:
        seen = _seen(*steps)
        observed = list(seen.update.tensors.values())
        guess = [tensor + 0.1 for tensor in observed]
        return Likelihood().bind(seen, 0, observed, 1)(guess, observed)

    assert torch.equal(nats(_step(kind)), nats()) == (not facts.alters)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_encoded_by_what_it_does(kind: str) -> None:
    facts = KINDS[kind]
    update = Update("gradient", {"w": torch.cat([torch.ones(10), torch.zeros(790)])})
    pruned, plain = encoded_bytes(update, [_step("prune")]), encoded_bytes(update)
    after = encoded_bytes(update, [_step("prune"), _step(kind)])
    expected = after == plain if facts.effect == "noise" else after < pruned if facts.effect == "rounding" else None
    assert after == pruned if expected is None else expected
    assert (kind in UNWRITTEN) == (facts.stage != "update" or facts.effect == "clip")


@pytest.mark.parametrize("words", [FOUND, CHANGED])
def test_what_changes_inputs_or_model_has_its_words(words: dict[str, str]) -> None:
    assert words.keys() == {kind for kind, facts in KINDS.items() if not facts.alters}


def _sent(kind: str, values: Tensor, *, num_examples: int = 2, seed: int = 0) -> Tensor:
    made = defense.parse(MAKES[kind]).on_update(
        Update("gradient", {"w": values}, num_examples=num_examples), torch.Generator().manual_seed(seed)
    )
    return made.tensors["w"]


def test_every_kind_on_the_update_is_made_by_a_defense_here() -> None:
    # OUTPOST adds its noise at the local steps, and no defense adds it to a finished update
    assert MAKES.keys() == {kind for kind, facts in KINDS.items() if facts.stage == "update"} - {
        "unknown_noise",
        "segment",
    }
    for kind, specification in MAKES.items():
        assert kind in {step.kind for step in defense.parse(specification).public}


@pytest.mark.parametrize("kind", MAKES)
def test_what_keeps_the_length_never_lengthens_and_all_else_can(kind: str) -> None:
    ones = [torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
    longer = [float(_sent(kind, one).norm()) > float(one.norm()) * (1 + 1e-6) for one in ones]
    # one number for all signs: their mean, which is never longer than the root mean square
    assert any(longer) == ("length" not in KINDS[kind].keeps and kind != "sign")


@pytest.mark.parametrize("kind", MAKES)
def test_what_keeps_the_sensitivity_brings_no_two_updates_further_apart_and_all_else_can(kind: str) -> None:
    """With the same draws: what the noise of a guarantee must cover stays as small as the clip made it."""
    generator, apart = torch.Generator().manual_seed(0), []
    for _ in range(40):
        one = torch.randn(16, generator=generator)
        two = one + 0.05 * torch.randn(16, generator=generator)
        apart.append(float((_sent(kind, one) - _sent(kind, two)).norm() / (one - two).norm()))
    # noise divided by the number of examples keeps it only where these are equally many
    assert (max(apart) <= 1 + 1e-4) == ("sensitivity" in KINDS[kind].keeps or kind == "gaussian_sum")


@pytest.mark.parametrize("kind", MAKES)
def test_what_keeps_the_privacy_asks_nothing_of_the_data(kind: str) -> None:
    values = torch.randn(16, generator=torch.Generator().manual_seed(0))
    same = torch.equal(_sent(kind, values, num_examples=2), _sent(kind, values, num_examples=9))
    assert same == ("privacy" in KINDS[kind].keeps)


def test_noise_on_a_part_of_what_was_clipped_has_no_bound() -> None:
    clip, noise = Mechanism("clip", {"norm": 2.0}), Mechanism("gaussian", {"sigma": 1.0})
    assert noise_multiplier([clip, noise]) == 0.5
    assert noise_multiplier([clip, replace(noise, where=("w",))]) is None
    assert noise_multiplier([replace(clip, where=("w",)), noise]) is None
