"""Whether the derivative that a model hands on is that of what it computes.

Sensitivity is worked out from the derivative. A model that rounds, casts or detaches hands on another one than its own:
a mean that is detached hides the direction in which inputs and mean move together, and a cast to half precision hides
all that is smaller than its steps. So the update is really moved, by little, and must move as the derivative says.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.jacobian import Linearized, linearized, small, updates
from fedseal.attack.evidence.replay import inherited, replayable
from fedseal.attack.proof.sensitivity import VISIBLE
from fedseal.errors import FedsealError
from fedseal.types import Candidate
from fedseal.vocabulary import OWN_SEED


class Trial(NamedTuple):
    """How far inputs move, beside their root mean square, and how near to the derivative the update must move.

    One step at which it does is enough.
    """

    steps: tuple[float, ...]
    agreement: float


# as small as can be, since a unit that crosses its kink on the way makes the update jump; the second one shows above
# what single precision within a model leaves
DOUBLE = Trial((1e-8, 1e-5), 1e-2)
ROOM = 1e-4  # share of the derivative that rounding may be in the difference
BESIDE = 1e-3  # of the inputs' root mean square, how far from the candidate
SINGLE = Trial((1e-3,), 0.1)  # for models that take no other format


def derivative_is_real(evidence: Evidence, candidate: Candidate, tolerance: float, *, evenly: bool = True) -> bool:
    """Move all inputs at once, there and back, and compare with the derivative: each value by a random share, and where
    the Jacobian is small also so that all directions in which it moves the update have an equal share there.

    Every direction has its share in a random one, about 1 / sqrt(values), so that none that is missing goes unseen, be
    it one that moves the update little. It is done a little beside the candidate: black pixels without a bias stand
    exactly at the kink of a ReLU.

    Args:
        candidate: inputs `(N, *shape)` of floating point, and labels.
        tolerance: the relative change of the update that nobody sees.
        evenly: whether the second way is tried, which takes the whole Jacobian.

    Raises:
        NotTwiceDifferentiable: an operator of the model has no second derivative.
    """
    drawn = torch.Generator().manual_seed(OWN_SEED)  # along the inputs themselves many models stand still
    beside, way = (torch.randn(candidate.inputs.shape, generator=drawn).to(candidate.inputs) for _ in range(2))
    length = max(float(candidate.inputs.double().square().mean().sqrt()), 1e-3)
    there = linearized(evidence, replace(candidate, inputs=candidate.inputs.double() + BESIDE * length * beside))
    ways = [way.to(there.inputs)]
    if evenly and small(evidence, len(candidate.inputs)):
        ways.append(_evenly(there, ways[0], tolerance * there.norm / VISIBLE))
    return all(_moves(evidence, candidate, there, one, length) for one in ways)


def _evenly(there: Linearized, way: Tensor, unseen: float) -> Tensor:
    """A direction like `way`, of root mean square 1, whose parts move the update by the same each; directions that move
    it by less than `unseen` keep their part.
    """
    rows = there.matrix()[: way.numel()]
    sizes, sides = torch.linalg.eigh(rows @ rows.T)
    parts = (sides.T @ way.flatten().double()) / sizes.clamp_min(max(unseen**2, 1e-18 * float(sizes[-1]))).sqrt()
    even = sides @ parts
    moved: Tensor = (even / even.square().mean().sqrt().clamp_min(1e-300)).view_as(way).to(way)
    return moved


def _moves(evidence: Evidence, candidate: Candidate, there: Linearized, way: Tensor, length: float) -> bool:
    """Whether the update moves along `way` as the derivative says, at one of the steps at least."""
    trial = DOUBLE if there.inputs.dtype == torch.float64 else SINGLE
    inputs = there.inputs.detach()
    said = there.push(_columns(there, way)[None])[0].double()
    rounding = torch.finfo(inputs.dtype).eps * there.norm * max(1.0, inherited(evidence.observation.rounds[0]))
    least = rounding / max(ROOM * float(said.norm()), 1e-300)
    for step in trial.steps:
        size = min(max(step, least / length), SINGLE.steps[0]) * length
        ahead, back = (_update(evidence, replace(candidate, inputs=inputs + sign * size * way)) for sign in (1, -1))
        if ahead is None or back is None:
            return False
        apart = float(((ahead - back).double() / (2 * size) - said).norm())
        if math.isfinite(apart) and apart <= trial.agreement * float(said.norm()) + rounding / size:
            return True
    return False


def _columns(there: Linearized, way: Tensor) -> Tensor:
    """A direction of the inputs as one of inputs and targets `(columns,)`."""
    return torch.cat([way.flatten(), way.new_zeros(there.columns - way.numel())])


def _update(evidence: Evidence, candidate: Candidate) -> Tensor | None:
    """The update of a candidate in the format of its inputs, as it is and not differentiated; None where it fails."""
    training = replayable(evidence.observation)
    assert training is not None
    try:
        return updates(evidence, candidate, training, candidate.inputs.dtype, differentiable=False).detach()
    except (RuntimeError, FedsealError):
        return None
