"""iDLG: the label of a single example is where the gradient by the logits is negative."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedseal.attack.evidence import Evidence
from fedseal.attack.labels.base import Labels, from_counts
from fedseal.attack.labels.head import undefended
from fedseal.errors import UnfitBatch, UnknownToAdversary
from fedseal.types import Observation


@dataclass(frozen=True)
class Sign:
    """Softmax minus one-hot is negative at the label alone (Zhao, Mopuri and Bilen 2020, arXiv:2001.02610).

    The label is certain, so it is certified, where one example made the update.
    """

    name: str = "sign"

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer; draws nothing and needs no weights.

        Raises:
            UnfitBatch: more than one example.
            UnknownToAdversary: the number of examples is withheld, or the head shows no sign.
        """
        evidence = Evidence(observation)
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
        if evidence.label is None:
            raise UnknownToAdversary(
                "sign cannot read the label: no linear head's gradient is sent, its signs are undecided, or the loss "
                "is another",
                "use a recipe with joint labels, such as dlg",
            )
        counts = torch.zeros(evidence.structure.num_classes, dtype=torch.long, device=observation.like.device)
        counts[evidence.label] = 1
        return from_counts(counts, certified=undefended(observation), confidence=1.0)
