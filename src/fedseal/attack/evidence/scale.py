"""A gradient that was scaled on its way: read off the head by how much, and divided by that.

Loss scaling, gradients that were added up and not averaged, weights by the number of examples: the update is then a
multiple of what the client's loss gives. Of one example the head's input is a ratio of gradients, which no factor
changes; the weights give the gradient by the scores in its true length.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.input_traits import traits_of
from fedseal.types import Observation, Round

FITS = 1e-4  # relative distance from the loss's own gradient, up to a factor, below which the factor is one
PLAIN = 1e-3  # a factor nearer to one is none


def scale_factor(evidence: Evidence) -> float:
    """By how much one example's gradient was multiplied; 1 where nothing says.

    It takes three classes or more: with two, or one output, any length of the gradient is that of some example.
    """
    observation = evidence.observation
    if traits_of(observation.modality).discrete:
        return 1.0
    criterion, head = evidence.criterion, evidence.structure.head
    update, state = observation.update, observation.state
    if head is None or head.bias is None or state is None or update.kind != "gradient" or evidence.batch_size != 1:
        return 1.0
    if criterion.kind != "cross_entropy" or criterion.outputs < 3 or len(observation.rounds) > 1:
        return 1.0
    if head.weight not in update.tensors or head.bias not in update.tensors or evidence.release.steps:
        return 1.0
    by_bias: Tensor = update.tensors[head.bias].double()
    if not bool(by_bias.any()):
        return 1.0
    features = update.tensors[head.weight].double().T @ by_bias / by_bias.square().sum()
    scores = (state[head.weight].double() @ features + state[head.bias].double())[None]
    read = criterion.read(scores, by_bias[None], "free")
    own = criterion.signal(scores, read.targets)[0]
    found = float(by_bias @ own / own.square().sum().clamp_min(1e-300))
    unlike = float(read.misfit[0]) > FITS or float(read.margin[0]) <= 10 * float(read.misfit[0])
    return 1.0 if unlike or not found > 0 or abs(found - 1) < PLAIN else found


def unscaled(observation: Observation) -> Observation:
    """The observation with its update divided by `scale_factor`, worked out once; the same where that is 1."""
    return Evidence.of(observation).once(
        "unscaled", lambda: _divided(observation, scale_factor(Evidence.of(observation)))
    )


def scale_note(observation: Observation) -> str:
    """A sentence on the factor by which the update was divided; empty if there is none."""
    if unscaled(observation) is observation:
        return ""
    return f"the gradient is {scale_factor(Evidence.of(observation)):.4g} times what the loss gives, as the head shows"


def _divided(observation: Observation, by: float) -> Observation:
    if by == 1.0:
        return observation
    update = observation.update
    tensors = {name: tensor / by for name, tensor in update.tensors.items()}
    return replace(observation, rounds=(Round(observation.state, replace(update, tensors=tensors)),))
