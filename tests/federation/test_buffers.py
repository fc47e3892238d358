"""Buffers that are no running statistics: they stay as the model owner has them; and statistics of one owner alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from federation.small import data, weights
from fedseal.errors import Diverged, StorageFailure
from fedseal.federation.federation import Calls, Federation
from fedseal.federation.gossip import Gossip
from fedseal.federation.local import train
from fedseal.federation.members import STATISTICS, Members
from fedseal.federation.owners import DataOwner, ModelOwner, gradient_step, local_steps
from fedseal.federation.packing import Packing, statistics_of
from fedseal.federation.protocol import Ask, Link, Reply
from fedseal.federation.secure import Secure
from fedseal.federation.view import View
from fedseal.types import Batch, LocalTraining, Update

NOISY = {"clip": 1.0, "noise": 1.1}
WAYS: dict[str, dict[str, Any]] = {
    "bare": {"protocol": "sharing"},
    "noise": {"protocol": "sharing", **NOISY},
    "masked noise": {"protocol": "masking", **NOISY},
    "local": {"protocol": "sharing", "statistics": "local", **NOISY},
    "clear": {"protocol": "plain"},
    "ring": {"protocol": "ring"},
}


class Fixed(nn.Module):
    """Normalizes its inputs by numbers of the model, masks one, and has a BatchNorm."""

    mean: Tensor
    std: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406, 0.1, 0.2, 0.3]))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225, 1.1, 1.3, 0.7]))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0, 0.0, 0.0, 0.0]))
        self.register_buffer("places", torch.arange(5))
        self.inner = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.inner((inputs - self.mean) / self.std * torch.softmax(self.mask, -1))
        return outputs


FIXED = ("mean", "std", "mask", "places")
OWN = ["inner.1.running_mean", "inner.1.running_var"]


def owners(rule: Any = None, count: int = 3) -> list[DataOwner]:
    whole = data(4 * count)
    parts = [whole[slice(first, None, count)] for first in range(count)]
    return [DataOwner.holding(part, rule or local_steps(lr=0.1)) for part in parts]


def unchanged(state: dict[str, Tensor]) -> bool:
    before = weights(Fixed())
    return all(torch.equal(state[name], before[name]) for name in FIXED)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_fixed_stays_to_the_last_bit_and_is_never_sent(way: str) -> None:
    """Clip and noise took a normalization of the inputs for statistics; a mask of -inf ended every round."""
    setup = Federation(ModelOwner(Fixed(), validation=data(9, seed=1)), owners(), Secure(**WAYS[way]))
    found = setup.fit(3)
    assert [(report.clients, report.refused) for report in found.history] == [(3, {})] * 3
    assert unchanged(weights(found))
    assert list(statistics_of(Fixed())) == OWN
    assert {name for name, _ in Packing.of(Fixed(), setup.secure).buffers} <= set(OWN)


def test_what_is_fixed_stays_where_models_are_averaged() -> None:
    """The mean of three equal numbers may be off in its last bit."""
    assert unchanged(weights(Gossip(ModelOwner(Fixed()), owners()).fit(3)))
    parts, draws = [owner.build_data() for owner in owners()], torch.Generator().manual_seed(0)
    *_, last = train(Fixed(), parts, training=LocalTraining.fedavg(lr=0.1), rounds=3, generator=draws)
    assert unchanged(weights(last))


def test_a_model_of_fixed_buffers_has_no_statistics_that_noise_is_spent_on() -> None:
    model = Fixed()
    model.inner[1] = nn.Identity()
    assert Federation(ModelOwner(model), owners(), Secure(**WAYS["noise"])).secure.statistics == "none"


def test_a_record_of_such_a_model_is_read(tmp_path: Path) -> None:
    Federation(ModelOwner(Fixed()), owners(gradient_step()), "plain").fit(1, record=tmp_path)
    view = View.load(tmp_path)
    update = view.update(view.of(0, "step")[0])
    assert update.buffers is not None
    assert sorted(update.buffers) == OWN
    assert all(bool(tensor.isfinite().all()) for tensor in update.tensors.values())
    assert unchanged(view.state(0))


def test_what_rounds_move_still_may_diverge() -> None:
    def breaks(total: Any, weight: int, model: nn.Module) -> Any:
        return {"inner.0.bias": torch.full((4,), float("nan"))}

    with pytest.raises(Diverged, match=r"'inner\.0\.bias' of the model is no number"):
        Federation(ModelOwner(Fixed(), breaks), owners(), "sharing").fit(1)


@pytest.mark.parametrize("changed", [torch.tensor([1.0] * 6), torch.tensor([float("nan")] * 6), torch.tensor(1.0)])
@pytest.mark.parametrize("statistics", ["shared", "local"])
def test_a_training_that_changes_what_is_fixed_is_refused_and_named(
    statistics: str, changed: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    """A statistic of a layer of one's own would be lost without a word."""

    def rule(model: nn.Module, batch: Batch, generator: torch.Generator) -> Update:
        update = gradient_step()(model, batch, generator)
        places = torch.zeros(5, dtype=torch.long)  # whole numbers are each owner's own
        return replace(update, buffers={**(update.buffers or {}), "places": places})

    def changes(model: nn.Module, batch: Batch, generator: torch.Generator) -> Update:
        update = rule(model, batch, generator)
        return replace(update, buffers={**(update.buffers or {}), "std": changed})

    team = [*owners(rule), owners(changes)[0]]
    secure = Secure("sharing", minimum=3, max_weight=9, statistics=statistics)
    found = Federation(ModelOwner(Fixed()), team, secure).fit(1)
    assert (found.history[0].clients, found.history[0].refused) == (3, {"data owner 3": "UnfitUpdate"})
    assert "the training changes 'std', which is no running mean or variance of a normalization layer" in caplog.text
    assert unchanged(weights(found))


class Odd:
    """An owner's rule that goes wrong in its first round."""

    def __init__(self, how: str) -> None:
        self.how, self.called = how, 0

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Update:
        self.called += 1
        how = self.how if self.called == 1 else "well"
        if how in ("inf", "3e38"):
            batch = Batch(torch.full_like(batch.inputs, float(how)), batch.labels)
        update = local_steps(lr=0.1)(model, batch, generator)
        long = {name: tensor * 1e9 for name, tensor in update.tensors.items()}
        return replace(update, tensors=long) if how == "long" else update


class Apart:
    """In this process; the first owner has a folder, and is looked at after each of its answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kept = folder, dict[int, bool]()

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        everybody = (*members.clients, *members.aggregators)
        self._calls = Calls({n: members.party(n, folder=None if n else self.folder) for n in everybody})
        serve(self)

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        for ask, reply in self._calls.ask(asks):
            if ask.to == 0:
                self.kept[ask.round] = (self.folder / STATISTICS).exists()
            yield ask, reply


@pytest.mark.parametrize("how", ["inf", "3e38", "long"])
@pytest.mark.parametrize("protocol", ["sharing", "masking", "plain", "ring"])
def test_a_step_that_is_refused_leaves_no_statistics_behind(
    protocol: str, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One bad batch spoiled an owner's own statistics for good, and nobody was told."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    first, *others = owners(count=4)
    team, engine = [replace(first, model_fn=Odd(how)), *others], Apart(tmp_path)
    minimum = None if protocol == "ring" else 2
    secure = Secure(protocol, statistics="local", max_weight=9, minimum=minimum)
    found = Federation(ModelOwner(model), team, secure).fit(2, engine=engine)
    assert [report.refused for report in found.history] == [{"data owner 0": "UnfitUpdate"}, {}]
    assert engine.kept == {0: False, 1: True}
    kept = safetensors.torch.load_file(tmp_path / STATISTICS)
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())
    assert found.history[1].metrics["loss"] < 5
    assert ("the statistic '1.running_" in caplog.text) == (how != "long")


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"zzz": torch.zeros(3)}, "holds 'zzz', which is no statistic of the model"),
        ({"0.weight": torch.zeros(4, 6)}, "holds '0.weight', which is no statistic"),
        ({"1.running_mean": torch.zeros(5)}, r"as torch.float32 \(5,\), and the model's is torch.float32 \(4,\)"),
        ({"1.running_mean": torch.zeros(4, dtype=torch.long)}, "as torch.int64"),
        ({"1.running_var": torch.full((4,), float("nan"))}, "'1.running_var' that is no number"),
    ],
)
def test_statistics_of_another_model_are_refused_at_the_door(
    held: dict[str, Tensor], said: str, tmp_path: Path
) -> None:
    """They ended every round as a crash; one that was called as a weight stood in the place of what was sent."""
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    safetensors.torch.save_file(held, tmp_path / STATISTICS)
    with pytest.raises(StorageFailure, match=said):
        Federation(ModelOwner(model), owners(), Secure(statistics="local")).members().party(0, folder=tmp_path)
    Federation(ModelOwner(model), owners()).members().party(0, folder=tmp_path)  # which has no use for the file
