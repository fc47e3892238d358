"""What a played bound leaves beside a run: read and written without playing it again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from fedseal.audit.store import read_beside
from fedseal.metric import bound

FOLDER = "bounds"


class Game(BaseModel):
    """How often an attacker who knows the candidates named the right one, and the most that any attack can reach."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    defense: str
    batch_size: int
    noise: float = Field(description="standard deviation of the summed updates' noise, in units of the clip norm")
    candidates: int = Field(description="examples of the case, equally likely, one of which is the client's")
    hits: int
    trials: int = Field(description="draws of target and noise")
    setting: str = Field(description="hash of case, defense and game: equal ones have equal results")

    @property
    def id(self) -> str:
        """A short name for files."""
        return hashlib.sha256(f"{self.defense} {self.batch_size}".encode()).hexdigest()[:16]

    @property
    def cell(self) -> bound.BoundPoint:
        """Beside its bound, which needs no measurement."""
        kappa = 1 / self.candidates
        most = bound.gaussian_bound(kappa, self.noise)
        game = "a client with one example" if self.batch_size == 1 else f"one of a client's {self.batch_size} examples"
        return bound.BoundPoint(
            game, self.noise, 1, 1.0, kappa, self.hits, self.trials, bound.Estimate(most, most, most)
        )


def bounds_of(folder: str | Path) -> tuple[Game, ...]:
    """The games in a run folder, by batch size and noise; empty if no defense has a bound.

    Raises:
        StorageFailure: a file is damaged.
    """
    found = read_beside(folder, FOLDER, Game)
    return tuple(sorted(found, key=lambda game: (game.batch_size, game.noise, game.defense)))
