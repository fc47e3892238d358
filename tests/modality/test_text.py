from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fedseal as fs
from fedseal.errors import BadConfig, UnfitBatch, UnfitModel
from fedseal.modality.language import IGNORED, masked_tokens, next_tokens

TEXT = fs.Text(fs.zoo.bpe(), length=16)


@given(st.text(alphabet=st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z")), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_script_comes_back(sentence: str) -> None:
    text = fs.Text(fs.zoo.bpe(), length=64)
    if not sentence.strip() or "\0" in sentence:
        return
    assert text.sentence(text.encode([sentence])[0]) == sentence.strip()


def test_rows_are_padded_at_the_end_and_words_leave_padding_out() -> None:
    ids = TEXT.encode(["We the People", "liberty"])
    assert ids.shape == (2, 16)
    assert len(TEXT.words(ids[0])) == int((ids[0] != TEXT.pad).sum()) == 3
    assert bool((ids[0, 3:] == TEXT.pad).all())


def byte_fallback() -> fs.Text:
    """A tokenizer that spells unknown characters as bytes, "<0xC3>", as unigram vocabularies do."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    learned = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=["<pad>", "<unk>", *bytes_], show_progress=False)
    learned.train_from_iterator(["the people of the united states"], trainer)
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=learned, pad_token="<pad>", unk_token="<unk>")
    return fs.Text(made, length=64)


LETTERS = st.text(alphabet=st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=8)


@given(LETTERS)
@settings(max_examples=60, deadline=None)
def test_pieces_of_any_script_join_to_the_sentence(sentence: str) -> None:
    text = fs.Text(fs.zoo.bpe(), length=64)
    row = text.encode([sentence])[0]
    pieces = text.pieces(row)
    spaced = [word.startswith("Ġ") for word in text.words(row)]
    joined = "".join(" " + piece[1:] if sign else piece for piece, sign in zip(pieces, spaced, strict=True))
    assert joined.strip() == text.sentence(row)


@pytest.mark.parametrize("text", [fs.Text(fs.zoo.bpe(), length=64), byte_fallback()], ids=["bytes", "fallback"])
@pytest.mark.parametrize("sentence", ["über", "你好", "שלום", "☕👩‍💻"])
def test_bytes_are_joined_over_tokens_before_they_are_decoded(text: fs.Text, sentence: str) -> None:
    pieces = text.pieces(text.encode([sentence])[0])
    assert "".join(pieces).strip("Ġ▁") == sentence
    assert "" in pieces
    assert "\ufffd" not in "".join(pieces)


def test_bytes_that_make_no_character_are_shown_as_such_and_spoil_no_other() -> None:
    row = fs.Text(fs.zoo.bpe(), length=64).encode(["a ü b"])[0]
    first = next(place for place, word in enumerate(TEXT.words(row)) if word == "Ã")
    cut = torch.cat([row[: first + 1], row[first + 2 :]])
    assert "".join(TEXT.pieces(cut)) == "ĠaĠ\ufffdĠb"
    assert TEXT.pieces(torch.tensor([99_999])) == ("<?>",)


def test_pieces_of_a_word_are_left_as_they_are() -> None:
    _, text = fs.zoo.minilm(length=16)
    row = text.encode(["unconstitutionality, don't"])[0]
    assert text.pieces(row) == text.words(row)
    assert any(word.startswith("##") for word in text.words(row))


def test_a_word_that_nobody_knows_is_shown_as_such() -> None:
    assert TEXT.words(torch.tensor([5, 99_999])) == (TEXT.words(torch.tensor([5]))[0], "<?>")


@pytest.mark.parametrize("sentences", [[], [""], ["word " * 40]])
def test_unfit_sentences_are_refused(sentences: list[str]) -> None:
    with pytest.raises(UnfitBatch):
        TEXT.encode(sentences)


def test_a_long_sentence_is_cut_only_when_asked_and_keeps_its_closing_token() -> None:
    _, text = fs.zoo.minilm(length=8)
    row = text.encode(["we hold these truths to be self-evident, that all men"], truncate=True)[0]
    assert row[0] == text.frame[0][0]
    assert row[-1] == text.frame[1][0]


def test_a_tokenizer_without_padding_is_refused() -> None:
    class Bare:
        pad_token_id = None

    with pytest.raises(BadConfig, match="padding token"):
        fs.Text(Bare(), length=4)  # type: ignore[arg-type]


def test_a_start_is_a_valid_row_of_ordinary_tokens_in_its_frame() -> None:
    _, text = fs.zoo.minilm(length=8)
    ids = text.start(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))
    assert ids.dtype == torch.long
    assert bool((ids[:, 0] == text.frame[0][0]).all())
    assert not set(ids[:, 1:-1].flatten().tolist()) & text.special


@pytest.mark.parametrize("task", ["sequence", "token", "masked"])
def test_padding_changes_no_gradient(task: str) -> None:
    model = fs.zoo.tiny_bert(task=task)  # type: ignore[arg-type]
    short, long = fs.Text(fs.zoo.bpe(), length=8), TEXT
    gradients = []
    for text in (short, long):
        ids = text.encode(["We the People"])
        labels = {"sequence": torch.tensor([1]), "token": torch.ones_like(ids), "masked": ids}[task]
        if task != "sequence":
            labels = labels.masked_fill(ids == text.pad, IGNORED)
        gradients.append(fs.local_update(model, fs.Batch(ids, labels), training=fs.LocalTraining.fedsgd()).tensors)
    for name, one in gradients[0].items():
        torch.testing.assert_close(one, gradients[1][name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("model", [fs.zoo.tiny_bert(), fs.zoo.gpt2(width=32, layers=1)], ids=["bert", "gpt2"])
def test_embeddings_in_place_of_ids_give_the_same_and_zeros_are_padding(model: fs.LanguageModel) -> None:
    ids = TEXT.encode(["We the People", "liberty"])
    table = dict(model.named_parameters())[model.embedding_name]
    embedded = table[ids] * (ids != TEXT.pad)[..., None]
    torch.testing.assert_close(model(embedded)[..., :2], model(ids)[..., :2])


def test_the_causal_loss_is_that_of_transformers() -> None:
    model, ids = fs.zoo.gpt2(width=32, layers=1), TEXT.encode(["We the People of the United States"])
    labels = ids.masked_fill(ids == TEXT.pad, IGNORED)
    expected = model.net(input_ids=ids, attention_mask=(ids != TEXT.pad).long(), labels=labels).loss
    torch.testing.assert_close(F.cross_entropy(model(ids), next_tokens(ids, TEXT.pad)), expected)


def test_masking_hides_at_least_one_ordinary_token_of_every_row() -> None:
    _, text = fs.zoo.minilm(length=12)
    ids = text.encode(["we the people", "liberty and justice"])
    inputs, labels = masked_tokens(
        ids, mask=103, special=text.special, generator=torch.Generator().manual_seed(0), share=0.0
    )
    assert (labels != IGNORED).sum(1).tolist() == [1, 1]
    assert torch.equal(torch.where(labels == IGNORED, inputs, labels), ids)
    assert not set(labels[labels != IGNORED].tolist()) & text.special


def test_what_is_no_transformers_model_is_refused() -> None:
    with pytest.raises(UnfitModel, match="transformers"):
        fs.LanguageModel(nn.Linear(2, 2), task="sequence", pad=0)
    with pytest.raises(BadConfig, match="task"):
        fs.LanguageModel(fs.zoo.tiny_bert().net, task="translation", pad=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("ids", "fact"), [([[1, 1600, 2]], "the token 1600"), ([[5] * 70], "longer than")])
def test_tokens_and_places_that_the_model_does_not_have_are_named(ids: list[list[int]], fact: str) -> None:
    model = fs.zoo.gpt2(width=32, layers=1, tokens=500, positions=64)
    batch = fs.Batch(torch.tensor(ids), next_tokens(torch.tensor(ids), pad=0))
    with pytest.raises(UnfitBatch, match=fact):
        fs.local_update(model, batch, training=fs.LocalTraining.fedsgd())


def test_a_picture_search_says_what_reads_text_instead() -> None:
    model = fs.zoo.tiny_bert()
    batch = fs.Batch(TEXT.encode(["liberty"]), torch.tensor([0]))
    update = fs.local_update(model, batch, training=fs.LocalTraining.fedsgd())
    seen = fs.ThreatModel.honest_but_curious().observe(model, update, modality=TEXT)
    with pytest.raises(UnfitBatch, match="dager"):
        fs.attack.inverting_gradients(steps=2)(seen, generator=torch.Generator().manual_seed(0))
