"""The replay: the update that a reconstruction gives by the client's own arithmetic, and how near that must come.

Nothing here knows the truth; everything is a function of the observation and of what an attack found.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from fedseal.attack.evidence.modes import without_modes
from fedseal.attack.evidence.release import Release
from fedseal.client import forward, local_training, step_indices
from fedseal.errors import FedsealError
from fedseal.norm import distance, length
from fedseal.types import Candidate, LocalTraining, Observation, Round, Tensors

CAP = 1e-3  # residual above which nothing is explained, however coarse the client's arithmetic
TWICE = 2.0  # times the error of the arithmetic here, another machine's may be
SOLVED = 1e-12  # residual that solvers in double precision leave themselves
GRID = 0.2  # root mean square of what a step's rounding to the grid of the last places leaves, about, in units of them
ROOM = 4.0  # times what rounding does here: it did as much at the client, in other places
MORE_ROOM = 6.0  # times what one unit in the last place moves, where that is all that shows what rounding does


def precision(observation: Observation) -> float:
    """A residual that rounding alone leaves, with room for another order of sums, before anything was replayed.

    A hundred units in the last place of the update's dtype, at most 1e-3: 1.2e-5 for float32. Searches aim below it;
    what a certificate asks is `arithmetic`, measured at the reconstruction.
    """
    return min(CAP, 100 * torch.finfo(observation.like.dtype).eps)


def rounding(observation: Observation) -> float:
    """The residual that a known rounding of the update to a coarser format leaves; 0 without one."""
    release = Release(observation)
    if release.family != "interval" or release.of_kind("levels"):
        return 0.0
    tensors = observation.update.tensors
    error = sum(float(release.spread(name).square().expand(t.shape).sum()) for name, t in tensors.items())
    return 1.5 * math.sqrt(error) / max(length(tensors.values()), 1e-150)


def agreement(observation: Observation) -> float:
    """The residual up to which a search counts as at its end: `precision`, or what a coarser format leaves."""
    return max(precision(observation), rounding(observation))


def replay(observation: Observation, round: Round, candidate: Candidate, training: LocalTraining) -> dict[str, Tensor]:
    """The update that the client would have sent for this candidate, by the client's own arithmetic.

    A client that shuffles keeps its order to itself: the candidate's own order stands in for it.
    """
    assert round.state is not None
    labels = candidate.labels
    if labels.is_floating_point():
        labels = labels.to(candidate.inputs.dtype)
    return local_training(observation.model, round.state, candidate.inputs, labels, training).tensors


def replayable(observation: Observation) -> LocalTraining | None:
    """The local training, where somebody without the truth can run it again; None where that is withheld or lost.

    A gradient says of itself that no step was taken. Of its training that leaves the mode alone, which means nothing to
    a model without BatchNorm and dropout: there the training is known though nobody told it.
    """
    training = observation.training
    if observation.state is None or (training is not None and not training.fresh_optimizer):
        return None
    if training is None and observation.update.kind == "gradient" and without_modes(observation):
        return LocalTraining.fedsgd(mode="as_is", loss=observation.loss)
    return training


def residual(observation: Observation, candidate: Candidate) -> float | None:
    """Relative distance between observed and replayed updates, the largest over the rounds.

    What a known defense does without chance, such as clipping, is done to the replay; of a known mask only the entries
    that were sent are compared.

    Args:
        candidate: inputs `(N, ...)` in any float dtype; replayed in the update's own.

    Returns:
        None where nobody without the truth can replay: the weights or the local training are withheld, or the
        client's optimizer went on with a state that was not sent. NaN where the replay is not finite.
    """
    training = replayable(observation)
    if training is None:
        return None
    return largest(
        distance(round.update.tensors, _imitated(observation, number, candidate, training))
        for number, round in enumerate(observation.rounds)
    )


def largest(values: object) -> float:
    """The largest of some numbers, NaN if one of them is; `max` alone passes over a NaN that is not first."""
    numbers = [float(value) for value in values]  # type: ignore[attr-defined]
    return math.nan if any(math.isnan(number) for number in numbers) else max(numbers)


def arithmetic(observation: Observation, candidate: Candidate) -> float:
    """The residual that the client's own arithmetic leaves at this candidate, with room for another order of sums.

    The client's training is run here in its own format and in double precision, as it stands and with inputs and
    weights moved by one unit in the last place, up and down: how far the two are apart is what rounding did, and
    another machine rounds as much in other places. Up to 1e-3, but for formats within the model that are coarser than
    its own, such as those of autocast.
    """
    training = replayable(observation)
    assert training is not None
    eps = torch.finfo(observation.like.dtype).eps
    if observation.like.dtype == torch.float64:  # nothing here is finer
        return _by_nudges(observation, candidate, training)
    apart: list[float] = []
    for sign in (0.0, 1.0, -1.0):
        inputs = in_dtype(candidate.inputs, observation)
        near = Candidate(_nudged(inputs, sign * eps), candidate.labels)
        for number, round in enumerate(observation.rounds):
            assert round.state is not None
            state = {n: _nudged(t, sign * eps) for n, t in round.state.items()}
            exact = _in_double(observation, number, near, training, state)
            if exact is None:
                return _by_nudges(observation, candidate, training)
            apart.append(distance(_imitated(observation, number, near, training, state), exact))
    finite = [value for value in apart if math.isfinite(value)]
    coarse = TWICE * max(finite[: len(observation.rounds)], default=0.0)
    return max(SOLVED, coarse, min(CAP, ROOM * max([*finite, eps])))


def _by_nudges(observation: Observation, candidate: Candidate, training: LocalTraining) -> float:
    """The same of a model that takes its own format only, or the finest there is: what a unit in the last place moves.

    A weight difference is known in steps of the weights' last places, and those count as well.
    """
    eps = torch.finfo(observation.like.dtype).eps
    still = [_imitated(observation, k, candidate, training) for k in range(len(observation.rounds))]
    moved = []
    for sign in (1.0, -1.0):
        near = Candidate(_nudged(candidate.inputs, sign * eps), candidate.labels)
        for number, before in enumerate(still):
            state = observation.rounds[number].state
            assert state is not None
            other = {n: _nudged(t, sign * eps) for n, t in state.items()}
            moved.append(distance(before, _imitated(observation, number, near, training, other)))
    finite = [value for value in moved if math.isfinite(value)]
    grid = GRID * math.sqrt(len(step_indices(replace(training, shuffle=False), len(candidate.inputs))))
    own = MORE_ROOM * max([*finite, eps, *(eps * grid * inherited(round) for round in observation.rounds)])
    return max(SOLVED, min(CAP, own))


def _in_double(
    observation: Observation, number: int, candidate: Candidate, training: LocalTraining, state: Tensors
) -> dict[str, Tensor] | None:
    """The replay of one round from this state in double precision; None where the model takes its own format only."""
    update = observation.rounds[number].update
    state = {n: t.double() if t.is_floating_point() else t for n, t in state.items()}
    inputs = candidate.inputs.detach()
    inputs = observation.modality.forward(inputs.double() if inputs.is_floating_point() else inputs)
    exact = Candidate(inputs, candidate.labels.detach())
    try:
        made = replay(observation, Round(state, update), exact, training)
    except (RuntimeError, FedsealError):
        return None
    return Release(observation, number).imitate(made)


def inherited(round: Round) -> float:
    """How large the weights are beside their difference: that is known in steps of the weights' last places."""
    if round.update.kind == "gradient" or round.state is None:
        return 0.0
    sent = round.update.tensors
    return length(round.state[name] for name in sent) / max(length(sent.values()), 1e-150)


def _nudged(tensor: Tensor, eps: float) -> Tensor:
    """Every other entry a unit in the last place larger, the others smaller; whole numbers stay."""
    return tensor * (1 + eps * _alternating(tensor)) if eps and tensor.is_floating_point() else tensor


def _alternating(like: Tensor) -> Tensor:
    """Plus and minus one, in an order without a pattern."""
    signs = _signs().to(like)
    return signs.repeat(-(-like.numel() // len(signs)))[: like.numel()].view(like.shape)


@cache
def _signs() -> Tensor:
    """`(2 ** 16,)`: longer tensors repeat them."""
    places = torch.arange(1 << 16)
    return 1 - 2 * ((places * 0x9E3779B1 >> 7) & 1)


def _imitated(
    observation: Observation, number: int, candidate: Candidate, training: LocalTraining, state: Tensors | None = None
) -> dict[str, Tensor]:
    """The replay of one round, with what a known defense does to it without chance."""
    round = observation.rounds[number]
    if state is not None:
        round = Round(state, round.update)
    inputs = in_dtype(candidate.inputs.detach(), observation)
    finite = Candidate(observation.modality.forward(inputs), candidate.labels.detach())
    return Release(observation, number).imitate(replay(observation, round, finite, training))


def in_dtype(inputs: Tensor, observation: Observation) -> Tensor:
    """Inputs in the update's dtype; token ids stay whole numbers."""
    return inputs.to(observation.like.dtype) if inputs.is_floating_point() else inputs


def order_is_secret(training: LocalTraining, count: int) -> bool:
    """Whether the client took `count` examples in an order of its own on which the update depends."""
    return training.shuffle and training.batch_size is not None and training.batch_size < count


def outputs_of(observation: Observation, inputs: Tensor) -> Tensor:
    """What the model that the first round began with gives for these inputs, `(N, values)` in float64.

    Buffers and torch's own generator stay as they are, whatever the mode.
    """
    state = observation.rounds[0].state
    assert state is not None
    names = {name for name, _ in observation.model.named_buffers()}
    own = {name: tensor.clone() if name in names else tensor for name, tensor in state.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = forward(observation.model, own, observation.modality.forward(inputs))
    return outputs.double().reshape(len(inputs), -1)
