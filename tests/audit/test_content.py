"""Audits of sentences and of rows: what the record keeps of them, and that it reads back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from audit.fakes import Told, pictures, refusing, timeless
from fedseal import audit, zoo
from fedseal.audit import Case, Record, compare, summarize
from fedseal.audit.kinds import input_kind
from fedseal.audit.record import Row, Rows, Texts
from fedseal.errors import BadConfig
from fedseal.modality import Image, Text
from fedseal.modality.tabular import Categorical, Continuous, Tabular
from fedseal.types import Attack, Batch, LocalTraining, Outcome, Reconstruction
from metric.stub import ids, text

TEXT = text(8)
LINES = ("the cat sat on", "dogs bark at night", "a third one", "and a fourth")
TOKENS = ids(TEXT, *LINES)
TABLE = Tabular((Continuous("age", 0, 100, mean=40, std=20, digits=0), Categorical("sex", ("f", "m"))))
ROWS = TABLE.encode([{"age": 10 * i, "sex": "fm"[i % 2]} for i in range(1, 9)])


class Bag(nn.Module):
    """Sentences by the mean of their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(1000, 4), nn.Linear(4, 2)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        read: Tensor = self.head(self.embedding(inputs).mean(1))
        return read


def sentences() -> Case:
    labels = torch.tensor([0, 1, 0, 1])
    return Case(Bag(), Batch(TOKENS, labels), LocalTraining.fedsgd(), modality=TEXT, name="bag")


def rows() -> Case:
    net = nn.Linear(3, 2)
    nn.init.constant_(net.weight, 0.1)
    nn.init.constant_(net.bias, 0.0)
    labels = torch.tensor([0, 1] * 4)
    return Case(net, Batch(ROWS, labels), LocalTraining.fedsgd(), modality=TABLE, name="rows")


def said(inputs: Tensor | None, confidence: Tensor | None = None, name: str = "said") -> Attack:
    labels = None if inputs is None else torch.zeros(len(inputs), dtype=torch.long)
    found = Reconstruction(inputs, labels, Outcome("budget", "fake", 0.5, 3, 0.1), confidence=confidence)
    return Told(lambda: found, name)


def only(case: Case, folder: Path, attack: Attack) -> audit.Cell:
    return audit.run(case, attacks=[attack], out=folder, samples=1, batch_size=2).cells[0]


def test_sentences_stand_in_the_order_of_the_true_ones_with_the_attacks_confidence(tmp_path: Path) -> None:
    confidence = torch.tensor([[0.25] * 8, [0.75] * 8])
    cell = only(sentences(), tmp_path, said(TOKENS[:2].flip(0), confidence))
    assert isinstance(cell.content, Texts)
    assert [sentence.text for sentence in cell.content.truth] == list(LINES[:2])
    assert cell.content.truth[0].tokens == ("[CLS]", "the", "cat", "sat", "on", "[SEP]")
    assert cell.content.found is not None
    assert [s and s.text for s in cell.content.found] == list(LINES[:2])
    assert [s and s.confidence for s in cell.content.found] == [(0.75,) * 6, (0.25,) * 6]
    assert set(cell.content.special) == {"[CLS]", "[SEP]"}
    assert cell.scores is not None
    assert cell.scores.mean("rouge1") == 1.0
    assert not (tmp_path / "cells" / f"{cell.key.id}.safetensors").exists()


def test_a_gap_inside_a_sentence_keeps_the_others_in_place(tmp_path: Path) -> None:
    gap = TOKENS[:2].clone()
    gap[0, 2] = TEXT.pad
    cell = only(sentences(), tmp_path, said(gap))
    assert isinstance(cell.content, Texts)
    assert cell.content.found is not None
    assert cell.content.found[0] is not None
    assert cell.content.found[0].tokens == ("[CLS]", "the", "", "sat", "on", "[SEP]")


def test_sentences_are_measured_against_the_zoos(tmp_path: Path) -> None:
    cell = only(sentences(), tmp_path, said(TOKENS[:2]))
    assert cell.scores is not None
    names = [baseline.name for baseline in cell.scores.samples[0].headline.baselines]
    assert names == ["special tokens only", "most frequent tokens", "best of 200 unrelated sentences"]


def test_the_truth_is_not_among_the_unrelated_sentences(tmp_path: Path) -> None:
    modality = text(20)
    inputs = ids(modality, *zoo.sentences(3))
    case = replace(sentences(), batch=Batch(inputs, torch.tensor([0, 0, 0])), modality=modality)
    cell = audit.run(case, attacks=[said(inputs[:2])], out=tmp_path, samples=1, batch_size=2).cells[0]
    assert cell.scores is not None
    best = cell.scores.samples[0].headline.baselines[-1]
    assert best.name == "best of 198 unrelated sentences"
    assert best.value is not None
    assert best.value < 1


def test_rows_are_kept_by_column_with_what_agrees(tmp_path: Path) -> None:
    guess = ROWS[:2].flip(0).clone()
    guess[0, 0] += 3  # of the row with "m"
    cell = only(rows(), tmp_path, said(guess, torch.tensor([[0.1, 0.2], [0.3, 2.0]])))
    assert isinstance(cell.content, Rows)
    assert [row.values for row in cell.content.truth] == [{"age": 10, "sex": "m"}, {"age": 20, "sex": "f"}]
    assert cell.content.found == (
        Row(values={"age": 10, "sex": "m"}, right={"age": True, "sex": True}, confidence={"age": 0.3, "sex": 1.0}),
        Row(values={"age": 80, "sex": "f"}, right={"age": False, "sex": True}, confidence={"age": 0.1, "sex": 0.2}),
    )
    assert cell.scores is not None
    assert [sample.headline.value for sample in cell.scores.samples] == [1.0, 0.5]
    assert all(b.value is not None for s in cell.scores.samples for b in s.headline.baselines)


@pytest.mark.parametrize(("case", "guess"), [(sentences, TOKENS[:1]), (rows, ROWS[:1])])
def test_what_nothing_was_matched_to_has_no_reconstruction(
    case: Callable[[], Case], guess: Tensor, tmp_path: Path
) -> None:
    found = only(case(), tmp_path / "one", said(guess)).content
    assert found is not None
    assert found.found is not None
    assert found.found[0] is not None
    assert found.found[1] is None
    for attack in (said(None), refusing()):
        kept = only(case(), tmp_path / attack.name, attack).content
        assert kept is not None
        assert len(kept.truth) == 2
        assert kept.found is None


@pytest.mark.parametrize("case", [sentences, rows])
def test_a_record_of_them_reads_back_and_goes_on(case: Callable[[], Case], tmp_path: Path) -> None:
    def run(folder: Path) -> Record:
        inputs = case().batch.inputs[:2]
        return audit.run(case(), attacks=[said(inputs), refusing()], out=folder, batch_size=2)

    whole = run(tmp_path / "whole")
    assert audit.load(tmp_path / "whole") == whole
    assert Record.model_validate({k: v for k, v in json.loads(whole.to_json()).items() if k != "complete"}) == whole
    next((tmp_path / "whole" / "cells").glob("*.json")).unlink()
    assert timeless(run(tmp_path / "whole")) == timeless(whole)


def test_groups_and_changes_go_by_the_headline_of_their_kind(tmp_path: Path) -> None:
    better = audit.run(rows(), attacks=[said(ROWS[:2])], out=tmp_path / "better", samples=1, batch_size=2)
    worse = audit.run(rows(), attacks=[said(ROWS[2:4])], out=tmp_path / "worse", samples=1, batch_size=2)
    (group,) = summarize(better)
    assert (group.headline, group.median, group.worst, group.psnr_median) == ("columns", 1.0, 1.0, None)
    change = next(change for change in compare(worse, better) if change.measure == "columns_median")
    assert (change.unit, change.verdict) == ("", "worse")
    assert not any(change.measure == "psnr_median" for change in compare(worse, better))


def test_a_gallery_is_for_pictures_only() -> None:
    with pytest.raises(BadConfig, match="no pictures; leave the gallery out"):
        replace(rows(), gallery=ROWS[:1])


def test_a_modality_of_another_length_is_refused() -> None:
    with pytest.raises(BadConfig, match="its modality"):
        replace(sentences(), modality=text(9))


def test_pictures_hold_no_content() -> None:
    batch, image = Batch(pictures(1, 0), torch.tensor([0])), Image(shape=(1, 12, 12))
    assert input_kind(image).content(image, batch, None, None) is None


def test_bytes_of_a_character_are_kept_as_they_were_read_and_joined_for_readers() -> None:
    read = Text(zoo.bpe(), length=16)
    truth = Batch(read.encode(["über Brücke", "liberty"]), torch.zeros(2, dtype=torch.long))
    kept = input_kind(read).content(read, truth, None, None)
    assert isinstance(kept, Texts)
    uber, liberty = kept.truth
    assert (uber.text, uber.tokens[:3]) == ("über Brücke", ("Ġ", "Ã", "¼"))
    assert uber.pieces is not None
    assert "".join(uber.pieces).replace("Ġ", " ").strip() == "über Brücke"
    assert liberty.pieces is None
    assert Texts.model_validate_json(kept.model_dump_json()) == kept
