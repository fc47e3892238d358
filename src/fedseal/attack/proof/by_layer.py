"""The certificate of kind `layer`: the equations of a fully connected first layer, without the weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.input_traits import traits_of
from fedseal.attack.evidence.own_backward import layer_strays
from fedseal.attack.evidence.replay import CAP, rounding
from fedseal.attack.proof.claims import judged_by, less_certain
from fedseal.attack.proof.reasons import (
    assumption_on_number,
    drawn_in_secret,
    mixtures_in_doubt,
    modes_in_doubt,
    signs_alone,
    sums_in_doubt,
    unknown_number,
)
from fedseal.attack.proof.sensitivity import Sensitivity, first_layer, layer_misfit
from fedseal.types import Certificate
from fedseal.vocabulary import MARGIN

BACKWARD = 4.0  # times what the model's own backward strays on data that were drawn
STRAYS = "the model's own backward does not make the first layer's gradient of what that layer takes in"
LINEAR = 1e-13  # relative error of the closed form of an outer product in float64


def by_layer(evidence: Evidence, inputs: Tensor, replayed: Certificate | None) -> Certificate | None:
    """By the equations of a fully connected first layer, whose gradient is a sum of outer products; None if it has
    none, or if the inputs do not solve them.

    The weights may be withheld, and whatever the client draws behind that layer does not matter.
    """
    observation, update, layer = evidence.observation, evidence.observation.update, evidence.first_linear
    if layer is None or layer.bias is None or traits_of(observation.modality).discrete or len(observation.rounds) > 1:
        return None
    if layer.weight not in update.tensors or layer.bias not in update.tensors or evidence.doubt:
        return None
    if replayed is not None and not drawn_in_secret(evidence, observation.secrets) and not _merely_open(replayed):
        return None  # a replay that says no is not outvoted
    value = layer_misfit(evidence, inputs)
    values = first_layer(evidence, inputs)
    if values is None or value is None:
        return None
    count = len(inputs)
    bare = Certificate("layer", value, CAP, values, (False,) * count, assumption_on_number(observation, count))
    if not value <= CAP:
        dropped = drawn_in_secret(evidence, evidence.secrets_before(layer.weight))
        return replace(bare, note="; ".join(dropped) or "does not explain the first layer's gradient")
    eps = torch.finfo(observation.like.dtype).eps
    tolerance = max(min(CAP, 8 * eps), rounding(observation), LINEAR)
    if count > 1 and not value <= tolerance:  # what is off may hide that other sums fit as well
        return replace(bare, tolerance=tolerance, note="does not explain the first layer's gradient to its precision")
    reasons = [
        *unknown_number(observation, count),
        *drawn_in_secret(evidence, evidence.secrets_before(layer.weight)),
        *modes_in_doubt(evidence),
        *sums_in_doubt(evidence, inputs),
        *mixtures_in_doubt(evidence, inputs),
        *signs_alone(evidence),
    ]
    judged = judged_by(
        replace(bare, tolerance=max(tolerance, min(CAP, value))),
        Sensitivity(values, "the first layer's gradient"),
        reasons,
        max(tolerance, value),
    )
    return less_certain(judged, _held_by_backward(evidence, judged), STRAYS)


def _held_by_backward(evidence: Evidence, judged: Certificate) -> tuple[bool, ...]:
    """Which examples stay certain though the model's own backward may stray from outer products by so much."""
    if not any(judged.certain):
        return judged.certain
    unseen = BACKWARD * layer_strays(evidence, len(judged.certain))
    pairs = zip(judged.certain, judged.sensitivity, strict=True)
    return tuple(certain and value > MARGIN * unseen for certain, value in pairs)


def _merely_open(replayed: Certificate) -> bool:
    """Whether a replay explains the update by one example, and the update hardly moves with it.

    A small gradient of the first layer is drowned in larger ones of others then, and can be read all the same.
    """
    unseen = max(replayed.tolerance, replayed.residual)
    return len(replayed.sensitivity) == 1 and not replayed.sensitivity[0] > MARGIN * unseen
