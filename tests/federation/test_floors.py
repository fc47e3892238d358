"""An owner's own floors: below them it takes no part, and no question beyond them reaches its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.small import federation, net
from fedseal.client import state_of
from fedseal.errors import BadConfig, StorageFailure
from fedseal.federation.deployment.floors import FLOORS, Floors, Guarded
from fedseal.federation.packing import Packing, architecture_digest
from fedseal.federation.protocol import Ask, Reply
from fedseal.federation.secure import Secure

AGREED = Secure("sharing", minimum=4, noise=1.0, clip=0.5, aggregators=3)
MODEL = architecture_digest(net())
MET = {"minimum": 4, "noise": 1.0, "clip": 0.5, "rounds": 10, "protocols": ["masking", "sharing"], "aggregators": 3,
       "models": ["0" * 16, MODEL]}  # fmt: skip
SHORT = {"minimum": 5, "noise": 1.01, "clip": 0.49, "rounds": 9, "protocols": ["masking"], "aggregators": 4,
         "models": ["0" * 16]}  # fmt: skip


def written(folder: Path, text: str) -> Floors:
    (folder / FLOORS).write_text(text)
    return Floors.of(folder)


def test_no_file_and_an_empty_one_ask_for_nothing(tmp_path: Path) -> None:
    assert Floors.of(tmp_path) == written(tmp_path, "# nothing\n") == Floors()
    Floors().check(Secure("plain", minimum=1), net(), 10**6)


def test_terms_at_the_floors_are_good_enough(tmp_path: Path) -> None:
    lines = [f"{name}: {value}" for name, value in MET.items()]
    written(tmp_path, "\n".join(lines).replace("'", '"')).check(AGREED, net(), 10)


@pytest.mark.parametrize("name", SHORT)
def test_each_floor_is_kept_and_what_falls_short_is_named(name: str, tmp_path: Path) -> None:
    floors = Floors.model_validate(MET | {name: SHORT[name]})
    with pytest.raises(BadConfig, match=rf"owner\.yaml asks for {name} .* where .* was agreed on; agree"):
        floors.check(AGREED, net(), 10)


def test_all_that_falls_short_is_said_at_once() -> None:
    with pytest.raises(BadConfig) as caught:
        Floors.model_validate(SHORT).check(AGREED, net(), 10)
    assert all(name in str(caught.value) for name in SHORT)
    with pytest.raises(BadConfig, match=r"noise 0\.1 where none was agreed on"):
        Floors(noise=0.1).check(Secure("masking", minimum=4), net(), 1)
    with pytest.raises(BadConfig, match=r"clip 1\.0 where none"):
        Floors(clip=1.0).check(Secure("masking", minimum=4), net(), 1)


@pytest.mark.parametrize("asked", [{"minimum": 2}, {"aggregators": 2}])
def test_a_sum_that_is_read_one_by_one_keeps_no_floor_of_a_sum(asked: dict[str, int]) -> None:
    """An owner that asked for a sum of five was told of a plain training that it was kept."""
    floors = Floors.model_validate(asked)
    with pytest.raises(BadConfig, match=r"asks for \w+ 2 where [01] was agreed on"):
        floors.check(Secure("plain", minimum=9), net(), 1)
    floors.check(Secure("masking", minimum=9), net(), 1)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 9), st.integers(2, 9), st.floats(0.1, 9), st.floats(0.1, 9), st.integers(1, 9), st.integers(1, 9))
def test_a_floor_refuses_exactly_what_is_below_it(
    minimum: int, asked: int, noise: float, least: float, rounds: int, most: int
) -> None:
    secure = Secure("masking", minimum=minimum, noise=noise, clip=1.0)
    below = minimum < asked or noise < least or rounds > most
    try:
        Floors(minimum=asked, noise=least, rounds=most).check(secure, net(), rounds)
    except BadConfig:
        assert below
    else:
        assert not below


@pytest.mark.parametrize(
    "text",
    ["minimum: 1", "minimum: 2.5", "minimum: yes", "noise: -1", "noise: .nan", "noise: .inf", "rounds: 0", "[1, 2]",
     "7", "minimun: 5", "protocols: sharing", "models: [xyz]", "models: 12", "a: [", "\x00", "&a [*a]",
     "minimum: !!python/object:os.x {}", "rounds: 1" + "0" * 5000],
)  # fmt: skip
def test_what_is_no_floor_is_refused_with_its_place(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"owner\.yaml'.*; ") as caught:
        written(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    (tmp_path / FLOORS).mkdir()
    with pytest.raises(StorageFailure, match="cannot be read"):
        Floors.of(tmp_path)


class _Notes:
    """A party that counts what reaches it."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def answer(self, ask: Ask) -> Reply:
        self.asked.append(ask.round)
        return Reply()

    def dump(self) -> dict[str, list[bytes]]:
        return {"x": [b"y"]}

    def load(self, memory: dict[str, list[bytes]]) -> None:
        assert memory == {"x": [b"y"]}


def test_no_round_beyond_the_owners_limit_reaches_the_party() -> None:
    inner = _Notes()
    party = Guarded(inner, Floors(rounds=2))
    asks = [Ask(0, "train", round, 1) for round in (0, 1, 2, 10**9)]
    assert [party.answer(ask).refused for ask in asks] == ["", "", "BadConfig", "BadConfig"]
    assert inner.asked == [0, 1]
    party.load(party.dump())


def test_a_guarded_owner_answers_as_itself() -> None:
    members = federation("plain").members()
    ask = Ask(0, "train", 0, Packing.of(net()).size, (), state_of(net()))
    bare, guarded = members.party(0), Guarded(members.party(0), Floors(rounds=1))
    assert bare.answer(ask) == guarded.answer(ask)


def test_a_digest_tells_architectures_apart() -> None:
    others: list[Any] = [net().double(), net()[:2], federation().model_owner.model]
    assert [architecture_digest(other) == MODEL for other in others] == [False, False, True]
    assert architecture_digest(net(seed=1)) == MODEL, "weights are no part of it"
    assert replace(AGREED, minimum=5) != AGREED
