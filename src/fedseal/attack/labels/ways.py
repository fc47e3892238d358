"""Ways to labels for a search: a method that reads them off the update, and all ways by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.labels.base import LabelMethod
from fedseal.attack.labels.combination import Best
from fedseal.attack.labels.methods import METHODS
from fedseal.attack.search.label_source import JOINT, Given, LabelSource, Oracle, Reading, given_or
from fedseal.errors import UnknownName
from fedseal.types import Observation


@dataclass(frozen=True)
class Inferred:
    """Labels that a method infers from the update, before the search moves.

    Where a target is no class of several, a method means nothing: what the head tells of a single example takes its
    place, and soft targets are searched without that.

    Args:
        method: what is asked.
    """

    method: LabelMethod

    def bind(self, evidence: Evidence, who: str, count: int) -> Reading | None:
        """Asks the method, of classes.

        Raises:
            FedsealError: when they are read, what the method raises where it lacks what it needs.
        """
        if evidence.criterion.known and not evidence.criterion.classes:
            return given_or(evidence.target).bind(evidence, who, count)
        return partial(self._read, evidence.observation, count)

    def beforehand(self, observation: Observation, generator: torch.Generator) -> LabelSource:
        """The labels that the method infers from this observation.

        Raises:
            FedsealError: what the method raises where it lacks what it needs.
        """
        return Given(self.method(observation, generator=generator).labels)

    def _read(self, observation: Observation, count: int, generator: torch.Generator) -> Tensor:
        """They come sorted, and the client's order is not: for local steps over parts of the batch it is drawn."""
        labels = self.method(observation, generator=generator).labels
        training = observation.training
        if training is not None and training.batch_size is not None and training.batch_size < count:
            labels = labels[torch.randperm(count, generator=generator).to(labels.device)]
        return labels


BEST = Inferred(Best())
_UNREAD: dict[str, LabelSource] = {"joint": JOINT, "oracle": Oracle()}


def label_ways() -> list[str]:
    """The names that `way_to_labels` knows."""
    return [*_UNREAD, *METHODS]


def way_to_labels(name: str) -> LabelSource:
    """The way to labels of this name: "joint", "oracle" or a method of `METHODS`.

    Raises:
        UnknownName: there is none.

    >>> way_to_labels("sign")
    Inferred(method=Sign(name='sign'))
    """
    if name in _UNREAD:
        return _UNREAD[name]
    if name not in METHODS:
        raise UnknownName("way to labels", name, label_ways())
    return Inferred(METHODS[name].infer)
