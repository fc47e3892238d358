"""One bad party costs its own contribution: it is refused, named and counted, and the round goes on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

from federation.small import ANYBODY, STEPS, Changed, data, federation, gap, net, owners, reports, weights
from fedseal.cli.rounds import round_line
from fedseal.errors import BadConfig, UnfitUpdate
from fedseal.federation import View
from fedseal.federation.federation import Calls, Federation
from fedseal.federation.gossip import Gossip
from fedseal.federation.members import Members
from fedseal.federation.owners import ModelOwner, gradient_step
from fedseal.federation.packing import Packing
from fedseal.federation.protocol import Ask, Reply, known_kind, refusal_kind
from fedseal.federation.protocol.client import ClientMember
from fedseal.federation.protocol.masking import MaskingRole
from fedseal.federation.protocol.messages import KINDS, Link
from fedseal.federation.secure import Secure
from fedseal.secagg import SERVER, Outgoing, wire
from fedseal.secagg.hazmat.keys import KEY
from fedseal.types import Batch, Update

BAD = 1
ALL = ("plain", "sharing", "masking")
SIZE = Packing.of(net()).size
SECRET = "label 7 of row 3"


class OwnError(UnfitUpdate):
    """Of a rule of an owner's own."""


def _without(bad: int, protocol: str) -> dict[str, torch.Tensor]:
    """What the others' sum gives."""
    found = Federation(ModelOwner(net()), owners(), Secure(protocol, minimum=3)).fit(
        1, engine=Changed(bad, lambda r: None)
    )
    return weights(found)


RAISED: dict[str, Exception] = {
    "foreign": ZeroDivisionError(SECRET),
    "memory": MemoryError(SECRET),
    "own": BadConfig(SECRET, "see"),
    "derived": OwnError(SECRET, "see"),
    "index": IndexError(SECRET),
}


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("protocol", ALL)
def test_an_owner_whose_rule_raises_is_left_out_and_named(
    protocol: str, raised: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = RAISED[raised]

    def rule(model: nn.Module, batch: Batch, generator: torch.Generator) -> Update:
        raise error

    team = owners()
    team[BAD] = replace(team[BAD], model_fn=rule)
    found = Federation(ModelOwner(net()), team, Secure(protocol, minimum=3, max_weight=8)).fit(2)
    kind = {"own": "BadConfig", "derived": "UnfitUpdate"}.get(raised, "Crash")
    for report in found.history:
        assert (report.clients, report.failure, report.refused) == (3, "", {"data owner 1": kind})
    assert f"refused: data owner 1 ({kind})" in round_line(found.history[0], 2)
    assert SECRET in caplog.text, "its own log has all of it"
    assert SECRET not in str(found.history)


STEP = np.full(SIZE, 0.5, np.float32)
SENT: dict[str, dict[str, np.ndarray]] = {
    "one entry": {"step": STEP[:1]},
    "too long": {"step": np.append(STEP, STEP[:1])},
    "another shape": {"step": STEP[None]},
    "double": {"step": STEP.astype(np.float64)},
    "whole numbers": {"step": STEP.astype(np.int32)},
    "nan": {"step": np.append(STEP[1:], np.float32("nan"))},
    "infinite": {"step": np.append(STEP[1:], np.float32("inf"))},
    "giant entry": {"step": np.append(STEP[1:], np.float32(-3e38))},
    "giant weight": {"weight": np.array([10**9])},
    "no weight": {"weight": np.array([0])},
    "negative weight": {"weight": np.array([-5])},
    "weight nan": {"weight": np.array([float("nan")])},
    "empty weight": {"weight": np.array([], np.int64)},
    "metric": {"metric.loss": np.array([1e9])},
    "metric nan": {"metric.loss": np.array([float("nan")])},
    "another metric": {"metric.depth": np.array([1.0])},
}


@pytest.mark.parametrize("sent", [*SENT, "text", "twice"])
def test_a_step_in_the_clear_that_cannot_be_added_is_left_out(sent: str) -> None:
    """One entry was broadcast over the model, with whatever weight its client named."""
    good: dict[str, np.ndarray] = {"step": STEP, "weight": np.array([2]), "metric.loss": np.array([1.0])}
    message = b"nothing" if sent == "text" else safetensors.numpy.save(good | SENT.get(sent, {}))

    def change(reply: Reply) -> Reply:
        return Reply((*reply.messages, *reply.messages) if sent == "twice" else (Outgoing(SERVER, message),))

    found = federation(Secure("plain", minimum=3)).fit(1, engine=Changed(BAD, change))
    (report,) = found.history
    if sent == "twice":
        assert gap(weights(found), weights(federation("plain").fit(1))) == 0
        return
    assert (report.clients, report.refused) == (3, {"data owner 1": "UnfitUpdate"})
    assert gap(weights(found), _without(BAD, "plain")) == 0


@pytest.mark.parametrize("sent", [*SENT, "text"])
def test_neighbors_mix_without_a_step_that_cannot_be_added(sent: str) -> None:
    good: dict[str, np.ndarray] = {"step": STEP, "weight": np.array([2]), "metric.loss": np.array([1.0])}
    message = b"nothing" if sent == "text" else safetensors.numpy.save(good | SENT.get(sent, {}))
    gossip = Gossip(ModelOwner(net()), owners())
    found = gossip.fit(1, engine=Changed(BAD, lambda reply: Reply((Outgoing(SERVER, message),))))
    assert (found.history[0].clients, found.history[0].refused) == (3, {"data owner 1": "UnfitUpdate"})
    assert gap(weights(found), weights(gossip.fit(1, engine=Changed(BAD, lambda reply: None)))) == 0


@pytest.mark.parametrize(
    "ending",
    [
        {"sum": np.full(SIZE, 0.5), "weight": np.array([4])},  # without the metric
        {"sum": np.full(SIZE + 1, np.nan), "weight": np.array([4])},
        {"sum": np.full(SIZE + 1, 0.5), "weight": np.array([0])},
        {"sum": np.full(SIZE + 1, 0.5), "weight": np.array([10**9])},
        {"sum": np.full(SIZE + 1, 0.5)},
        {},
        None,
    ],
)
def test_a_ring_that_ends_with_nonsense_opens_nothing(ending: dict[str, np.ndarray] | None) -> None:
    """All parties agree on it, so that only what it is tells that it is no sum."""
    content = b"nothing" if ending is None else safetensors.numpy.save(ending)
    digest = hashlib.sha256(content).digest()

    def change(reply: Reply) -> Reply:
        last = all(to == SERVER for to, _ in reply.messages)
        return Reply((Outgoing(SERVER, digest + content),)) if last else reply

    engine = Changed(ANYBODY, change)
    (report,) = reports(federation(Secure("ring")), 1, engine=engine)
    assert report.clients == 0
    assert report.failure


@pytest.mark.parametrize("content", [b"", b"abc", bytes(4), bytes(400)])
def test_a_masked_ring_that_ends_with_nonsense_opens_nothing(content: bytes) -> None:
    def change(reply: Reply) -> Reply:
        last = all(to == SERVER for to, _ in reply.messages)
        return Reply((Outgoing(SERVER, hashlib.sha256(content).digest() + content),)) if last else reply

    (report,) = reports(federation(Secure("masked_ring")), 1, engine=Changed(ANYBODY, change))
    assert report.clients == 0
    assert report.failure


def test_no_neighbor_ends_a_gossip_by_a_variance_below_zero() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))

    def change(reply: Reply) -> Reply:
        sent = safetensors.numpy.load(bytes(reply.messages[0].message))
        sent["step"][-5:] = -50
        return Reply((Outgoing(SERVER, safetensors.numpy.save(sent)),))

    team = owners(4, gradient_step())
    found = Gossip(ModelOwner(model, validation=data(9)), team).fit(2, engine=Changed(BAD, change))
    state = weights(found)
    assert [report.clients for report in found.history] == [4, 4]
    assert bool((state["1.running_var"] > 0).all())
    assert int(state["1.num_batches_tracked"]) == 2, "counters count rounds"


@pytest.mark.parametrize("protocol", ["sharing", "masking"])
@pytest.mark.parametrize("nonsense", [b"", b"x", b"FSEC" + bytes(200), bytes(10**5)])
def test_messages_of_nonsense_cost_their_sender_alone(protocol: str, nonsense: bytes) -> None:
    def change(reply: Reply) -> Reply:
        return Reply(tuple(Outgoing(to, nonsense) for to, _ in reply.messages))

    secure = Secure(protocol, minimum=3)
    found = federation(secure).fit(1, engine=Changed(BAD, change))
    assert (found.history[0].clients, found.history[0].failure) == (3, "")
    assert gap(weights(found), _without(BAD, protocol)) == 0
    assert set(found.history[0].refused) == {"data owner 1"}
    assert found.history[0].refused["data owner 1"] in ("BadMessage", "OutOfPhase")


def test_a_record_goes_on_past_a_message_that_nobody_reads(tmp_path: Any) -> None:
    engine = Changed(BAD, lambda reply: Reply((Outgoing(SERVER, b"nonsense"),)))
    federation(Secure("plain", minimum=3)).fit(1, engine=engine, record=tmp_path / "seen")
    assert {entry.sender for entry in View.load(tmp_path / "seen").entries} == {"0", "2", "3", "cohort"}


@pytest.mark.parametrize("said", [SECRET, "\x1b[2J", "UnfitUpdate: entry 3 is 0.25", 7, None])
def test_what_others_say_of_their_reason_is_a_kind_or_nothing(said: Any) -> None:
    assert known_kind(said) == "BadMessage"
    found = federation(Secure("plain", minimum=3)).fit(1, engine=Changed(BAD, lambda reply: Reply(refused=said or "?")))
    assert found.history[0].refused == {"data owner 1": "BadMessage"}
    assert {refusal_kind(error) for error in RAISED.values()} <= KINDS


def test_an_aggregators_reason_does_not_travel() -> None:
    def change(reply: Reply) -> Reply:
        return Reply(refused=f"\x1b]0;{SECRET}\x07")

    from fedseal.secagg import aggregator

    found = reports(federation("sharing"), 1, engine=Changed(aggregator(1), change))
    assert "aggregator 1 refuses (BadMessage: see its log)" in found[0].failure
    assert SECRET not in str(found)


def test_a_party_answers_the_next_question_after_any_question() -> None:
    """Also where a question holds what no honest model owner asks."""
    rng = random.Random(0)
    good = {name: tensor.detach() for name, tensor in net().named_parameters()}
    states: list[Any] = [
        None, {}, {"x": torch.zeros(1)}, {**good, "x": torch.zeros(1)},
        {name: torch.full_like(tensor, float("nan")) for name, tensor in good.items()},
        {name: tensor.to(torch.int64) for name, tensor in good.items()},
        {name: tensor[..., :1] for name, tensor in good.items()},
        {name: tensor.to_sparse() for name, tensor in good.items()},
    ]  # fmt: skip
    for protocol in ALL:
        members = federation(protocol).members()
        for number in (0, *members.aggregators[:1]):
            party = members.party(number)
            for _ in range(60):
                ask = Ask(
                    number,
                    rng.choice(
                        [
                            "train",
                            "advertise",
                            "back up",
                            "confirm",
                            "unmask",
                            "take",
                            "close",
                            "count",
                            "open",
                            "",
                            "\x1b",
                        ]
                    ),
                    rng.choice([0, 1, -1, 2**32, 10**30]),
                    rng.choice([SIZE, 0, -1, 10**30]),
                    tuple(rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(3))),
                    rng.choice(states),
                    rng.choice([b"", bytes(32), bytes(31)]),
                )
                assert isinstance(party.answer(ask), Reply)
    fresh = federation("plain").members().party(0)
    fresh.answer(Ask(0, "train", 0, SIZE, (), {"x": torch.zeros(1)}))
    assert fresh.answer(Ask(0, "train", 1, SIZE, (), good)).messages


def test_steps_are_the_rule_of_these_tests() -> None:
    assert STEPS.training.kind == "difference"


class _Uncommitted:
    """In this process; one owner commits to another seed than it masks with, in a message of its own."""

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        self._calls = Calls({number: members.party(number) for number in members.clients})
        serve(self)

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        for ask, reply in self._calls.ask(asks):
            if ask.to != BAD or ask.step != "back up":
                yield ask, reply
                continue
            read = wire.read_message(reply.messages[0].message, 10**6)
            body = bytearray(read.body)
            body[KEY] ^= 1  # behind the digest of the keys
            member = self._calls.parties[BAD]
            assert isinstance(member, ClientMember)
            assert isinstance(member._side, MaskingRole)
            own = member._side._present(ask)._server
            changed = wire.signed_message(read.kind, read.terms, BAD, SERVER, bytes(body), own)
            yield ask, replace(reply, messages=(changed,))


@pytest.mark.parametrize("resumed", [False, True])
def test_who_signs_another_seed_than_it_committed_to_ends_one_round_and_is_asked_no_more(
    tmp_path: Path, resumed: bool
) -> None:
    place = tmp_path / "run.st"
    team = federation(Secure("masking", minimum=3))
    if resumed:
        team.fit(2, engine=_Uncommitted(), checkpoint=place)
    found = team.fit(3, engine=_Uncommitted(), checkpoint=place, resume=resumed)
    first, *others = found.history
    assert "client 1's secret do not fit" in first.failure
    assert first.refused == {"data owner 1": "BrokenCommitment"}
    assert [(report.clients, report.failure, report.refused) for report in others] == [(3, "", first.refused)] * 2
