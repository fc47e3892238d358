"""What holds for every attack whichever tensor the client keeps to itself: a finite result, or a reason."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from attack.cases import initialized, seeded
from fedseal import Image, LocalTraining, Observation, Reconstruction, ThreatModel, local_update
from fedseal.errors import FedsealError
from fedseal.modality.text import Text
from fedseal.types import Modality
from laws.tables import ATTACKS, PICTURES, SENTENCES, SETTINGS, TEXT
from marks import slowly

SMALL = initialized(
    nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5)),
    dtype=torch.float32,
)
FLAT = initialized(nn.Sequential(nn.Flatten(), nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 5)), dtype=torch.float32)
NETWORKS: dict[str, tuple[nn.Module, Modality]] = {
    "perceptron": (FLAT, Image(shape=(3, 8, 8))),
    "convolution": (SMALL, Image(shape=(3, 8, 8))),
    "sentences": (SETTINGS["a sentence"].model, TEXT),
}


@functools.cache
def _observed(network: str, frozen: str, count: int) -> Observation:
    """Made once, so that the attacks share what it says, as the planner's do; that none writes to it is a law too."""
    model, modality = NETWORKS[network]
    model = copy.deepcopy(model)
    model.get_parameter(frozen).requires_grad_(False)
    batch = SENTENCES if isinstance(modality, Text) else PICTURES
    update = local_update(model, batch[:count], training=LocalTraining.fedsgd(mode="eval"))
    return ThreatModel.honest_but_curious().observe(model, update, modality=modality)


def _frozen(network: str) -> list[str]:
    """The first tensors, such as tables of words, and the head's."""
    names = [name for name, _ in NETWORKS[network][0].named_parameters()]
    return [*names[:2], *names[-2:]]


@pytest.mark.parametrize("network", slowly(NETWORKS, ("convolution", "sentences")))
@pytest.mark.parametrize("name", slowly(ATTACKS, ("auto", "bayes")))
def test_a_frozen_tensor_is_no_crash(name: str, network: str) -> None:
    for number, frozen in enumerate(_frozen(network)):
        observation = _observed(network, frozen, 1 + number % 2)
        try:
            found: Reconstruction = ATTACKS[name](observation, generator=seeded())
        except FedsealError:  # refused at the door, with fact and remedy
            continue
        if found.inputs is None:
            assert found.outcome.note or found.outcome.status == "diverged"
        elif found.inputs.is_floating_point():
            assert bool(found.inputs.isfinite().all())
