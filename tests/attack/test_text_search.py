"""Searches for sentences: what the derived observation holds, what each search finds, and what they refuse."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attack.cases import observed, pictures, seeded
from fedseal import Batch, LocalTraining, Observation, Progress, Text, ThreatModel, Update, local_update, zoo
from fedseal.attack.base import replay
from fedseal.attack.labels import way_to_labels
from fedseal.attack.search.matching import GradientMatching
from fedseal.attack.search.objective import Measured, squared_distance
from fedseal.attack.text import embedding
from fedseal.attack.text.embedding import leaked_tokens, longest_sentence, relaxed_sentences
from fedseal.attack.text.search import DenoisedCosine, TagDistance, TextSearch, dlg_text, mixture, tag
from fedseal.errors import FedsealError, UnfitBatch, UnfitModel, UnknownName, UnknownToAdversary
from fedseal.types import Candidate

TEXT = Text(zoo.bpe(), length=16)
LINES = ["The Senate shall choose their Officers", "He has refused his Assent to Laws"]
MODEL = zoo.tiny_bert(width=16, layers=1, seed=1)
SEARCHES = {"dlg_text": dlg_text(steps=1), "tag": tag(steps=2), "mixture": mixture(steps=2)}


def client(
    lines: list[str],
    *,
    model: torch.nn.Module = MODEL,
    text: Text = TEXT,
    training: LocalTraining = LocalTraining.fedsgd(),  # noqa: B008
    threat: ThreatModel | None = None,
) -> tuple[Batch, Observation]:
    batch = zoo.text_batch(text, lines)
    update = local_update(model, batch, training=training)
    threat = threat or ThreatModel.honest_but_curious()
    return batch, threat.observe(model, update, modality=text, labels=batch.labels)


BATCH, ONE = client(LINES[:1])
BOTH, TWO = client(LINES)


def shaken(observation: Observation, deviation: float) -> Observation:
    first, generator = observation.rounds[0], seeded()
    noisy = {
        name: tensor + deviation * torch.randn(tensor.shape, generator=generator)
        for name, tensor in first.update.tensors.items()
    }
    return replace(observation, rounds=(replace(first, update=replace(first.update, tensors=noisy)),))


def test_true_embeddings_replay_the_derived_update() -> None:
    """The oracle of the relaxation: embeddings of the true tokens give every observed tensor but the embedding's."""
    problem = relaxed_sentences(TWO, "test")
    assert not problem.observation.model.get_parameter(MODEL.embedding_name).requires_grad
    names = problem.observation.update.tensors.keys()
    assert TWO.update.tensors.keys() - names == {MODEL.embedding_name}
    ids = BOTH.inputs[:, : problem.known.shape[1]]
    embeddings = problem.table[ids].masked_fill((ids == TEXT.pad)[..., None], 0.0)
    found = replay(
        problem.observation, problem.observation.rounds[0], Candidate(embeddings, BOTH.labels), LocalTraining.fedsgd()
    )
    for name in names:
        torch.testing.assert_close(found[name], TWO.update.tensors[name], atol=1e-7, rtol=1e-4)
    read = problem.nearest(problem.table[ids])
    assert torch.equal(read[ids != TEXT.pad], ids[ids != TEXT.pad])


def test_rows_that_move_name_tokens_and_length() -> None:
    for batch, observation in ((BATCH, ONE), (BOTH, TWO)):
        leaked = leaked_tokens(observation)
        assert leaked is not None
        assert leaked.tolist() == sorted(set(batch.inputs[batch.inputs != TEXT.pad].tolist()))
        assert longest_sentence(observation) == int((batch.inputs != TEXT.pad).sum(1).max())


def test_under_noise_tokens_stand_out_or_are_not_told() -> None:
    leaked, all_noise = leaked_tokens(shaken(ONE, 1e-5)), shaken(ONE, 10.0)
    assert leaked is not None
    truth = set(BATCH.inputs[BATCH.inputs != TEXT.pad].tolist())
    assert set(leaked.tolist()) <= truth
    assert leaked_tokens(all_noise) is None
    problem = relaxed_sentences(all_noise, "test")
    assert problem.known.shape == (1, TEXT.length)
    assert len(problem.allowed) == len(problem.table) - 1
    assert "any token may occur" in problem.note
    assert "rows are taken as full" in problem.note


def test_the_frame_is_fixed_and_a_sentence_ends_at_its_closing_token() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(zoo.bpe())
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    text = Text(tokenizer, length=12)
    batch, observation = client(["We the People"], text=text)
    problem = relaxed_sentences(observation, "test")
    assert problem.known.tolist() == [[1, -1, -1, -1, 2]]
    start = problem.random(seeded())
    assert torch.equal(problem.ids(start)[0, [0, 4]], batch.inputs[0, [0, 4]])
    assert bool((problem.coordinates(torch.ones(start.numel(), 1))[0, [0, 4]] == 0).all())
    several = relaxed_sentences(client(["We the People", "We"], text=text)[1], "test")
    assert several.known.tolist() == [[1, -1, -1, -1, -1]] * 2
    rows = several.rows(torch.tensor([[1, 9, 2, 9, 2], [1, 9, 9, 9, 2]]))
    assert rows.tolist() == [[1, 9, 2, *[0] * 9], [1, 9, 9, 9, 2, *[0] * 7]]


@pytest.mark.parametrize(
    "training", [LocalTraining.fedsgd(), LocalTraining.fedavg(lr=0.1, epochs=2)], ids=["gradient", "difference"]
)
def test_a_mixture_of_leaked_tokens_is_the_sentence(training: LocalTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the search alone, without the incidence that would give the start away."""
    monkeypatch.setattr(embedding, "token_incidence", lambda observation, allowed: None)
    batch, observation = client(LINES[1:], model=zoo.tiny_bert(width=64), training=training)
    found = mixture(steps=200)(observation, generator=seeded())
    assert found.inputs is not None
    assert torch.equal(found.inputs, batch.inputs)
    assert found.inputs.dtype == torch.int64
    assert found.labels is not None
    assert torch.equal(found.labels, batch.labels)
    assert found.outcome.status == "converged"
    assert found.confidence is not None
    assert found.confidence.shape == found.inputs.shape
    assert 0.3 < float(found.confidence.min()) <= float(found.confidence.max()) <= 1


@pytest.mark.parametrize("training", [LocalTraining.fedsgd(), LocalTraining.fedavg(lr=0.1, epochs=2)])
def test_gradients_of_tokens_and_places_put_one_sentence_in_order(training: LocalTraining) -> None:
    """A closed form, also with tokens that occur twice, and after local steps."""
    batch, observation = client(["He has refused; he has refused his Assent"], training=training)
    found = mixture(steps=1)(observation, generator=seeded())
    assert found.inputs is not None
    assert torch.equal(found.inputs, batch.inputs)
    assert (found.outcome.status, found.outcome.steps) == ("converged", 0)
    tokens = leaked_tokens(observation)
    assert tokens is not None
    placed = embedding.token_incidence(observation, tokens)
    assert placed is not None
    assert torch.equal(tokens[placed.argmax(1)], batch.inputs[0, : len(placed)])


def test_dropout_does_not_hide_who_stood_where_in_one_sentence() -> None:
    """Its mask falls on a token's and on a place's gradient alike; the search cannot reproduce the client and stays."""
    model = copy.deepcopy(zoo.tiny_bert(width=32))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    batch = zoo.text_batch(TEXT, LINES[1:])
    update = local_update(model, batch, training=LocalTraining.fedsgd(), generator=seeded())
    observation = ThreatModel.honest_but_curious().observe(model, update, modality=TEXT)
    found = mixture(steps=20, lr=1.0)(observation, generator=seeded())
    assert found.inputs is not None
    assert torch.equal(found.inputs, batch.inputs)
    assert found.outcome.status != "exact"


@pytest.mark.parametrize("attack", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("labels", ["best", "joint", "oracle"])
def test_every_search_gives_leaked_tokens_and_is_repeatable(attack: TextSearch, labels: str) -> None:
    batch, observation = client(LINES, threat=ThreatModel.oracle())
    told: list[Progress] = []
    attack = replace(attack, labels=way_to_labels(labels))
    found, again = (attack(observation, generator=seeded(3), progress=told.append) for _ in range(2))
    assert found.inputs is not None
    assert again.inputs is not None
    assert torch.equal(found.inputs, again.inputs)
    assert found.inputs.shape == batch.inputs.shape
    assert set(found.inputs.flatten().tolist()) <= {*batch.inputs.flatten().tolist(), TEXT.pad}
    assert found.outcome.status == "budget"
    assert found.outcome.residual is not None
    assert told[-1].inputs is not None
    assert told[-1].inputs.dtype == torch.int64
    if labels != "joint":
        assert found.labels is not None
        assert sorted(found.labels.tolist()) == sorted(batch.labels.tolist())


@pytest.mark.parametrize("name", ["dlg_text", "tag"])
def test_a_search_from_the_truth_stays_there(name: str) -> None:
    """The fixed point of matching: at the true embeddings the objective is zero, and tokens decode to themselves."""
    problem = relaxed_sentences(ONE, name)
    truth = problem.table[BATCH.inputs[:, : problem.known.shape[1]]]
    names = list(problem.observation.update.tensors)
    guess = replay(
        problem.observation, problem.observation.rounds[0], Candidate(truth, BATCH.labels), LocalTraining.fedsgd()
    )
    objective = SEARCHES[name].search.objective
    assert not isinstance(objective, Measured)
    observed_tensors = [problem.observation.update.tensors[n] for n in names]
    assert float(objective([guess[n] for n in names], observed_tensors)) < 1e-5
    assert float(objective([0 * guess[n] for n in names], observed_tensors)) > 0.9
    assert torch.equal(problem.ids(truth), BATCH.inputs)


def test_tensors_that_are_noise_have_no_say() -> None:
    one, noise = torch.ones(64), 1e-3 * torch.randn(64, generator=seeded())
    blind, told = DenoisedCosine(), DenoisedCosine(noise=1e-3)
    assert float(blind([one, -noise], [one, noise])) > 0.9
    assert float(told([one, -noise], [one, noise])) < 1e-6
    problem = relaxed_sentences(shaken(ONE, 1e-3), "test")
    assert problem.noise == pytest.approx(1e-3, rel=0.05)
    assert relaxed_sentences(ONE, "test").noise == 0


def test_tag_weighs_layers_near_the_input_more() -> None:
    one, zero = torch.ones(1), torch.zeros(1)
    near, far = (TagDistance(tau=1.0)(guess, [one, one]) for guess in ([zero, one], [one, zero]))
    assert float(near) > float(far)
    assert float(TagDistance(tau=0.0)([zero, one], [one, one])) == 0.5


def refuse(observation: Observation, error: type[FedsealError], words: str) -> None:
    for attack in SEARCHES.values():
        with pytest.raises(error, match=words):
            attack(observation, generator=seeded())


def test_what_they_cannot_search_they_refuse() -> None:
    image = observed(zoo.lenet(size=8, width=4, num_classes=5), pictures(dtype=torch.float32))
    refuse(image, UnfitBatch, "searches for sentences")
    refuse(replace(ONE, model=torch.nn.Linear(1, 1)), UnfitModel, "no fs.LanguageModel")
    model = zoo.tiny_bert(width=16, layers=1, task="token")
    batch = zoo.text_batch(TEXT, LINES[:1], task="token")
    update = local_update(model, batch, training=LocalTraining.fedsgd())
    tokens = ThreatModel.honest_but_curious().observe(model, update, modality=TEXT)
    refuse(tokens, UnfitModel, "use 'dager'")
    for threat, words in ((ThreatModel.eavesdropper(), "weights"), (ThreatModel.unknown_training(), "local training")):
        refuse(client(LINES[:1], threat=threat)[1], UnknownToAdversary, words)
    unsized = ThreatModel("unsized", frozenset({"state", "training", "single_updates"}))
    refuse(client(LINES, threat=unsized)[1], UnknownToAdversary, "batch size")
    with pytest.raises(UnknownName, match="way to labels"):
        tag(labels="nonsense")(ONE, generator=seeded())


def test_nothing_is_written_to_the_observation() -> None:
    before = {name: tensor.clone() for name, tensor in ONE.update.tensors.items()}
    state: dict[str, Tensor] = {name: tensor.clone() for name, tensor in (ONE.state or {}).items()}
    for attack in SEARCHES.values():
        attack(ONE, generator=seeded())
    assert all(torch.equal(before[name], ONE.update.tensors[name]) for name in before)
    assert all(torch.equal(state[name], (ONE.state or {})[name]) for name in state)
    assert all(parameter.requires_grad for parameter in ONE.model.parameters())


def test_a_search_that_is_not_finite_gives_nothing() -> None:
    def broken(guess: list[Tensor], seen: list[Tensor]) -> Tensor:
        return squared_distance(guess, seen) * torch.nan

    found = TextSearch(GradientMatching("broken", objective=broken, steps=2))(ONE, generator=seeded())  # type: ignore[arg-type]
    assert found.outcome.status == "diverged"
    assert found.inputs is None


def test_two_rounds_of_one_batch_are_matched_together() -> None:
    other = zoo.tiny_bert(width=16, layers=1, seed=5)
    update = local_update(other, BATCH, training=LocalTraining.fedsgd())
    states = [
        ({n: t.detach() for n, t in [*m.named_parameters(), *m.named_buffers()]}, u)
        for m, u in ((MODEL, ONE.update), (other, update))
    ]
    rounds: list[tuple[dict[str, Tensor], Update]] = [
        (state, replace(u, training=LocalTraining.fedsgd())) for state, u in states
    ]
    observation = ThreatModel.honest_but_curious().observe_rounds(MODEL, rounds, modality=TEXT)
    assert tag(steps=2)(observation, generator=seeded()).inputs is not None
