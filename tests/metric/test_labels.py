"""Labels in whatever order against matching one by one and against guessers that really guess."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedseal.metric import Grader, score, score_labels
from fedseal.metric.labels import score_findings, targets_of
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


@settings(deadline=None)
@given(LABELS, st.lists(st.integers(-1, 4), max_size=8))
def test_every_named_label_is_crossed_off_once(true: list[int], named: list[int]) -> None:
    found = score_labels(true, named, 5)
    assert found is not None
    assert (found.right, found.of) == (overlap(true, named), len(true))
    assert found.value == overlap(true, named) / len(true)


@settings(deadline=None)
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


FINDINGS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_findings_count_one_by_one_in_whatever_order_the_examples_come(order: tuple[int, ...]) -> None:
    named = FINDINGS[list(order)].clone()
    perfect = score_findings(FINDINGS, named * 0.9 + 0.05)
    assert perfect is not None
    assert (perfect.right, perfect.of, perfect.value) == (9, 9, 1.0)
    named[0, 1] = 1 - named[0, 1]
    named[2, 0] = 1 - named[2, 0]
    worse = score_findings(FINDINGS, named)
    assert worse is not None
    assert worse.right == max(
        int((FINDINGS[list(places)] == named).sum()) for places in itertools.permutations(range(3))
    )


def test_blind_guesses_of_findings_are_the_means_over_all_guesses() -> None:
    found = score_findings(FINDINGS, FINDINGS[:2])
    assert found is not None
    values = [baseline.value for baseline in found.baselines]
    every = [torch.tensor(bits).view(2, 3) for bits in itertools.product([0.0, 1.0], repeat=6)]
    uniform = sum(float((guess == FINDINGS[:2]).sum()) for guess in every) / len(every) / 9
    assert values[0] == pytest.approx(uniform)
    assert values[1] == pytest.approx(4 / 9 * 2 / 3)  # 4 of 9 are not there
    assert values[2] == pytest.approx(6 / 9 * 2 / 3)  # 2 of 3 in every column
    assert found.chance == pytest.approx(uniform)
    assert found.value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (torch.tensor([0, 4]), "classes"),
        (torch.tensor([[0, 4]]), "positions"),
        (torch.tensor([[0.2, 0.8], [1.0, 0.0]]), "soft"),
        (torch.tensor([[1.0, 0.0], [1.0, 1.0]]), "findings"),
        (torch.tensor([[1.0], [1.0]]), "findings"),
        (torch.tensor([0.0, 1.0]), "findings"),
        (torch.tensor([[0.2], [1.0]]), "numbers"),
        (torch.tensor([[-1.0, 2.0]]), "numbers"),
        (torch.tensor([0.25]), "numbers"),
    ],
)
def test_what_labels_are(labels: torch.Tensor, kind: str) -> None:
    assert targets_of(labels) == kind


def _graded(true: torch.Tensor, named: torch.Tensor | None) -> tuple[object, list[bool | None]]:
    pixels = torch.rand(len(true), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    grader = Grader(Batch(pixels, true), modality=Image(shape=(1, 8, 8)), classes=3)
    found = Reconstruction(
        pixels.flip(0), None if named is None else named.flip(0), Outcome("budget", "a", 1.0, 0, 0.0)
    )
    counted = grader.score_labels(found)
    right = None if counted is None else (counted.right, counted.of)
    return right, [sample.label_correct for sample in grader.score(found).samples]


def test_grading_targets_that_are_not_one_class() -> None:
    off = FINDINGS.clone()
    off[1, 2] = 1.0
    assert _graded(FINDINGS, FINDINGS) == ((9, 9), [True, True, True])
    assert _graded(FINDINGS, off) == ((8, 9), [True, False, True])
    assert _graded(FINDINGS, None) == (None, [None, None, None])
    assert _graded(FINDINGS, torch.tensor([0, 1, 2])) == (None, [None, None, None])  # classes are no findings
    one_hot = torch.eye(3)
    assert _graded(one_hot, one_hot) == ((3, 3), [True, True, True])  # classes
    assert _graded(one_hot, one_hot.clamp_min(0.1 * torch.ones(3, 3)))[1] == [True, True, True]
    assert _graded(one_hot, torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]])) == ((8, 9), [False, True, True])
    numbers = torch.tensor([[0.3], [2.0], [-1.0]])
    assert _graded(numbers, numbers) == (None, [None, None, None])  # none is right or wrong
    yes = torch.tensor([1, 0, 1])
    assert _graded(yes, torch.tensor([[0.9], [0.8], [1.0]])) == ((2, 3), [True, False, True])
    assert _graded(yes.float(), torch.tensor([[0.9], [0.1], [1.0]])) == ((3, 3), [True, True, True])
