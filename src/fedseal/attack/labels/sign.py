"""iDLG: the label of a single example is where the gradient by the logits is negative."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.own_backward import NOT_DERIVED, derives
from fedseal.attack.labels.base import Labels, from_counts
from fedseal.attack.labels.head import undefended
from fedseal.errors import UnfitBatch, UnknownToAdversary
from fedseal.types import Observation


@dataclass(frozen=True)
class Sign:
    """Softmax minus one-hot is negative at the label alone (Zhao, Mopuri and Bilen 2020, arXiv:2001.02610).

    The label is certain, so it is certified, where the client names one example, nothing was done to its update, that
    is a sum of gradients (`evidence/signs.py`), and the model's own backward gives derivatives by the head. Labels that
    the loss smooths have a sign only with the weights.
    """

    name: str = "sign"

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer; draws nothing and needs no weights.

        Raises:
            UnfitBatch: more than one example.
            UnknownToAdversary: the number of examples is withheld, or the head shows no sign.
        """
        evidence = Evidence.of(observation)
        count = evidence.batch_size
        if count is None:
            raise UnknownToAdversary(
                f"sign reads the label of a single example, and the threat model '{observation.threat}' withholds how "
                "many there are",
                "grant 'num_examples'",
            )
        if count != 1:
            raise UnfitBatch(
                f"sign reads one label off the head's gradient, and the batch holds {count} examples",
                "use a counting method, such as moments",
            )
        reading = evidence.reading
        if reading is None:
            raise UnknownToAdversary(
                "sign cannot read the label: no linear head's gradient is sent, its signs are undecided, or the loss "
                "is another",
                "use a recipe with joint labels, such as dlg",
            )
        counts = torch.zeros(evidence.structure.num_classes, dtype=torch.long, device=observation.like.device)
        counts[reading.label] = 1
        sure = reading.unique and observation.update.num_examples == 1 and undefended(observation)
        note = (
            "" if reading.unique else "another label may have left such signs: local steps do more than add gradients"
        )
        if sure and not derives(evidence):
            return from_counts(counts, note=NOT_DERIVED)
        return from_counts(counts, certified=sure, confidence=1.0 if reading.unique else None, note=note)
