"""Labels in whatever order against matching one by one and against guessers that really guess."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedseal.metric import Grader, score, score_labels
from fedseal.modality import Image
from fedseal.types import Batch, Outcome, Reconstruction

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=6)


def overlap(true: list[int], named: list[int]) -> int:
    """One by one: every named label is crossed off once."""
    left = list(true)
    for label in named:
        if label in left:
            left.remove(label)
    return len(true) - len(left)


@given(LABELS, st.lists(st.integers(-1, 4), max_size=8))
def test_every_named_label_is_crossed_off_once(true: list[int], named: list[int]) -> None:
    found = score_labels(true, named, 5)
    assert found is not None
    assert (found.right, found.of) == (overlap(true, named), len(true))
    assert found.value == overlap(true, named) / len(true)


@given(LABELS, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_all_labels_are_all(true: list[int], chance: random.Random) -> None:
    shuffled = chance.sample(true, len(true))
    found = score_labels(true, shuffled, 5)
    assert found == score_labels(shuffled, true, 5)
    assert found is not None
    assert found.value == 1.0


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=4), st.integers(0, 5))
def test_blind_guesses_are_the_means_over_all_guesses(true: list[int], tries: int) -> None:
    found = score_labels(true, [0] * tries, 3)
    assert found is not None
    uniform, even, constant = (baseline.value for baseline in found.baselines)
    guesses = [overlap(true, list(guess)) / len(true) for guess in itertools.product(range(3), repeat=tries)]
    assert uniform == pytest.approx(sum(guesses) / len(guesses))
    each, rest = divmod(tries, 3)
    spread = [
        overlap(true, [*(list(range(3)) * each), *more]) / len(true) for more in itertools.combinations(range(3), rest)
    ]
    assert even == pytest.approx(sum(spread) / len(spread))
    assert constant == max(overlap(true, [label] * tries) for label in range(3)) / len(true)


def test_the_chance_is_the_better_guess_of_those_who_were_told_nothing() -> None:
    same = score_labels([2] * 4, [2] * 4, 10)
    mixed = score_labels([0, 1, 2, 3], [0, 1, 2, 3], 10)
    assert same is not None
    assert mixed is not None
    assert same.baselines[-1].value == 1.0
    assert same.chance == pytest.approx(0.1)
    assert mixed.chance == pytest.approx(0.4)


def test_naming_more_labels_than_there_are_gains_nothing_over_a_blind_guess() -> None:
    everything = score_labels([7, 7, 3], [*range(10)] * 3, 10)
    assert everything is not None
    assert everything.value == everything.chance == 1.0


def test_unknown_classes_leave_only_the_constant_guess() -> None:
    found = score_labels([1, 1, 2], [1, 2, 2], None)
    assert found is not None
    assert [baseline.value for baseline in found.baselines] == [None, None, 2 / 3]
    assert found.chance is None


def test_no_labels_have_no_score() -> None:
    assert score_labels([1, 2], None, 10) is None


def test_a_grader_grades_as_the_function_does_and_reads_soft_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    image = Image(shape=(1, 12, 12))
    batch = Batch(torch.rand(3, 1, 12, 12, generator=generator), torch.tensor([1, 1, 2]))
    soft = Batch(batch.inputs, torch.nn.functional.one_hot(batch.labels, 4) * 0.9 + 0.025)
    gallery = torch.rand(5, 1, 12, 12, generator=generator)
    found = Reconstruction(batch.inputs.flip(0), torch.tensor([1, 2, 3]), Outcome("budget", "", None, 0, 0.0))
    grader = Grader(batch, modality=image, gallery=gallery, classes=4)
    assert grader.score(found) == grader.score(found) == score(found, batch, modality=image, gallery=gallery)
    assert grader.baselines is grader.baselines
    named = grader.score_labels(found)
    assert named is not None
    assert (named.right, named.of) == (2, 3)
    assert Grader(soft, modality=image, classes=4).score_labels(found) == named
    assert grader.score_labels(Reconstruction(found.inputs, None, found.outcome)) is None
