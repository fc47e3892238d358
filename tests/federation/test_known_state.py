"""A model owner that has one model answered twice, once without an owner: the sums differ by that owner's update."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from fedseal.client import put_state, state_of
from fedseal.federation.federation import Calls, Federation
from fedseal.federation.members import Members
from fedseal.federation.owners import DataOwner, ModelOwner, gradient_step
from fedseal.federation.packing import ModelState, Packing, trained_arrays
from fedseal.federation.protocol import PROTOCOLS, Ask, Call, Link, Reply, Sum
from fedseal.federation.secure import Secure
from fedseal.secagg import SERVER, Ledger
from fedseal.secagg.errors import CohortTooSmall
from fedseal.secagg.ledger import entry_of
from fedseal.types import Batch
from secagg.rounds import terms

PICTURES = Batch(fs.zoo.photos(size=16).inputs[:4], torch.arange(4))
MODALITY = fs.Image(shape=(3, 16, 16))
LATER, ALL = (1, 2, 3), (0, 1, 2, 3)


def _net() -> nn.Module:
    return fs.zoo.mlp(inputs=768, widths=(24,), num_classes=10, activation="sigmoid", seed=0)


class Asked:
    """A model owner that asks whom it likes, with the model that it likes."""

    def __init__(self, secure: Secure, picture: Batch = PICTURES) -> None:
        owners = [DataOwner.holding(picture[place : place + 1], gradient_step()) for place in range(4)]
        self.model = _net()
        self.members: Members = Federation(ModelOwner(self.model), owners, secure).members()
        self._calls = Calls({n: self.members.party(n) for n in (*self.members.clients, *self.members.aggregators)})
        self.round = 0

    def sum_of(self, clients: tuple[int, ...], state: Mapping[str, Tensor]) -> Sum:
        packing = Packing.of(self.model)
        key = self.members.keys.identity(SERVER)
        call = Call(self.members.pact, key, clients, self.round, packing.size, ModelState(state))
        self.round += 1
        return PROTOCOLS[self.members.pact.secure.protocol].conduct(call, self._calls)

    def picture(self, one: Sum, other: Sum) -> float:
        """Decibels above a grey picture of what `auto` makes of two sums' difference, which has owner 0's gradient."""
        step = Packing.of(self.model).unpack(other.total - one.total)
        training = fs.LocalTraining.fedsgd()
        update = fs.Update("gradient", {name: t.float() for name, t in step.items()}, num_examples=1, training=training)
        seen = fs.ThreatModel.honest_but_curious().observe(self.model, update, modality=MODALITY)
        found = fs.attack.auto(steps=60)(seen, generator=torch.Generator().manual_seed(0))
        scores = fs.metric.score(found, PICTURES[:1], modality=MODALITY)
        (score,) = (score for score in scores.samples[0].scores if score.name == "psnr")
        (grey,) = (baseline.value for baseline in score.baselines if baseline.name == "grey")
        assert score.value is not None
        assert grey is not None
        return score.value - grey


def moved(model: nn.Module, share: float, seed: int = 0) -> dict[str, Tensor]:
    """A model's state, moved at random by that share of its norm."""
    state, generator = state_of(model), torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    norm, length = (sum(float(t.square().sum()) for t in found.values()) ** 0.5 for found in (state, noise))
    return {name: tensor + share * norm / length * noise[name] for name, tensor in state.items()}


@pytest.mark.parametrize("protocol", ["sharing", "masking"])
def test_one_model_is_not_answered_twice_and_if_it_were_the_picture_would_come_out(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Asked(Secure(protocol, minimum=3))
    state = state_of(server.model)
    one = server.sum_of(ALL, state)
    nudged = {name: torch.nextafter(t, t + 1) for name, t in state.items()}
    for again in (state, nudged):  # also if every weight is the next number that there is
        with pytest.raises(CohortTooSmall):
            server.sum_of(LATER, again)
    monkeypatch.setattr(Ledger, "admit", lambda ledger, terms: None)
    assert server.picture(one, server.sum_of(LATER, state)) > 60


@pytest.mark.parametrize(("floor", "least"), [(1e-4, 60.0), (0.1, 15.0)])
def test_no_floor_that_a_training_could_live_with_hides_who_is_missing(floor: float, least: float) -> None:
    """What docs/secagg.md says of it: others' updates change too little beside the one that is missing."""
    server = Asked(Secure("sharing", minimum=3, floor=floor))
    one = server.sum_of(ALL, state_of(server.model))
    with pytest.raises(CohortTooSmall):
        server.sum_of(LATER, moved(server.model, floor / 2))
    # owners measure by a sketch whose secret they draw: a share within a fifth or so
    found = [server.picture(one, server.sum_of(LATER, moved(server.model, 2 * floor, seed))) for seed in (1, 2)]
    assert max(found) > least


def test_no_floor_stops_weights_that_are_made_for_it() -> None:
    """Hidden units in another order are another model by any norm, and have the same gradients in another order."""
    server = Asked(Secure("sharing", minimum=3, floor=0.5))
    state = state_of(server.model)
    order = torch.arange(24).roll(1)
    first, bias, last = (name for name in state if name != list(state)[-1])
    turned = state | {first: state[first][order], bias: state[bias][order], last: state[last][:, order]}
    one, other = server.sum_of(ALL, state), server.sum_of(LATER, turned)
    step = Packing.of(server.model).unpack(other.total)
    home = order.argsort()
    back = {first: step[first][home], bias: step[bias][home], last: step[last][:, home]}
    other.total[:] = torch.cat([(step | back)[name].flatten() for name in step]).numpy()
    assert server.picture(one, other) > 40


@pytest.mark.parametrize(
    ("draw", "noise", "answered"), [(2, 1.0, True), (2, None, False), (None, 1.0, False), (3, 1.0, False)]
)
def test_a_model_is_answered_again_only_by_who_draws_anew_and_adds_noise(
    draw: int | None, noise: float | None, *, answered: bool
) -> None:
    rows = Batch(torch.randn(12, 768, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10)
    owners = [DataOwner.holding(rows[slice(first, None, 4)], gradient_step(draw)) for first in range(4)]
    secure = Secure("sharing", minimum=3, clip=1.0, noise=noise)
    server = Asked(secure)
    server.members = Federation(ModelOwner(server.model), owners, secure).members()
    server._calls = Calls({n: server.members.party(n) for n in (*ALL, *server.members.aggregators)})
    state = state_of(server.model)
    server.sum_of(ALL, state)
    if answered:
        assert server.sum_of(LATER, state).cohort == LATER
    else:
        with pytest.raises(CohortTooSmall):
            server.sum_of(LATER, state)


@pytest.mark.parametrize("protocol", ["sharing", "masking"])
def test_owners_answer_as_many_rounds_as_were_agreed_on(protocol: str) -> None:
    server = Asked(Secure(protocol, minimum=3, rounds=2))
    for seed in (1, 2):
        server.sum_of(ALL, moved(server.model, 0.2, seed))
    with pytest.raises(CohortTooSmall):
        server.sum_of(ALL, moved(server.model, 0.2, 3))


def test_a_model_that_hardly_moves_ends_the_training_and_says_so() -> None:
    owners = [DataOwner.holding(PICTURES[place : place + 1], gradient_step()) for place in range(4)]
    lazy = ModelOwner(_net(), learning_rate=1e-7)
    trained = Federation(lazy, owners, "sharing").fit(5)
    assert len(trained.history) == 1
    assert "owners answer moves of 0.0001 or more" in trained.ended
    assert Federation(lazy, owners, Secure(floor=0.0)).fit(5).ended == ""
    assert not Federation(replace(lazy, learning_rate=0.1), owners, "sharing").fit(5).ended


@dataclass
class Deaf:
    """Hears no aggregator's sum of round 0."""

    sent: list[Mapping[str, Tensor]] = field(default_factory=list)

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        self._calls = Calls({n: members.party(n) for n in (*members.clients, *members.aggregators)})
        serve(self)

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        for ask in asks:
            if ask.state is not None and ask.to == 0:
                self.sent.append(ask.state)
            if not (ask.round == 0 and ask.step == "open"):
                yield from self._calls.ask([ask])


def test_a_round_that_opened_nothing_is_followed_by_a_model_that_moved_a_little() -> None:
    owners = [DataOwner.holding(PICTURES[place : place + 1], gradient_step()) for place in range(4)]
    federation = Federation(ModelOwner(_net()), owners, "sharing")
    deaf = Deaf()
    trained = federation.fit(2, engine=deaf)
    assert [bool(report.failure) for report in trained.history] == [True, False]
    assert trained.history[1].clients == 4
    flat = [torch.cat([t.flatten() for t in state.values()]) for state in deaf.sent]
    assert 1e-4 < float((flat[1] - flat[0]).norm() / flat[0].norm()) < 1e-3
    assert trained.privacy.rounds == 2


def test_a_copy_of_a_model_has_the_same_sketch_and_moves_are_measured() -> None:
    model = _net()

    def sketch(ledger: Ledger, state: Mapping[str, Tensor]) -> Any:
        other = copy.deepcopy(model)
        put_state(other, state)
        return ledger.sketch(trained_arrays(other.parameters()))

    ledgers = [Ledger(secret=bytes([number] * 32)) for number in range(30)]  # what one secret is off by, all moves are
    for ledger in ledgers:
        assert ledger.nearest(sketch(ledger, state_of(model))) == float("inf")
        ledger.note(entry_of(terms(), sketch(ledger, state_of(model))))
        assert ledger.nearest(sketch(ledger, state_of(model))) == 0
    for share in (1e-5, 1e-2):
        found = [own.nearest(sketch(own, moved(model, share, seed))) / share for seed, own in enumerate(ledgers)]
        assert all(0.6 < ratio < 1.5 for ratio in found)
        assert abs(sum(found) / 30 - 1) < 0.1
