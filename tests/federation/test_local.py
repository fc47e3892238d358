"""The reference engine against arithmetic written out here."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from fedseal import defense as defenses
from fedseal.client import local_update, state_of
from fedseal.defense import Hooks
from fedseal.errors import BadConfig
from fedseal.federation import DataOwner, Federation, ModelOwner, mean, split, train
from fedseal.federation.owners import Local
from fedseal.types import Batch, LocalTraining, Update

SGD = LocalTraining.fedsgd()


def net(seed: int = 0) -> nn.Sequential:
    return fs.zoo.mlp(inputs=6, widths=(5,), num_classes=3, activation="tanh", seed=seed)


def data(count: int = 12, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(count, 6, generator=generator), torch.arange(count) % 3)


def run(model: nn.Module, clients: list[Batch], rounds: int = 3, seed: int = 0, **facts: object) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    trained = list(train(model, clients, rounds=rounds, generator=generator, **facts))  # type: ignore[arg-type]
    assert len(trained) == rounds
    return state_of(trained[-1])


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_fedsgd_of_equal_clients_is_gradient_descent_on_all_examples() -> None:
    model, batch = net(), data()
    found = run(model, split(batch, 4), rounds=5, training=SGD, lr=0.3)
    hand = copy.deepcopy(model)
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(hand(batch.inputs), batch.labels))
        optimizer.step()
    assert gap(found, state_of(hand)) < 1e-6


@pytest.mark.parametrize("training", [SGD, LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=2)])
def test_a_plain_federation_of_equal_clients_goes_the_same_way(training: LocalTraining) -> None:
    clients = split(data(), 4)
    found = run(net(), clients, rounds=3, training=training, lr=0.7)
    owners = [DataOwner.holding(batch, Local(training)) for batch in clients]
    trained = Federation(ModelOwner(net(), learning_rate=0.7), owners, "plain").fit(3)
    assert gap(found, state_of(trained.model)) < 1e-6


def test_fedavg_moves_to_the_mean_of_the_clients_own_weights() -> None:
    model, training = net(), LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=2)
    clients = split(data(), 3)
    found = run(model, clients, rounds=1, training=training)
    ends = []
    for client in clients:
        own = copy.deepcopy(model)
        optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
        for first in [0, 2] * 2:
            optimizer.zero_grad()
            part = client[first : first + 2]
            torch.autograd.backward(nn.functional.cross_entropy(own(part.inputs), part.labels))
            optimizer.step()
        ends.append(state_of(own))
    assert gap(found, {name: torch.stack([end[name] for end in ends]).mean(0) for name in found}) < 1e-6


def test_the_given_model_stays_as_it_was() -> None:
    model = net()
    before = state_of(model)
    run(model, split(data(), 2), training=SGD)
    assert gap(before, state_of(model)) == 0


def test_statistics_of_a_layer_are_averaged_and_counters_are_taken() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    clients = split(data(), 2)
    found = run(model, clients, rounds=1, training=SGD)
    sent = [local_update(model, client, training=SGD).buffers for client in clients]
    means = [buffers["1.running_mean"] for buffers in sent if buffers is not None]
    assert torch.allclose(found["1.running_mean"], (means[0] + means[1]) / 2)
    assert int(found["1.num_batches_tracked"]) == 1


def test_the_same_seed_gives_the_same_model_and_another_one_another() -> None:
    noisy: dict[str, Any] = {"training": SGD, "defense": defenses.parse("gaussian:0.1"), "batch_size": 2}
    first, again, other = (run(net(), split(data(), 3), seed=seed, **noisy) for seed in (0, 0, 1))
    assert gap(first, again) == 0
    assert gap(first, other) > 1e-3


def test_what_a_defense_draws_moves_nobody_elses_examples() -> None:
    seen: dict[str, list[Tensor]] = {}

    def watching(name: str, sigma: float) -> Hooks:
        def batch(value: Batch, generator: torch.Generator) -> Batch:
            seen.setdefault(name, []).append(value.inputs)
            return value

        def update(value: Update, generator: torch.Generator) -> Update:
            return replace(value, tensors=defenses.gaussian(sigma).on_update(value, generator).tensors)

        return Hooks(name, batch=batch, update=update if sigma else lambda value, _: value)

    for name, sigma in (("plain", 0.0), ("noisy", 0.5)):
        run(net(), split(data(), 3), training=SGD, defense=watching(name, sigma), batch_size=2)
    assert len(seen["plain"]) == 9
    assert all(len(drawn) == 2 for drawn in seen["plain"])
    assert all(torch.equal(*pair) for pair in zip(seen["plain"], seen["noisy"], strict=True))


def test_feedback_sends_in_the_end_all_that_it_held_back() -> None:
    """What top-k leaves out comes later: sent plus held equals the whole, for each client by itself."""
    clients, sent = split(data(), 2), []
    model = net()
    run(
        model,
        clients,
        rounds=4,
        training=SGD,
        lr=1e-9,
        defense=defenses.parse("topk:0.1"),
        meter=lambda u, _: sent.append(u),
    )
    whole = local_update(model, clients[0], training=SGD).tensors
    first, last = sent[0], sent[6]
    assert sum(int(t.count_nonzero()) for t in first.tensors.values()) == round(0.1 * 53)
    held = {name: torch.zeros_like(t) for name, t in whole.items()}
    shield = defenses.parse("topk:0.1")
    for answer in (sent[0], sent[2], sent[4], sent[6]):  # the model stands still, so every round's gradient is the same
        full = {name: whole[name] + held[name] for name in whole}
        expected = shield.on_update(replace(first, tensors=full), torch.Generator())
        assert gap(dict(expected.tensors), dict(answer.tensors)) < 1e-5
        held = {name: full[name] - expected.tensors[name] for name in whole}
    assert gap(dict(first.tensors), dict(last.tensors)) > 1e-3


def test_without_feedback_nothing_is_held() -> None:
    sent: list[Update] = []
    shield = defenses.parse("topk:0.1,feedback=false")
    run(net(), [data()], rounds=3, training=SGD, lr=1e-9, defense=shield, meter=lambda u, _: sent.append(u))
    assert gap(dict(sent[0].tensors), dict(sent[2].tensors)) < 1e-6


def test_clients_train_the_defenses_model() -> None:
    wide = net(seed=5)
    shield = Hooks("other", model=lambda _: wide)
    assert gap(run(net(), [data()], training=SGD, defense=shield), run(wide, [data()], training=SGD)) == 0


def test_the_mean_counts_clients_alike() -> None:
    one = Update("gradient", {"w": torch.tensor([1.0])}, num_examples=1)
    other = Update("gradient", {"w": torch.tensor([4.0])}, num_examples=9)
    both = mean([one, other])
    assert (both.tensors["w"].item(), both.num_clients, both.num_examples) == (2.5, 2, 10)


@pytest.mark.parametrize(
    "facts", [{"rounds": 0}, {"clients": []}, {"lr": 0.0}, {"batch_size": 0}, {"lr": float("nan")}]
)
def test_nonsense_is_refused(facts: dict[str, object]) -> None:
    given = {"clients": [data()], "rounds": 1, **facts}
    with pytest.raises(BadConfig):
        run(net(), training=SGD, **given)  # type: ignore[arg-type]


def test_no_mean_of_nothing_or_of_two_kinds_and_no_client_without_an_example() -> None:
    one = Update("gradient", {"w": torch.ones(1)})
    for updates in ([], [one, replace(one, kind="difference")]):
        with pytest.raises(BadConfig):
            mean(updates)
    with pytest.raises(BadConfig):
        split(data(3), 4)


class Counted:
    """Counts the examples of every update that is computed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        patch.setattr("fedseal.federation.local.local_update", self)

    def __call__(self, model: nn.Module, batch: Batch, **facts: Any) -> Update:
        self.sizes.append(len(batch))
        return local_update(model, batch, **facts)


def test_what_is_accounted_as_poisson_sampling_is_drawn_so(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, updates = Counted(monkeypatch), list[Update]()
    shield = defenses.parse("dpsgd:1,clip=1,sample_rate=0.3")
    clients, rounds = split(data(40), 4), 100
    run(net(), clients, rounds, training=SGD, defense=shield, meter=lambda update, _: updates.append(update))
    sizes = torch.tensor([*counted.sizes, *[0] * (4 * rounds - len(counted.sizes))]).double()
    assert abs(float(sizes.mean()) - 3.0) < 4 * (2.1 / len(sizes)) ** 0.5  # binomial: 10 examples at 0.3
    assert 1.5 < float(sizes.var()) < 2.8  # 2.1; a fixed size has none
    assert len(set(sizes.tolist())) > 6
    assert len(counted.sizes) < len(sizes)  # some drew none, and sent noise
    assert {update.num_examples for update in updates} == {3}  # the drawn number is nobody's business
    assert len(updates) == len(sizes)


def test_a_sample_is_summed_over_the_expected_number(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, sent = data(12), list[Update]()
    counted = Counted(monkeypatch)
    shield = defenses.parse("dpsgd:1e-9,clip=1000,sample_rate=0.5")
    run(net(), [batch], 1, training=SGD, defense=shield, meter=lambda update, _: sent.append(update), seed=1)
    (seed,) = torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(1)).tolist()
    rows = torch.rand(12, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert counted.sizes == [int(rows.sum())]
    assert int(rows.sum()) != 6
    chosen = Batch(batch.inputs[rows], batch.labels[rows])
    own = local_update(net(), chosen, training=SGD)
    wanted = {name: tensor * len(chosen) / 6 for name, tensor in own.tensors.items()}
    assert gap(dict(sent[0].tensors), wanted) < 1e-5


def test_an_empty_sample_is_noise_of_the_same_size() -> None:
    sent: list[Update] = []
    shield = defenses.parse("dpsgd:2,clip=1,sample_rate=1e-6")
    run(net(), [data(12)], 40, training=SGD, defense=shield, lr=1e-9, meter=lambda update, _: sent.append(update))
    entries = torch.cat([tensor.flatten() for update in sent for tensor in update.tensors.values()])
    assert float(entries.std()) == pytest.approx(2.0, rel=0.05)
    assert abs(float(entries.mean())) < 0.1
