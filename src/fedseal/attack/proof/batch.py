"""What the examples of a batch do to each other's certificates: the silent ones, and those that are open."""

from __future__ import annotations

import math

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.replay import replay
from fedseal.attack.proof.claims import less_certain
from fedseal.norm import distance, length
from fedseal.types import Candidate, Certificate, LocalTraining, Observation
from fedseal.vocabulary import MARGIN, OWN_SEED

AFAR = 0.1  # of what is unseen, from which on an example may be off by 0.1 (root mean square) or more
FELT = 0.01  # of what is unseen, from which on another example in the place of one is tried
FIRM = 10.0  # times the margin that holds beside open examples, whose labels may be others as well
BESIDE = "beside these the others are open as well"
SILENT = "an example puts nothing into the update, and others that put nothing may stand in its place"


def without_silent(
    evidence: Evidence, candidate: Candidate, training: LocalTraining, judged: Certificate, unseen: float
) -> Certificate:
    """The certificate without examples of a batch that put nothing into the update.

    Any other that puts nothing may stand in their places, with any label: zeros where there is no bias, or an input of
    which the model is sure.
    """
    observation, count = evidence.observation, len(candidate.inputs)
    if count == 1 or _mixing(observation):
        return judged
    round = observation.rounds[0]
    least = MARGIN * unseen * count * length(round.update.tensors.values())
    heard = []
    for number, held in enumerate(judged.certain):
        one = slice(number, number + 1)
        fed = observation.modality.forward(candidate.inputs[one])
        alone = replay(observation, round, Candidate(fed, candidate.labels[one]), training) if held else {}
        heard.append(held and length(alone.values()) > least)
    return less_certain(judged, tuple(heard), SILENT)


def beside_open(
    observation: Observation,
    candidate: Candidate,
    training: LocalTraining,
    judged: Certificate,
    unseen: float,
    *,
    counted: bool = False,
) -> Certificate:
    """The certificate where other examples are not determined: these may be far from the truth, and what is near here
    says nothing then, unless all that they put into the update is little beside what the certain ones do, or the update
    has equations to spare over all values of the batch, the open ones' too. Then what is open are directions along
    which the certain ones stand still, but for what other labels of the open ones might change.

    Args:
        counted: whether equations to spare are counted, without which none is certain.
    """
    if all(judged.certain) or not any(judged.certain):
        return judged
    apart = not _mixing(observation)
    round = observation.rounds[0]
    size = length(round.update.tensors.values())
    weighted = Evidence.of(observation).criterion.reduction == "weights"
    open_ = 0.0 if apart or min(judged.sensitivity) > AFAR * unseen else 1.0
    for number, value in enumerate(judged.sensitivity):
        if value <= AFAR * unseen and apart:
            one = slice(number, number + 1)
            fed = observation.modality.forward(candidate.inputs[one])
            alone = replay(observation, round, Candidate(fed, candidate.labels[one]), training)
            share = length(alone.values()) / max(size, 1e-300)
            if weighted and not share <= FELT * unseen:  # alone it has all the weight, or 0 / 0
                other = _replaced(observation, candidate, training, number)
                share = other if math.isnan(share) else min(share, other)
            open_ += share
    pairs = zip(judged.certain, judged.sensitivity, strict=True)
    least = MARGIN * min(unseen + open_, FIRM * unseen if counted else math.inf)
    certain = tuple(held and value > least for held, value in pairs)
    return less_certain(judged, certain, BESIDE)


def _mixing(observation: Observation) -> bool:
    """Whether BatchNorm takes statistics of the batch: every example is heard through those of the others then."""
    return any(isinstance(module, _BatchNorm) and module.training for module in observation.model.modules())


def _replaced(observation: Observation, candidate: Candidate, training: LocalTraining, one: int) -> float:
    """How far the update moves where this example is another one: not at all if its class has no weight."""
    round, modality = observation.rounds[0], observation.modality
    others = candidate.inputs.clone()
    drawn = torch.rand(others[one].shape, generator=torch.Generator().manual_seed(OWN_SEED)).to(others)
    others[one] = modality.project(drawn[None])[0]
    pair = (
        replay(observation, round, Candidate(modality.forward(x), candidate.labels), training)
        for x in (candidate.inputs, others)
    )
    return distance(*pair)
