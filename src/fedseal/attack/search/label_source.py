"""Where a search's labels come from. Sources that read them off the update stand in `labels/ways.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedseal.attack.evidence.evidence import Evidence
from fedseal.errors import UnknownToAdversary
from fedseal.types import Observation

Reading = Callable[[torch.Generator], Tensor]  # -> labels (N,), or targets (N, outputs)


class LabelSource(Protocol):
    """Where a search's labels come from; a frozen value."""

    def bind(self, evidence: Evidence, who: str, count: int) -> Reading | None:
        """How to get labels once the start is drawn; None where soft targets are searched along with the inputs.

        Args:
            who: the attack's name, for errors.
            count: number of examples N.
        """

    def beforehand(self, observation: Observation, generator: torch.Generator) -> LabelSource:
        """The source for a search on an observation that is derived from this one, which no method could read: what
        is read off an update is read now.
        """


@dataclass(frozen=True)
class Joint:
    """Soft targets, searched along with the inputs."""

    def bind(self, evidence: Evidence, who: str, count: int) -> Reading | None:
        """None: they are searched."""
        return None

    def beforehand(self, observation: Observation, generator: torch.Generator) -> LabelSource:
        """Itself."""
        return self


@dataclass(frozen=True)
class Oracle:
    """The true labels, where the threat model grants them."""

    def bind(self, evidence: Evidence, who: str, count: int) -> Reading | None:
        """Hands them on.

        Raises:
            UnknownToAdversary: when they are read, if the threat model withholds them.
        """
        labels, threat = evidence.observation.labels, evidence.observation.threat

        def read(generator: torch.Generator) -> Tensor:
            if labels is None:
                raise UnknownToAdversary(
                    f"{who} takes the true labels, which the threat model '{threat}' withholds",
                    "use ThreatModel.oracle(), or an attack that reads or optimizes labels",
                )
            return labels

        return read

    def beforehand(self, observation: Observation, generator: torch.Generator) -> LabelSource:
        """Itself: a derived observation holds the same labels."""
        return self


@dataclass(frozen=True, eq=False)
class Given:
    """Labels that whoever builds the search has found.

    Args:
        labels: `(N,)`, or targets `(N, outputs)` under a loss that takes such.
    """

    labels: Tensor

    def bind(self, evidence: Evidence, who: str, count: int) -> Reading | None:
        """Hands them on."""
        return lambda generator: self.labels

    def beforehand(self, observation: Observation, generator: torch.Generator) -> LabelSource:
        """Itself."""
        return self


@dataclass(frozen=True)
class UnlessMixed:
    """Soft targets where a known defense mixed the examples, so that none has one class; elsewhere another source's.

    Args:
        source: the other.
    """

    source: LabelSource

    def bind(self, evidence: Evidence, who: str, count: int) -> Reading | None:
        """The source's for this evidence."""
        return self._source(evidence).bind(evidence, who, count)

    def beforehand(self, observation: Observation, generator: torch.Generator) -> LabelSource:
        """The source's for this observation."""
        return self._source(Evidence.of(observation)).beforehand(observation, generator)

    def _source(self, evidence: Evidence) -> LabelSource:
        return JOINT if evidence.release.of_effect("mixture") else self.source


JOINT = Joint()


def given_or(labels: Tensor | None, otherwise: LabelSource = JOINT) -> LabelSource:
    """Labels that were found or, where there are none, another source of them."""
    return otherwise if labels is None else Given(labels)
