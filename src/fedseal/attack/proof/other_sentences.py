"""Of sentences: what other tokens, or tokens in another order, change in the update at least.

Nothing lies between two sentences, and there are finitely many, of which some are tried: those after which the model's
own outputs move least, since a model may not read a place, read no order, or not tell two tokens apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.replay import outputs_of, replay, replayable
from fedseal.attack.proof.sensitivity import Sensitivity
from fedseal.modality.text import Text
from fedseal.norm import distance
from fedseal.types import Candidate
from fedseal.vocabulary import OWN_SEED

TRIALS, MOST = 16, 4  # replays of other sentences, for all together if each has one, and for each at most
WORK = 2e10  # multiplications by weights that the outputs of other sentences may take, beyond two for each place
SENTENCES, ROWS = 4096, 32  # of each at most, and in one forward pass


def swaps(evidence: Evidence, candidate: Candidate) -> Sensitivity:
    """What another token in one place, or two tokens in each other's, changes at least, for each sentence.

    Args:
        candidate: token ids `(N, L)` and labels, which explain the update.
    """
    observation, training = evidence.observation, replayable(evidence.observation)
    assert training is not None
    round, count = observation.rounds[0], len(candidate.inputs)
    still = replay(observation, round, candidate, training)
    found = []
    for one in range(count):
        moved = []
        for other in _least_moving(evidence, candidate, one)[: max(1, min(MOST, TRIALS // count))]:
            changed = _with(candidate, one, other)
            moved.append(distance(still, replay(observation, round, changed, training)))
        found.append(min(moved, default=0.0))
    return Sensitivity(tuple(found), "other tokens tried")


def _with(candidate: Candidate, one: int, other: Tensor) -> Candidate:
    """The candidate with another sentence in the place of that one, and labels that are its next tokens with it."""
    inputs, labels = candidate.inputs.clone(), candidate.labels.clone()
    inputs[one] = other
    if labels.ndim == 2 and not labels.is_floating_point() and labels.shape[1] < inputs.shape[1]:
        next_tokens = slice(1, 1 + labels.shape[1])
        labels[one] = torch.where(labels[one] == candidate.inputs[one, next_tokens], other[next_tokens], labels[one])
    return Candidate(inputs, labels)


def _least_moving(evidence: Evidence, candidate: Candidate, one: int) -> Tensor:
    """Other sentences `(M, L)` than that one, the one after which the outputs move least first."""
    observation, text = evidence.observation, cast("Text", evidence.observation.modality)
    sentence, count = candidate.inputs[one], len(candidate.inputs)
    weights = sum(tensor.numel() for tensor in (observation.state or {}).values() if tensor.ndim > 1)
    places = _ordinary(text, sentence)
    room = max(2 * len(places), int(WORK / max(1, weights) / len(sentence) / count))
    others = list(itertools.islice(_others(evidence, text, sentence, places), min(room, SENTENCES)))
    if candidate.labels.ndim == 1 or candidate.labels.is_floating_point():  # a label a token says where it ends
        others += _longer(text, sentence, places)
    if not others:
        return sentence[None][:0]
    rows = torch.stack(others)
    here = outputs_of(observation, sentence[None])
    moved = torch.cat([(outputs_of(observation, part) - here).abs().amax(1) for part in torch.split(rows, ROWS)])
    return rows[moved.argsort(stable=True)]


def _others(evidence: Evidence, text: Text, sentence: Tensor, places: list[int]) -> Iterator[Tensor]:
    """Other sentences, each once: of one token, by the most alike and by a drawn one; of two exchanged; of one token,
    by any of the vocabulary.
    """
    drawn = torch.Generator().manual_seed(OWN_SEED)

    def replaced(place: int, token: int) -> Iterator[Tensor]:
        if token != int(sentence[place]) and token != text.pad and token not in text.special:
            other = sentence.clone()
            other[place] = token
            yield other

    for place in places:
        yield from replaced(place, _nearest(evidence, text, int(sentence[place])))
        yield from replaced(place, int(torch.randint(text.size, (), generator=drawn)))
    pairs = sorted(itertools.combinations(places, 2), key=lambda pair: pair[1] - pair[0])
    for one, other in pairs:
        if int(sentence[one]) != int(sentence[other]):
            exchanged = sentence.clone()
            exchanged[[one, other]] = sentence[[other, one]]
            yield exchanged
    for token in range(text.size):
        for place in places:
            yield from replaced(place, token)


def _longer(text: Text, sentence: Tensor, places: list[int]) -> list[Tensor]:
    """The sentence with its last token twice, where nothing closes it and there is room."""
    if not places or text.frame[1] or places[-1] + 1 == len(sentence):
        return []
    longer = sentence.clone()
    longer[places[-1] + 1] = sentence[places[-1]]
    return [longer]


def _ordinary(text: Text, sentence: Tensor) -> list[int]:
    return [k for k, token in enumerate(sentence.tolist()) if token != text.pad and token not in text.special]


def _nearest(evidence: Evidence, text: Text, token: int) -> int:
    """The token whose row in a table as long as the vocabulary is nearest; the next one where there is none."""
    state = evidence.observation.state or {}
    table = next((t for t in state.values() if t.ndim == 2 and len(t) == text.size), None)
    if table is None:
        return (token + 1) % text.size
    far = (table.float() - table[token].float()).norm(dim=1)
    far[token] = math.inf
    return int(far.argmin())
