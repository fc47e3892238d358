"""What holds for every attack: the observation is untouched, the generator decides, the truth is a fixed point, and an
unrelated update says nothing.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedseal import Observation, Outcome, Progress, Reconstruction, ThreatModel, attack
from fedseal.attack import RECIPES as TABLE
from fedseal.attack.base import BestOf, Cascade, precision
from fedseal.attack.batch.cocktail_party import CocktailParty
from fedseal.attack.batch.separate import Separation
from fedseal.attack.batch.spear import Spear
from fedseal.attack.layers.layerwise import Layerwise
from fedseal.attack.layers.linear import LinearFirstLayer
from fedseal.attack.layers.patches import Patches
from fedseal.attack.planner import Auto
from fedseal.attack.search.bayes import Bayes
from fedseal.attack.search.group import GroupConsistency
from fedseal.attack.search.label_source import Oracle
from fedseal.attack.search.matching import Adam, GradientMatching
from fedseal.attack.search.update_model import Simulate
from fedseal.attack.tabular.tableak import TabLeak
from fedseal.attack.text.dager import Dager
from fedseal.attack.text.lamp import Lamp
from fedseal.attack.text.search import TextSearch
from fedseal.attack.text.tokens import Tokens
from fedseal.errors import UnfitBatch, UnknownToAdversary
from fedseal.metric.identify import identify
from fedseal.metric.match import match
from fedseal.types import Attack
from laws.tables import ATTACKS, CHEAP, COMBINED, PICTURES, RECIPES, SETTINGS, facts, same, snapshot
from marks import slowly


def _takes_long(name: str, setting: str) -> bool:
    return name == "bayes" or setting == "batch norm, local steps" or (name, setting) == ("auto", "relu and pooling")


TRIALS, GALLERY = 15, 10
EVERYWHERE = [
    pytest.param(name, setting, id=f"{name}-{setting}", marks=pytest.mark.slow if _takes_long(name, setting) else ())
    for name in ATTACKS
    for setting in SETTINGS
]


def _run(name: str, observation: Observation, seed: int = 0) -> Reconstruction | None:
    """None where the attack refuses at the door, which the laws allow."""
    try:
        return ATTACKS[name](observation, generator=torch.Generator().manual_seed(seed))
    except (UnknownToAdversary, UnfitBatch):
        return None


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
    observation = SETTINGS[setting].observation()
    before = snapshot(facts(observation))
    _run(name, observation)
    assert same(facts(observation), before)


@pytest.mark.parametrize(("name", "setting"), EVERYWHERE)
def test_the_same_generator_gives_the_same_answer_to_the_bit_and_the_world_is_left_alone(
    name: str, setting: str
) -> None:
    observation = SETTINGS[setting].observation()
    world = torch.get_rng_state()
    first = _run(name, observation, seed=3)
    torch.rand(3)  # whatever else draws from the world does not matter
    second = _run(name, observation, seed=3)
    assert same(_parts(first), _parts(second))
    torch.set_rng_state(world)
    _run(name, observation, seed=3)
    assert torch.equal(torch.get_rng_state(), world)


@pytest.mark.parametrize("name", ["dlg", "idlg", "inverting_gradients", "best_of", "restarts"])
def test_another_generator_gives_another_answer_where_the_start_is_drawn(name: str) -> None:
    observation = SETTINGS["lenet"].observation()
    one, other = _run(name, observation, seed=3), _run(name, observation, seed=4)
    assert one is not None
    assert other is not None
    assert not same(one.inputs, other.inputs)


@pytest.mark.parametrize(("name", "setting"), EVERYWHERE)
def test_a_reconstruction_fits_the_batch_and_its_status_fits_its_residual(name: str, setting: str) -> None:
    observation, batch = SETTINGS[setting].observation(), SETTINGS[setting].batch()
    found = _run(name, observation)
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


def _at_the_truth(name: str, setting: str) -> tuple[Attack, Observation]:
    """The attack started at the truth, where it has a start; an oracle's labels stand for a search for them."""
    observation = SETTINGS[setting].observation(threat=ThreatModel.oracle())
    truth = SETTINGS[setting].batch().inputs

    def started(value: Attack) -> Attack:
        if isinstance(value, GradientMatching):
            still = Adam(lr=0.0)
            return replace(value, start=truth, labels=Oracle(), priors=(), optimizer=still, steps=1)
        if isinstance(value, GroupConsistency):
            inner = started(value.attack)
            assert isinstance(inner, GradientMatching)
            return replace(value, attack=inner)
        if isinstance(value, BestOf):
            return replace(value, attack=started(value.attack))
        if isinstance(value, Cascade):
            return replace(value, attacks=tuple(started(part) for part in value.attacks))
        return value

    return started(ATTACKS[name]), observation


STARTLESS = (
    Auto,
    Bayes,  # the most probable input is not the truth, but a little smoother
    LinearFirstLayer,
    Patches,
    Spear,
    Layerwise,
    Separation,
    CocktailParty,
    TabLeak,
    TextSearch,
    Lamp,
    Dager,
    Tokens,
)
MATCHING = [name for name, value in ATTACKS.items() if not isinstance(value, STARTLESS)]
EXACT = [
    ("linear", "perceptron"),
    ("patches", "vision transformer"),
    ("auto", "vision transformer"),
    ("layerwise", "lenet"),
    ("spear", "relu perceptron, two"),
    ("auto", "relu perceptron, two"),
    ("auto", "perceptron"),
    ("auto", "lenet"),
    ("cascade", "perceptron"),
]
HOME = {  # where recipes that are not for pictures apply
    "tableak": "table, two rows",
    **dict.fromkeys(("dager", "dlg_text", "tag", "mixture", "lamp"), "a sentence"),
}
NEAR = [("separation", "lenet, three of one class"), ("auto", "lenet, three of one class")]


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != "a sentence"])  # ids have no neighborhood
@pytest.mark.parametrize("name", MATCHING)
def test_the_truth_is_a_fixed_point_with_nothing_left_to_gain(name: str, setting: str) -> None:
    seen: list[Progress] = []
    attack_, observation = _at_the_truth(name, setting)
    found = attack_(observation, generator=torch.Generator().manual_seed(0), progress=seen.append)
    assert found.outcome.residual is not None
    assert found.outcome.residual <= precision(observation)
    assert found.certificate is not None  # whether the truth is determined is a question of its own
    assert found.certificate.residual <= found.certificate.tolerance
    assert found.inputs is not None
    torch.testing.assert_close(found.inputs, SETTINGS[setting].batch().inputs, rtol=1e-3, atol=1e-3)
    if SETTINGS[setting].training.kind == "gradient" or _simulates(ATTACKS[name]):
        assert all(report.objective < 1e-6 for report in seen)


def _simulates(value: Attack) -> bool:
    """Whether the attack's model of local training is the client's own arithmetic."""
    inner = value.attack if isinstance(value, (BestOf, GroupConsistency)) else value
    return not isinstance(inner, GradientMatching) or isinstance(inner.update_model, Simulate)


@pytest.mark.parametrize(("name", "setting"), EXACT)
def test_an_exact_route_gives_the_truth(name: str, setting: str) -> None:
    batch = SETTINGS[setting].batch()
    found = (
        attack.parse(name)(SETTINGS[setting].observation(), generator=torch.Generator())
        if name != "cascade"
        else _run(name, SETTINGS[setting].observation())
    )
    assert found is not None
    assert found.inputs is not None
    order = match(batch.inputs, found.inputs)  # an update does not say in which order its examples came
    assert float((found.inputs[list(order)] - batch.inputs).abs().max()) < 0.02
    assert found.labels is not None
    assert found.labels[list(order)].tolist() == batch.labels.tolist()


def _hits(name: str, setting: str, *, related: bool) -> int:
    """How often the first picture is found in a gallery by an attack on its own update, or on another picture's."""
    hits = 0
    for trial in range(TRIALS):
        attacked = trial if related else trial + 17  # of another photo: pictures five apart share theirs
        found = _run(name, SETTINGS[setting].observation(first=attacked))
        if found is None or found.inputs is None:
            continue
        others = PICTURES.inputs[40 + (GALLERY - 1) * trial :][: GALLERY - 1]
        place = match(SETTINGS[setting].batch(attacked).inputs, found.inputs)[0]
        assert place is not None
        hits += identify(found.inputs[place], PICTURES.inputs[trial], others).hit
    return hits


@pytest.mark.parametrize("setting", slowly(["perceptron", "lenet"], ["lenet"]))
@pytest.mark.parametrize("name", slowly(ATTACKS, ["bayes"]))
def test_an_unrelated_update_scores_at_chance(name: str, setting: str) -> None:
    """15 trials at one in ten: seven hits or more happen by chance in 3 of 10,000 suites."""
    assert _hits(name, setting, related=False) < 7


@pytest.mark.parametrize(("name", "setting"), EXACT + NEAR)
def test_the_right_update_scores_far_above_chance(name: str, setting: str) -> None:
    """Without this, an attack that always fails would pass the law above."""
    assert _hits(name, setting, related=True) >= TRIALS - 1


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
