"""How sentences and rows are laid out, and when they count as recovered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedseal.audit.record import Sentence
from fedseal.metric.scores import Baseline, SampleScores, Score
from fedseal.report.examples import GAP, example_of, laid_out, marks, text_budget, tokens
from fedseal.report.kind import judge
from report.written import Read, cell, row, sentence


def spoken(*words: str) -> Sentence:
    return Sentence(text=" ".join(words), tokens=words)


@pytest.mark.parametrize(
    ("truth", "guess", "expected"),
    [
        (("a", "b"), ("a", "b"), ["right", "right"]),
        (("a", "b"), ("b", "a"), ["moved", "moved"]),
        (("a", "b"), ("x", "b"), ["wrong", "right"]),
        (("a", "b"), ("a", "a"), ["right", "wrong"]),  # each true token serves once
        (("a", "b"), ("b", "b"), ["wrong", "right"]),  # and first for its own place
        (("a", "b", "c"), ("x", "a", "a"), ["wrong", "moved", "wrong"]),
        (("a",), ("a", "b", "a"), ["right", "wrong", "wrong"]),
        (("[CLS]", "a"), ("[CLS]", "[SEP]", "a"), ["special", "special", "moved"]),
        (("a", "b"), ("", "b"), ["wrong", "right"]),
    ],
)
def test_tokens_are_right_moved_or_wrong(truth: tuple[str, ...], guess: tuple[str, ...], expected: list[str]) -> None:
    assert marks(spoken(*truth), spoken(*guess), ("[CLS]", "[SEP]")) == expected


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abcd"), max_size=6))
def test_right_and_moved_tokens_are_those_that_both_share(truth: list[str], guess: list[str]) -> None:
    found = marks(spoken(*truth), spoken(*guess), ())
    shared = sum(min(truth.count(word), guess.count(word)) for word in set(truth))
    assert found.count("right") + found.count("moved") == shared
    assert found.count("right") == sum(a == b for a, b in zip(truth, guess, strict=False))


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (("play", "##ing", "on"), ["play", "+ing", "on"]),
        (("Ġplay", "ing", "Ġon"), ["play", "+ing", "on"]),
        (("▁play", "ing", "▁on"), ["play", "+ing", "on"]),
        (("play", "ing", ""), ["play", "ing", GAP]),
    ],
)
def test_pieces_of_words_are_joined(pieces: tuple[str, ...], shown: list[str]) -> None:
    found = tokens(spoken(*pieces), ["plain"] * len(pieces))
    assert ["+" * token.joined + token.text for token in found] == shown


UBER = Sentence(
    text="über b",
    tokens=("Ġ", "Ã", "¼", "ber", "Ġb"),
    pieces=("Ġ", "ü", "", "ber", "Ġb"),
    confidence=(0.9, 0.8, 0.7, 1, 1),
)


def test_tokens_that_make_one_character_are_shown_as_one_with_the_mark_and_confidence_of_the_worst() -> None:
    found = tokens(UBER, ["right", "right", "moved", "right", "wrong"])
    assert ["+" * token.joined + token.text for token in found] == ["ü", "+ber", "b"]
    assert [token.mark for token in found] == ["moved", "right", "wrong"]
    assert found[0].help == "token of the sentence, at another place, confidence 70 %"


def test_a_script_without_spaces_is_shown_without_spaces() -> None:
    spoken = Sentence(text="你好", tokens=("ä½ł", "å¥", "½"), pieces=("你", "好", ""))
    assert [(t.text, t.joined) for t in tokens(spoken, ["plain"] * 3)] == [("你", False), ("好", True)]


def test_tokens_are_compared_by_what_they_are_not_by_how_they_look() -> None:
    cut = Sentence(text="\ufffd", tokens=("Ã", "Ã"), pieces=("\ufffd", "\ufffd"))
    assert marks(UBER, cut, ()) == ["wrong", "right"]


def test_what_would_break_a_line_or_turn_its_direction_is_spelled_out() -> None:
    spoken = Sentence(text="a\nb", tokens=("Ġa", "Ċ", "Ġ\u202e", "Ġ", "Ġb"), pieces=("Ġa", "\n", "Ġ\u202e", "Ġ", "Ġb"))
    assert [token.text for token in tokens(spoken, ["plain"] * 5)] == ["a", "\\n", "\\u202e", "␣", "b"]


def test_a_long_value_is_shown_short_and_kept_whole() -> None:
    long, other = "x" * 5000, "x" * 4999 + "y"
    rows = row(Read({"job": long, "n" * 5000: 1}, {"job": other, "n" * 5000: 1}))
    found = laid_out(rows, 0)
    assert max(len(part) for e in found.entries for part in (e.column, e.truth, e.guess)) < 90
    assert found.entries[0].truth.endswith("… (5,000 characters)")
    assert found.entries[0].right is False
    assert rows.truth[0].values["job"] == long


def test_confidence_stands_beside_what_the_mark_means() -> None:
    found = laid_out(sentence(Read("the cat", "the dog", confidence=0.5)), 0)
    assert [token.help for token in found.guess[1:3]] == [
        "right token at its place, confidence 50 %",
        "token that the sentence does not have, confidence 50 %",
    ]


def test_a_row_is_laid_out_by_column() -> None:
    truth: dict[str, str | int | float | bool | None] = {"age": 41, "job": "cook", "pay": 0.1 + 0.2}
    found = laid_out(row(Read(truth, {**truth, "job": "nurse"}, confidence=0.9)), 0)
    assert [(e.column, e.truth, e.guess, e.right) for e in found.entries] == [
        ("age", "41", "41", True),
        ("job", "cook", "nurse", False),
        ("pay", "0.3", "0.3", True),
    ]
    assert found.has_confidence
    assert not laid_out(row(Read(truth, None)), 0).found


def test_what_is_a_picture_is_not_laid_out() -> None:
    pictured = cell(Read("a b", "a b")).model_copy(update={"content": None})
    assert example_of(pictured, 0) is None


def test_a_page_affords_the_leakiest_of_very_many() -> None:
    long = " ".join(["word"] * 500)
    afforded = text_budget([cell(Read(long, long, first=i)) for i in range(100)])
    assert 0 < sum(afforded.illustrated) < 100
    assert list(afforded.illustrated) == sorted(afforded.illustrated, reverse=True)
    assert all(text_budget([cell(Read("a b", "a b", first=i)) for i in range(100)]).illustrated)


def sample(name: str, value: float | None, blind: float | None) -> SampleScores:
    return SampleScores(0, 0, (Score(name, "", value, True, (Baseline("blind", blind),)),), None, None)


@pytest.mark.parametrize(
    ("name", "value", "blind", "finding"),
    [
        ("rouge1", 0.9, 0.3, "recovered"),
        ("rouge1", 0.89, 0.3, "traces"),
        ("rouge1", 0.4, 0.3, "traces"),
        ("rouge1", 0.39, 0.3, "none"),
        ("rouge1", 0.95, 0.95, "none"),  # no better than the blind guess
        ("rouge1", 1.0, None, "recovered"),
        ("rouge1", None, 0.3, "unmeasured"),
        ("columns", 1.0, 0.5, "recovered"),
        ("columns", 0.95, 0.5, "traces"),
        ("columns", 0.6, 0.5, "traces"),
        ("columns", 0.55, 0.5, "none"),
        ("columns", 1.0, 1.0, "none"),
        ("columns", 1.0, None, "recovered"),
    ],
)
def test_when_sentences_and_rows_count_as_recovered(
    name: str, value: float | None, blind: float | None, finding: str
) -> None:
    assert judge(sample(name, value, blind)) == finding
