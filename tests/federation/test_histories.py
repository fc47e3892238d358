"""Random histories of trainings: what is said to be spent is never below what was, by who adds up what was sent."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from torch import Tensor, nn

from federation.small import data, net
from federation.test_privacy import analytic
from fedseal.errors import EngineFailure
from fedseal.federation.federation import Calls, Federation
from fedseal.federation.members import Members
from fedseal.federation.owners import DataOwner, ModelOwner, gradient_step, move
from fedseal.federation.privacy import Spent
from fedseal.federation.protocol import Ask, Link, Reply
from fedseal.federation.secure import Secure
from fedseal.secagg import vector
from fedseal.types import Tensors

OWNERS = 3
TRUE_WEIGHT = vector._weight
NOISES = (0.3, 0.8, 1.0, 2.0, 5.0, None)


class Killed(BaseException):
    """The end of the model owner."""


@dataclass
class History:
    """One training, with whatever befalls it; keeps what really was sent."""

    draw: random.Random
    sent: dict[tuple[bytes, int], float | None] = field(default_factory=dict)  # noise by session and round
    lied: bool = False
    kill: str = ""

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        self._calls = Calls({n: members.party(n) for n in (*members.clients, *members.aggregators)})
        self._members = members
        serve(self)

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        for ask in asks:
            fate = self.draw.random()
            if fate < 0.02 or (self.kill == "asked" and fate < 0.1):
                if self.kill == "asked":
                    raise Killed
                continue  # lost on the way
            self.lied = ask.step == "train" and self.draw.random() < 0.05
            answers = list(self._calls.ask([ask]))
            self.lied = False
            if ask.step == "train" and answers[0][1].messages:
                pact = self._members.pact
                self.sent[pact.session, ask.round] = pact.secure.noise
            yield from answers

    def aggregate(self, total: Tensors, weight: int, model: nn.Module) -> dict[str, Tensor]:
        """The sum is open, and no checkpoint knows of it."""
        if self.kill == "opened" and self.draw.random() < 0.5:
            raise Killed
        return move(total, weight, model)

    def epsilon(self) -> float:
        """The Gaussian mechanism's, of all that was sent: of steps of the norm 1, and the noise of two owners."""
        if any(noise is None for noise in self.sent.values()):
            return math.inf
        return analytic(math.sqrt(sum(1 / noise**2 for noise in self.sent.values() if noise))) if self.sent else 0.0


def _history(seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[History, Spent]:
    draw = random.Random(seed)
    history, place, whole = History(draw), folder / "run.safetensors", data(9)
    monkeypatch.setattr(vector, "_weight", lambda terms, weight: 2 if history.lied else TRUE_WEIGHT(terms, weight))
    rows = [whole[slice(first, None, OWNERS)] for first in range(OWNERS)]
    rounds, bare_too, left, found = 0, draw.random() < 0.3, draw.randrange(1, 4), None
    while left > 0 or found is None:
        left -= 1
        rounds += draw.randrange(1, 3)
        history.kill = draw.choice(["", "", "asked", "opened"]) if left > 0 else ""
        noise = draw.choice(NOISES if bare_too else NOISES[:-1])
        owners = [DataOwner.holding(part, gradient_step()) for part in rows]
        secure = Secure("sharing", minimum=2, aggregators=2, clip=1.0, noise=noise, max_weight=1)
        federation = Federation(ModelOwner(net(), history.aggregate), owners, secure)
        try:
            found = federation.fit(rounds, engine=history, checkpoint=place, resume=place.is_file()).privacy
        except (Killed, EngineFailure):
            found = None
    return history, found


def _holds(seeds: range, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    ratios = []
    for seed in seeds:
        own = folder / str(seed)
        own.mkdir()
        history, said = _history(seed, own, monkeypatch)
        spent = history.epsilon()
        assert said.rounds == len(history.sent), seed
        assert said.epsilon >= spent, (seed, said.epsilon, spent)
        if 0 < spent < 15:  # beyond 20 the account is by Renyi divergences, a tenth too large or so
            ratios.append(said.epsilon / spent)
    return ratios


def test_what_is_said_is_never_below_what_was_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = _holds(range(5000, 5010), tmp_path, monkeypatch)
    assert max(ratios) < 1.02


@pytest.mark.slow
@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.long)])
def test_what_is_said_is_never_below_what_was_spent_in_many_histories(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = _holds(range(count), tmp_path, monkeypatch)
    assert max(ratios) < 1.02
    assert len(ratios) > 0.3 * count
