"""Sentences off the spans of a transformer's gradient, in the order of their words, the number of them withheld."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch

import fedseal as fs
from attack.cases import FEDSGD, seeded
from fedseal import Batch, LocalTraining, Observation, Reconstruction, Text, ThreatModel, zoo
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.text import dager
from fedseal.attack.text.dager import Dager
from fedseal.attack.text.tokens import token_set
from fedseal.modality.language import LanguageModel, Task

CURIOUS = ThreatModel("curious", frozenset({"state", "training", "single_updates"}))


def _observed(
    model: LanguageModel,
    count: int,
    *,
    seed: int = 0,
    words: tuple[int, int] = (6, 9),
    training: LocalTraining = FEDSGD,
    threat: ThreatModel = CURIOUS,
) -> tuple[Observation, Batch, Text]:
    text = Text(zoo.bpe(), length=28)
    batch = zoo.text_batch(text, zoo.sentences(count, seed=seed, words=words), task=model.task, seed=seed)
    update = fs.local_update(model, batch, training=training)
    return threat.observe(model, update, modality=text), batch, text


def _pairs(inputs: torch.Tensor, labels: torch.Tensor) -> list[tuple[list[int], object]]:
    return sorted(zip(inputs.tolist(), labels.tolist(), strict=True), key=str)


def _exact(found: Reconstruction, batch: Batch) -> bool:
    assert found.inputs is not None, found.outcome.note
    assert found.labels is not None, found.outcome.note
    right = _pairs(found.inputs, found.labels) == _pairs(batch.inputs, batch.labels)
    assert right == (found.outcome.status == "exact"), found.outcome
    return right


def trained_like(model: LanguageModel) -> LanguageModel:
    """Weights whose attention looks at some tokens more than at others, as training makes them."""
    generator = seeded(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "query" in name or "key" in name:
                parameter.mul_(4)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (2, 1), (4, 2)])
def test_a_decoder_s_sentences_grow_word_by_word(count: int, seed: int) -> None:
    observation, batch, _ = _observed(zoo.gpt2(width=96, layers=2), count, seed=seed)
    assert _exact(Dager()(observation, generator=seeded()), batch)


def test_rotary_places_are_read_by_the_model_s_own_forward() -> None:
    transformers: Any = import_module("transformers")  # most of it is untyped
    config = transformers.LlamaConfig(
        vocab_size=2000,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        attn_implementation="eager",
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LanguageModel(transformers.LlamaForCausalLM(config).eval(), task="causal", pad=0)
    observation, batch, _ = _observed(model, 2)
    assert _exact(Dager()(observation, generator=seeded()), batch)


@pytest.mark.parametrize("task", ["sequence", "token"])
def test_one_sentence_of_an_encoder(task: Task) -> None:
    observation, batch, _ = _observed(zoo.tiny_bert(width=64, task=task), 1)
    assert _exact(Dager()(observation, generator=seeded()), batch)


def test_several_sentences_of_an_encoder() -> None:
    observation, batch, _ = _observed(trained_like(zoo.tiny_bert(width=128)), 3)
    assert _exact(Dager()(observation, generator=seeded()), batch)


def test_local_steps_tilt_the_span_and_nothing_false_is_certified() -> None:
    training = LocalTraining.fedavg(lr=0.05, epochs=4)
    observation, batch, _ = _observed(zoo.tiny_bert(width=64), 1, training=training)
    found = Dager()(observation, generator=seeded())
    assert found.outcome.status != "exact" or _exact(found, batch)


def test_dropout_hides_the_rows_and_nothing_is_certified() -> None:
    """The client's mask is its secret: which tokens occur is still told, and no reading is called exact."""
    model, text = zoo.tiny_bert(width=64), Text(zoo.bpe(), length=28)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    batch = zoo.text_batch(text, zoo.sentences(1, words=(6, 9)))
    update = fs.local_update(model, batch, training=FEDSGD, generator=seeded())
    observation = ThreatModel.honest_but_curious().observe(model, update, modality=text)
    assert set(token_set(observation).ids) == set(text.ids(batch.inputs[0]))
    for attack in (Dager(), fs.attack.auto(steps=8)):
        found = attack(observation, generator=seeded())
        assert found.outcome.status != "exact", found.outcome


def test_the_door_s_preparations_serve_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    observation, batch, _ = _observed(zoo.tiny_bert(width=64), 1)
    evidence, attack = Evidence(observation), Dager()
    assert attack.obstacle(evidence) is None
    monkeypatch.setattr(dager, "prepare", lambda observation: pytest.fail("prepared twice"))
    assert _exact(attack.read(evidence, generator=seeded()), batch)


REFUSED: dict[str, tuple[Callable[[], Observation], str]] = {
    "more tokens than the model is wide": (
        lambda: _observed(zoo.tiny_bert(width=32), 8)[0],
        "tokens as the model is wide",
    ),
    "no weights": (
        lambda: _observed(zoo.tiny_bert(), 1, threat=ThreatModel.eavesdropper())[0],
        "the model's weights, which the threat model 'eavesdropper' withholds",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_reason(case: str) -> None:
    make, words = REFUSED[case]
    found = Dager()(make(), generator=seeded())
    assert (found.outcome.status, found.inputs, found.labels) == ("not_applicable", None, None)
    assert words in found.outcome.note
    assert "tokens" in found.outcome.note


def test_a_picture_has_no_sentences() -> None:
    model, batch = zoo.lenet(), Batch(torch.rand(1, 3, 32, 32), torch.tensor([0]))
    update = fs.local_update(model, batch, training=FEDSGD)
    observation = CURIOUS.observe(model, update, modality=fs.Image(shape=(3, 32, 32)))
    assert Dager()(observation, generator=seeded()).outcome.status == "not_applicable"
