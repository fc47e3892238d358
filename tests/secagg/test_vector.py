"""What a client puts in comes out of a sum; what does not belong in is refused with the reason."""

from __future__ import annotations

import math
import runpy
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedseal.secagg as secagg_package
from fedseal.errors import BadConfig, MissingExtra, UnfitUpdate
from fedseal.secagg.errors import OutOfPhase, WrongSum
from fedseal.secagg.terms import Roster, Terms
from fedseal.secagg.vector import AT_A_TIME, Contribution, Layout, Opened
from secagg.rounds import SIZE, identity, terms, update


def summed(round_: Terms, parts: list[tuple[np.ndarray, int, dict[str, float]]]) -> Opened:
    elements = round_.codec.ring.zeros(Layout(round_).elements)
    for values, weight, metrics in parts:
        at = 0
        for chunk in Contribution(round_, values, weight, metrics).chunks():
            elements[at : at + chunk.size] += chunk
            at += chunk.size
        assert at == elements.size
    return Opened(round_, elements, tuple(range(len(parts))))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 40),
    chunk=st.sampled_from([8, 16, 64]),
    bits=st.sampled_from([32, 64]),
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    names=st.sets(st.sampled_from("abcdefghijkl"), max_size=12),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_weights_and_metrics_ride_in_the_sum(
    size: int, chunk: int, bits: int, weights: list[int], names: set[str], dtype: type
) -> None:
    round_ = terms(clients=4, size=size, chunk=chunk, bits=bits, max_weight=9, metrics=dict.fromkeys(names, 2.5))
    parts: list[tuple[np.ndarray, int, dict[str, float]]]
    parts = [(update(n, size).astype(dtype), w, dict.fromkeys(names, 0.5 * n)) for n, w in enumerate(weights)]
    opened = summed(round_, parts)
    wanted = np.sum([values.astype(np.float64) * weight for values, weight, _ in parts], axis=0)
    assert opened.weight == sum(weights)
    assert np.abs(opened.total() - wanted).max() <= round_.error
    assert np.abs(opened.mean() - wanted / sum(weights)).max() <= round_.error / sum(weights) + 1e-15
    for name in names:
        mean = sum(0.5 * n * w for n, w in enumerate(weights)) / sum(weights)
        assert opened.metrics[name] == pytest.approx(mean, abs=round_.error * 2.5 / 8 / sum(weights) + 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clip", [0.1, 0.3, 0.7, 1.3, 3.0, 5.0])
def test_what_is_clipped_to_the_bound_is_never_refused_for_rounding(clip: float, dtype: type) -> None:
    """Scaled down to its norm, an entry that makes up all of it ended a hair above the bound: up to 14 of 300."""
    round_, rng = terms(clip=clip, bound=clip, bits=64), np.random.default_rng(0)
    values: np.ndarray = np.zeros(0)
    for _ in range(300):
        values = rng.normal(0, 1e-6, SIZE).astype(dtype)
        values[3] = rng.uniform(1, 1000)
        (chunk, *_) = Contribution(round_, values, 1, {}).chunks()
        entries = round_.codec.ring.signed(chunk) / round_.codec.scale
        assert np.abs(entries[:7]).max() <= clip
    with pytest.raises(UnfitUpdate, match=r"magnitudes up to 0\.09"):
        Contribution(terms(clip=clip, bound=0.09), values, 1, {})


def test_the_mean_in_float32_is_the_mean_rounded() -> None:
    opened = summed(terms(), [(update(0), 1, {}), (update(1), 1, {})])
    assert opened.mean(np.float32).dtype == np.float32
    assert np.array_equal(opened.mean(np.float32), opened.mean().astype(np.float32))
    assert opened.total(np.float32).dtype == np.float32


@pytest.mark.parametrize(("bits", "dtype"), [(32, np.float32), (64, np.float32), (64, np.float64)])
@pytest.mark.parametrize("size", [1, 7, 8, 63, 64, 200])
def test_a_mean_can_be_taken_in_the_sums_own_memory(bits: int, dtype: type, size: int) -> None:
    round_ = terms(size=size, chunk=8, bits=bits)
    parts = [(update(n, size), 1, dict[str, float]()) for n in range(2)]
    elements = round_.codec.ring.zeros(Layout(round_).elements)
    opened, wanted = summed(round_, parts), summed(round_, parts).mean(dtype)
    taken = opened.taken(dtype)
    assert taken.dtype == dtype
    assert np.array_equal(taken, wanted)
    assert taken.base is not None
    assert taken.base.nbytes == elements.nbytes
    for ask in (opened.taken, opened.mean, opened.total):
        with pytest.raises(OutOfPhase, match="the sum was taken"):
            ask()


def test_a_mean_wider_than_the_sum_cannot_be_taken() -> None:
    with pytest.raises(BadConfig, match="4 bytes an entry cannot hold"):
        summed(terms(), [(update(0), 1, {}), (update(1), 1, {})]).taken(np.float64)


@pytest.mark.parametrize("bits", [32, 64])
def test_everybody_at_the_bound_does_not_overflow(bits: int) -> None:
    round_ = terms(clients=7, bits=bits, max_weight=5, bound=3.3)
    parts = [(np.full(SIZE, sign * 3.3), 5, dict[str, float]()) for sign in (1, 1, 1, 1, 1, 1, 1)]
    assert np.abs(summed(round_, parts).mean() - 3.3).max() <= round_.error / 35 * 1.01


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "NaN": (lambda: np.where(np.arange(SIZE) == 4, np.nan, update(0)), "entry 4 is nan"),
    "infinity": (lambda: np.where(np.arange(SIZE) == 2, -np.inf, update(0)), "entry 2 is -inf"),
    "infinity upwards": (lambda: np.where(np.arange(SIZE) == 1, np.inf, update(0)), "entry 1 is inf"),
    "too large": (lambda: np.where(np.arange(SIZE) == 9, 8.001, update(0)), "entry 9 is 8.001"),
    "too low": (lambda: np.where(np.arange(SIZE) == 9, -8.001, update(0)), "entry 9 is -8.001"),
    "shorter": (lambda: update(0)[:-1], r"shape \(10,\)"),
    "other dimensions": (lambda: update(0)[None], r"shape \(1, 11\)"),
    "whole numbers": (lambda: update(0).astype(np.int64), "no float32"),
    "half precision": (lambda: update(0).astype(np.float16), "no float32"),
    "a list": (lambda: update(0).tolist(), "no float32"),
}


def test_a_metric_at_its_bound_belongs() -> None:
    round_ = terms(metrics={"loss": 2.5})
    opened = summed(round_, [(update(0), 1, {"loss": 2.5}), (update(1), 1, {"loss": -2.5})])
    assert opened.metrics["loss"] == pytest.approx(0.0, abs=round_.error)


@pytest.mark.parametrize("name", WRONG)
def test_an_update_that_does_not_belong_is_refused_with_the_reason(name: str) -> None:
    make, reason = WRONG[name]
    with pytest.raises(UnfitUpdate, match=reason):
        Contribution(terms(), make(), 1, {})


@pytest.mark.parametrize("weight", [0, -1, 10, 1.5, True, "2"])
def test_a_weight_that_is_not_declared_is_refused(weight: Any) -> None:
    with pytest.raises(UnfitUpdate, match="weight"):
        Contribution(terms(max_weight=9), update(0), weight, {})


@pytest.mark.parametrize("metrics", [{}, {"loss": math.nan}, {"loss": 2.6}, {"loss": -2.6}, {"loss": 1.0, "more": 1.0}])
def test_metrics_that_are_not_declared_are_refused(metrics: dict[str, float]) -> None:
    with pytest.raises(UnfitUpdate, match="metric"):
        Contribution(terms(metrics={"loss": 2.5}), update(0), 1, metrics)


def test_a_longer_update_is_scaled_to_the_clip_and_a_shorter_one_is_kept() -> None:
    values = update(0).astype(np.float64)
    norm = float(np.linalg.norm(values))
    short = summed(terms(clip=norm * 1.01), [(values, 1, {})] * 2).mean()
    long = summed(terms(clip=norm / 4), [(values, 1, {})] * 2).mean()
    assert np.abs(short - values).max() < 1e-6
    assert np.abs(long - values / 4).max() < 1e-6
    zero = summed(terms(clip=1.0), [(np.zeros(SIZE), 1, {})] * 2).mean()
    assert not zero.any()


@pytest.mark.parametrize("worst", [np.inf, -np.inf, np.nan])
def test_a_clip_lets_nothing_infinite_in(worst: float) -> None:
    with pytest.raises(UnfitUpdate, match="entry 4 is"):
        Contribution(terms(clip=1.0), np.where(np.arange(SIZE) == 4, worst, update(0)), 1, {})


def test_a_clip_far_below_one_holds_updates_below_one() -> None:
    values = np.full(SIZE, 0.5 / math.sqrt(SIZE))
    assert np.linalg.norm(summed(terms(clip=0.125), [(values, 1, {})] * 2).mean()) == pytest.approx(0.125, rel=1e-5)


def test_noise_is_added_to_every_metric() -> None:
    round_ = terms(clip=1.0, noise=0.3, metrics={"first": 2.0, "second": 2.0})
    parts = [(np.zeros(SIZE), 1, {"first": 1.0, "second": 1.0})] * 2
    found = [summed(round_, parts).metrics for _ in range(8)]
    for name in ("first", "second"):
        assert len({metrics[name] for metrics in found}) > 1


def test_the_clip_comes_before_the_bound() -> None:
    large = np.zeros(SIZE)
    large[3] = 1e6
    assert summed(terms(clip=2.0), [(large, 1, {})] * 2).mean()[3] == pytest.approx(2.0)


def test_noise_has_the_variance_of_the_cohort_that_is_there() -> None:
    size = 4000
    round_ = terms(clients=4, size=size, chunk=1024, minimum=2, clip=1.0, noise=0.3)
    zero = np.zeros(size, np.float32)
    for cohort in (2, 4):
        opened = summed(round_, [(zero, 1, {})] * cohort)
        assert opened.noise == pytest.approx(0.3 * math.sqrt(cohort / 2))
        assert opened.total().std() == pytest.approx(opened.noise, rel=0.1)
        assert opened.weight == cohort


def test_a_mask_that_did_not_cancel_is_no_sum() -> None:
    round_ = terms()
    elements = round_.codec.ring.zeros(Layout(round_).elements)
    elements[:] = 3
    with pytest.raises(WrongSum, match="cancel"):
        Opened(round_, elements, (0, 1))


def test_an_impossible_weight_is_no_sum() -> None:
    round_ = terms(max_weight=5)
    good = np.concatenate([chunk.copy() for chunk in Contribution(round_, update(0), 4, {}).chunks()])
    elements = good + good
    elements[SIZE + SIZE // 7] += 100
    with pytest.raises(WrongSum, match="weights"):
        Opened(round_, elements, (0, 1))


BAD_TERMS: list[tuple[dict[str, Any], str]] = [
    ({"protocol": "plain"}, "protocol"),
    ({"session": b"short"}, "16 bytes"),
    ({"round": -1}, "round"),
    ({"size": 0}, "entries"),
    ({"minimum": 1}, "one client"),
    ({"minimum": 4}, "invited"),
    ({"bound": math.nan}, "above zero"),
    ({"clip": 0.0}, "above zero"),
    ({"metrics": {"loss": math.inf}}, "above zero"),
    ({"max_weight": 0}, "weight"),
    ({"max_weight": 2**31}, "bits"),
    ({"bits": 16}, "bits"),
    ({"noise": 1.0}, "clip"),
    ({"noise": 0.0, "clip": 1.0}, "noise"),
    ({"noise": 1.0, "clip": 1.0, "max_weight": 2}, "max_weight"),
    ({"quorum": (1, 3)}, "quorum"),
    ({"quorum": (1, 1)}, "quorum"),
    ({"degree": 3}, "neighbors"),
    ({"chunk": 12}, "chunk"),
    ({"chunk": 1 << 23}, "chunk"),
]


@pytest.mark.parametrize(("changed", "reason"), BAD_TERMS)
def test_terms_that_mean_nothing_are_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadConfig, match=reason):
        terms(**changed)


@pytest.mark.parametrize("aggregators", [0, 1])
def test_sharing_takes_two_aggregators(aggregators: int) -> None:
    with pytest.raises(BadConfig, match="aggregators"):
        terms("sharing", aggregators=aggregators)


def test_every_fact_of_the_terms_changes_their_digest() -> None:
    changes: list[dict[str, Any]] = [
        {"session": bytes(16)},
        {"round": 1},
        {"size": 12},
        {"bound": 9.0},
        {"minimum": 3},
        {"bits": 64},
        {"max_weight": 2},
        {"metrics": {"loss": 1.0}},
        {"clip": 1.0},
        {"clip": 1.0, "noise": 1.0},
        {"quorum": (1, 2)},
        {"chunk": 16},
        {"clients": 4},
        {"clients": 6, "degree": 4},
        {"protocol": "sharing"},
        {"roster": Roster({n: identity(n + 1).public for n in range(3)}, identity(99).public)},
    ]
    digests = {terms(**changed).digest for changed in [{}, *changes]}
    assert len(digests) == len(changes) + 1
    assert terms().digest == terms(bound=8).digest


def test_a_roster_with_one_key_twice_is_refused() -> None:
    with pytest.raises(BadConfig, match="one key"):
        Roster({0: identity(0).public, 1: identity(0).public}, identity(99).public)
    with pytest.raises(BadConfig, match="number"):
        Roster({2**63: identity(0).public}, identity(99).public)


@pytest.mark.parametrize("holders", range(2, 40))
@pytest.mark.parametrize("quorum", [(1, 2), (2, 3), (3, 4)])
def test_two_thresholds_of_one_set_always_meet(holders: int, quorum: tuple[int, int]) -> None:
    threshold = terms(quorum=quorum).threshold(holders)
    assert holders < 2 * threshold
    assert threshold <= holders


@pytest.mark.parametrize("bits", [32, 64])
def test_a_long_vector_is_encoded_and_read_piece_by_piece(bits: int) -> None:
    size = 3 * AT_A_TIME + 17
    agreed = terms(size=size, chunk=2 * AT_A_TIME + 8, bits=bits, max_weight=3, metrics={"loss": 2.0})
    vectors = [np.random.Generator(np.random.PCG64(seed)).uniform(-8, 8, size) for seed in range(2)]
    scale = agreed.codec.scale
    expected = (np.rint(vectors[0] * 2 * scale) + np.rint(vectors[1] * 3 * scale)) / scale
    opened = summed(agreed, [(vectors[0], 2, {"loss": 0.5}), (vectors[1], 3, {"loss": 0.5})])
    assert np.array_equal(opened.total(), expected)
    assert np.array_equal(opened.total(np.float32), expected.astype(np.float32))
    assert np.array_equal(opened.mean(), expected / 5)
    assert abs(opened.metrics["loss"] - 0.5) < 1e-5
    assert np.array_equal(opened.taken(), (expected / 5).astype(np.float32))


def test_without_cryptography_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingExtra, match=r"fedseal\[federation\]"):
        runpy.run_path(str(secagg_package.__file__))
