"""The certificate of a picture by the equations of its patches: without weights, whatever stands behind them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fedseal.attack.equations.patch_solution import errors_of
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.own_backward import patches_stray
from fedseal.attack.evidence.patch_equations import PatchEquations, patch_equations
from fedseal.attack.evidence.replay import CAP, rounding
from fedseal.attack.proof.claims import judged_by, less_certain
from fedseal.attack.proof.elsewhere import valid
from fedseal.attack.proof.reasons import assumption_on_number, drawn_in_secret, unknown_number
from fedseal.attack.proof.sensitivity import VISIBLE, Sensitivity
from fedseal.types import Certificate
from fedseal.vocabulary import MARGIN

LINEAR = 1e-13  # relative error of the closed form in float64
ROOM = 4.0  # times the error that shows
HALF = 2.0  # times the one that may hide behind few numbers
CHANCE = 1e-5  # that an error shows by less than its size suggests
BACKWARD = 4.0  # times what the model's own backward strays on data that were drawn
UNMEASURED = "no equation is left over, and no gradient by a bias beside one step's, to tell how far off the others are"
STRAYS = "the model's own backward does not make the gradients of the patches' layer and of the positions as one"
HOW = "the gradient of the patches' layer"


def by_patches(evidence: Evidence, inputs: Tensor) -> Certificate | None:
    """By `delta^T rows = gradient`; None for several inputs, or where the model begins with no patch embedding.

    The equations are linear, so that who solves them is the only solution where delta has as many independent rows as
    there are patches: nothing far away is left to look for. How far the solution is off follows from the error of the
    equations, which lies along all directions alike; sensitivity is that of all directions together, and both are in
    units of the whole gradient.
    """
    observation = evidence.observation
    equations = patch_equations(evidence)
    if isinstance(equations, str) or len(inputs) != 1 or len(observation.rounds) > 1:
        return None
    layer = equations.layer
    if any(evidence.release.sent(name) is not None for name in (layer.weight, layer.table)):
        return None
    rows = equations.rows(inputs)
    value, size = equations.misfit(rows), equations.size
    seen = (math.sqrt(layer.width) * VISIBLE * math.sqrt(inputs[0].numel()) * _firmness(equations) / size,)
    bare = Certificate("layer", value, CAP, seen, (False,), assumption_on_number(observation, 1))
    if not value <= CAP:
        return replace(bare, note="does not explain the gradient of the patches' layer")
    off = math.sqrt(layer.width * float(torch.trace(errors_of(equations).spread(rows)))) / size
    tolerance = max(_room(equations, rows) * off, rounding(observation), LINEAR)
    reasons = [
        *unknown_number(observation, 1),
        *drawn_in_secret(evidence, equations.secrets, ()),  # what is drawn behind the positions changes nothing
        *_sums_in_doubt(evidence),
        *([] if equations.ordered else ["the order of the positions was not handed over"]),
        *([] if _measured(equations) else [UNMEASURED]),
        *_preprocessing_in_doubt(equations, inputs),
    ]
    if not value <= tolerance:
        reasons.append("does not explain the gradient of the patches' layer to its precision")
    if not bool(valid(observation, inputs).all()):
        reasons.append("what solves the equations lies outside the valid range")
    judged = judged_by(replace(bare, tolerance=tolerance), Sensitivity(seen, HOW), reasons, max(tolerance, value))
    if all(judged.certain) and not seen[0] > MARGIN * BACKWARD * patches_stray(equations):
        return less_certain(judged, (False,), STRAYS)
    return judged


def _measured(equations: PatchEquations) -> bool:
    """Whether anything that was sent shows how large errors are.

    A bias's gradient does, of tensors that were all made alike; a weight difference of larger weights is off by more.
    """
    one_step = equations.evidence.observation.update.kind == "gradient"
    return equations.spare > 0 or (equations.bias is not None and one_step)


def _room(equations: PatchEquations, rows: Tensor) -> float:
    """How many times the error that shows the true one may be.

    The error that shows is a mean of squares, in the equations left over and in the sum of the positions' gradients
    beside the bias's: few numbers may all be small by chance. An error of delta comes in times the patches, so that
    pictures of one color leave one number for each equation left over.
    """
    spread = errors_of(equations).spread(rows)
    numbers = float(torch.trace(spread)) ** 2 / max(float(spread.square().sum()), 1e-300)
    seen = equations.spare * numbers + (0 if equations.bias is None else equations.layer.width)
    return max(ROOM, HALF * math.sqrt(seen / max(_least_sum(seen), 1e-300)))


def _least_sum(count: float) -> float:
    """What a sum of so many squares of standard normal numbers falls short of by `CHANCE`."""
    from scipy.special import gammaincinv  # takes as long as a closed form

    return 2 * float(gammaincinv(count / 2, CHANCE))


def _firmness(equations: PatchEquations) -> float:
    """By how much a change of the input by one moves the equations along every direction at once, at least.

    An error of one in each of them moves the input by the root of the sum of squares of one over the singular values.
    """
    values = torch.linalg.svdvals(equations.delta)
    if len(values) < equations.layer.places or not bool(values.all()):
        return 0.0
    return float(values.pow(-2).mean().rsqrt()) / math.sqrt(len(values)) * _gain(equations)


def _gain(equations: PatchEquations) -> float:
    """By how much a change of an input value changes what enters a patch, at least; 0 where one enters none."""
    numel = math.prod(equations.evidence.observation.modality.shape)
    entering = equations.layer.places * equations.gradient.shape[1]
    if equations.before is None:
        return 1.0 if entering == numel else 0.0
    reached = equations.layer.entered(torch.ones(equations.layer.places, entering // equations.layer.places))
    plain = equations.before.plain
    index = torch.where(reached.flatten() > 0, plain.index, -1)
    return replace(plain, index=index, scale=torch.where(index >= 0, plain.scale, 0.0)).gain(numel)


def _sums_in_doubt(evidence: Evidence) -> list[str]:
    """Why a weight difference may be no sum of gradients with the same factors for both tensors."""
    observation = evidence.observation
    training = observation.training
    if observation.update.kind == "gradient":
        return []
    if training is None:
        return ["the local training is withheld: weight decay or Adam would change what the difference says"]
    if training.optimizer != "sgd" or training.weight_decay or not training.fresh_optimizer:
        return ["the local optimizer changes what the difference says"]
    return []


def _preprocessing_in_doubt(equations: PatchEquations, inputs: Tensor) -> list[str]:
    before = equations.before
    if before is None:
        return []
    if before.groups is not None:
        return ["the normalization before the patches is withheld"]
    near = before.holds_at(inputs, equations.evidence.observation.modality, VISIBLE)
    return [] if near else ["near these inputs the model does something else before the patches than elsewhere"]
