from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image as Picture

from fedseal import zoo
from fedseal.errors import BadConfig, FedsealError, StorageFailure, UnknownName
from fedseal.modality import Image
from fedseal.setup import load_config
from fedseal.types import LocalTraining


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)


def written(text: str) -> Path:
    path = Path("night.yaml")
    path.write_text(text)
    return path


def test_an_empty_file_is_the_default_audit() -> None:
    setup = load_config(written(""))
    assert (setup.attacks, setup.defenses, setup.threats) == (("auto",), ("none",), ("honest_but_curious",))
    assert (setup.samples, setup.batch_size, setup.seeds, setup.device) == (None, (1,), (0,), "cpu")
    assert setup.out == "runs/night"
    assert setup.case.training == LocalTraining.fedsgd()
    assert torch.equal(setup.case.batch.inputs, zoo.photos(size=32).inputs)


def test_every_key_is_heard() -> None:
    setup = load_config(
        written(
            """
            model: {name: "zoo:lenet", options: {activation: tanh}}
            data: fashion_mnist
            training: {kind: fedavg, lr: 0.1, epochs: 2, batch_size: 3, mode: eval}
            normalization: {mean: 0.25, std: [0.5]}
            attacks: [auto, "dlg:steps=2"]
            defenses: "prune:0.2"
            threats: [oracle]
            samples: 4
            batch_size: 2
            seeds: [1, 2]
            device: cpu
            out: elsewhere
            """
        )
    )
    assert setup.case.training == LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=3, mode="eval")
    assert setup.case.modality == Image((1, 28, 28), mean=(0.25,), std=(0.5,))
    torch.testing.assert_close(setup.case.batch.inputs, (zoo.fashion_mnist().inputs - 0.25) / 0.5)
    assert (setup.attacks, setup.defenses, setup.threats) == (("auto", "dlg:steps=2"), ("prune:0.2",), ("oracle",))
    assert (setup.samples, setup.batch_size, setup.seeds, setup.out) == (4, (2,), (1, 2), "elsewhere")
    assert "Tanh" in repr(setup.case.model)
    assert setup.case.model(setup.case.batch.inputs[:1]).shape == (1, 10)
    assert setup.given is not None
    assert setup.given["config"] == "night.yaml"


def test_the_local_training_has_its_optimizer_and_order() -> None:
    common = "model: zoo:mlp\ndata: fashion_mnist\ntraining: {kind: fedavg, lr: 0.01, epochs: 2, batch_size: 8, "
    sgd = load_config(written(common + "momentum: 0.9, weight_decay: 0.0005, shuffle: true}")).case.training
    assert sgd == LocalTraining.fedavg(lr=0.01, epochs=2, batch_size=8, momentum=0.9, weight_decay=0.0005, shuffle=True)
    adam = load_config(written(common + "optimizer: adam, betas: [0.8, 0.99], eps: 1.0e-6}")).case.training
    assert adam == LocalTraining.fedavg(lr=0.01, epochs=2, batch_size=8, optimizer="adam", betas=(0.8, 0.99), eps=1e-6)


@pytest.mark.parametrize("model", ["lenet", "mlp", "convnet", "resnet", "vit"])
def test_models_of_the_zoo_fit_the_data_without_being_told(model: str) -> None:
    case = load_config(written(f"model: zoo:{model}\ndata: fashion_mnist")).case
    outputs = case.model.eval()(case.batch.inputs[:2])
    assert outputs.shape[1] > int(case.batch.labels.max())


def test_a_folder_of_pictures_and_a_model_of_ones_own() -> None:
    for name in ("cat", "dog"):
        Path("mine", name).mkdir(parents=True)
        Picture.new("L", (9, 9), 51).save(Path("mine", name, "1.png"))
    Path("own_audited.py").write_text(
        "from torch import nn\ndef build(out):\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, out))\n"
    )
    text = "model: {name: 'own_audited:build', options: {out: 2}}\ndata: mine\nsize: [1, 6, 6]"
    case = load_config(written(text)).case
    torch.testing.assert_close(case.batch.inputs, torch.full((2, 1, 6, 6), 0.2))
    assert case.batch.labels.tolist() == [0, 1]
    assert case.model(case.batch.inputs).shape == (2, 2)


def test_a_case_of_ones_own_brings_everything() -> None:
    Path("own_case.py").write_text(
        "import fedseal as fs\nfrom fedseal.audit import Case\n"
        "def case():\n"
        "    return Case(fs.zoo.mlp(), fs.zoo.fashion_mnist()[:2], fs.LocalTraining.fedsgd(), name='ours')\n"
    )
    assert load_config(written("case: own_case:case")).case.title == "ours"
    with pytest.raises(BadConfig, match="'case' and 'data' are both given"):
        load_config(written("case: own_case:case\ndata: photos"))
    Path("own_other.py").write_text("import fedseal as fs\ncase = fs.zoo.mlp\n")
    with pytest.raises(BadConfig, match="returned a Sequential, and a Case is needed"):
        load_config(written("case: own_other:case"))


def test_what_is_loaded_runs(tmp_path: Path) -> None:
    text = "model: zoo:mlp\ndata: fashion_mnist\nattacks: dlg:steps=1\nsamples: 1\nout: first"
    setup = load_config(written(text))
    record = setup.run()
    assert record.complete
    assert record.header.config.case == "mlp on fashion_mnist"
    assert (tmp_path / "first" / "record.json").is_file()
    assert record.header.given["attacks"] == ["dlg:steps=1"]
    with pytest.raises(BadConfig, match="holds another audit"):
        replace(setup, samples=2).run()


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("atacks: [auto]", BadConfig, "unknown key 'atacks'; did you mean 'attacks'"),
        ("training: {knid: fedsgd}", BadConfig, "unknown key 'knid' in 'training'; did you mean 'kind'"),
        ("training: {kind: fedprox}", BadConfig, "'training' is 'fedprox'"),
        ("training: {lr: 0.1}", BadConfig, "'training: lr' means nothing to fedsgd"),
        ("training: {momentum: 0.9}", BadConfig, "'training: momentum' means nothing to fedsgd"),
        ("training: {shuffle: true}", BadConfig, "'training: shuffle' means nothing to fedsgd"),
        ("training: {kind: fedavg, lr: 0.1, epochs: 0}", BadConfig, "0 local epochs"),
        ("training: {kind: fedavg, lr: 0.1, momentum: 1}", BadConfig, "momentum is 1"),
        ("training: {kind: fedavg, lr: 0.1, optimizer: adam, momentum: 0.9}", BadConfig, "means nothing to adam"),
        ("training: {kind: fedavg, lr: 0.1, optimizer: rmsprop}", BadConfig, "'training' is 'rmsprop'"),
        ("training: {kind: fedavg, lr: 0.1, weight_decay: -1}", BadConfig, "weight decay is -1"),
        ("training: {kind: fedavg, lr: 0.1, optimizer: adam, betas: [0.9]}", BadConfig, "'training'"),
        ("training: {kind: fedavg, lr: 0.1, momentun: 0.9}", BadConfig, "did you mean 'momentum'"),
        ("training: {kind: fedavg}", BadConfig, "no learning rate"),
        ("training: {kind: fedavg, lr: -1}", BadConfig, "learning rate is -1"),
        ("samples: many", BadConfig, "'samples' is 'many'"),
        ("seeds: [1, two]", BadConfig, "'seeds' is 'two'"),
        ("model: 3", BadConfig, "'model' is 3"),
        ("model: zoo:lent", UnknownName, "did you mean 'lenet'"),
        ("model: {name: zoo:lenet, options: {activation: sigmiod}}", UnknownName, "sigmoid"),
        ("model: nowhere:build", BadConfig, "there is no module 'nowhere'"),
        ("data: nowhere", StorageFailure, "there is no data 'nowhere'"),
        ("size: [3, 32, 16]", BadConfig, "square"),
        ("size: 0", BadConfig, "shape"),
        ("normalization: {mean: 0.5}", BadConfig, "'normalization'"),
        ("normalization: {mean: 0.5, std: [1, 1]}", BadConfig, "2 normalization values for 3 channels"),
        ("normalization: {mean: 0.5, std: 0}", BadConfig, "standard deviation"),
        ("[auto, dlg]", BadConfig, "holds no keys"),
        ("attacks: [auto", BadConfig, "is no YAML"),
        ("1: 2", BadConfig, "holds no keys"),
        ("model: !!python/object/apply:os.getcwd []", BadConfig, "is no YAML"),
    ],
)
def test_a_mistake_in_the_file_is_said_in_a_line(text: str, error: type[FedsealError], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        load_config(written(text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_one_that_is_no_text_are_said() -> None:
    with pytest.raises(StorageFailure, match=r"cannot read the configuration 'none\.yaml' \(No such file"):
        load_config("none.yaml")
    Path("binary.yaml").write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(BadConfig, match="is no YAML"):
        load_config("binary.yaml")


READER = """
from types import SimpleNamespace
import torch
import fedseal as fs
from torch import nn
from metric.stub import text

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(1000, 8), nn.Linear(8, 3)

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None):
        read = self.table(input_ids) if inputs_embeds is None else inputs_embeds
        return SimpleNamespace(logits=self.head((read * attention_mask[..., None]).sum(1)))

def build():
    return fs.LanguageModel(Net(), task="sequence", pad=0), text(6)
"""


def test_sentences_stand_in_the_file_or_in_one_of_their_own() -> None:
    Path("config_reader.py").write_text(READER)
    Path("notes.txt").write_text("red fox\n\nblue one two three four five\n", "utf-8")
    for given in ("notes.txt", "[red fox, blue one two three four five]"):
        setup = load_config(written(f"text: {given}\nmodel: config_reader:build\nlabel: 2\n"))
        assert setup.case.inputs_as.describe()["kind"] == "text"
        assert setup.case.batch.labels.tolist() == [2, 2]
        assert (setup.case.batch.inputs != 0).sum(1).tolist() == [4, 6]
        assert "has 8 tokens and was cut to 6" in setup.notes[0]
    assert setup.case.title == "config_reader:build on sentences"


def test_a_table_brings_its_schema_and_a_model_that_fits() -> None:
    Path("people.csv").write_text("age,sex,sick\n" + "".join(f"{20.5 + i},{'fm'[i % 2]},{i % 3}\n" for i in range(12)))
    setup = load_config(written("table: people.csv\nlabel: sick\nsamples: 2\n"))
    assert setup.case.title == "mlp on people.csv"
    assert [tuple(p.shape) for p in setup.case.model.parameters()][0::2] == [(100, 3), (100, 100), (3, 100)]
    assert setup.notes[0] == "12 rows; label 'sick' with the classes 0, 1, 2"
    narrow = load_config(written("table: people.csv\nlabel: sick\nmodel: {name: 'zoo:mlp', options: {widths: [5]}}\n"))
    assert [tuple(p.shape) for p in narrow.case.model.parameters()][0::2] == [(5, 3), (3, 5)]


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("text: notes.txt\ntable: people.csv", "'text' and 'table' are both given"),
        ("text: notes.txt\nsize: 8", "'text' and 'size' are both given"),
        ("table: people.csv\nlabel: a\ndata: photos", "'table' and 'data' are both given"),
        ("table: people.csv", "add label: COLUMN"),
        ("label: sick", "'label' is given without a text or a table"),
        ("text: notes.txt\nmodel: minilmm", "did you mean 'minilm'"),
        ("text: gone.txt\nmodel: config_reader:build", "cannot read the sentences"),
        ("text: ['']\nmodel: config_reader:build", "holds no token"),
        ("text: []\nmodel: config_reader:build", "no sentence"),
        ("table: gone.csv\nlabel: a", "there is no table"),
        ("case: a:b\ntext: notes.txt", "'case' and 'text' are both given"),
    ],
)
def test_what_of_text_and_tables_does_not_go_together(content: str, fact: str) -> None:
    Path("config_reader.py").write_text(READER)
    Path("notes.txt").write_text("red fox\n")
    with pytest.raises(FedsealError, match=re.escape(fact)):
        load_config(written(content))
