"""What real routes say when they miss a fact is told where a report begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn.functional as F
from torch import Tensor

import fedseal as fs
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.planner import Auto
from fedseal.report import words
from fedseal.threat import ThreatModel
from fedseal.types import LocalTraining, RouteNote
from report.records import Shot, cell

SERVER = ThreatModel.honest_but_curious()
UNNUMBERED = ThreatModel("unnumbered", frozenset({"state", "training", "single_updates"}))


def odd(scores: Tensor, labels: Tensor) -> Tensor:
    """No loss that anybody knows."""
    return F.cross_entropy(scores, labels) + 0.1 * scores.square().mean()


@pytest.mark.parametrize(
    ("count", "loss", "threat", "route"),
    [
        (1, odd, SERVER, "layerwise"),
        (4, odd, SERVER, "separation"),
        (1, "cross_entropy", ThreatModel.eavesdropper(), "layerwise"),
        (4, "cross_entropy", ThreatModel.unknown_training(), "separation"),
        (12, "cross_entropy", UNNUMBERED, "separation"),
        (4, "cross_entropy", SERVER, ""),
    ],
)
def test_a_route_that_misses_a_fact_is_told(
    count: int, loss: str | Callable[[Tensor, Tensor], Tensor], threat: ThreatModel, route: str
) -> None:
    model, image = fs.zoo.lenet(size=16, num_classes=10), fs.Image(shape=(3, 16, 16))
    batch = fs.zoo.photos(size=16, num_classes=10)[:count]
    update = fs.local_update(model, batch, training=LocalTraining.fedsgd(loss=loss))
    evidence = Evidence(threat.observe(model, update, modality=image))
    obstacles = {one.name: one.obstacle(evidence) for one in Auto().routes(image)}
    notes = tuple(RouteNote(name, False, reason) for name, reason in obstacles.items() if reason is not None)
    told = words.left_out([cell(Shot((9.0,), status="budget", explanation=notes))])
    assert (route in told) if route else told == ""
