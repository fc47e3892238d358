"""Label inference: what every method of the table keeps, and that each reads the labels it claims to read."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attack.cases import initialized, observed, pictures, seeded
from fedseal import Batch, LocalTraining, Observation, ThreatModel, zoo
from fedseal.attack.labels import METHODS, LabelMethod, Labels
from fedseal.attack.labels.base import to_counts
from fedseal.attack.labels.dimitrov import Dimitrov
from fedseal.attack.labels.dummies import normal_dummies, passed
from fedseal.attack.labels.geng import Geng
from fedseal.attack.labels.head import read_head
from fedseal.attack.labels.ilrg import ILRG, class_softmax
from fedseal.attack.labels.llg import LLG
from fedseal.attack.labels.moments import Moments, decode
from fedseal.errors import BadConfig, FedsealError, UnfitBatch, UnfitModel, UnfitUpdate, UnknownToAdversary

FEW: dict[str, LabelMethod] = {  # random inputs
    "geng": Geng(dummies=100),
    "geng_bias": Geng(bias=True, dummies=100, name="geng_bias"),
    "ilrg": ILRG(dummies=100),
    "dimitrov": Dimitrov(dummies=100),
    "moments": Moments(dummies=100),
}
CURIOUS = ThreatModel.honest_but_curious()
SKEWED = [9, 0, 4, 0, 3]  # breaching's "bias-corrected" gives [14, 0, 2, 0, 0] and its "wainakh" [15, 0, 1, 0, 0]


def infer(name: str, observation: Observation, seed: int = 0) -> Labels:
    return FEW.get(name, METHODS[name].infer)(observation, generator=seeded(seed))


def with_counts(counts: list[int], shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> Batch:
    generator = seeded(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return Batch(torch.rand(len(labels), *shape, generator=generator), labels)


def perceptron(classes: int = 5, *, bias: bool = True, seed: int = 0, head: float = 1.0) -> nn.Module:
    """On pictures of 1x8x8; `head` scales the last layer's weights."""
    layers = [nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, classes, bias=bias)]
    model = initialized(nn.Sequential(*layers), seed, torch.float32)
    with torch.no_grad():
        model.get_parameter("3.weight").mul_(head)
    return model


def overlap(found: Labels, batch: Batch) -> float:
    true = torch.bincount(batch.labels, minlength=len(found.counts))
    return float(torch.minimum(found.counts, true).sum()) / len(batch)


def grants(*withheld: str) -> ThreatModel:
    return ThreatModel("test", CURIOUS.grants - set(withheld))


# ---- what every method keeps


SETTINGS: dict[str, Observation] = {
    "one": observed(perceptron(), with_counts([0, 0, 1, 0, 0])),
    "batch": observed(perceptron(), with_counts([2, 0, 1, 0, 1])),
    "local steps": observed(
        perceptron(), with_counts([2, 0, 1, 0, 1]), training=LocalTraining.fedavg(lr=0.01, epochs=3, batch_size=2)
    ),
    "batch norm": observed(zoo.resnet(width=4, blocks=(1,), num_classes=5), pictures(4, dtype=torch.float32)),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", METHODS)
def test_the_laws_of_label_methods(name: str, setting: str) -> None:
    observation = SETTINGS[setting]
    before = copy.deepcopy([(r.state, r.update.tensors, r.update.buffers) for r in observation.rounds])
    try:
        found = infer(name, observation)
    except FedsealError as error:
        assert name in ("sign", "soft") and setting != "one", error  # noqa: PT018, PT017
        return
    count = observation.update.num_examples
    assert found.labels.dtype == found.counts.dtype == torch.int64
    assert found.labels.tolist() == sorted(found.labels.tolist())
    assert torch.equal(found.counts, torch.bincount(found.labels, minlength=5))
    assert len(found.labels) == count
    assert torch.equal(infer(name, observation).counts, found.counts)
    after = [(r.state, r.update.tensors, r.update.buffers) for r in observation.rounds]
    for one, other in zip(before, after, strict=True):
        for mapping, same in zip(one, other, strict=True):
            assert all(torch.equal(mapping[key], same[key]) for key in mapping)  # type: ignore[index,union-attr]


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_needs_is_what_it_refuses_without(name: str) -> None:
    setting = "one" if name in ("sign", "soft") else "local steps" if name == "rlu" else "batch"
    batch = with_counts([0, 0, 1, 0, 0] if setting == "one" else [2, 0, 1, 0, 1])
    training = LocalTraining.fedavg(lr=0.01, epochs=2) if setting == "local steps" else LocalTraining.fedsgd()
    needs = METHODS[name].needs
    allowed = ThreatModel("least", frozenset({*needs, "single_updates", "num_examples"}))
    assert len(infer(name, observed(perceptron(), batch, training=training, threat=allowed)).labels) == len(batch)
    for grant in needs:
        if grant == "training" and name == "dimitrov":
            batch, training = with_counts([2, 0, 1, 0, 1]), LocalTraining.fedavg(lr=0.01, epochs=2)
        with pytest.raises(UnknownToAdversary, match="withholds"):
            infer(name, observed(perceptron(), batch, training=training, threat=grants(grant)))


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("sign", "soft")])
def test_the_batch_size_comes_from_the_rank_where_it_is_withheld(name: str) -> None:
    batch = with_counts([2, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    model = perceptron(12)
    found = infer(name, observed(model, batch, threat=grants("num_examples")))
    assert len(found.labels) == 4
    full = observed(perceptron(), with_counts([2, 0, 3, 0, 1]), threat=grants("num_examples"))
    with pytest.raises(UnknownToAdversary, match="number of examples"):
        infer(name, full)


def test_a_batch_size_below_the_rank_is_refused() -> None:
    observation = observed(perceptron(12), with_counts([2, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0]))
    with pytest.raises(UnfitUpdate, match="told of 3 examples, and the head's gradient has rank 6"):
        infer("moments", _changed(observation, num_examples=3))
    with pytest.raises(BadConfig, match="0 examples"):
        infer("moments", _changed(observation, num_examples=0))


def _changed(observation: Observation, **facts: Any) -> Observation:
    first = observation.rounds[0]
    return replace(observation, rounds=(replace(first, update=replace(first.update, **facts)),))


def test_without_a_head_or_with_another_loss_there_is_nothing_to_invert() -> None:
    headless = nn.Sequential(nn.Conv2d(1, 5, 8), nn.Flatten())
    with pytest.raises(UnfitModel, match="no classification head"):
        infer("moments", observed(initialized(headless, dtype=torch.float32), with_counts([2, 0, 1, 0, 1])))
    observation = replace(SETTINGS["batch"], loss=F.multi_margin_loss)
    with pytest.raises(BadConfig, match="not one that was recognized"):
        infer("moments", observation)


# ---- rounding


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-50, 50) | st.just(float("nan")), min_size=1, max_size=12), st.integers(1, 40))
def test_rounding_sums_to_the_batch_and_is_never_negative(values: list[float], total: int) -> None:
    counts = to_counts(torch.tensor(values, dtype=torch.float64), total)
    assert int(counts.sum()) == total
    assert int(counts.min()) >= 0


def test_rounding_moves_as_little_as_it_can() -> None:
    # iLRG's own rounding takes inds[:num_mod] with num_mod = -2 here, and ends at 8 labels for 6
    assert to_counts(torch.tensor([2.4, 1.3, 0.2, 0.1, 0.0, 1.1]), 6).tolist() == [3, 2, 0, 0, 0, 1]
    assert to_counts(torch.tensor([2.0, 3.0, 1.0]), 6).tolist() == [2, 3, 1]
    assert to_counts(torch.tensor([0.9, 0.8, 4.9]), 4).tolist() == [0, 0, 4]


def test_decoding_corrects_the_doubtful_by_the_sure() -> None:
    """Two counts err together; the surer one says which way."""
    covariance = torch.tensor([[0.04, 0.06, -0.1], [0.06, 0.09, -0.15], [-0.1, -0.15, 0.25]], dtype=torch.float64)
    mean = torch.tensor([2.3, 4.45, 5.25], dtype=torch.float64)  # from (2, 4, 6) by 1.5 standard deviations
    assert decode(mean, covariance, 12).tolist() == [2, 4, 6]
    assert to_counts(mean, 12).tolist() == [2, 5, 5]


# ---- the methods read right


@pytest.mark.parametrize("name", ["geng_bias", "ilrg", "moments", "dimitrov", "rlu"])
@pytest.mark.parametrize("seed", range(3))
def test_repeated_labels_are_counted(name: str, seed: int) -> None:
    found = infer(name, observed(perceptron(seed=seed, head=0.3), with_counts(SKEWED, seed=seed)))
    assert found.counts.tolist() == SKEWED
    assert found.residual is not None


@pytest.mark.parametrize("name", ["geng_bias", "ilrg", "moments"])
def test_softmax_is_averaged_class_by_class(name: str) -> None:
    """A biased head makes softmax far from uniform; a mean over all axes would be 1/5 for every class."""
    model = perceptron(head=0.3)
    with torch.no_grad():
        model.get_parameter("3.bias").add_(torch.tensor([1.5, 0.0, -1.0, 0.5, 0.0]))
    assert infer(name, observed(model, with_counts(SKEWED))).counts.tolist() == SKEWED


def _hand_made(sums: list[float], count: int) -> Observation:
    """An update whose head gradient has these row sums; LLG reads nothing else."""
    observation = observed(perceptron(len(sums)), with_counts([count] + [0] * (len(sums) - 1)))
    weight = torch.tensor(sums)[:, None].expand(-1, 40) / 40
    tensors = {**observation.update.tensors, "3.weight": weight}
    return _changed(observation, tensors=tensors)


def test_llg_lowers_the_class_that_it_gave_a_label() -> None:
    """By hand: shares of 0.0309; with the published stale index class 0 takes all that is left, [15, 0, 1, 0, 0]."""
    sums = [0.2 - c / 16 for c in SKEWED]
    assert infer("llg", _hand_made(sums, 16)).counts.tolist() == [13, 0, 3, 0, 0]
    wide = [8, 4, 2, 1, 1] + [0] * 45
    assert infer("llg", _hand_made([0.02 - c / 16 for c in wide], 16)).counts.tolist() == wide


def test_llg_with_dummies_reads_what_plain_llg_cannot() -> None:
    batch = with_counts(SKEWED)
    observation = observed(perceptron(), batch)
    better = LLG(dummies=200)(observation, generator=seeded())
    assert overlap(better, batch) >= overlap(infer("llg", observation), batch)


def test_gradinversion_gives_every_class_once() -> None:
    batch = with_counts([1, 0, 1, 0, 1, 0, 0, 1, 0, 0])
    assert (
        infer("gradinversion", observed(perceptron(10), batch)).counts.tolist()
        == torch.bincount(batch.labels, minlength=10).tolist()
    )
    with pytest.raises(UnfitBatch, match="6 examples have 5 classes"):
        infer("gradinversion", observed(perceptron(5), with_counts([2, 2, 2, 0, 0])))


@pytest.mark.parametrize("label", range(5))
def test_sign_certifies_the_label_of_one_example_without_weights(label: int) -> None:
    batch = with_counts([int(n == label) for n in range(5)])
    found = infer("sign", observed(perceptron(), batch, threat=ThreatModel.eavesdropper()))
    assert (found.labels.tolist(), found.certified) == ([label], True)
    with pytest.raises(UnfitBatch, match="2 examples"):
        infer("sign", observed(perceptron(), with_counts([1, 1, 0, 0, 0])))


def test_ilrg_survives_a_bias_gradient_of_zero_and_falls_back() -> None:
    observation = observed(perceptron(), with_counts(SKEWED))
    head = read_head(observation, "test")
    assert head.bias_gradient is not None
    zero = head.bias_gradient.clone()
    zero[1] = 0
    softmax = class_softmax(head, zero, observation.state or {}, 1.0)
    assert bool(softmax.isfinite().all())
    wide = perceptron(seed=1)
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.mul_(4)
    assert "bias form" in ILRG(dummies=50)(observed(wide, with_counts([3] * 5)), generator=seeded()).note
    with pytest.raises(BadConfig, match="temperature"):
        ILRG(temperature=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("counts", [SKEWED, [2, 0, 1, 0, 1], [1, 0, 0, 0, 0]])
def test_a_head_without_bias_is_counted_by_its_weight(counts: list[int], seed: int) -> None:
    batch = with_counts(counts, seed=seed)
    observation = observed(perceptron(bias=False, seed=seed), batch)
    assert overlap(infer("moments", observation), batch) >= 0.8
    assert len(infer("geng", observation).labels) == len(infer("llg", observation).labels) == len(batch)
    for name in ("geng_bias", "ilrg", "rlu"):
        with pytest.raises(UnfitUpdate, match="bias"):
            infer(name, observation)


def test_features_that_sum_to_zero_are_no_divisor() -> None:
    class Centered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(64, 20), nn.Linear(20, 5)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.layer(x.flatten(1))
            return F.linear(hidden - hidden.mean(1, keepdim=True), self.head.weight, self.head.bias)

    batch = with_counts(SKEWED)
    observation = observed(initialized(Centered(), dtype=torch.float32), batch)
    with pytest.raises(UnfitModel, match="sum to zero"):
        infer("geng", observation)
    assert infer("moments", observation).counts.tolist() == SKEWED


# ---- features, however the head is written


class _Written(nn.Module):
    """One convolution and a head on all of its 4-D map, written as modules, as functions or as matrix products."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.conv, self.head, self.style = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(192, 5), style
        self.relu = nn.ReLU()

    def features(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.relu(self.conv(x)) if self.style == "modules" else F.relu(self.conv(x))
        return hidden.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.features(x)
        if self.style == "product":
            return hidden @ self.head.weight.T + self.head.bias
        if self.style == "log softmax":
            return F.log_softmax(self.head(hidden), -1)
        if self.style == "function":
            return F.linear(hidden, self.head.weight, self.head.bias)
        out: Tensor = self.head(hidden)
        return out


STYLES = ("modules", "function", "product", "log softmax")


@pytest.mark.parametrize("style", STYLES)
def test_features_are_the_head_s_whole_input_in_any_style(style: str) -> None:
    model = initialized(_Written(style), dtype=torch.float32)
    observation = observed(model, with_counts(SKEWED))
    inputs = normal_dummies(observation, 7, seeded())
    layer = (
        read_head(observation, "test").layer
        if style != "product"
        else replace(
            read_head(
                observed(initialized(_Written("modules"), dtype=torch.float32), with_counts(SKEWED)), "test"
            ).layer
        )
    )
    seen = passed(observation.model, observation.state or {}, layer, inputs)
    with torch.no_grad():
        assert isinstance(model, _Written)
        torch.testing.assert_close(seen.features, model.features(inputs).double())
        torch.testing.assert_close(seen.softmax, model(inputs).double().softmax(-1), atol=1e-6, rtol=1e-5)


def test_counts_do_not_depend_on_how_the_model_is_written() -> None:
    found = {
        style: [
            infer(
                name, observed(initialized(_Written(style), dtype=torch.float32), with_counts(SKEWED))
            ).counts.tolist()
            for name in ("geng", "geng_bias", "ilrg", "moments")
        ]
        for style in ("modules", "function", "log softmax")
    }
    assert found["modules"] == found["function"] == found["log softmax"]
    assert found["modules"][1:] == [SKEWED] * 3


# ---- several updates, and how sure


def test_several_updates_of_one_batch_are_averaged() -> None:
    batch = with_counts([12, 3, 9, 0, 8], seed=3)
    rounds = [observed(perceptron(seed=seed), batch).rounds[0] for seed in range(4)]
    observation = observed(perceptron(), batch)
    for name in ("geng_bias", "moments"):
        alone = [infer(name, replace(observation, rounds=(r,))) for r in rounds]
        together = infer(name, replace(observation, rounds=tuple(rounds)))
        assert overlap(together, batch) >= sum(overlap(found, batch) for found in alone) / 4
        assert name == "geng_bias" or overlap(together, batch) == 1


@pytest.mark.parametrize(("count", "bar"), [(32, 0.99), (128, 0.97)])
def test_moments_on_a_perceptron_of_fashion_mnist(count: int, bar: float) -> None:
    pool, shares, sure = zoo.fashion_mnist(), [], []
    for seed in range(8):
        rows = torch.randperm(500, generator=seeded(seed))[:count]
        batch = Batch(pool.inputs[rows], pool.labels[rows])
        found = Moments()(observed(zoo.mlp(seed=seed), batch), generator=seeded(seed))
        assert found.confidence is not None
        shares.append(overlap(found, batch))
        sure.append(found.confidence)
    assert sum(shares) / 8 >= bar
    assert abs(sum(sure) - sum(shares)) / 8 < 0.02


def test_a_method_is_a_value() -> None:
    assert METHODS["moments"].infer == Moments()
    assert all(method.name == name == method.infer.name for name, method in METHODS.items())
