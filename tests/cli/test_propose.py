"""`fedseal train --propose` and `--terms`: owners agree on what their data is before they train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cli.conftest import Command
from cli.test_deploy import same, trained
from fedseal.errors import UnfitBatch
from fedseal.federation.deployment.folder import places
from fedseal.setup.deployment import PartySpec
from setup.test_owners_data import folders, pictures, store, tables

TRAINING = ("--model", "zoo:mlp:widths=[8]", "--epochs", "5", "--rounds", "12", "--seed", "1")
HOSPITALS = ("a", "b", "c")
DIALECT = (
    "columns are separated by tabs",
    "columns are separated by semicolons",
    "began with a byte-order mark",
    "numbers have decimal commas",
)


def agree(fedseal: Command, kind: str, *options: str) -> list[str]:
    """Each owner proposes, one merges, and training is told the outcome; the model owner's data is proposed as well."""
    files = []
    for name in (*HOSPITALS, "held"):
        answer = fedseal("train", "--data", f"{name}{kind}", *options, "--propose", f"{name}.json")
        assert answer.code == 0
        assert all(words in DIALECT for words in (line.partition("': ")[2] for line in answer.err.splitlines()))
        assert answer.out.endswith(f"{name}.json says this and no more; read it before you hand it over\n")
        files += ["--terms", f"{name}.json"]
    assert fedseal("train", *files, "--propose", "all.json").code == 0
    return ["--terms", "all.json"]


def data(*names: str, kind: str = "") -> list[str]:
    return [part for name in names for part in ("--data", f"{name}{kind}")]


def accuracy(fedseal: Command, *options: str) -> float:
    answer = fedseal("train", *options, *TRAINING, "--json")
    assert (answer.code, answer.err) == (0, "")
    return float(json.loads(answer.out)["rounds"][-1]["validation"]["accuracy"])


def test_three_hospitals_agree_on_pictures_and_train_as_their_pooled_data(fedseal: Command, tmp_path: Path) -> None:
    """Folders {benign}, {benign, malign} and {malign}, the last of 12 bits."""
    folders(tmp_path, {"c": 12})
    terms = agree(fedseal, "", "--shape", "1,6,6")
    assert json.loads((tmp_path / "all.json").read_text())["range"] == [0, 4095]
    held = ["--validation", "held"]
    three = accuracy(fedseal, *terms, *data(*HOSPITALS), *held)
    whole = accuracy(fedseal, *data("pooled"), "--owners", "3", "--shape", "1,6,6", *held)
    assert whole > 0.95
    assert abs(three - whole) <= 0.01
    store(tmp_path / "c" / "malign" / "0.png", pictures("malign", 1, 0)[0], 16)
    complaint = fedseal("train", *terms, *data(*HOSPITALS), *held, *TRAINING).complaint
    assert "'c/malign/0.png' holds the value " in complaint
    assert "the range is 0 to 4095" in complaint


def test_three_hospitals_agree_on_tables_and_train_as_one(fedseal: Command, tmp_path: Path) -> None:
    """Commas, tabs with a byte-order mark, and semicolons with decimal commas."""
    tables(tmp_path)
    terms = agree(fedseal, ".csv", "--label", "kind")
    held = ["--validation", "held.csv"]
    three = accuracy(fedseal, *terms, *data(*HOSPITALS, kind=".csv"), *held)
    whole = accuracy(fedseal, *data("pooled", kind=".csv"), "--owners", "3", "--label", "kind", *held)
    assert whole > 0.95
    assert abs(three - whole) <= 0.01


def test_notes_say_how_a_table_was_read_and_what_its_terms_tell(fedseal: Command, tmp_path: Path) -> None:
    """Of one patient in stage 7; names that have more values than are shown elsewhere stand there in full."""
    lines = [f"{20 + n % 45};{7 if n == 3 else n % 2};town {n % 9};{'ab'[n % 2]}" for n in range(90)]
    (tmp_path / "t.csv").write_text("\n".join(["age;stage;town;label", *lines]) + "\n")
    whole = fedseal("train", "--data", "t.csv", "--propose", "t.json")
    assert whole.code == 0
    assert "  stage: 3 values: '0', '1', '7'\n" in whole.out
    assert "'town 0', 'town 1', 'town 2', 'town 3', 'town 4', 'town 5', 'town 6', 'town 7', 'town 8'\n" in whole.out
    tells = "note: 't.csv': values of 'stage' that stand in one row each, and are in the file: 1\n"
    assert whole.err == "note: 't.csv': columns are separated by semicolons\n" + tells
    assert fedseal("train", "--data", "t.csv", "--propose", "t.json", "-q").err == tells
    (tmp_path / "t.json").unlink()
    (tmp_path / "p.csv").write_text("age,label\n" + "".join(f"{n % 60},Patient{n}\n" for n in range(101)))
    complaint = fedseal("train", "--data", "p.csv", "--propose", "t.json").complaint
    assert "'label' has 101 different values in 'p.csv'" in complaint
    assert not (tmp_path / "t.json").exists()


def test_tables_on_other_hosts_are_trained_on_as_was_agreed_on(fedseal: Command, tmp_path: Path) -> None:
    tables(tmp_path)
    terms = agree(fedseal, ".csv", "--label", "kind")
    options = [*terms, "--validation", "held.csv", "--batch-size", "500", "--rounds", "2", "--aggregators", "2"]
    away = data(*(f"own/{name}" for name in HOSPITALS), kind=".csv")
    complaint = fedseal("train", "--deploy", "all", *away, *options).complaint
    assert "'own/a.csv' is not on this machine, and --examples must say" in complaint
    assert fedseal("train", "--deploy", "all", *away, *options, "--examples", "80").code == 0
    for place, name in zip(places(tmp_path / "all")[1:], HOSPITALS, strict=False):
        (place.folder / "own").mkdir()
        shutil.copy(tmp_path / f"{name}.csv", place.folder / "own")
    assert fedseal("train", *data(*HOSPITALS, kind=".csv"), *options, "--save", "here.st", "-q").code == 0
    assert same(trained(tmp_path / "all"), load_file(tmp_path / "here.st"))
    told = fedseal("join", "all/owner-2", "--terms").out
    assert "the data of every owner is a table of 2 columns, of which 'kind' says the classes benign, malign" in told
    assert "  age: number, " in told
    table = tmp_path / "all/owner-2/own/c.csv"
    table.write_text(table.read_text("utf-8-sig").replace("malign\n", "malign\n712,5;64,0;malign\n", 1))
    complaint = fedseal("join", "all/owner-2").complaint
    assert "c.csv' has '712.5' in the column 'age'" in complaint
    assert "row 2 of '" in complaint


def test_tables_that_are_all_here_are_deployed_as_they_are_trained_on_here(fedseal: Command, tmp_path: Path) -> None:
    tables(tmp_path)
    options = [*data(*HOSPITALS, kind=".csv"), "--label", "kind", "--validation", "held.csv", "--batch-size", "500"]
    options += ["--rounds", "2", "--aggregators", "2"]
    assert fedseal("train", "--deploy", "all", *options).code == 0
    assert fedseal("train", *options, "--save", "here.st", "-q").code == 0
    assert same(trained(tmp_path / "all"), load_file(tmp_path / "here.st"))
    (tmp_path / "b.csv").write_text("age,weight,kind\n1,2,benign\n3,4,other\n")
    owner = places(tmp_path / "all")[2]
    with pytest.raises(UnfitBatch, match=r"row 1 of '.*b.csv' has '1' in the column 'age'"):
        PartySpec.of(dict(owner.training)).federation(owner)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--propose", "x.json"], "--propose has neither data nor terms to go by"),
        (["--propose", "x.json", "--data", "nowhere"], "there is no data 'nowhere'"),
        (
            ["--propose", "x.json", "--data", "a.csv"],
            "'a.csv' has no column 'label'; its columns are age",
        ),
        (["--propose", "x.json", "--deploy", "all", "--data", "a.csv"], "--propose trains nothing"),
        (["--propose", "x.json", "--save", "m.st", "--data", "a.csv"], "--propose trains nothing, and --save is given"),
        (["--terms", "a.csv", "--data", "a.csv"], "'a.csv' holds no terms on data"),
        (
            ["--terms", "a.json", "--terms", "p.json", "--propose", "x.json"],
            "'p.json' has pictures, and 'a.json'",
        ),
        (
            ["--terms", "a.json", "--terms", "c.json", "--data", "photos"],
            "'photos' is pictures, and a table was",
        ),
        (["--terms", "a.json", "--data", "a.csv"], "the label column has 1 different value in 'a.json'"),
        (["--terms", "p.json", "--shape", "3,8,8", "--data", "photos"], "leave out --shape and --range"),
        (["--terms", "a.json", "--terms", "c.json", "--label", "sex", "--data", "a.csv"], "'kind' was agreed on"),
        (["--terms", "p.json", "--deploy", "all", "--classes", "2", "--data", "photos"], "leave out --classes"),
    ],
)
def test_what_cannot_be_agreed_on_is_one_line(
    fedseal: Command, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    tables(tmp_path)
    for name in ("a", "c"):
        assert fedseal("train", "--data", f"{name}.csv", "--label", "kind", "--propose", f"{name}.json").code == 0
    assert fedseal("train", "--data", "photos", "--propose", "p.json").code == 0
    assert complaint in fedseal("train", *arguments).complaint
    assert not (tmp_path / "x.json").exists()
    assert not (tmp_path / "all").exists()
