"""BatchNorm's buffers: statistics beside the weights and not in their way, counters that count rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fedseal as fs
from federation.small import Losing, data, gap, weights
from fedseal.client import state_of
from fedseal.errors import BadConfig, StorageFailure, UnfitUpdate, UnknownName
from fedseal.federation import View
from fedseal.federation.federation import Federation
from fedseal.federation.members import STATISTICS, Members
from fedseal.federation.owners import DataOwner, ModelOwner, local_steps
from fedseal.federation.packing import Packing, statistics_of
from fedseal.federation.privacy import Spent
from fedseal.federation.protocol.messages import Ask, Link, Reply
from fedseal.federation.secure import Keyring, Secure
from fedseal.federation.statistics import estimated, settled_buffers
from fedseal.secagg.vector import Contribution
from fedseal.types import Batch, Tensors, Update

SECURE = ("sharing", "masking")
VARIANCE = r"'1\.running_var' moves by -2000, and the round takes up to 1000; .*larger --statistics-bound$"
WAYS: dict[str, dict[str, Any]] = {"bare": {}, "clip": {"clip": 1.0}, "noise": {"clip": 1.0, "noise": 0.5}}
STATISTICS_OF_NET = ["1.running_mean", "1.running_var"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))


def owners(steps: int = 3, lr: float = 0.1, scale: float = 1.0, count: int = 3) -> list[DataOwner]:
    whole = data(4 * count)
    rule = local_steps(lr=lr, epochs=steps)
    parts = [whole[slice(first, None, count)] for first in range(count)]
    return [DataOwner.holding(Batch(part.inputs * scale, part.labels), rule) for part in parts]


def federation(secure: Secure | str, team: list[DataOwner] | None = None, **facts: Any) -> Federation:
    return Federation(ModelOwner(net(), validation=data(9, seed=1), **facts), team or owners(), secure)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", SECURE)
@pytest.mark.parametrize("steps", [9, pytest.param(1000, marks=pytest.mark.slow)])
def test_any_number_of_local_steps_trains_and_nobody_is_told_how_many(protocol: str, way: str, steps: int) -> None:
    """`num_batches_tracked` in the vector passed the bound of 8 at the ninth step."""
    found = federation(Secure(protocol, **WAYS[way]), owners(steps, lr=0.01)).fit(2)
    assert [(report.failure, report.clients) for report in found.history] == [("", 3), ("", 3)]
    state = weights(found)
    assert int(state["1.num_batches_tracked"]) == 2
    assert float(state["1.running_var"].min()) >= 0
    assert gap({n: state[n] for n in STATISTICS_OF_NET}, {n: state_of(net())[n] for n in STATISTICS_OF_NET}) > 1e-3


@pytest.mark.parametrize("protocol", SECURE)
def test_under_a_clip_the_weights_take_all_of_it(protocol: str) -> None:
    """With counter and statistics in one norm with them they took 0.066 of 1."""
    before = state_of(net())
    found = weights(federation(Secure(protocol, clip=0.01, statistics_clip=0.5), owners(40, lr=0.5, count=2)).fit(1))
    moved = {name: (found[name] - before[name]).double().flatten() for name in found if "tracked" not in name}
    steps = torch.cat([step for name, step in moved.items() if name not in STATISTICS_OF_NET])
    statistics = torch.cat([moved[name] for name in STATISTICS_OF_NET])
    assert 0.007 < float(steps.norm()) <= 0.01 + 1e-6  # a mean of two steps of this length
    assert 0.1 < float(statistics.norm()) <= 0.5 + 1e-6


@pytest.mark.parametrize("protocol", ["plain", *SECURE])
def test_statistics_become_the_owners_mean(protocol: str) -> None:
    team = owners()
    found = weights(federation(protocol, team).fit(1))
    alone = []
    for owner in team:
        update = owner.model_fn(net(), owner.build_data(), torch.Generator())
        assert update.buffers is not None
        alone.append(update.buffers)
    for name in STATISTICS_OF_NET:
        mean = torch.stack([buffers[name] for buffers in alone]).double().mean(0)
        assert gap({name: found[name]}, {name: mean}) < 2e-5  # fixed point in units of 128


def test_a_statistic_beyond_its_bound_stays_at_the_owner_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    team = [*owners(), *owners(scale=1e4)[:1]]
    found = Federation(ModelOwner(net()), team, Secure("sharing", minimum=3)).fit(1)
    assert found.history[0].clients == 3
    assert "statistic '1.running_var' moves by" in caplog.text
    assert "round takes up to 1000" in caplog.text
    wide = Secure("sharing", minimum=3, statistics_bound=1e9)
    assert Federation(ModelOwner(net()), team, wide).fit(1).history[0].clients == 4


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=16, max_size=16), st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_clipped_contribution_is_no_longer_than_its_terms_say(
    entries: list[float], clip: float, statistics_clip: float
) -> None:
    """The sensitivity that the noise is accounted for."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    asked = Secure("sharing", clip=clip, noise=1.0, statistics_clip=statistics_clip)
    secure = asked.settled(3, 1, {}, statistics=True)
    packing = Packing.of(model, secure)
    vector = np.array(entries, np.float32)
    packing.limit(vector, secure)
    parts = packing.unpack(vector)
    length = {
        kind: float(torch.cat([parts[name].double().flatten() for name, _ in names]).norm())
        for kind, names in (("weights", packing.weights), ("statistics", packing.buffers))
    }
    assert length["weights"] <= clip * (1 + 1e-6)
    assert length["statistics"] <= statistics_clip * (1 + 1e-6)
    assert secure.whole_clip is not None
    assert float(np.linalg.norm(vector.astype(np.float64))) <= secure.whole_clip * (1 + 1e-6)


@pytest.mark.parametrize("clip", [0.1, 0.3, 0.7, 1.3, 5.0])
@pytest.mark.parametrize("place", [3, -1])
def test_what_is_clipped_to_the_bound_is_never_refused_for_rounding(clip: float, place: int) -> None:
    """Scaled down in float32, an entry that makes up all of the norm was refused in up to 232 of 300 steps."""
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    secure = Secure("sharing", clip=clip, statistics_clip=2 * clip).settled(3, 60, {}, statistics=True)
    packing = Packing.of(model, secure)
    terms, rng = Keyring.fresh(secure, 3).pact(secure).terms(0, packing.size), np.random.default_rng(0)
    for _ in range(100):
        vector = rng.normal(0, 1e-6, packing.size).astype(np.float32)
        vector[place] = rng.uniform(10, 1000)
        packing.limit(vector, secure)
        assert max(map(float, np.abs(vector))) <= secure.bound
        assert float(np.abs(vector).max()) >= secure.bound * (1 - 1e-6)
        Contribution(terms, vector, 1, {})


def test_a_statistic_at_its_bound_but_for_rounding_is_sent() -> None:
    secure = Secure("sharing", bound=0.1, statistics_bound=0.1).settled(3, 60, {}, statistics=True)
    packing = Packing.of(net(), secure)
    vector = np.zeros(packing.size, np.float32)
    vector[-1] = np.float32(0.1)  # which is above 0.1
    packing.limit(vector, secure)
    assert float(vector[-1]) < 0.1
    vector[-1] = 0.1 * (1 + 1e-5)
    with pytest.raises(UnfitUpdate, match=r"running_var' moves by 0\.100001, and the round takes up to 0\.1;"):
        packing.limit(vector, secure)


@pytest.mark.parametrize(("place", "said"), [(3, r"'0\.weight' is -2000.*larger --bound"), (-1, VARIANCE)])
@pytest.mark.parametrize("protocol", ["plain", "ring"])
def test_what_is_beyond_the_bounds_in_the_clear_is_named(protocol: str, place: int, said: str) -> None:
    """It was "entry 35", of whatever that is, and no option was named."""
    secure = Secure(protocol).settled(3, 9, {}, statistics=True)
    packing = Packing.of(net(), secure)
    vector = np.zeros(packing.size, np.float32)
    vector[place] = -2000
    with pytest.raises(UnfitUpdate, match=said):
        packing.limit(vector, secure)
    vector[place] = 999
    packing.limit(vector, secure)
    assert vector[place] == 999


def test_noise_counts_for_all_that_is_sent_so_that_epsilon_does_not_hang_on_statistics() -> None:
    team = owners()
    found = {}
    for way in ("shared", "local"):
        setup = federation(Secure("sharing", clip=0.5, noise=1.0, statistics=way), team)
        members = setup.members()
        terms = members.pact.terms(0, Packing.of(net(), setup.secure).size)
        assert terms.clip is not None
        assert terms.noise == pytest.approx(terms.clip)
        found[way] = (terms.clip, Spent((members.pact.release(terms.size),)).epsilon)
    assert found["local"][0] == 0.5
    assert found["shared"][0] > 0.5
    assert found["shared"][1] == pytest.approx(found["local"][1], rel=1e-3)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4))
def test_no_variance_falls_below_zero(noisy: list[float]) -> None:
    model = net()
    settled = settled_buffers(model, {"1.running_var": torch.tensor(noisy)})
    for value, given_value in zip(settled["1.running_var"].tolist(), noisy, strict=True):
        assert value == (given_value if given_value >= 0 else 1.0)
    assert int(settled["1.num_batches_tracked"]) == 1


def test_strong_noise_leaves_a_model_that_can_be_evaluated() -> None:
    found = federation(Secure("sharing", clip=0.01, noise=5.0, statistics_clip=1.0)).fit(10)
    assert all(np.isfinite(report.validation["loss"]) for report in found.history)
    assert float(weights(found)["1.running_var"].min()) >= 0


def test_an_aggregator_of_ones_own_sees_no_counter_and_breaks_no_variance() -> None:
    seen: list[set[str]] = []

    def push(total: Tensors, weight: int, model: nn.Module) -> Tensors:
        seen.append(set(total))
        return {"1.running_var": torch.full((4,), -1.0)}

    still = Secure("sharing", floor=0.0)  # else a model whose weights stay where they are is not answered again
    found = weights(federation(still, aggregator_fn=push).fit(2))
    assert seen[0] == set(state_of(net())) - {"1.num_batches_tracked"}
    assert found["1.running_var"].tolist() == [1.0] * 4
    assert int(found["1.num_batches_tracked"]) == 2


@pytest.mark.parametrize("protocol", ["plain", *SECURE])
def test_local_statistics_stay_at_their_owner_from_round_to_round(protocol: str) -> None:
    """What is trained is then what is trained without any, since training looks at its batch alone."""
    secure = Secure(protocol, statistics="local")
    setup = federation(secure)
    assert Packing.of(net(), setup.secure).size == sum(p.numel() for p in net().parameters())
    found, again = setup.fit(2), setup.fit(2, engine=Losing(forgetful=True))
    assert gap(weights(found), weights(again)) == 0
    assert [report.metrics for report in found.history] == [report.metrics for report in again.history]
    shared = weights(federation(Secure(protocol)).fit(2))
    names = [name for name, _ in net().named_parameters()]
    assert gap({n: shared[n] for n in names}, {n: weights(found)[n] for n in names}) < 1e-6


def test_with_local_statistics_the_model_owner_uses_its_own_datas_and_sends_none() -> None:
    sent: list[Tensors] = []

    def rule(model: nn.Module, batch: Batch, generator: torch.Generator) -> Update:
        sent.append(state_of(model))
        return local_steps(lr=0.1)(model, batch, generator)

    held = data(9, seed=1)
    team = [replace(owner, model_fn=rule) for owner in owners()]
    found = Federation(
        ModelOwner(net(), validation=held), team, Secure("sharing", statistics="local", max_weight=9)
    ).fit(2)
    hidden = net()[0]
    hidden.load_state_dict({"weight": weights(found)["0.weight"], "bias": weights(found)["0.bias"]})
    outputs = hidden(held.inputs).detach()
    assert gap({"m": weights(found)["1.running_mean"]}, {"m": outputs.mean(0)}) < 1e-5
    assert gap({"v": weights(found)["1.running_var"]}, {"v": outputs.var(0)}) < 1e-5
    first = [state["1.running_mean"] for state in sent]
    assert all(not bool(mean.any()) for mean in first[:3]), "the first round starts from the architecture's"
    assert all(bool(mean.any()) for mean in first[3:]), "later ones from the owner's own"


def test_estimating_leaves_the_model_and_its_modes_alone() -> None:
    model = net().train()
    model[1].eval()
    before = state_of(model)
    site = estimated(model, data(1200).inputs)
    assert gap(before, state_of(model)) == 0
    assert [module.training for module in site.children()] == [True, False, True, True]
    assert site.get_submodule("1").momentum == 0.1
    assert gap({"w": weights(site)["0.weight"]}, {"w": before["0.weight"]}) == 0


def test_a_recorded_round_has_its_statistics_in_their_own_unit(tmp_path: Path) -> None:
    found = federation(Secure("plain")).fit(1, record=tmp_path / "plain")
    federation("sharing").fit(1, record=tmp_path / "sum")
    view = View.load(tmp_path / "sum")
    (entry,) = view.of(0, "sum")
    buffers = view.update(entry).buffers
    assert buffers is not None
    assert view.packing.unit == 128.0
    assert gap({n: buffers[n] for n in STATISTICS_OF_NET}, {n: weights(found)[n] for n in STATISTICS_OF_NET}) < 2e-5


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(UnknownName, match="way with statistics 'fedbn'"):
        Secure(statistics="fedbn")
    with pytest.raises(BadConfig, match="bound of 0 on statistics"):
        Secure(statistics_bound=0)
    with pytest.raises(BadConfig, match="clip of nan on statistics"):
        Secure(statistics_clip=float("nan"))
    assert Secure().settled(3, 1, {}).statistics == "none"


def test_a_model_without_statistics_is_packed_as_ever() -> None:
    model = fs.zoo.mlp(inputs=6, widths=(5,), num_classes=3)
    secure = Secure("sharing", clip=1.0).settled(3, 9, {}, statistics=bool(statistics_of(model)))
    vector = np.full(Packing.of(model, secure).size, 9.0, np.float32)
    Packing.of(model, secure).limit(vector, secure)
    assert vector.tolist() == [9.0] * len(vector), "the sum's own clip does it"
    assert secure.whole_clip == 1.0


def test_a_statistic_that_is_no_number_is_refused_by_name_of_its_place() -> None:
    secure = Secure("sharing").settled(3, 9, {}, statistics=True)
    packing = Packing.of(net(), secure)
    vector = np.zeros(packing.size, np.float32)
    vector[-5] = 1e6
    with pytest.raises(UnfitUpdate, match=r"'1\.running_mean' moves by 1\.28e\+08"):
        packing.limit(vector, secure)


def test_an_ask_is_of_the_size_without_counters() -> None:
    setup = federation("sharing")
    sizes: list[int] = []

    def lost(ask: Ask) -> bool:
        sizes.append(ask.size)
        return False

    setup.fit(1, engine=Losing(lost))
    assert set(sizes) == {sum(p.numel() for p in net().parameters()) + 8}


class Anew:
    """An engine where every question is answered by a process of its own, so to say."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        serve(self.Calls(members, self.folder))

    @dataclass
    class Calls:
        members: Members
        folder: Path | None

        def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
            for ask in asks:
                own = None if self.folder is None else self.folder / str(ask.to)
                yield ask, self.members.party(ask.to, folder=own).answer(ask)


def test_statistics_that_stay_at_an_owner_outlive_its_process(tmp_path: Path) -> None:
    """`fedseal join` that was started again lost them, and no owner had its own to use the model with."""
    setup = federation(Secure("plain", statistics="local"))
    for number in range(3):
        (tmp_path / str(number)).mkdir()
    through = setup.fit(2)
    metrics = [report.metrics for report in through.history]
    assert [report.metrics for report in setup.fit(2, engine=Anew(tmp_path)).history] == metrics
    assert [report.metrics for report in setup.fit(2, engine=Anew(None)).history] != metrics
    kept = safetensors.torch.load_file(tmp_path / "0" / STATISTICS)
    assert sorted(kept) == STATISTICS_OF_NET
    (tmp_path / "0" / STATISTICS).write_bytes(b"nothing")
    with pytest.raises(StorageFailure, match="holds no statistics of a model"):
        setup.members().party(0, folder=tmp_path / "0")
