"""`--fail-above`: which results of an audit lie above the user's thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedseal.audit.record import Record
from fedseal.audit.summary import Group, summarize
from fedseal.errors import BadConfig, UnknownName

MEASURES: dict[str, Callable[[Group], float | None]] = {
    "identification": lambda group: group.identification.value,
    "psnr": lambda group: group.psnr_worst,
    "rouge1": lambda group: group.worst if group.headline == "rouge1" else None,
    "columns": lambda group: group.worst if group.headline == "columns" else None,
    "labels": lambda group: group.labels.value,
}


@dataclass(frozen=True)
class Threshold:
    """The largest value of a measure that passes: a share, or of the best recovered example its score.

    These scores are "psnr" of pictures in decibels, "rouge1" of sentences, and "columns" of rows, the share that is
    right.
    """

    measure: str
    limit: float


@dataclass(frozen=True)
class Excess:
    """A setting whose measure lies above the threshold."""

    attack: str
    defense: str
    threat: str
    measure: str
    value: float
    limit: float

    def __str__(self) -> str:
        return (
            f"{self.measure} is {self.value:.4g}, above {self.limit:g}: attack '{self.attack}', defense "
            f"'{self.defense}', threat model '{self.threat}'"
        )


def thresholds(texts: Sequence[str]) -> tuple[Threshold, ...]:
    """Thresholds as typed, such as "identification=0.05,psnr=20".

    >>> thresholds(["psnr=20"])
    (Threshold(measure='psnr', limit=20.0),)

    Raises:
        UnknownName: no such measure.
        BadConfig: no number.
    """
    found = []
    for part in ",".join(texts).split(",") if texts else []:
        measure, _, text = part.strip().partition("=")
        if measure not in MEASURES:
            raise UnknownName("measure", measure, MEASURES)
        try:
            limit = float(text)
        except ValueError:
            limit = float("nan")
        if not abs(limit) < float("inf"):
            raise BadConfig(f"the threshold '{part.strip()}' is no number", f"write it as {measure}=0.05")
        found.append(Threshold(measure, limit))
    return tuple(found)


def exceeded(record: Record, wanted: Sequence[Threshold]) -> tuple[Excess, ...]:
    """Every attack, defense and threat model that a threshold does not let pass.

    Raises:
        BadConfig: a measure that was taken nowhere, which no gate may wave through.
    """
    groups, found = summarize(record), []
    for threshold in wanted:
        values = [(group, MEASURES[threshold.measure](group)) for group in groups]
        if all(value is None for _, value in values):
            raise BadConfig(
                f"'{threshold.measure}' was measured nowhere, so --fail-above cannot judge it",
                "see the report for why, or choose another measure",
            )
        found += [
            Excess(group.attack, group.key.setting, group.threat, threshold.measure, value, threshold.limit)
            for group, value in values
            if value is not None and value > threshold.limit
        ]
    return tuple(found)
