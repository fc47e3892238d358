"""What a defense costs, as a record keeps it: `costs/ID.json` beside the cells of a run, each a whole file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from fedseal.audit.store import read_beside, write_beside
from fedseal.audit.summary import Rate
from fedseal.intervals import Interval

FOLDER = "costs"
USEFUL = 0.05  # accuracy above chance: a model that surely has less has learned nothing


class Cost(BaseModel):
    """What one defense costs; intervals are of 95 %, over the seeds (Student's t), and None for a single seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    defense: str
    accuracy: float = Field(
        description="share of right test predictions after training, mean over the seeds; of several findings for each "
        "example every one counts"
    )
    accuracy_interval: Interval | None
    accuracy_without: float = Field(description="the same of the model trained without a defense")
    accuracy_without_interval: Interval | None
    chance: float = Field(
        description="what the best guess that ignores the inputs gets right: the share of the commonest label among "
        "the test examples, or of each finding's commoner answer; mean over the seeds"
    )
    points_lost: float = Field(description="percentage points of accuracy lost, mean of the seeds' differences")
    points_lost_interval: Interval | None
    accuracies: tuple[float, ...] = Field(description="of each seed, in order; 0 for a training that diverged")
    diverged: tuple[int, ...] = Field(description="seeds whose training ended in numbers that are not finite")
    bytes_per_update: float = Field(description="as encoded, mean over all updates; see `encoded_bytes`")
    bytes_without: float
    seconds_per_update: float = Field(description="at the client, median over all updates")
    seconds_without: float
    rounds: int
    clients: int
    examples: int = Field(description="that the clients trained on together")
    tested: int = Field(description="examples that accuracy was measured on, for each seed")
    seeds: tuple[int, ...]
    setting: str = Field(description="hash of model, data, training and plan: equal ones can be compared")

    @property
    def id(self) -> str:
        """A short name for files."""
        return hashlib.sha256(self.defense.encode()).hexdigest()[:16]

    @property
    def learned(self) -> bool | None:
        """Whether the undefended model beats the guess of the commonest label, which any loss rests on.

        By its interval, which of a single seed is that of its test examples: False if that leaves less than `USEFUL`
        above the guess, None where it leaves it open.
        """
        tested = Rate(round(self.accuracy_without * self.tested), self.tested)
        low, high = self.accuracy_without_interval or tested.interval or (0.0, 1.0)
        if low > self.chance:
            return True
        return False if high < self.chance + USEFUL else None

    @property
    def warning(self) -> str:
        """Why the accuracy says nothing, as a sentence; empty if it says something."""
        if self.chance < 1:
            return ""
        return "Every test example has the same label, and whoever names it is always right: the accuracy says nothing."

    @property
    def times(self) -> float | None:
        """How many times as long an update takes as without the defense; None where that took no time at all."""
        return self.seconds_per_update / self.seconds_without if self.seconds_without > 0 else None

    @property
    def kept(self) -> float | None:
        """What is left of the accuracy above chance, as a share; None where there was none."""
        gain = self.accuracy_without - self.chance
        return (self.accuracy - self.chance) / gain if self.learned else None


def write_cost(folder: str | Path, cost: Cost) -> None:
    """Add a cost to a run folder, in place of an older one of the same defense.

    Raises:
        StorageFailure: it cannot be written.
    """
    write_beside(folder, FOLDER, cost.id, cost)


def costs_of(folder: str | Path) -> tuple[Cost, ...]:
    """The costs in a run folder, "none" first, then by name; empty if none were measured.

    Raises:
        StorageFailure: a file is damaged.
    """
    found = read_beside(folder, FOLDER, Cost)
    return tuple(sorted(found, key=lambda cost: (cost.defense != "none", cost.defense)))
