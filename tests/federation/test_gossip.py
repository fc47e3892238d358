"""Gossip averaging: what owners end with, and what a neighbor reads of their steps over the rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fedseal as fs
from federation.small import STEPS, Losing, data, gap, net, owners, weights
from fedseal.audit.recording import adversary, at
from fedseal.client import state_of
from fedseal.errors import BadConfig, EngineFailure
from fedseal.federation import DataOwner, ModelOwner
from fedseal.federation.federation import InThisProcess
from fedseal.federation.gossip import Gossip, Neighbors
from fedseal.federation.members import Members
from fedseal.federation.owners import ModelFunction, gradient_step
from fedseal.federation.protocol import Link
from fedseal.federation.view import View

RULE = gradient_step()


def gossip(count: int = 5, rule: ModelFunction = STEPS, **facts: int) -> Gossip:
    return Gossip(ModelOwner(net(), validation=data(9, seed=1), learning_rate=0.5), owners(count, rule), **facts)


def by_hand(count: int, rounds: int, reach: int) -> list[dict[str, Tensor]]:
    """Every owner's weights after so many rounds of one gradient each: a matrix of mixing weights times all models."""
    whole = [owner.build_data() for owner in owners(count)]
    places = torch.arange(count)
    apart = (places[:, None] - places).abs()
    mixing = (torch.minimum(apart, count - apart) <= reach).double()
    mixing /= mixing.sum(1, keepdim=True)
    states = [state_of(net())] * count
    for _ in range(rounds):
        sent = []
        for batch, state in zip(whole, states, strict=True):
            model = at(net(), state)
            loss = torch.nn.functional.cross_entropy(model(batch.inputs), batch.labels)
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            sent.append({n: state[n] - 0.5 * g for (n, _), g in zip(model.named_parameters(), slopes, strict=True)})
        states = [
            {
                n: torch.einsum("k,k...->...", row, torch.stack([one[n].double() for one in sent])).float()
                for n in sent[0]
            }
            for row in mixing
        ]
    return states


@pytest.mark.parametrize(("count", "reach"), [(2, 1), (4, 1), (5, 2), (5, 9)])
def test_owners_mix_what_their_neighbors_sent(count: int, reach: int) -> None:
    trained = gossip(count, RULE, reach=reach).fit(3)
    states = by_hand(count, 3, reach)
    mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    assert gap(weights(trained), mean) < 1e-6
    far = max(sum(float((state[n] - mean[n]).square().sum()) for n in mean) for state in states)
    assert trained.history[-1].metrics["distance"] == pytest.approx(far**0.5, rel=1e-3, abs=1e-6)
    assert {"loss", "accuracy"} <= trained.history[-1].validation.keys()


def test_who_is_gone_is_mixed_without() -> None:
    found = gossip().fit(2, engine=Losing(lambda ask: ask.to == 1 and ask.round == 0))
    assert [report.clients for report in found.history] == [4, 5]
    with pytest.raises(EngineFailure, match="no owner answers"):
        gossip().fit(1, engine=Losing(lambda ask: True))


def test_owners_answer_as_many_rounds_as_were_agreed_on() -> None:
    agreed: list[int | None] = []

    class Looking:
        def run(self, members: Members, serve: Callable[[Link], None]) -> None:
            agreed.append(members.pact.secure.rounds)
            InThisProcess().run(members, serve)

    gossip().fit(2, engine=Looking())
    assert agreed == [2]


def test_owners_take_the_bounds_that_were_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """A variance moves by the square of what inputs are off by; the bound of 1000 could not be raised."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    each = [DataOwner.holding(fs.Batch(200 * data(6, seed=n).inputs, data(6).labels), STEPS) for n in range(3)]
    with pytest.raises(EngineFailure, match="no owner answers"):
        Gossip(ModelOwner(model), each).fit(1)
    assert "the statistic '1.running_var' moves by" in caplog.text
    assert "declare a larger --statistics-bound" in caplog.text
    assert Gossip(ModelOwner(model), each, statistics_bound=1e7).fit(1).history[0].clients == 3
    assert Gossip(ModelOwner(model), each, bound=1e7).fit(1).history[0].clients == 3


def test_what_makes_no_gossip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="1 owners"):
        gossip(1)
    with pytest.raises(BadConfig, match="a checkpoint holds one"):
        gossip().fit(1, checkpoint=tmp_path / "c")
    assert Neighbors(7, 2).of(0) == (1, 2, 5, 6)


@pytest.mark.parametrize("rule", [RULE, STEPS])
def test_a_neighbor_reads_the_first_step_exactly_and_later_ones_behind_others(
    tmp_path: Path, rule: ModelFunction
) -> None:
    """In a circle of five an owner knows two of the three models that its neighbor mixed; where all exchange, all."""
    off = {reach: _off(tmp_path / str(reach), rule, reach) for reach in (1, 2)}
    assert off[1][0] < 1e-5
    assert off[1][1] > 0.05
    assert max(off[2]) < 1e-5


def _off(folder: Path, rule: ModelFunction, reach: int) -> list[float]:
    """By round, how far what a neighbor takes for an owner's step is from it, as a share of it."""
    gossip(5, rule, reach=reach).fit(2, record=folder)
    view, found = View.load(folder), []
    for number in range(2):
        (entry,) = (one for one in view.of(number, "mixed weights") if (one.party, one.sender) == ("client 1", "0"))
        (clear,) = (one for one in view.of(number, "mixed weights") if (one.party, one.sender) == ("client 4", "0"))
        update, start = view.update(entry), view.start(entry)
        ended = {name: start[name] + update.tensors[name] for name in update.tensors}
        again = {name: view.start(clear)[name] + view.update(clear).tensors[name] for name in update.tensors}
        assert gap(ended, again) < 1e-6  # both are sent the same weights
        true = by_hand_start(view, number, reach)
        step = {name: ended[name] - true[name] for name in ended}
        size = sum(float(tensor.square().sum()) for tensor in step.values()) ** 0.5
        found.append(sum(float((update.tensors[n] - step[n]).square().sum()) for n in step) ** 0.5 / size)
    return found


def by_hand_start(view: View, number: int, reach: int) -> dict[str, Tensor]:
    """Where owner 0 really started a round: the mean of what it and all its neighbors sent in the round before."""
    if number == 0:
        return state_of(net())
    sent = {}
    for entry in view.of(number - 1, "mixed weights"):
        start, update = view.start(entry), view.update(entry)
        sent[int(entry.sender)] = {name: start[name] + update.tensors[name] for name in update.tensors}
    near = [0, *(1, 4), *((2, 3) if reach == 2 else ())]
    return {name: torch.stack([sent[one][name] for one in near]).mean(0) for name in sent[0]}


def test_a_neighbor_reads_a_real_picture_in_the_first_round(tmp_path: Path) -> None:
    photos, model = fs.zoo.photos(size=32)[:4], fs.zoo.mlp(inputs=3072, widths=(32,), num_classes=10, seed=0)
    each = [DataOwner.holding(fs.Batch(photos.inputs[n : n + 1], torch.tensor([n])), RULE) for n in range(4)]
    Gossip(ModelOwner(model, learning_rate=0.1), each).fit(1, record=tmp_path)
    view = View.load(tmp_path)
    entry = view.of(0, "mixed weights")[0]
    update = replace(view.update(entry), num_examples=1)
    observation = adversary(entry).observe(at(model, view.start(entry)), update, modality=fs.Image((3, 32, 32)))
    found = fs.attack.auto(steps=300)(observation, generator=torch.Generator().manual_seed(0))
    assert found.inputs is not None
    assert found.outcome.route == "linear"
    assert float((found.inputs[0] - photos.inputs[int(entry.sender)]).abs().max()) < 1e-2
