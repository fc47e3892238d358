"""A search by a recipe's own descent that starts beside the truth stays there, and its steps go downhill."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedseal import Observation, Progress, ThreatModel
from fedseal.attack.search.group import GroupConsistency
from fedseal.attack.search.label_source import Oracle
from fedseal.attack.search.matching import Adam, GradientMatching
from fedseal.types import Attack
from laws.tables import RECIPES, SETTINGS

BESIDE = 1e-3  # standard deviation of the start around the truth
PLACES = ["perceptron", "lenet", "table, two rows"]
MATCHING = [name for name, value in RECIPES.items() if isinstance(value, (GradientMatching, GroupConsistency))]

CASES = [  # a line search takes long where a step does
    pytest.param(name, place, marks=pytest.mark.slow if name == "dlg_batch" and place != "perceptron" else ())
    for name in MATCHING
    for place in PLACES
]


def _search(name: str) -> GradientMatching:
    value = RECIPES[name]
    inner = value.attack if isinstance(value, GroupConsistency) else value
    assert isinstance(inner, GradientMatching)
    return replace(inner, labels=Oracle())  # the recipe's way to labels has tests of its own


def _whole(name: str, inner: GradientMatching) -> Attack:
    value = RECIPES[name]
    return replace(value, attack=inner) if isinstance(value, GroupConsistency) else inner


def _beside(setting: str) -> tuple[Observation, torch.Tensor, torch.Tensor]:
    """What is observed, the truth and a start beside it, within the valid range."""
    observation = SETTINGS[setting].observation(threat=ThreatModel.oracle())
    truth = SETTINGS[setting].batch().inputs
    noise = BESIDE * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    return observation, truth, observation.modality.project(truth + noise)


def _reach(inner: GradientMatching) -> float:
    """How far the recipe's descent may move a value: Adam by its rate a step, signed or not, whatever the slope is,
    and by its noise; L-BFGS, whose steps are as long as the objective is wrong, not away at all.

    A mean of a few slopes over the root of the mean of their squares is at most one, but for the two memories' ages.
    """
    if not isinstance(inner.optimizer, Adam):
        return 0.0
    schedule, rate = inner.optimizer.schedule, inner.optimizer.lr
    steps = sum(schedule(step / inner.steps) for step in range(inner.steps))
    return 1.05 * rate * steps * (1 + 5 * inner.optimizer.noise)


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_a_search_beside_the_truth_ends_no_further_from_it_than_its_rate_allows(name: str, setting: str) -> None:
    observation, truth, start = _beside(setting)
    inner = replace(_search(name), start=start)
    found = _whole(name, inner)(observation, generator=torch.Generator().manual_seed(0)).inputs
    assert found is not None
    if isinstance(inner.optimizer, Adam):
        apart = (found - truth).abs().max() - (start - truth).abs().max()
    else:
        apart = (found - truth).norm() / (start - truth).norm() - 1
    assert float(apart) <= _reach(inner) + 1e-6


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_small_steps_of_a_recipe_lower_its_distance_from_the_update(name: str, setting: str) -> None:
    """Without its priors, whose pull is no news of the update, and at a rate far below the start's own error."""
    observation, _, start = _beside(setting)
    inner = _search(name)
    optimizer = (
        replace(inner.optimizer, lr=BESIDE / 100, noise=0.0) if isinstance(inner.optimizer, Adam) else inner.optimizer
    )
    inner = replace(inner, start=start, priors=(), optimizer=optimizer, steps=8, dtype=torch.float64)
    seen: list[Progress] = []
    inner(observation, generator=torch.Generator().manual_seed(0), progress=seen.append)
    assert seen[-1].objective < seen[0].objective
