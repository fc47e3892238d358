"""The planner takes the cheapest route that the evidence allows, and says of every route why or why not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attack.cases import initialized, observed, pictures, psnr, seeded
from fedseal import Batch, LocalTraining, Observation, Reconstruction, ThreatModel, zoo
from fedseal.attack import auto
from fedseal.errors import UnknownToAdversary


def _run(observation: Observation, steps: int = 12) -> Reconstruction:
    return auto(steps=steps)(observation, generator=seeded())


def _notes(found: Reconstruction) -> dict[str, tuple[bool, str]]:
    return {note.route: (note.taken, note.reason) for note in found.explanation}


def _single(size: int = 8) -> Batch:
    return pictures(shape=(3, size, size), dtype=torch.float32)


MLP = initialized(nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 5)), dtype=torch.float32)
LENET = zoo.lenet(size=8, width=6, num_classes=5)
RELU = zoo.convnet(size=8, width=4, num_classes=5)
RESNET = zoo.resnet(width=4, blocks=(1,), num_classes=5)


def test_a_perceptron_is_read_by_the_linear_route() -> None:
    batch = _single()
    found = _run(observed(MLP, batch))
    assert (found.outcome.route, found.outcome.status) == ("linear", "exact")
    assert psnr(found, batch) > 100
    assert _notes(found)["linear"][0]


def test_an_eavesdropper_reads_a_perceptron_too() -> None:
    batch = _single()
    found = _run(observed(MLP, batch, threat=ThreatModel.eavesdropper()))
    assert (found.outcome.route, found.outcome.status) == ("linear", "exact")
    assert psnr(found, batch) > 100


def test_a_sigmoid_lenet_is_read_layer_by_layer() -> None:
    batch = _single()
    found = _run(observed(LENET, batch))
    assert found.outcome.route == "layerwise"
    assert found.outcome.status in ("exact", "converged")
    assert psnr(found, batch) > 40
    notes = _notes(found)
    assert notes["linear"] == (False, "the first layer is not fully connected on the flattened input")
    assert notes["layerwise"][0]
    assert "equations for 192 unknowns" in notes["layerwise"][1]


@pytest.mark.parametrize(("model", "words"), [(RELU, "max_pool2d"), (RESNET, "batch_norm")], ids=["relu", "resnet"])
def test_elsewhere_matching_takes_over(model: nn.Module, words: str) -> None:
    found = _run(observed(model, _single(), training=LocalTraining.fedsgd(mode="eval")))
    assert found.outcome.route == "matching"
    assert found.inputs is not None
    notes = _notes(found)
    assert notes["matching"][0]
    assert not notes["layerwise"][0]
    assert words in notes["layerwise"][1]


CASES = {
    "perceptron": (MLP, 1, ThreatModel.honest_but_curious()),
    "lenet": (LENET, 1, ThreatModel.honest_but_curious()),
    "relu": (RELU, 1, ThreatModel.honest_but_curious()),
    "two pictures": (LENET, 2, ThreatModel.honest_but_curious()),
    "two pictures, perceptron": (MLP, 2, ThreatModel.honest_but_curious()),
    "no weights": (LENET, 1, ThreatModel.eavesdropper()),
    "two pictures, no weights": (MLP, 2, ThreatModel.eavesdropper()),
}


@pytest.mark.parametrize("case", CASES)
def test_every_route_is_explained_once_with_a_reason(case: str) -> None:
    model, count, threat = CASES[case]
    found = _run(observed(model, pictures(count, dtype=torch.float32), threat=threat))
    routes = [note.route for note in found.explanation]
    assert {"linear"} <= set(routes)
    assert "matching" in routes
    assert len(routes) == len(set(routes))
    assert all(note.reason.strip() for note in found.explanation)


def test_a_batch_of_two_comes_out_whole() -> None:
    batch = pictures(2, dtype=torch.float32)
    found = _run(observed(LENET, batch))
    assert found.inputs is not None
    assert found.labels is not None
    assert (found.inputs.shape, found.labels.shape) == (batch.inputs.shape, batch.labels.shape)
    assert "the batch size is 2" in _notes(found)["layerwise"][1]


def test_a_batch_of_unknown_size_is_named() -> None:
    threat = ThreatModel("less", ThreatModel.honest_but_curious().grants - {"num_examples"})
    training = LocalTraining.fedavg(lr=0.1, epochs=2)
    observation = observed(LENET, pictures(2, dtype=torch.float32), training=training, threat=threat)
    try:
        found = _run(observation)
    except UnknownToAdversary as error:
        reason = error.fact
    else:
        assert found.outcome.status == "not_applicable"
        reason = found.outcome.note
    assert "batch size" in reason


def test_where_nothing_applies_the_reason_names_what_is_withheld() -> None:
    found = _run(observed(LENET, _single(), threat=ThreatModel.eavesdropper()))
    assert (found.outcome.status, found.inputs) == ("not_applicable", None)
    assert "state and training, which the threat model 'eavesdropper' withholds" in found.outcome.note


def test_local_steps_over_several_batches_are_matched() -> None:
    training = LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=1)
    found = _run(observed(RELU, pictures(2, dtype=torch.float32), training=training))
    assert found.outcome.route == "matching"
    assert found.outcome.residual is not None
