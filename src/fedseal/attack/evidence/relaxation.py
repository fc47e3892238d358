"""Targets that are searched along with the inputs: free numbers in, targets out, and back to what the loss takes.

A class of several is searched as softmax of its logits (DLG; Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935), a
finding of several as a sigmoid, and a number as itself.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.replay import agreement, residual
from fedseal.criterion import Criterion
from fedseal.types import Candidate, Observation

NEAR = 1e-2  # from 0 or 1, within which a finding that was searched is taken for that


def relaxed(criterion: Criterion, numbers: Tensor) -> Tensor:
    """Targets `(N, outputs)` of free numbers `(N, outputs)`, differentiable; `(N,)` for a loss that was not recognized
    and takes them so.
    """
    if criterion.classes or not criterion.forms:
        return numbers.softmax(-1)
    if criterion.kind == "bce":
        return numbers.sigmoid()
    column = not criterion.known and criterion.forms[0] in ("column", "whole_column")
    return numbers[:, 0] if column else numbers


def softened(observation: Observation, criterion: Criterion) -> Observation:
    """The observation with a loss that takes relaxed targets and, where they are hard, is the client's."""
    native = criterion.soft if criterion.classes else "rows" in criterion.forms
    if not criterion.known or native:
        return observation
    training = observation.training
    return replace(
        observation,
        loss=criterion.loss,
        training=None if training is None else replace(training, loss=criterion.loss),
    )


def concluded(observation: Observation, candidate: Candidate) -> Tensor:
    """A candidate's labels as the loss takes them: the likeliest class, or rows.

    Findings near 0 or 1 are that; others between them are rounded where the update is explained no worse.
    """
    labels = candidate.labels.detach()
    if not labels.is_floating_point():
        return labels
    criterion = Evidence.of(observation).criterion
    if criterion.classes or not criterion.forms:
        return labels.argmax(-1) if labels.ndim > 1 else labels
    if criterion.kind != "bce":
        return criterion.formed(labels)
    labels = torch.where((labels - labels.round()).abs() < NEAR, labels.round(), labels)  # a sigmoid never gets there
    whole = criterion.formed(labels.round())
    if torch.equal(whole, criterion.formed(labels)):
        return whole
    soft, hard = (residual(observation, replace(candidate, labels=one)) for one in (criterion.formed(labels), whole))
    if soft is None or hard is None or hard <= max(soft, agreement(observation)):
        return whole
    return criterion.formed(labels)
