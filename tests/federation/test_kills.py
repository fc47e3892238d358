"""kill -9 of any party in any phase, simulated: no model answered twice, no round uncounted, no wrong sum, no end."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest

from federation.hosts import Hosts, Kill
from fedseal.federation.secure import Secure

ROUNDS = 3
PROTOCOLS = ("sharing", "masking")


def _secure(protocol: str) -> Secure:
    return Secure(protocol, minimum=3, aggregators=2)


@cache
def _questions(protocol: str) -> int:
    """Of a run in which nobody is killed."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        hosts = Hosts(Path(folder), _secure(protocol), ROUNDS)
        assert not any(report.failure for report in hosts.train().history)
        assert hosts.wrong == []
        return hosts.event


def _judged(folder: Path, protocol: str, kill: Kill) -> None:
    hosts = Hosts(folder, _secure(protocol), ROUNDS, kill)
    trained = hosts.train()
    assert hosts.wrong == []
    assert all(len(contents) == 1 for contents in hosts.answers.values()), "one round was answered in two ways"
    assert all(len(rounds) == 1 for rounds in hosts.states.values()), "one model was answered in two rounds"
    counted = {entry.round for entry in hosts.ledger.entries}
    assert hosts.delivered <= counted, "a round that an owner answered is not in the model owner's ledger"
    for client, round in hosts.answers:
        assert round in {entry.round for entry in hosts.of(client).entries}
    assert [report.round for report in trained.history] == list(range(ROUNDS))
    failures = [report.round for report in trained.history if report.failure]
    assert len(failures) <= (0 if kill.who == "model owner" else 1)
    assert trained.history[-1].clients >= 3 or failures == [ROUNDS - 1]
    assert trained.privacy.rounds == trained.privacy.bare == len(counted)


def _kill(seed: int, questions: int) -> Kill:
    draw = random.Random(seed)
    who = draw.choice(["asked", "other", "model owner"])
    return Kill(draw.randrange(questions), who, after=draw.random() < 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_some_kills(protocol: str, tmp_path: Path) -> None:
    for seed in range(8):
        folder = tmp_path / str(seed)
        folder.mkdir()
        _judged(folder, protocol, _kill(1000 + seed, _questions(protocol)))


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_kills(protocol: str, count: int, tmp_path: Path) -> None:
    for seed in range(count):
        folder = tmp_path / str(seed)
        folder.mkdir()
        _judged(folder, protocol, _kill(seed, _questions(protocol)))
