"""LAMP: its moves, its starts, what the prior decides, and that the prior knows nothing of the sentences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attack.cases import seeded
from fedseal import Batch, LocalTraining, Observation, Text, ThreatModel, local_update, zoo
from fedseal.attack.labels.ways import BEST
from fedseal.attack.search.matching import Search
from fedseal.attack.text.embedding import relaxed_sentences
from fedseal.attack.text.lamp import Lamp, MeanLength, embedding_distance, lamp, new_order, put
from fedseal.attack.text.search import placed
from fedseal.errors import BadConfig, UnfitModel, UnknownToAdversary
from fedseal.zoo.prior import OPENING, RUN, held_out_sentences, language_prior, prior_clauses

TEXT = Text(zoo.bpe(), length=16)
MODEL = zoo.tiny_bert(width=16, layers=1, seed=1)


def client(lines: list[str], threat: ThreatModel | None = None) -> tuple[Batch, Observation]:
    batch = zoo.text_batch(TEXT, lines)
    update = local_update(MODEL, batch, training=LocalTraining.fedsgd())
    return batch, (threat or ThreatModel.honest_but_curious()).observe(MODEL, update, modality=TEXT)


BATCH, ONE = client(["The Senate shall choose their Officers"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(2, 12), st.integers(0, 2**16))
def test_a_move_keeps_every_token(count: int, seed: int) -> None:
    assert sorted(new_order(count, seeded(seed)).tolist()) == list(range(count))


def test_moves_swap_shift_and_turn() -> None:
    generator = seeded()
    seen = {tuple(new_order(4, generator).tolist()) for _ in range(300)}
    assert {(1, 0, 2, 3), (1, 2, 0, 3), (2, 3, 0, 1), (3, 0, 1, 2), (3, 1, 2, 0)} <= seen


def running(attack: Lamp, observation: Observation) -> Search:
    problem = relaxed_sentences(observation, "test")
    known = replace(attack.search, labels=BEST.beforehand(observation, seeded()))
    return Search(placed(known, problem, problem.random(seeded())), problem.observation, seeded())


def test_a_search_goes_on_from_where_it_is_put() -> None:
    problem, search = relaxed_sentences(ONE, "test"), running(lamp(steps=2), ONE)
    there = problem.random(seeded(9))
    put(search, problem, there)
    torch.testing.assert_close(search.found().inputs, there)


def test_the_distance_is_zero_at_the_truth_and_grows_with_a_wrong_order() -> None:
    problem, search = relaxed_sentences(ONE, "test"), running(lamp(steps=2), ONE)
    truth = problem.table[BATCH.inputs[:, : problem.known.shape[1]]]
    assert embedding_distance(search, problem, truth) < 1e-5
    assert embedding_distance(search, problem, truth.flip(1)) > 1e-3
    assert float(MeanLength.of(problem)(truth)) < 1e-2 < float(MeanLength.of(problem)(2 * truth))


def test_a_turn_keeps_a_move_that_lowers_the_cost_and_no_other() -> None:
    attack, problem = lamp(steps=2, proposals=80), relaxed_sentences(ONE, "test")
    search = running(attack, ONE)
    truth = problem.table[BATCH.inputs[:, : problem.known.shape[1]]]
    swapped = truth[:, [1, 0, *range(2, truth.shape[1])]]
    put(search, problem, swapped)
    assert attack._turn(search, problem, seeded()) == 1
    assert torch.equal(problem.ids(search.found().inputs), BATCH.inputs)
    assert attack._turn(search, problem, seeded()) == 0
    assert torch.equal(problem.ids(search.found().inputs), BATCH.inputs)


def test_the_prior_can_decide() -> None:
    """A prior that is sure of a sentence in reverse order wins over the distance, if its weight is large."""
    reverse = BATCH.inputs.clone()
    reverse[:, :2] = BATCH.inputs[:, [1, 0]]
    calls = []

    def prior(ids: Tensor) -> Tensor:
        calls.append(len(ids))
        return (ids != reverse).double().sum(1)

    problem = relaxed_sentences(ONE, "test")
    attack = replace(lamp(steps=2, proposals=80, fluency=100.0), prior=prior)
    search = running(attack, ONE)
    put(search, problem, problem.table[BATCH.inputs[:, : problem.known.shape[1]]])
    assert attack._turn(search, problem, seeded()) == 1
    assert torch.equal(problem.ids(search.found().inputs), reverse)
    assert calls == [81]


def test_it_runs_from_end_to_end_on_a_batch_and_is_repeatable() -> None:
    batch, observation = client(["The Senate shall choose their Officers", "He has refused his Assent to Laws"])
    attack = lamp(steps=8, starts=3, proposals=4)
    found, again = (attack(observation, generator=seeded(2)) for _ in range(2))
    assert found.inputs is not None
    assert again.inputs is not None
    assert torch.equal(found.inputs, again.inputs)
    assert set(found.inputs.flatten().tolist()) <= {*batch.inputs.flatten().tolist(), TEXT.pad}
    assert "moves of tokens were kept" in found.outcome.note
    assert (found.outcome.route, found.outcome.steps) == ("lamp", 8)


def test_what_it_cannot_search_it_refuses() -> None:
    with pytest.raises(UnknownToAdversary, match="local training"):
        lamp(steps=1)(client(["We the People"], ThreatModel.unknown_training())[1], generator=seeded())
    with pytest.raises(UnfitModel, match=r"no fs\.LanguageModel"):
        lamp(steps=1)(replace(ONE, model=torch.nn.Linear(1, 1)), generator=seeded())


def runs(line: str) -> set[tuple[str, ...]]:
    words = ["".join(c for c in word if c.isalnum()) for word in line.lower().split()]
    words = [word for word in words if word]
    return {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}


def test_the_prior_learns_from_no_sentence_that_is_attacked() -> None:
    """No five words in a row of a held-out sentence stand in what the prior is trained on, however it is cut."""
    clauses = prior_clauses()
    learned = {run for clause in clauses for run in runs(clause)}
    assert len(clauses) > 100
    assert len(learned) > 1000
    for words in ((6, 10), (6, 14), (OPENING, 30)):
        for line in held_out_sentences(40, words=words):
            assert learned.isdisjoint(runs(line)), line
    excluded = clauses[3]
    assert not any(runs(excluded) & runs(clause) for clause in prior_clauses([excluded]))
    with pytest.raises(BadConfig, match="held out"):
        held_out_sentences(10_000)


def test_a_briefly_trained_prior_prefers_sentences_to_their_words_in_disorder() -> None:
    prior = language_prior(TEXT, steps=15, width=64, layers=1)
    rows = TEXT.encode(held_out_sentences(20), truncate=True)
    shuffled = rows.clone()
    for row in shuffled:
        count = int((row != TEXT.pad).sum())
        row[:count] = row[torch.randperm(count, generator=seeded(int(row[0])))]
    assert float((prior(rows) < prior(shuffled)).double().mean()) > 0.6
    assert prior(rows).shape == (20,)
    again = language_prior(TEXT, steps=15, width=64, layers=1)
    assert torch.equal(prior(rows), again(rows))
