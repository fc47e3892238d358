"""Sentences: what counts as a word, and what of order, padding and special tokens must not count."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedseal.errors import BadConfig, UnfitBatch
from fedseal.metric import Grader, SampleScores, Scores, score
from fedseal.metric.text import rouge, words
from fedseal.types import Batch, Outcome, Reconstruction
from metric.stub import ids, text

OUTCOME = Outcome("converged", "test", None, 1, 0.0)
TEXT = text(10)
TRUTH = ids(TEXT, "the cat sat on the mat", "dogs bark at night")
OTHERS = ids(TEXT, "the sun is hot", "the moon is on the sea", "fish swim")


def graded(inputs: Tensor | None, labels: Tensor | None = None, gallery: Tensor | None = OTHERS) -> Scores:
    batch = Batch(TRUTH, torch.tensor([0, 1]))
    return score(Reconstruction(inputs, labels, OUTCOME), batch, modality=TEXT, gallery=gallery)


def values(sample: SampleScores) -> dict[str, float | None]:
    return {score.name: score.value for score in sample.scores}


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("We, the People!", ["we", "the", "people"]),
        ("covid-19's 3rd", ["covid", "19", "s", "3rd"]),
        ("naïve Straße", ["naïve", "straße"]),
        ("cafe\u0301", ["cafe\u0301"]),
        ("日本語", ["日", "本", "語"]),
        ("привет мир", ["привет", "мир"]),
        ("ok 👍👍", ["ok", "👍", "👍"]),
        ("नमस्ते", ["नमस्ते"]),
        ("", []),
        ("?!", []),
    ],
)
def test_words_of_many_scripts(sentence: str, expected: list[str]) -> None:
    assert words(sentence) == expected


def test_rouge_is_lins_by_hand() -> None:
    found = rouge("police kill the gunman", "police killed the gunman")  # the example of Lin's section 3
    assert found["rouge1"] == pytest.approx(3 / 4)
    assert found["rouge2"] == pytest.approx(1 / 3)
    assert found["rougeL"] == pytest.approx(3 / 4)
    assert rouge("the gunman kill police", "police kill the gunman")["rougeL"] == pytest.approx(2 / 4)


@settings(max_examples=20, deadline=None)
@given(st.permutations(["red", "green", "blue", "black"]))
def test_rouge_1_knows_no_order_and_the_others_do(order: list[str]) -> None:
    found = rouge(" ".join(order), "red green blue black")
    assert found["rouge1"] == pytest.approx(1.0)
    whole = order == ["red", "green", "blue", "black"]
    assert (found["rouge2"] == pytest.approx(1.0)) == (found["rougeL"] == pytest.approx(1.0)) == whole


def test_nine_words_of_ten_are_nine_tenths() -> None:
    assert rouge("a b c d e f g h i x", "a b c d e f g h i j")["rouge1"] == 0.9


def test_what_has_no_words_is_not_measured() -> None:
    assert rouge("red", "?!") == {"rouge1": None, "rouge2": None, "rougeL": None}
    assert rouge("red", "red") == {"rouge1": 1.0, "rouge2": None, "rougeL": 1.0}


def test_the_very_sentences_score_fully_in_whatever_order_they_come() -> None:
    found = graded(TRUTH.flip(0), torch.tensor([1, 0]))
    assert [sample.matched for sample in found.samples] == [1, 0]
    assert all(score.value == 1.0 for sample in found.samples for score in sample.scores)
    assert [sample.label_correct for sample in found.samples] == [True, True]
    assert (found.headline, found.mean("rouge1"), found.psnr) == ("rouge1", 1.0, None)


def test_one_wrong_token_and_two_exchanged_ones() -> None:
    wrong, swapped = TRUTH.clone(), TRUTH.clone()
    wrong[0, 2] = 999
    assert values(graded(wrong).samples[0]) == pytest.approx(
        {"rouge1": 5 / 6, "rouge2": 3 / 5, "rougeL": 5 / 6, "tokens": 5 / 6, "sentence": 0.0}
    )
    swapped[0, [2, 3]] = TRUTH[0, [3, 2]]
    found = values(graded(swapped).samples[0])
    assert (found["rouge1"], found["sentence"]) == (1.0, 0.0)
    assert found["tokens"] == pytest.approx(4 / 6)


def test_special_tokens_and_padding_count_nowhere() -> None:
    bare = torch.where(TRUTH <= 2, 0, TRUTH)  # neither [CLS] nor [SEP]
    assert all(score.value == 1.0 for sample in graded(bare).samples for score in sample.scores)
    framed = torch.where(TRUTH > 2, 1, TRUTH)
    assert [sample.matched for sample in graded(framed).samples] == [None, None]


def test_fewer_and_more_sentences_than_there_are() -> None:
    assert [s.matched for s in graded(TRUTH[1:]).samples] == [None, 0]
    assert [s.matched for s in graded(torch.cat([OTHERS, TRUTH])).samples] == [3, 4]
    missed = graded(TRUTH[1:]).samples[0]
    assert all(score.value is None for score in missed.scores)
    assert all(baseline.value is not None for score in missed.scores for baseline in score.baselines)


def test_ids_that_are_no_whole_numbers_or_not_in_the_vocabulary() -> None:
    loose = TRUTH.double()
    loose[1] = math.nan
    found = graded(loose + 0.2)
    assert found.samples[0].score("tokens") is not None
    assert values(found.samples[0])["tokens"] == 1.0
    assert found.samples[1].matched is None
    assert values(graded(torch.full_like(TRUTH, 5000)).samples[0])["rouge1"] == 0.0


def test_blind_guesses_are_special_tokens_frequent_ones_and_the_best_of_many() -> None:
    (sample,) = (
        Grader(Batch(TRUTH[:1], torch.tensor([0])), modality=TEXT, gallery=OTHERS)
        .score(Reconstruction(TRUTH[:1], None, OUTCOME))
        .samples
    )
    names = [baseline.name for baseline in sample.headline.baselines]
    assert names == ["special tokens only", "most frequent tokens", "best of 3 unrelated sentences"]
    special, frequent, best = (baseline.value for baseline in sample.headline.baselines)
    assert special == 0.0
    # "the" (3 times), "is" (2), then four others, of which "on" is in "the cat sat on the mat" as well
    assert frequent == pytest.approx(2 / 6)
    assert best == pytest.approx(3 / 6)  # "the moon is on the sea"


def test_without_unrelated_sentences_their_blind_guesses_have_no_value() -> None:
    (sample, _) = graded(TRUTH, gallery=None).samples
    assert [baseline.value for baseline in sample.headline.baselines] == [0.0, None, None]


def test_labels_of_positions_are_not_counted() -> None:
    batch = Batch(TRUTH, TRUTH.masked_fill(TRUTH <= 2, -100))
    grader = Grader(batch, modality=TEXT)
    found = Reconstruction(TRUTH, batch.labels, OUTCOME)
    assert [sample.label_correct for sample in grader.score(found).samples] == [None, None]
    assert grader.score_labels(found) is None


def test_guesses_may_be_shorter_or_longer() -> None:
    longer = torch.nn.functional.pad(TRUTH, (0, 5), value=999)
    assert [values(s)["tokens"] for s in graded(longer).samples] == [1.0, 1.0]
    assert [values(s)["sentence"] for s in graded(longer).samples] == [0.0, 0.0]
    assert values(graded(TRUTH[:, :3]).samples[0])["tokens"] == pytest.approx(2 / 6)
    assert [values(s)["sentence"] for s in graded(TRUTH[:, :8]).samples] == [1.0, 1.0]


def test_what_is_no_row_of_ids_is_refused() -> None:
    with pytest.raises(UnfitBatch, match="the reconstruction's inputs"):
        graded(TRUTH[..., None].expand(-1, -1, 4))
    with pytest.raises(BadConfig, match="gallery"):
        graded(TRUTH, gallery=OTHERS[:, :5])
    with pytest.raises(UnfitBatch, match="example 1 of the batch holds nothing"):
        Grader(Batch(TRUTH * torch.tensor([[1], [0]]), torch.tensor([0, 1])), modality=TEXT).score(
            Reconstruction(TRUTH, None, OUTCOME)
        )
