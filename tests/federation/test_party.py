"""Parties that are asked what no honest model owner asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fedseal as fs
from federation.small import data, federation, net
from fedseal.client import state_of
from fedseal.errors import UnfitUpdate
from fedseal.federation.federation import Federation
from fedseal.federation.keys import StoredKeys
from fedseal.federation.members import _own_seed
from fedseal.federation.owners import DataOwner, ModelOwner, gradient_step
from fedseal.federation.packing import Packing, state_digest
from fedseal.federation.privacy import Spent
from fedseal.federation.protocol import Ask, Reply
from fedseal.federation.protocol.client import draw_seed
from fedseal.federation.protocol.plain import read_step, write_step
from fedseal.secagg import Ledger, aggregator

SIZE = Packing.of(net()).size
STATE = state_of(net())


def train(to: int = 0, round: int = 0, **changed: object) -> Ask:
    return Ask(**{"to": to, "step": "train", "round": round, "size": SIZE, "state": STATE, **changed})  # type: ignore[arg-type]


def moved(share: float) -> dict[str, torch.Tensor]:
    """The model, moved by about that share of its norm."""
    generator = torch.Generator().manual_seed(0)
    return {name: t + share * t.std() * torch.randn(t.shape, generator=generator) for name, t in STATE.items()}


def test_a_client_contributes_to_a_round_once_also_after_it_was_put_aside() -> None:
    members = federation("sharing").members()
    client = members.party(0, kept=True)
    assert client.answer(train(round=3)).messages
    later = members.party(0, kept=True)
    later.load(client.dump())
    assert later.answer(train(round=3)) == Reply(refused="OutOfPhase")
    for party in (client, later):
        assert party.answer(train(round=3, state=moved(0.1))) == Reply(refused="OutOfPhase")
        assert party.answer(train(round=2)) == Reply(refused="OutOfPhase")
        assert party.answer(train(round=4)) == Reply(refused="KnownState")
    assert later.answer(train(round=4, state=moved(0.1))).messages


@pytest.mark.parametrize("protocol", ["sharing", "masking"])
def test_a_question_that_comes_again_gets_the_same_bytes(protocol: str) -> None:
    party = federation(protocol).members().party(0)
    ask = train(step="train" if protocol == "sharing" else "advertise")
    first = party.answer(ask)
    assert first.messages
    assert party.answer(ask) == first
    assert party.answer(train(step=ask.step, round=1, state=moved(0.1))) != first
    assert party.answer(ask) == Reply(refused="OutOfPhase") or protocol == "masking"


@pytest.mark.parametrize("protocol", ["plain", "sharing"])
def test_a_client_trains_the_agreed_model_only(protocol: str) -> None:
    client = federation(protocol).members().party(0)
    other = {name: torch.zeros(3) for name in STATE}
    for ask in (train(size=SIZE + 1), train(state=None), train(state={}), train(state=other)):
        assert client.answer(ask) == Reply(refused="UnfitUpdate")
    assert client.answer(train()).messages


def test_a_client_does_nothing_that_its_protocol_does_not_have() -> None:
    assert federation("sharing").members().party(0).answer(train(step="advertise")).refused == "OutOfPhase"
    masking = federation("masking").members().party(0)
    for step in ("back up", "confirm", "unmask"):
        assert masking.answer(train(step=step, messages=(b"x",))).refused == "OutOfPhase"
    assert masking.answer(train()).refused == "OutOfPhase"
    assert masking.answer(train(step="advertise")).messages
    assert masking.answer(train(step="back up", messages=(b"x",))).refused == "BadMessage"
    assert masking.answer(train(step="back up", round=1, messages=(b"x",))).refused == "OutOfPhase"


def test_a_refusal_quotes_no_value_to_the_server() -> None:
    refused = federation("sharing").members().party(0).answer(train(size=SIZE + 1)).refused
    assert refused.isalpha()


def test_an_aggregator_opens_no_round_twice_also_after_it_was_put_aside() -> None:
    members = federation("sharing").members()
    number = members.aggregators[1]
    party = members.party(number, kept=True)

    def ask(step: str, round: int = 0) -> Ask:
        return Ask(number, step, round, SIZE)

    assert "OutOfPhase" in party.answer(ask("close")).refused
    assert party.answer(ask("take")) == party.answer(ask("take")) == Reply()
    assert len(party.answer(ask("close")).messages) == 2
    again = members.party(number, kept=True)
    again.load(party.dump())
    assert party.answer(ask("close")) == party.answer(ask("close")) != Reply()
    assert "OutOfPhase" in again.answer(ask("close")).refused
    for one in (party, again):
        assert one.answer(ask("take", 1)) == Reply()
        assert "OutOfPhase" in one.answer(ask("take", 0)).refused
        assert "OutOfPhase" in one.answer(ask("count", 0)).refused


def test_a_bad_message_of_one_client_does_not_stop_the_others() -> None:
    members = federation("sharing").members()
    number = aggregator(0)
    party = members.party(number)
    asked = train()
    assert asked.state is not None
    digest = state_digest(asked.state)
    honest = [m for to, m in members.party(0).answer(asked).messages if to == number]
    assert party.answer(Ask(number, "take", 0, SIZE, (b"rubbish", *honest), digest=digest)) == Reply()
    lone = members.party(number)
    assert lone.answer(Ask(number, "take", 0, SIZE, (b"rubbish",), digest=digest)) == Reply()
    rolls = [one.answer(Ask(number, "close", 0, SIZE)).messages[0].message for one in (party, lone)]
    assert len(rolls[0]) == len(rolls[1]) + 8 + 16  # one client's number and ticket


def test_draws_differ_by_seed_round_and_client_and_are_fresh_without_a_seed() -> None:
    found = {draw_seed(seed, round, client) for seed in range(5) for round in range(5) for client in range(5)}
    assert len(found) == 125
    assert draw_seed(None, 0, 0) != draw_seed(None, 0, 0)


def test_plain_steps_there_and_back() -> None:
    step = torch.randn(5, generator=torch.Generator().manual_seed(0)).numpy()
    found, weight, metrics = read_step(write_step(step, 3, {"loss": 0.25}))
    assert (found.tolist(), weight, metrics) == (step.tolist(), 3, {"loss": 0.25})
    for wrong in (b"", b"x" * 40, write_step(step, 3, {})[:-3]):
        with pytest.raises(UnfitUpdate, match="cannot be read"):
            read_step(wrong)


def test_with_keys_in_files_an_owners_draws_follow_from_its_own_key_alone(tmp_path: Path) -> None:
    """`party.json` tells everybody one seed; a model owner who knew an owner's draws could undo its shuffling."""
    setup = federation("plain")
    own = setup.members_of(StoredKeys.at(tmp_path / "one", setup.secure, 4))
    other = setup.members_of(StoredKeys.at(tmp_path / "other", setup.secure, 4))
    again = setup.members_of(StoredKeys.at(tmp_path / "one", setup.secure, 4))
    steps = [
        np.stack([read_step(members.party(n).answer(train()).messages[0].message).vector for n in range(4)])
        for members in (own, other, again)
    ]
    assert (steps[0] == steps[2]).all()
    assert not (steps[0] == steps[1]).all()  # few examples of one owner may come in the same order by chance
    seeds = [_own_seed(own.keys.identity(number)) for number in own.clients]
    assert len(set(seeds)) == 4
    assert min(seeds).bit_length() > 200


@pytest.mark.parametrize("protocol", ["plain", "ring"])
def test_an_answer_that_can_be_read_counts_against_the_rounds_that_were_agreed_on(protocol: str) -> None:
    """An owner who sent its update in the clear was told that nothing had been spent."""
    ledger = Ledger()
    party = federation(protocol).members(rounds=2).party(0, ledger=ledger)
    assert party.answer(train(round=1)).messages
    assert party.answer(train(round=0)) == Reply(refused="OutOfPhase")
    assert party.answer(train(round=4)).messages
    assert party.answer(train(round=5)) == Reply(refused="Overspent")
    spent = Spent(tuple(entry.release for entry in ledger.entries))
    assert (spent.rounds, spent.bare) == (2, 2)
    assert party.answer(train(round=4)).messages, "the same again says nothing new"


@pytest.mark.parametrize("weights", [[-float("inf")], [-3e38, -3e38], [float("nan")]])
def test_a_model_of_which_nobody_can_tell_how_far_it_moved_is_not_answered(weights: list[float]) -> None:
    """A unit that is dead has no gradient, and one infinite bias of it hid every later model's distance."""
    model = fs.zoo.mlp(inputs=6, widths=(5,), num_classes=3, activation="relu")
    owners_ = [DataOwner.holding(data(), gradient_step()) for _ in range(4)]
    members = Federation(ModelOwner(model), owners_, "sharing").members()
    first, poison, hair = (state_of(model) for _ in range(3))
    poison["1.bias"][: len(weights)] = torch.tensor(weights)
    hair["1.weight"].view(-1)[0] += 1e-7
    party = members.party(0)
    found = [party.answer(train(round=number, state=state)) for number, state in enumerate((poison, first, hair))]
    assert [reply.refused for reply in found] == ["KnownState" if len(weights) == 1 else "", "", "KnownState"]
