"""Rounds in one process: what is added, who may vanish, what is refused."""

from __future__ import annotations

import inspect
from dataclasses import replace
from math import inf
from typing import Any

import pytest
import torch
from torch import nn

import fedseal as fs
from federation.small import STEPS, Losing, Tapped, data, federation, gap, net, owners, weights
from fedseal.errors import BadConfig, EngineFailure, UnknownName
from fedseal.federation import federation as federation_module
from fedseal.federation.federation import Federation
from fedseal.federation.owners import DataOwner, ModelOwner, gradient_step
from fedseal.federation.protocol import Ask
from fedseal.federation.secure import Secure
from fedseal.secagg import Party
from fedseal.types import Batch, Tensors, Update

SECURE = ("sharing", "masking")


def test_parties_of_one_process_share_the_terms_of_the_round_that_they_are_in() -> None:
    pact = federation("sharing").members().pact
    one = pact.terms(1, 5, bytes(32))
    assert pact.terms(1, 5, bytes(32)) is one
    others = [pact.terms(2, 5, bytes(32)), pact.terms(1, 6, bytes(32)), pact.terms(1, 5, bytes(31) + b"1")]
    assert [(t.round, t.size, t.state[-1:]) for t in others] == [(2, 5, b"\0"), (1, 6, b"\0"), (1, 5, b"1")]
    again = pact.terms(1, 5, bytes(32))
    assert again is not one  # of one round at a time
    assert again == one


@pytest.mark.parametrize("protocol", SECURE)
def test_a_secure_sum_trains_as_the_plain_one_within_the_rounding(protocol: str) -> None:
    plain, secure = federation("plain").fit(3), federation(protocol).fit(3)
    assert gap(weights(plain), weights(secure)) < 1e-6
    assert gap(weights(plain), weights(net())) > 1e-3
    for one, other in zip(plain.history, secure.history, strict=True):
        assert (one.clients, one.weight) == (other.clients, other.weight) == (4, 15)
        assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], abs=1e-6)
        assert one.validation == pytest.approx(other.validation, abs=1e-5)


def test_both_protocols_give_the_same_model_bit_for_bit_and_so_does_the_same_seed() -> None:
    one, other, again = (federation(protocol).fit(2) for protocol in ("sharing", "masking", "sharing"))
    assert gap(weights(one), weights(other)) == gap(weights(one), weights(again)) == 0
    assert gap(weights(one), weights(federation("sharing", seed=1).fit(2))) > 0


def test_weighted_mean_against_arithmetic_written_out() -> None:
    found = weights(federation("sharing", rule=gradient_step()).fit(1))
    whole = data(15)
    hand = net()
    torch.autograd.backward(nn.functional.cross_entropy(hand(whole.inputs), whole.labels))
    with torch.no_grad():
        for parameter in hand.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad)
    assert gap(found, weights(hand)) < 1e-6


@pytest.mark.parametrize("protocol", SECURE)
def test_parties_that_are_put_aside_between_questions_give_the_same(protocol: str) -> None:
    one, other = (federation(protocol).fit(2, engine=Losing(forgetful=forgetful)) for forgetful in (False, True))
    assert not any(report.failure for report in other.history)
    assert gap(weights(one), weights(other)) == 0


def test_parties_on_a_graph_of_drawn_holders_may_be_put_aside_as_well() -> None:
    secure = Secure("masking", degree=4, minimum=6)
    found = federation(secure, 8).fit(2, engine=Losing(forgetful=True))
    assert [report.clients for report in found.history] == [8, 8]
    assert gap(weights(found), weights(federation("sharing", 8).fit(2))) == 0


@pytest.mark.parametrize("step", ["advertise", "back up", "train", "confirm", "unmask"])
@pytest.mark.parametrize("forgetful", [False, True])
def test_a_client_may_vanish_in_any_phase(step: str, forgetful: bool) -> None:
    def lost(ask: Ask) -> bool:
        return ask.to == 2 and ask.round == 0 and ask.step == step

    engine = Losing(lost, forgetful)
    secure = Secure("masking", minimum=3, quorum=(1, 2))
    found = federation(secure).fit(2, engine=engine)
    first, second = found.history
    there = 4 if step in ("confirm", "unmask") else 3  # its vector had arrived
    assert (first.clients, first.failure, second.clients) == (there, "", 4)
    plain = federation(Secure("plain", minimum=3)).fit(
        2, engine=Losing(lambda ask: there == 3 and ask.to == 2 and ask.round == 0)
    )
    assert gap(weights(found), weights(plain)) < 1e-6


@pytest.mark.parametrize("protocol", SECURE)
def test_too_few_clients_open_nothing_and_the_run_goes_on(protocol: str) -> None:
    secure = Secure(protocol, minimum=3)
    found = federation(secure).fit(3, engine=Losing(lambda ask: ask.round == 1 and ask.to in (0, 1)))
    assert [report.clients for report in found.history] == [4, 0, 4]
    assert "minimum is 3" in found.history[1].failure


def test_an_aggregator_that_is_gone_fails_the_round_and_three_in_a_row_the_run() -> None:
    def lost(ask: Ask) -> bool:
        return Party.of(ask.to).is_aggregator and ask.step == "count" and ask.round >= 1

    with pytest.raises(EngineFailure, match=r"3 rounds in a row.*aggregator 0 does not answer"):
        federation().fit(9, engine=Losing(lost))


class _Diverges:
    """The second owner's rule, whose update is not what it should be."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Update:
        update = STEPS(model, batch, generator)
        tensors = {name: torch.full_like(tensor, self.value) for name, tensor in update.tensors.items()}
        return replace(update, tensors=tensors)


@pytest.mark.parametrize("protocol", ["plain", *SECURE])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 100.0])
def test_what_is_not_finite_or_out_of_range_stays_at_the_client(
    protocol: str, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    if protocol == "plain" and value == 100.0:
        return  # has no declared range
    team = owners()
    team[1] = replace(team[1], model_fn=_Diverges(value))
    found = Federation(ModelOwner(net()), team, Secure(protocol, minimum=3)).fit(1)
    assert found.history[0].clients == 3
    assert "client 1 refuses 'train'" in caplog.text
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(found).values())


def test_another_models_update_is_refused_at_the_client(caplog: pytest.LogCaptureFixture) -> None:
    def foreign(model: nn.Module, batch: Batch, generator: torch.Generator) -> Update:
        return Update("difference", {"other": torch.zeros(2)}, num_examples=1)

    team = owners()
    team[1] = replace(team[1], model_fn=foreign)
    found = Federation(ModelOwner(net()), team, Secure("sharing", minimum=3, max_weight=8)).fit(1)
    assert found.history[0].clients == 3
    assert "train the model that was sent" in caplog.text


def test_the_aggregator_is_handed_the_opened_sum_and_nothing_else() -> None:
    seen: list[tuple[Any, ...]] = []

    def watch(total: Tensors, weight: int, model: nn.Module) -> Tensors:
        caller = inspect.currentframe()
        assert caller is not None
        assert caller.f_back is not None
        seen.append((total, weight))
        return {name: tensor + total[name] / weight for name, tensor in weights(model).items()}

    owner = ModelOwner(net(), aggregator_fn=watch)
    found = Federation(owner, owners(), "masking").fit(1)
    ((total, weight),) = seen
    assert weight == 15
    assert gap(weights(found), weights(federation("masking").fit(1))) < 1e-6
    assert set(total) == set(weights(net()))


def test_what_travels_in_a_secure_round_holds_no_clients_step() -> None:
    """Under plain the same search finds the step's bytes."""
    batch = owners()[0].build_data()
    update = fs.local_update(net(), batch, training=fs.LocalTraining.fedsgd())
    first = -next(iter(update.tensors.values())).flatten()[:4].numpy()
    found = {}
    for protocol in ("plain", *SECURE):
        engine = Tapped()
        federation(protocol, rule=gradient_step()).fit(1, engine=engine)
        found[protocol] = any(first.tobytes() in message for message in engine.heard)
    assert found == {"plain": True, "sharing": False, "masking": False}


def test_batchnorm_statistics_go_inside_the_sum() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    team = owners(3)
    plain, secure = (Federation(ModelOwner(model), team, protocol).fit(2) for protocol in ("plain", "sharing"))
    assert gap(weights(plain), weights(secure)) < 1e-5
    assert int(weights(secure)["1.num_batches_tracked"]) > 0
    assert gap({"m": weights(secure)["1.running_mean"]}, {"m": torch.zeros(4)}) > 1e-3


def test_noise_comes_with_equal_weights_no_metrics_and_an_epsilon() -> None:
    secure = Secure("sharing", clip=0.5, noise=1.0)
    setup = federation(secure, rule=gradient_step())
    found = setup.fit(2)
    assert found.history[0].weight == 4
    assert found.history[0].metrics == {}
    once = federation(secure, rule=gradient_step()).fit(1).privacy
    assert 0 < once.epsilon < found.privacy.epsilon < found.privacy.among_owners < inf
    assert gap(weights(found), weights(setup.fit(2))) > 1e-3  # secret noise: no seed repeats it
    assert federation("sharing").fit(1).privacy.epsilon == inf


def test_figures_that_do_not_fit_together() -> None:
    with pytest.raises(UnknownName, match="protocol 'mask'"):
        Secure("mask")
    with pytest.raises(BadConfig, match="set clip"):
        Secure(noise=1.0)
    with pytest.raises(BadConfig, match="secure sum"):
        Secure("plain", clip=1.0)
    with pytest.raises(BadConfig, match="clip to the norm"):
        Secure(clip=-1.0)
    with pytest.raises(BadConfig, match="one client is its update"):
        federation("sharing", 1).fit(1)
    assert federation("plain", 1).fit(1).history[0].clients == 1
    with pytest.raises(BadConfig, match="without data owners"):
        Federation(ModelOwner(net()), [])
    with pytest.raises(BadConfig, match="different things"):
        Federation(ModelOwner(net()), [DataOwner.holding(data()), DataOwner.holding(data(), bounds={})])
    with pytest.raises(BadConfig, match="0 rounds"):
        federation().fit(0)
    with pytest.raises(UnknownName, match="engine 'spark'"):
        federation().fit(1, engine="spark")
    assert federation_module.ENGINES == ("local", "flower")


def test_the_given_model_is_not_changed() -> None:
    model = net()
    Federation(ModelOwner(model), owners(), "sharing").fit(1)
    assert gap(weights(model), weights(net())) == 0
