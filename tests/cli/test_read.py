"""`fedseal attack` on sentences and on rows of a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cli.conftest import Answer, Command
from fedseal.setup import build_object
from fedseal.setup.attack import AttackSpec, target
from fedseal.types import (
    Attack,
    LocalTraining,
    Observation,
    Outcome,
    ProgressCallback,
    Reconstruction,
)

READER = """
from types import SimpleNamespace

import torch
import fedseal as fs
from torch import nn
from metric.stub import text

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(1000, 8), nn.Linear(8, 3)

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None):
        read = self.table(input_ids) if inputs_embeds is None else inputs_embeds
        return SimpleNamespace(logits=self.head((read * attention_mask[..., None]).sum(1)))

def build():
    return fs.LanguageModel(Net(), task="sequence", pad=0), text(6)

def half():
    return build()[:1]

def narrow():
    model, words = build()
    model.net.table = nn.Embedding(3, 8)
    return model, words
"""
TABLE = "age,sex,sick\n" + "".join(f"{20 + 7 * i % 50}.5,{'fm'[i % 2]},{'no' if i % 3 else 'yes'}\n" for i in range(30))


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a function that gives a small language model."""
    name = f"reader_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    yield f"{name}:build"
    sys.modules.pop(name, None)


@pytest.fixture
def table(tmp_path: Path) -> str:
    (tmp_path / "people.csv").write_text(TABLE)
    return "people.csv"


class Backwards:
    """Reads the embedding's rows off the update, and puts each sentence in the order of the ids."""

    name = "backwards"

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        (rows,) = (t for t in observation.update.tensors.values() if t.shape == (1000, 8))
        found = [i for i in rows.abs().sum(1).nonzero().flatten().tolist() if i > 2]
        ids = torch.zeros(1, *observation.modality.shape, dtype=torch.long)
        ids[0, 1 : 1 + len(found)] = torch.tensor(found[: ids.shape[1] - 1])
        outcome = Outcome("budget", "backwards", 0.5, 0, 0.01)
        return Reconstruction(ids, torch.tensor([1]), outcome, confidence=torch.full(ids.shape, 0.5))


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> Attack:
    attack = Backwards()
    monkeypatch.setattr("fedseal.cli.attack.attack_of", lambda recipe, **options: attack)
    return attack


def lines(answer: Answer) -> dict[str, str]:
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in answer.out.splitlines())}


@pytest.mark.usefixtures("backwards")
def test_a_sentence_stands_beside_what_was_read(fedseal: Command, reader: str, tmp_path: Path) -> None:
    answer = fedseal("attack", "--text", "we the people", "--model", reader, "--label", 1, "--out", "run")
    assert answer.code == 0, answer.err
    assert lines(answer)["ROUGE-1"].startswith("1.00 (blind guesses: special tokens only 0.00, most frequent tokens")
    assert lines(answer)["label"] == "1, right"
    assert "    original        [CLS] we the people [SEP]" in answer.out.splitlines()
    assert "    reconstruction  ▢ we the people" in answer.out.splitlines()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["scores"][0]["tokens"]["value"] == 1.0
    assert result["examples"]["truth"][0]["text"] == "we the people"
    assert result["examples"]["found"][0]["confidence"][0] == 0.5
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result.json"]


@pytest.mark.usefixtures("backwards")
def test_several_sentences_are_one_batch(fedseal: Command, reader: str) -> None:
    answer = fedseal("attack", "--text", "red fox", "--text", "日本 🦊", "--model", reader, "--json", "-q")
    result = json.loads(answer.out)
    assert [sentence["text"] for sentence in result["examples"]["truth"]] == ["red fox", "日本 🦊"]
    assert sum(found is not None for found in result["examples"]["found"]) == 1
    assert len(result["true_labels"]) == 2


@pytest.mark.usefixtures("backwards")
def test_a_sentence_that_is_too_long_is_cut_with_a_note(fedseal: Command, reader: str) -> None:
    answer = fedseal("attack", "--text", "one two three four five six seven", "--model", reader)
    assert "'one two three four five six seven...' has 9 tokens and was cut to 6, as the client does" in answer.err
    assert "original        [CLS] one two three four [SEP]" in answer.out


@pytest.mark.usefixtures("backwards")
def test_more_tokens_than_the_width_are_said(fedseal: Command, reader: str) -> None:
    answer = fedseal("attack", "--text", "a b c d", "--text", "e f g h", "--model", reader)
    assert "12 tokens in all, and the model is 8 wide" in answer.err


@pytest.mark.usefixtures("backwards")
def test_lines_of_a_file_are_sentences(fedseal: Command, reader: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("first\n\n  second one \nthird\n", "utf-8")
    answer = fedseal(
        "attack", "--text-file", "notes.txt", "--index", 1, "--batch", 2, "--model", reader, "--json", "-q"
    )
    assert [s["text"] for s in json.loads(answer.out)["examples"]["truth"]] == ["second one", "third"]


@pytest.mark.usefixtures("backwards")
def test_a_captured_update_shows_what_was_read_and_no_score(
    fedseal: Command, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_object(reader, tuple)
    monkeypatch.setattr("fedseal.zoo.text_models", lambda: {"words": lambda: built})
    target(AttackSpec(text=("we the people",), model="words")).observation.update.save(tmp_path / "u.safetensors")
    answer = fedseal("attack", "--update", "u.safetensors", "--model", "words", "--out", "run")
    assert answer.code == 0, answer.err
    assert lines(answer)["ROUGE-1"].startswith("not measured")
    assert "    reconstruction  ▢ we the people" in answer.out.splitlines()
    assert "original" not in answer.out


def test_bad_text_is_one_line(fedseal: Command, reader: str, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "notes.txt").write_text("one\n")
    cases = (
        (["--text", ""], "holds no token"),
        (["--text", "  "], "holds no token"),
        (["--text", "ok", "--text", ""], "holds no token"),
        (["--text", "ok", "--batch", 2], "give --text once for every sentence"),
        (["--text", "ok", "--index", 1], "more than one of --text, --index is given"),
        (["--text", "ok", "--image", "x.png"], "more than one of --image, --text is given"),
        (["--text", "ok", "--label", 3], "the classes 0 to 2"),
        (["--text", "ok", "--label", "sad"], "--label is 'sad'"),
        (["--text-file", "empty.txt"], "holds no sentence"),
        (["--text-file", "latin.txt"], "no text in UTF-8"),
        (["--text-file", "gone.txt"], "cannot read the sentences"),
        (["--text-file", "."], "cannot read the sentences"),
        (["--text-file", "notes.txt", "--batch", 2], "holds 1 sentences, and 0 to 1 are asked for"),
    )
    for arguments, fact in cases:
        assert fact in fedseal("attack", "--model", reader, "-q", *arguments).complaint, arguments


def test_bad_language_models_are_one_line(fedseal: Command, reader: str) -> None:
    for model, fact in (
        ("minilmm", "did you mean 'minilm'?"),
        ("zoo:gpt3", "there is no language model 'gpt3'"),
        (reader.replace("build", "half"), "returned no language model with its text"),
        (reader.replace("build", "narrow"), "tokens and the model's embedding 3 rows"),
    ):
        assert fact in fedseal("attack", "--text", "hello", "--model", model, "-q").complaint
    assert "give --text or --text-file" in fedseal("attack", "--model", "bert_small", "-q").complaint


def test_a_row_is_read_exactly_and_shown_by_column(fedseal: Command, table: str, tmp_path: Path) -> None:
    answer = fedseal("attack", "--table", table, "--label", "sick", "--index", 3, "--out", "run")
    assert answer.code == 0, answer.err
    assert "30 rows; label 'sick' with the classes no, yes" in answer.err
    assert lines(answer)["Columns right"].startswith("100 % (blind guesses: column mode and mean")
    assert "    original        age 41.5, sex m" in answer.out.splitlines()
    assert "    reconstruction  age 41.5, sex m" in answer.out.splitlines()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "exact"
    assert result["scores"][0]["row"]["value"] == 1.0
    assert result["examples"]["found"][0]["right"] == {"age": True, "sex": True}


def test_rows_of_a_captured_update_are_read_by_the_tables_schema(fedseal: Command, table: str, tmp_path: Path) -> None:
    request = AttackSpec(table=tmp_path / table, label="sick", model="zoo:mlp", index=3)
    update = target(request).observation.update
    assert update.training == LocalTraining.fedsgd()
    update.save(tmp_path / "u.safetensors")
    answer = fedseal("attack", "--table", table, "--label", "sick", "--update", "u.safetensors", "-q")
    assert answer.code == 0, answer.err
    assert "not measured" in lines(answer)["Columns right"]
    assert "    reconstruction  age 41.5, sex m" in answer.out.splitlines()


def test_bad_tables_are_one_line(fedseal: Command, table: str, tmp_path: Path) -> None:
    (tmp_path / "holes.csv").write_text("age,sick\n1,no\n,yes\n3,no\n4,yes\n")
    (tmp_path / "one.csv").write_text("age,sick\n1,no\n")
    (tmp_path / "noise.csv").write_bytes(bytes(range(256)) * 4)
    for arguments, fact in (
        (["--table", table], "name it: --label COLUMN"),
        (["--table", table, "--label", "ill"], "no column 'ill'"),
        (["--table", table, "--label", "sick", "--index", 30], "holds 30 rows"),
        (["--table", table, "--label", "sick", "--batch", 31], "holds 30 rows"),
        (["--table", table, "--label", "sick", "--model", "zoo:lenet"], "takes pictures"),
        (["--table", table, "--label", "sick", "--model", "zoo:mpl"], "did you mean 'mlp'?"),
        (["--table", table, "--label", "sick", "--text", "x"], "more than one of --text, --table"),
        (["--table", "gone.csv", "--label", "sick"], "there is no table"),
        (["--table", "holes.csv", "--label", "sick"], "missing values: 1 in 'age'"),
        (["--table", "one.csv", "--label", "sick"], "one row"),
        (["--table", "noise.csv", "--label", "sick"], "cannot be read as a table"),
    ):
        assert fact in fedseal("attack", "-q", *arguments).complaint, arguments
    assert fedseal("attack", "-q", "--table", "holes.csv", "--label", "sick", "--missing", "drop").code == 0


def test_audits_of_a_table_and_of_text_share_a_page(fedseal: Command, reader: str, table: str, tmp_path: Path) -> None:
    (tmp_path / "table.yaml").write_text(f"table: {table}\nlabel: sick\nattacks: linear\nsamples: 2\nout: a/table\n")
    (tmp_path / "text.yaml").write_text(f"text: [red fox]\nmodel: '{reader}'\nattacks: linear\nout: a/text\n")
    rows = fedseal("audit", "table.yaml")
    assert rows.code == 0, rows.err
    assert "share of right columns 100 %" in rows.err
    assert "recovered all 2 private rows" in " ".join(rows.out.replace("│", " ").split())
    assert fedseal("audit", "text.yaml").code == 0
    assert fedseal("audit", "table.yaml", "-q", "--fail-above", "columns=0.5").code == 1
    assert "'rouge1' was measured nowhere" in fedseal("audit", "table.yaml", "-q", "--fail-above", "rouge1=0").err
    answer = fedseal("report", "a/table", "a/text")
    assert "Report: a/mixed.html" in answer.out
    page = (tmp_path / "a" / "mixed.html").read_text()
    assert "In 1 of 2 audits private rows were recovered." in page
    assert "table: people.csv" in page  # how to run it again
    both = json.loads(fedseal("report", "a/table", "a/text", "--json").out)
    assert [record["config"]["modality"]["kind"] for record in (one["header"] for one in both)] == ["tabular", "text"]
