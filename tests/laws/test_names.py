"""In what order an update names its tensors says nothing: what is observed and what is found are the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedseal import Observation, Reconstruction, ThreatModel, Update, local_update
from fedseal.errors import UnfitBatch, UnknownToAdversary
from laws.tables import RECIPES, SETTINGS, facts, same
from laws.test_attacks import ENOUGH
from marks import slowly


def _turned(update: Update) -> Update:
    """The same tensors and buffers, named from the last to the first."""
    buffers = update.buffers
    turned = None if buffers is None else dict(reversed([*buffers.items()]))
    return replace(update, tensors=dict(reversed([*update.tensors.items()])), buffers=turned)


def _both(name: str) -> tuple[Observation, Observation]:
    setting = SETTINGS[name]
    batch = setting.batch()
    update = local_update(setting.model, batch, training=setting.training)
    threat = ThreatModel.honest_but_curious()
    one, other = (
        threat.observe(setting.model, sent, modality=setting.modality, labels=batch.labels)
        for sent in (update, _turned(update))
    )
    return one, other


@pytest.mark.parametrize("setting", SETTINGS)
def test_names_in_another_order_are_the_same_observation(setting: str) -> None:
    one, other = _both(setting)
    assert same(facts(one), facts(other))
    assert list(one.update.tensors) == list(other.update.tensors)
    assert list(one.update.buffers or ()) == list(other.update.buffers or ())


@pytest.mark.parametrize("name", slowly(RECIPES, ("auto", "bayes", "dlg", "dlg_batch", "dlg_text", "mixture")))
def test_names_in_another_order_are_the_same_reconstruction(name: str) -> None:
    for setting in dict.fromkeys((ENOUGH.get(name, "lenet"), "batch norm, local steps")):
        one, other = (_found(name, observation) for observation in _both(setting))
        assert same(one, other)


def _found(name: str, observation: Observation) -> object:
    """All of a reconstruction that is no time; None where the recipe refuses."""
    try:
        found: Reconstruction = RECIPES[name](observation, generator=torch.Generator().manual_seed(0))
    except (UnknownToAdversary, UnfitBatch):
        return None
    notes = [(note.route, note.taken, note.reason) for note in found.explanation]
    return [found.inputs, found.labels, replace(found.outcome, seconds=0.0), found.certificate, notes]
