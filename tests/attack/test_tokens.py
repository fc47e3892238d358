"""The tokens used: exact on one client, on a sum, after local steps and without weights; refused with a reason."""

from __future__ import annotations

import pytest
import torch

import fedseal as fs
from attack.cases import FEDSGD, seeded
from fedseal import Batch, LocalTraining, Text, ThreatModel, zoo
from fedseal.attack.text.tokens import Tokens, token_set
from fedseal.errors import UnfitUpdate
from fedseal.modality.language import LanguageModel

EAVESDROPPER = ThreatModel.eavesdropper()


def _text() -> Text:
    return Text(zoo.bpe(), length=24)


def _batch(text: Text, first: int = 0, task: str = "sequence") -> Batch:
    return zoo.text_batch(text, zoo.sentences(6, words=(6, 10))[first : first + 2], task=task)  # type: ignore[arg-type]


def _used(text: Text, *batches: Batch) -> set[int]:
    return {token for batch in batches for row in batch.inputs for token in text.ids(row)}


@pytest.mark.parametrize(
    "training", [FEDSGD, LocalTraining.fedavg(lr=0.1, epochs=3), LocalTraining.fedavg(lr=0.01, optimizer="adam")]
)
def test_an_eavesdropper_reads_the_tokens_of_one_client(training: LocalTraining) -> None:
    text, model = _text(), zoo.tiny_bert()
    batch = _batch(text)
    update = fs.local_update(model, batch, training=training)
    assert set(token_set(EAVESDROPPER.observe(model, update, modality=text)).ids) == _used(text, batch)


def test_a_sum_over_clients_names_all_their_tokens() -> None:
    text, model = _text(), zoo.tiny_bert()
    batches = [_batch(text, first) for first in (0, 2, 4)]
    total = fs.aggregate([fs.local_update(model, batch, training=FEDSGD) for batch in batches])
    found = token_set(ThreatModel.aggregate_only().observe(model, total, modality=text))
    assert set(found.ids) == _used(text, *batches)


def test_a_shared_output_layer_fills_every_row_and_hides_nothing() -> None:
    """Of the input all but what stands last: nothing comes back to a last token of causal modelling."""
    text, model = _text(), zoo.gpt2(width=64, layers=2)
    batch = _batch(text, task="causal")
    update = fs.local_update(model, batch, training=FEDSGD)
    assert bool(update.tensors[model.embedding_name].any(1).all())
    found = set(token_set(EAVESDROPPER.observe(model, update, modality=text)).ids)
    inner = {token for row in batch.inputs for token in text.ids(row)[:-1]}
    assert found == inner


def test_small_noise_leaves_the_tokens_standing_out() -> None:
    text, model = _text(), zoo.tiny_bert(width=64)
    batch = _batch(text)
    update = fs.local_update(model, batch, training=FEDSGD, defense=fs.defense.gaussian(1e-5), generator=seeded())
    found = set(token_set(EAVESDROPPER.observe(model, update, modality=text)).ids)
    assert len(found & _used(text, batch)) >= 0.9 * len(_used(text, batch))


def test_the_route_gives_one_row_and_says_that_it_is_a_set() -> None:
    text, model = _text(), zoo.tiny_bert()
    batch = _batch(text)
    found = Tokens()(
        EAVESDROPPER.observe(model, fs.local_update(model, batch, training=FEDSGD), modality=text), generator=seeded()
    )
    assert found.inputs is not None
    assert set(found.inputs[0].tolist()) == _used(text, batch)
    assert found.labels is None
    assert found.outcome.status == "budget"
    assert "a set" in found.outcome.note


def test_a_frozen_embedding_says_nothing() -> None:
    text, model = _text(), zoo.tiny_bert()
    dict(model.named_parameters())[model.embedding_name].requires_grad_(False)
    observation = EAVESDROPPER.observe(model, fs.local_update(model, _batch(text), training=FEDSGD), modality=text)
    with pytest.raises(UnfitUpdate, match="no gradient of a token embedding"):
        token_set(observation)
    found = Tokens()(observation, generator=seeded())
    assert found.outcome.status == "not_applicable"


def test_pictures_have_no_tokens() -> None:
    batch = Batch(torch.rand(1, 3, 32, 32), torch.tensor([0]))
    model = zoo.lenet()
    observation = EAVESDROPPER.observe(
        model, fs.local_update(model, batch, training=FEDSGD), modality=fs.Image(shape=(3, 32, 32))
    )
    assert Tokens()(observation, generator=seeded()).outcome.note == "the inputs are no token ids"


def test_the_model_wrapper_is_what_names_the_embedding() -> None:
    assert isinstance(zoo.tiny_bert(), LanguageModel)
