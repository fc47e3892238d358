"""The best that an update tells of its labels: proved where the batch can be taken apart, else the surest count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.equations import separation
from fedseal.attack.equations.separation import Separated
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.own_backward import NOT_DERIVED, derives
from fedseal.attack.labels.base import LabelMethod, Labels, from_counts
from fedseal.attack.labels.dimitrov import Dimitrov
from fedseal.attack.labels.geng import Geng
from fedseal.attack.labels.llg import LLG
from fedseal.attack.labels.moments import Moments
from fedseal.attack.labels.shares import LabelShares
from fedseal.attack.labels.sign import Sign
from fedseal.errors import FedsealError
from fedseal.types import Observation
from fedseal.vocabulary import OWN_SEED

FEW = 1.0 / 3.0  # local learning rate times steps from which the softmax moves too far for the moments

SETTLED = 3.0  # standard errors per equation up to which no other labels are tried
RIVALS = 40  # labels that are tried at most
AHEAD = 0.1  # of the next labels' misfit, the most that the best may have


class Found(NamedTuple):
    """Labels, and the batch taken apart where that is possible."""

    labels: Labels
    separated: Separated | None


@dataclass(frozen=True)
class Best:
    """Separate the batch at the head, which certifies the labels; else count by the method that fits the update.

    A count starts the separation, and labels are exchanged one at a time until the equations hold. Where the head has
    fewer classes than the batch has examples, or local steps mix gradients, the count is all there is; its own error
    gives the confidence. Without a batch size the rank of the head's gradient is taken for it. Where a method refuses,
    the next one counts. Nothing is certified where the model's own backward gives no derivatives.
    """

    name: str = "best"

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer.

        Raises:
            FedsealError: what the first counting method raises where all refuse: no head, no weights, no batch size.
        """
        evidence = Evidence.of(observation)
        if evidence.batch_size == 1 and evidence.label is not None:  # read off at once; a proof would cost more
            return Sign()(observation, generator=generator)
        return self.find(evidence).labels

    def find(self, evidence: Evidence) -> Found:
        """The labels, and the separated batch where there is one; found once for all who hold this evidence.

        They hang on the evidence alone: with draws of the caller's, who comes first would decide what all others read.
        """
        return evidence.once("labels", lambda: self._find(evidence, torch.Generator().manual_seed(OWN_SEED)))

    def _find(self, evidence: Evidence, generator: torch.Generator) -> Found:
        observation = evidence.observation
        if evidence.batch_size == 1 and evidence.label is not None and observation.state is None:
            return Found(Sign()(observation, generator=generator), None)
        counted = _counted(evidence, generator)
        if separation.separation_obstacle(evidence) is not None:
            return Found(counted, None)
        separated = separation.settle(evidence, counted.labels, generator=generator)
        separated, rival = _settled(evidence, separated, generator)
        classes = evidence.structure.num_classes
        labels = _certified(separated, classes, counted)
        doubt = _doubt(evidence, separated) or rival
        if labels.certified and not doubt and not derives(evidence, separated.site.layer):
            doubt = NOT_DERIVED
        if labels.certified and doubt:
            labels = replace(labels, certified=False, confidence=counted.confidence, note=doubt)
        return Found(labels, separated)


def _counted(evidence: Evidence, generator: torch.Generator) -> Labels:
    """The count of the first method that does not refuse."""
    refused: FedsealError | None = None
    for method in _methods(evidence):
        try:
            return method(evidence.observation, generator=generator)
        except FedsealError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _methods(evidence: Evidence) -> list[LabelMethod]:
    """The methods that read such an update, the surest first; the last ones need no more than the head's gradient."""
    observation, head = evidence.observation, evidence.structure.head
    if evidence.batch_size == 1 and evidence.label is not None:
        return [Sign()]
    if observation.state is None:
        return [LLG(), LabelShares()]
    biased = head is not None and head.bias is not None and head.bias in observation.update.tensors
    found: list[LabelMethod] = [Geng(bias=True)] if biased else [Geng()]
    if evidence.criterion.hard:  # the moments take labels for whole, and every one for as heavy as the next
        found = [Moments(), *found] if biased else [*found, Moments()]
    if observation.update.kind == "difference" and not _gentle(evidence):
        found = [Dimitrov(), *found]
    return [*found, LabelShares()]


def _settled(evidence: Evidence, separated: Separated, generator: torch.Generator) -> tuple[Separated, str]:
    """The labels under which the equations hold best, and why others may be right as well; empty if none may.

    Equations that hold within a few errors leave no other labels. Where they hold less well, an example far from any
    picture may stand for another label's, so that the labels one exchange away are held against them.
    """
    if not separated.certified or separated.misfit <= SETTLED:
        return separated, ""
    others = _exchanged(separated.labels, evidence.structure.num_classes)
    if len(others) > RIVALS:
        return (
            separated,
            f"the equations hold to {separated.misfit:.0f} errors, and too many labels are near to try all",
        )
    site = separated.site
    tried = [separation.separate(evidence, one, generator=generator, site=site, rounds=1) for one in others]
    best, second = sorted([separated, *tried], key=lambda one: one.misfit)[:2]
    if second.certified and best.misfit > min(SETTLED, AHEAD * second.misfit):
        return best, f"other labels explain the update as well (misfits {best.misfit:.1g} and {second.misfit:.1g})"
    return best, ""


def _exchanged(labels: Tensor, classes: int) -> list[Tensor]:
    """Every multiset that differs in one label."""
    counts = torch.bincount(labels, minlength=classes)
    steps = torch.eye(classes, dtype=counts.dtype)
    moved = [counts - steps[one] + steps[other] for one in range(classes) for other in range(classes) if one != other]
    return [from_counts(each).labels for each in moved if int(each.min()) >= 0]


def _doubt(evidence: Evidence, separated: Separated) -> str:
    """Why labels whose equations hold may still be others; empty if they may not.

    The head's gradient by V has classes - 1 independent rows in the span of K examples, and K^2 unknowns. Without a
    bias's gradient there is no equation left over if K is classes - 1, so that other labels may solve them as well.
    """
    if not evidence.criterion.everywhere:
        return "the loss hardly counts an example that the model gets wholly wrong, which may be of another label"
    if evidence.observation.update.num_examples is None:
        return "the number of examples is withheld: so many explain the update, and so may others"
    head, count = evidence.structure.head, len(separated.labels)
    biased = head is not None and head.bias is not None and head.bias in evidence.observation.update.tensors
    if not separated.site.is_head or biased or count < evidence.structure.num_classes - 1:
        return ""
    return "without a bias's gradient the head has as many equations as unknowns: other labels may solve them as well"


def _gentle(evidence: Evidence) -> bool:
    """Whether local training moves the model so little that its end is like its start."""
    training, count = evidence.observation.training, evidence.batch_size
    if training is None or training.lr is None or count is None:
        return True
    steps = training.epochs * -(-count // (training.batch_size or count))
    return training.lr * steps / (1 - training.momentum) <= FEW * 2


def _certified(separated: Separated, classes: int, counted: Labels) -> Labels:
    counts: Tensor = torch.bincount(separated.labels, minlength=classes)
    seen = int(separated.visible.sum())
    whole = separated.certified and seen == len(separated.labels)
    if not separated.certified:
        note = f"the equations do not hold (misfit {separated.misfit:.1g}): a search from a count, no proof"
        return from_counts(counts, residual=separated.misfit, confidence=counted.confidence, note=note)
    note = "" if whole else f"{seen} of {len(separated.labels)} examples stand above the edge of precision"
    return from_counts(counts, residual=separated.misfit, certified=whole, confidence=1.0 if whole else None, note=note)


best: LabelMethod = Best()
