"""The label of a single example by the signs of its gradient by the logits, and whether they leave no other label.

Softmax minus one-hot is negative at the label alone. The head's bias gradient is that vector; without a bias, its
weight gradient is that vector times the features. A sum of such gradients with positive factors has the same signs,
and so has every update that is one: a gradient, or a difference after SGD or Adam without weight decay. SGD's decay is
known from the weights at the start and taken off. Where the training is withheld, nothing says that the update is such
a sum, unless it is one gradient to the last digit (`cleared`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.structure import Linear

COLUMNS = 3  # of the head's weight and bias together, from which one gradient is told from another update
CLEAR = 1e-2  # share of an update that rounding may make up for its signs to be told


class SignReading(NamedTuple):
    """A single example's label, and whether no other label gives such an update."""

    label: int
    unique: bool


class Signs(NamedTuple):
    """The gradient by the logits `(classes,)` up to a positive factor, or any factor where `open`; its error."""

    values: Tensor
    error: Tensor
    open: bool


def read_signs(evidence: Evidence) -> SignReading | None:
    """The label of a single example under cross-entropy; None where nothing shows it.

    Two rows without a bias oppose whichever is the label's, and smoothed labels have no sign of their own: these are
    read with the weights, or not told at all.
    """
    head, criterion, classes = evidence.structure.head, evidence.criterion, evidence.structure.num_classes
    if head is None or evidence.batch_size != 1 or criterion.kind != "cross_entropy":
        return None
    biased = _has(evidence, head.bias)
    if (criterion.smoothing or classes == 2) and evidence.single is not None:
        sure = biased or (classes > 2 if criterion.smoothing else evidence.features_are_positive)
        return SignReading(int(evidence.single.target), sure)
    signs = _signs(evidence, head) if evidence.sums_gradients else cleared(evidence, head)
    label = None if signs is None or criterion.smoothing else alone(signs)
    if label is not None:
        return SignReading(label, True)
    guess = _likely(evidence, head)
    return None if guess is None else SignReading(guess, False)


def alone(signs: Signs) -> int | None:
    """The class whose logit's gradient is below zero, None where the signs leave several.

    No other class's is, so that the label is also the one whose own was lost to rounding while all others are above.
    Where the factor is open, two classes on one side say which side is not the label's.
    """
    below, above = signs.values < -signs.error, signs.values > signs.error
    if signs.open and int(below.sum()) > int(above.sum()):
        below, above = above, below
    if signs.open and int(above.sum()) < 2:
        return None
    if int(below.sum()) == 1:
        return int(below.int().argmax())
    if not bool(below.any()) and int(above.sum()) == len(above) - 1:
        return int(above.int().argmin())
    return None


def _signs(evidence: Evidence, head: Linear) -> Signs | None:
    """The signs of an update that sums gradients; None where the features' signs may have changed between the steps."""
    if _has(evidence, head.bias):
        values, error = _pushed(evidence, head.bias or "")
        return Signs(values, error, False)
    if not _has(evidence, head.weight):
        return None
    values, error = _pushed(evidence, head.weight)
    if evidence.features_are_positive:
        # entry by entry, so that rounding of the sum cannot turn what no entry says
        told = torch.where(values.abs() > error, values, 0.0)
        return Signs(told.sum(1), torch.zeros_like(told[:, 0]), False)
    training = evidence.observation.training
    if evidence.observation.update.kind == "difference" and (training is None or training.epochs != 1):
        return None
    place = int(values.norm(dim=0).argmax())
    return Signs(values[:, place], error[:, place], True)


def cleared(evidence: Evidence, head: Linear) -> Signs | None:
    """The signs of a difference whose training is withheld, where the head shows one gradient and SGD's weight decay.

    The rows of cross-entropy's gradient sum to zero, so that the sums over the classes are the decayed weights' own,
    which gives the decay. What is left without it is one outer product with rows that sum to zero, features and the
    bias's one, only if no other gradient and no other decay came in. Two classes' rows sum to zero under Adam as well.
    """
    observation, classes = evidence.observation, evidence.structure.num_classes
    state, training = observation.state, observation.training
    if state is None or training is not None or classes < 3 or not _has(evidence, head.weight):
        return None
    names = [head.weight] + ([head.bias or ""] if _has(evidence, head.bias) else [])
    moved = torch.cat([_pushed(evidence, name)[0].view(classes, -1) for name in names], 1)
    start = torch.cat([state[name].double().view(classes, -1) for name in names], 1)
    sums, pulls = moved.sum(0), start.sum(0)
    if moved.shape[1] < COLUMNS or not bool(pulls.any()):
        return None
    share = float(sums @ pulls / (pulls @ pulls))
    rest = moved - share * start
    noise = 4 * evidence.eps * float(start.norm() + moved.norm())
    noise *= 1 + math.sqrt(classes) * float(start.norm() / pulls.norm())  # the share is off as the sums are
    left, values, right = torch.linalg.svd(rest, full_matrices=False)
    if float(rest.sum(0).norm()) > math.sqrt(classes) * noise or float(values[1]) > noise:
        return None
    if noise > CLEAR * float(values[0]):
        return None
    return _toward(evidence, left[:, 0] * values[0], right[0], noise, biased=len(names) > 1)


def _toward(evidence: Evidence, column: Tensor, row: Tensor, noise: float, *, biased: bool) -> Signs:
    """The left factor of an outer product, signed by its right one, which ends with the bias's one."""
    error, size = torch.full_like(column, noise), float(column.norm())
    by = float(row[-1]) if biased else float(row.sum())
    told = abs(by) * size * CLEAR > noise and (biased or evidence.features_are_positive)
    return Signs(column * math.copysign(1.0, by), error, False) if told else Signs(column, error, True)


def _likely(evidence: Evidence, head: Linear) -> int | None:
    """The label that signs suggest where they do not tell it."""
    if _has(evidence, head.bias):
        by_bias = _pushed(evidence, head.bias or "")[0]
        if bool((by_bias < 0).any()):  # else the label's entry was dropped, and the rows of the weight tell
            return int(by_bias.argmin())
    if not _has(evidence, head.weight) or evidence.structure.num_classes == 2 or evidence.criterion.smoothing:
        return None
    left = torch.linalg.svd(_pushed(evidence, head.weight)[0], full_matrices=False)[0][:, 0]
    positive = left > 0
    if int(positive.sum()) == 1 or int((~positive).sum()) == 1:
        return int((left * (1.0 if int(positive.sum()) == 1 else -1.0)).argmax())
    return None


def _pushed(evidence: Evidence, name: str) -> tuple[Tensor, Tensor]:
    """What the gradients of the loss without its factor did, and its error."""
    values, error = evidence.pushed(name)
    return values * math.copysign(1.0, evidence.criterion.factor), error


def _has(evidence: Evidence, name: str | None) -> bool:
    """Whether something of a parameter's gradient was sent."""
    if name is None or name not in evidence.observation.update.tensors:
        return False
    sent = evidence.release.sent(name)
    return sent is None or bool(sent.any())
