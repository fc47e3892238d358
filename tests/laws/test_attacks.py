"""What holds for every attack: the observation is untouched, the generator decides, what is called certain is right."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch

from fedseal import Observation, Outcome, Reconstruction, ThreatModel
from fedseal.attack import RECIPES as TABLE
from fedseal.attack.base import BestOf, precision
from fedseal.attack.search.group import GroupConsistency
from fedseal.audit.verification import verified
from fedseal.errors import UnknownToAdversary
from fedseal.metric.match import match
from fedseal.modality import Text
from fedseal.types import ProgressCallback
from laws.tables import ATTACKS, CHEAP, COMBINED, RECIPES, SETTINGS, facts, run, same, snapshot

NEAR = 1e-2  # root mean square


# they start from the labels that "best" reads, which takes a second there; "inverting_gradients" and "geng" are quick
BEST = ("coarse", "dimitrov", "gradinversion", "sme")
DEAR = ("bayes", *BEST)


def _takes_long(name: str, setting: str) -> bool:
    return (
        name == "bayes"
        or setting == "batch norm, local steps"
        or (name, setting) == ("auto", "relu and pooling")
        or (name in BEST and setting == "relu perceptron, two")
    )


EVERYWHERE = [
    pytest.param(name, setting, id=f"{name}-{setting}", marks=pytest.mark.slow if _takes_long(name, setting) else ())
    for name in ATTACKS
    for setting in SETTINGS
]
CERTAIN = [
    pytest.param(name, setting, marks=pytest.mark.slow if setting == "relu perceptron, two" and name in DEAR else ())
    for name in ATTACKS
    for setting in ("perceptron", "relu perceptron, two", "table, two rows", "a sentence")
]


class Run(NamedTuple):
    """What an attack saw and gave, and whether the observation was the same afterwards."""

    observation: Observation
    found: Reconstruction | None
    untouched: bool


@functools.cache
def _first(name: str, setting: str) -> Run:
    """The run by seed 0, once for all laws that ask what one run does; none of them writes to it."""
    observation = SETTINGS[setting].observation()
    before = snapshot(facts(observation))
    found = run(name, observation)
    return Run(observation, found, same(facts(observation), before))


def _parts(found: Reconstruction | None) -> object:
    if found is None:
        return None
    return [found.inputs, found.labels, replace(found.outcome, seconds=0.0), _timeless(found)]


def _timeless(found: Reconstruction) -> list[tuple[str, bool, str]]:
    return [(note.route, note.taken, note.reason) for note in found.explanation]


def test_every_recipe_has_a_row_here() -> None:
    assert CHEAP.keys() == TABLE.keys()


@pytest.mark.parametrize(("name", "setting"), EVERYWHERE)
def test_the_observation_is_untouched(name: str, setting: str) -> None:
    assert _first(name, setting).untouched


@pytest.mark.parametrize(("name", "setting"), EVERYWHERE)
def test_the_same_generator_gives_the_same_answer_to_the_bit_and_the_world_is_left_alone(
    name: str, setting: str
) -> None:
    first = _first(name, setting)
    torch.rand(3)  # whatever else draws from the world does not matter
    world = torch.get_rng_state()
    second = run(name, first.observation)
    assert same(_parts(first.found), _parts(second))
    assert torch.equal(torch.get_rng_state(), world)


@pytest.mark.parametrize("name", ["dlg", "idlg", "inverting_gradients", "best_of", "restarts"])
def test_another_generator_gives_another_answer_where_the_start_is_drawn(name: str) -> None:
    observation = SETTINGS["lenet"].observation()
    one, other = run(name, observation, seed=3), run(name, observation, seed=4)
    assert one is not None
    assert other is not None
    assert not same(one.inputs, other.inputs)


@pytest.mark.parametrize(("name", "setting"), EVERYWHERE)
def test_a_reconstruction_fits_the_batch_and_its_status_fits_its_residual(name: str, setting: str) -> None:
    observation, found, _ = _first(name, setting)
    batch = SETTINGS[setting].batch()
    if found is None:
        return
    outcome = found.outcome
    assert outcome.status in ("exact", "converged", "budget", "diverged", "not_applicable")
    assert outcome.seconds >= 0
    assert found.inputs is not None or outcome.status in ("diverged", "not_applicable")
    assert found.inputs is None or outcome.status != "not_applicable"
    if found.inputs is not None:
        assert found.inputs.shape == batch.inputs.shape or name == "tokens"
        assert found.inputs.dtype == batch.inputs.dtype
        assert bool(torch.isfinite(found.inputs).all())
        assert not found.inputs.requires_grad
    if outcome.status in ("exact", "converged"):
        assert outcome.residual is not None
        assert outcome.residual <= precision(observation)
    if outcome.status == "not_applicable":
        assert outcome.note


@dataclass(frozen=True)
class Answered:
    """An attack that was run before gives what it gave."""

    name: str
    found: Reconstruction

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        return self.found


@pytest.mark.parametrize(("name", "setting"), CERTAIN)
def test_what_is_called_certain_is_right(name: str, setting: str) -> None:
    observation, answer, _ = _first(name, setting)
    if answer is None:
        return
    found = verified(Answered(name, answer), observation, generator=torch.Generator()).found
    assert found.outcome.status not in ("exact", "converged") or bool(found.certain.all())
    if not bool(found.certain.any()):
        return
    truth = SETTINGS[setting].batch()
    assert found.inputs is not None
    assert found.inputs.shape == truth.inputs.shape
    for index, place in enumerate(match(truth.inputs.float(), found.inputs.float())):
        if place is not None and bool(found.certain[place]):
            apart = (found.inputs[place].double() - truth.inputs[index].double()).square().mean().sqrt()
            assert apart <= (0 if isinstance(observation.modality, Text) else NEAR)


HOME = {  # where recipes that are not for pictures apply
    "tableak": "table, two rows",
    **dict.fromkeys(("dager", "dlg_text", "tag", "mixture", "lamp"), "a sentence"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_bears_the_name_that_the_table_gives_it(name: str) -> None:
    assert TABLE[name].name == name
    assert ATTACKS[name].name == name
    assert TABLE[name].summary
    assert TABLE[name].paper


@pytest.mark.parametrize("name", COMBINED)
def test_a_combinator_names_its_parts(name: str) -> None:
    value = ATTACKS[name]
    inner = [value.attack] if isinstance(value, (BestOf, GroupConsistency)) else list(value.attacks)  # type: ignore[attr-defined]
    assert all(part.name in value.name for part in inner)


@pytest.mark.parametrize("name", ATTACKS)
def test_without_weights_an_attack_refuses_with_the_reason(name: str) -> None:
    observation = SETTINGS[HOME.get(name, "lenet")].observation(threat=ThreatModel.eavesdropper())
    assert observation.state is None
    assert observation.training is None
    assert observation.labels is None
    try:
        found = ATTACKS[name](observation, generator=torch.Generator())
    except UnknownToAdversary as error:
        reason = error.fact
    else:
        assert (found.outcome.status, found.inputs) == ("not_applicable", None)
        reason = found.outcome.note
    assert reason
    assert "eavesdropper" in reason or "fully connected" in reason or "no token ids" in reason or "no patches" in reason


@pytest.mark.parametrize("missing", ["state", "training"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_refuses_without_what_the_table_says_it_needs(name: str, missing: str) -> None:
    if missing not in TABLE[name].needs:
        pytest.skip("the table does not name it")
    threat = ThreatModel("less", ThreatModel.honest_but_curious().grants - {missing})
    assert _refused(name, SETTINGS[HOME.get(name, "lenet")].observation(threat=threat))


ENOUGH = HOME | {
    "tokens": "a sentence",  # where a recipe that asks for something of the model applies
    **dict.fromkeys(("linear", "auto"), "perceptron"),
    "patches": "vision transformer",
    **dict.fromkeys(("spear", "cocktail_party"), "relu perceptron, two"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_what_the_table_says_a_recipe_needs_is_enough(name: str) -> None:
    setting = SETTINGS[ENOUGH.get(name, "lenet")]
    threat = ThreatModel("enough", frozenset(TABLE[name].needs) | {"single_updates"})
    assert not _refused(name, setting.observation(threat=threat))


def _refused(name: str, observation: Observation) -> bool:
    try:
        outcome: Outcome = ATTACKS[name](observation, generator=torch.Generator()).outcome
    except UnknownToAdversary:
        return True
    return outcome.status == "not_applicable"
