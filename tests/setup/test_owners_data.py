"""Data of several owners is one data set, or a refusal that names the file: three hospitals, whatever they store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from cli.test_audit_recording import PLAN
from fedseal.errors import BadConfig, FedsealError, StorageFailure, UnfitBatch, UnfitPicture
from fedseal.modality import Tabular
from fedseal.setup import load_config, load_data
from fedseal.setup.data.proposal import proposal
from fedseal.setup.deployment import PartySpec, deployment_of
from fedseal.setup.federation import FederationSpec, OwnersData
from fedseal.types import Batch
from modality.test_depth import png

HOSPITALS: dict[str, tuple[str, ...]] = {"a": ("benign",), "b": ("benign", "malign"), "c": ("malign",)}
SIDE, EACH = 6, 12


def plan(*data: Path | str, **facts: Any) -> FederationSpec:
    found: dict[str, Any] = {"model": "zoo:mlp:widths=[8]", "shape": "1,6,6", "owners": None, "batch_size": 100}
    return replace(PLAN, data=tuple(map(str, data)), epochs=5, seed=1, **{**found, **facts})


def accuracy(spec: FederationSpec) -> float:
    return float(spec.federation(spec.read()).fit(12).history[-1].validation["accuracy"])


def pictures(kind: str, count: int, seed: int) -> np.ndarray:
    """`(count, 6, 6)` in [0, 1]: a bright spot on the left if benign, on the right if malign, and noise."""
    values = np.random.default_rng(seed).random((count, SIDE, SIDE)) * 0.4
    left = slice(0, 2) if kind == "benign" else slice(4, 6)
    values[:, 2:4, left] += 0.5
    return values


def store(path: Path, picture: np.ndarray, bits: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = (picture * (2**bits - 1)).round()
    Image.fromarray(whole.astype(np.uint8 if bits == 8 else np.uint16)).save(path)


def folders(folder: Path, bits: dict[str, int] | None = None) -> list[Path]:
    """Three hospitals' folders, one of all their pictures, and one for validation."""
    for place, (name, kinds) in enumerate(HOSPITALS.items()):
        for kind in kinds:
            for number, picture in enumerate(pictures(kind, EACH, place)):
                store(folder / name / kind / f"{number}.png", picture, (bits or {}).get(name, 8))
                store(folder / "pooled" / kind / f"{name}{number}.png", picture, 8)
    for kind in ("benign", "malign"):
        for number, picture in enumerate(pictures(kind, 25, 9)):
            store(folder / "held" / kind / f"{number}.png", picture, 8)
    return [folder / name for name in HOSPITALS]


def pooled(folder: Path, **facts: Any) -> float:
    return accuracy(plan(folder / "pooled", owners=3, validation=str(folder / "held"), **facts))


def test_three_hospitals_of_which_two_have_one_class_train_as_their_pooled_pictures(tmp_path: Path) -> None:
    three = accuracy(plan(*folders(tmp_path), validation=str(tmp_path / "held")))
    whole = pooled(tmp_path)
    assert whole > 0.95
    assert abs(three - whole) <= 0.01


def test_deeper_pictures_of_one_hospital_are_refused_and_trained_on_by_their_range(tmp_path: Path) -> None:
    three = plan(*folders(tmp_path, {"c": 12}), validation=str(tmp_path / "held"))
    with pytest.raises(UnfitBatch, match=r"c' holds .* to 0.0\d+, scaled from 16 bits, and '.*a' values"):
        three.read()
    assert abs(accuracy(replace(three, range="0,4095")) - pooled(tmp_path)) <= 0.01
    with pytest.raises(UnfitPicture, match=r"c/malign/\d+.png' holds the value \d+, and the range is 0 to 1023"):
        replace(three, range="0,1023").read()


def test_pictures_of_two_depths_in_one_folder_name_a_file(tmp_path: Path) -> None:
    hospital, *_ = folders(tmp_path)
    store(hospital / "benign" / "deep.png", pictures("benign", 1, 7)[0], 12)
    with pytest.raises(UnfitPicture, match=r"deep.png' is scaled from 16 bits, and '.*benign/0.png' from 8 bits"):
        plan(hospital).read()


def test_pictures_without_a_range_are_never_scaled_each_by_its_own(tmp_path: Path) -> None:
    for number, most in enumerate((100.0, 1000.0)):
        values = np.linspace(-10, most, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
        path = tmp_path / "a" / f"kind{number}" / "0.tif"
        path.parent.mkdir(parents=True)
        Image.fromarray(values).save(path)
    with pytest.raises(UnfitPicture, match=r"kind0/0.tif' holds numbers of no known range"):
        plan(tmp_path / "a", validation_split=0.0).read()
    found = plan(tmp_path / "a", validation_split=0.0, range="-10,1000", owners=1).read().owners[0]
    assert float(found.inputs[found.labels == 0].max()) == pytest.approx(110 / 1010)


TABLE = "age,weight,kind\n"


def rows(kind: str, count: int, seed: int) -> list[tuple[str, str, str]]:
    draw, shift = np.random.default_rng(seed), 6.0 if kind == "malign" else 0.0
    return [(f"{draw.normal(50 + 4 * shift, 5):.1f}", f"{draw.normal(70 - shift, 1):.2f}", kind) for _ in range(count)]


def tables(folder: Path) -> list[Path]:
    """One with commas, one with tabs and a byte-order mark, one with semicolons and decimal commas; and all in one."""
    made: dict[str, list[tuple[str, str, str]]] = {
        name: [row for kind in kinds for row in rows(kind, 40, place)]
        for place, (name, kinds) in enumerate(HOSPITALS.items())
    }
    made |= {"pooled": [row for part in made.values() for row in part]}
    made |= {"held": [row for kind in ("benign", "malign") for row in rows(kind, 60, 9)]}
    signs = {"b": ("\t", ".", "utf-8-sig"), "c": (";", ",", "utf-8-sig")}
    for name, part in made.items():
        separator, decimal, encoding = signs.get(name, (",", ".", "utf-8"))
        lines = [TABLE.strip().replace(",", separator)]
        lines += [separator.join(field.replace(".", decimal) for field in row) for row in part]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding)
    return [folder / f"{name}.csv" for name in HOSPITALS]


def test_three_hospitals_tables_in_three_dialects_train_as_one(tmp_path: Path) -> None:
    facts = {"validation": str(tmp_path / "held.csv"), "label": "kind", "shape": None}
    spec = plan(*tables(tmp_path), **facts)
    whole = plan(tmp_path / "pooled.csv", owners=3, **facts)
    assert spec.read().shape == whole.read().shape == (2,)
    modality = spec.read().modality
    assert isinstance(modality, Tabular)
    assert modality.describe() == whole.read().modality.describe()  # type: ignore[union-attr]
    assert accuracy(whole) > 0.95
    assert abs(accuracy(spec) - accuracy(whole)) <= 0.01


def other_column(at: Path) -> None:
    (at / "c.csv").write_text("age,size,kind\n1,2,benign\n3,4,malign\n")


def words(at: Path) -> None:
    (at / "c.csv").write_text("age,weight,kind\n1,2,benign\n3,about 4,malign\n")


def both_signs(at: Path) -> None:
    (at / "c.csv").write_text('age,weight,kind\n"1,5",2.5,benign\n"3,1",4.5,malign\n')


def thousands(at: Path) -> None:
    (at / "c.csv").write_text("age;weight;kind\n1;1.234,5;benign\n3;4;malign\n")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (other_column, r"c.csv' has the column 'size', and '.*a.csv' has not"),
        (words, r"the column 'weight' holds numbers in '.*a.csv', and 'about 4' in '.*c.csv'"),
        (both_signs, r"c.csv' has numbers with decimal commas \('1,5'\) and with points \('2.5'\)"),
        (thousands, r"c.csv' writes a number as '1.234,5'"),
    ],
)
def test_tables_that_are_not_one_are_refused_by_name(tmp_path: Path, spoil: Callable[[Path], None], told: str) -> None:
    files = tables(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UnfitBatch, match=told):
        plan(*files, label="kind", shape=None).read()


def test_a_parquet_file_whose_text_is_none_is_refused_by_name(tmp_path: Path) -> None:
    """pyarrow looks at a text when it is used, and raises what is no ValueError."""
    buffers = [None, pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"\xff\xfeok")]
    kinds = pa.Array.from_buffers(pa.string(), 2, buffers)
    parquet.write_table(pa.table({"age": [1.5, 2.5], "kind": kinds}), tmp_path / "bad.parquet")
    file = str(tmp_path / "bad.parquet")
    for data in ((file,), (file, file)):
        with pytest.raises(StorageFailure, match=r"bad.parquet' cannot be read as a table"):
            plan(*data, label="kind", shape=None).read()


def arrays(path: Path, inputs: np.ndarray, labels: np.ndarray | None = None) -> Path:
    np.savez(path, images=inputs, labels=np.arange(len(inputs)) % 2 if labels is None else labels)
    return path


def test_whole_numbers_of_any_type_are_scaled_as_bytes_are(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 6, 6))
    made = [arrays(tmp_path / f"{kind}.npz", values.astype(kind)) for kind in ("uint8", "int16", "int64")]
    first, *others = plan(*made).read().owners
    assert float(first.inputs.max()) <= 1
    assert all(torch.equal(first.inputs, other.inputs) for other in others)


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        ("int16", (-1024, 3071), r"example 0 of '.*b.npz' holds the value -?\d+, and the range is 0 to 255"),
        ("float32", (0.0, 200.0), r"b.npz' holds values from 0 to 200, scaled from numbers as they are, and '.*a.npz'"),
    ],
)
def test_values_of_another_range_are_refused_by_file_and_value(
    tmp_path: Path, kind: str, values: tuple[float, float], told: str
) -> None:
    a = arrays(tmp_path / "a.npz", np.random.default_rng(0).integers(0, 256, (4, 6, 6), np.uint8))
    b = arrays(tmp_path / "b.npz", np.linspace(*values, 144).reshape(4, 6, 6).astype(kind))
    with pytest.raises(UnfitBatch, match=told):
        plan(a, b).read()
    one = plan(b, b, range=f"{values[0]:g},{values[1]:g}").read().owners[0]
    assert float(one.inputs.min()) == 0
    assert float(one.inputs.max()) == 1


@pytest.mark.parametrize("text", ["5", "5,1", "0,x", "0,inf", "1,2,3"])
def test_a_range_is_two_numbers(text: str) -> None:
    with pytest.raises(BadConfig, match="two numbers, the lower first"):
        _ = plan("x", range=text).span


def test_targets_are_looked_at_where_data_is_read(tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.npz", np.zeros((2, 6, 6), np.uint8), np.array([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(UnfitBatch, match=r"a.npz' \(1, 1\) are no probabilities"):
        plan(path).read()
    path = arrays(tmp_path / "b.npz", np.zeros((2, 6, 6), np.uint8), np.array([0, -1]))
    with pytest.raises(UnfitBatch, match=r"example 1 in '.*b.npz' has the class -1"):
        plan(path).read()


def test_classes_by_name_and_by_number_do_not_mix(tmp_path: Path) -> None:
    hospital, *_ = folders(tmp_path)
    numbers = arrays(tmp_path / "n.npz", np.zeros((2, 6, 6), np.uint8))
    with pytest.raises(BadConfig, match=r"n.npz' has classes by number, and '.*a' by name \(benign\)"):
        plan(hospital, numbers).read()
    for name in ("x", "y"):
        store(tmp_path / name / "0.png", pictures("benign", 1, 0)[0], 8)
    with pytest.raises(BadConfig, match="x' holds pictures without classes"):
        plan(tmp_path / "x", tmp_path / "y").read()


def deployed(spec: FederationSpec, classes: str | None, number: int, examples: int = EACH) -> PartySpec:
    drawn = deployment_of(spec, rounds=1, evaluate_every=1, timeout=5, classes=classes, examples=examples)
    return PartySpec.of(drawn.trainings[number].plain())


def own(party: PartySpec, number: int, folder: Path) -> OwnersData | Batch:
    place: Any = type("At", (), {"number": number, "folder": folder, "who": f"data owner {number}", "leads": False})
    return party._own(place)


def test_on_several_hosts_classes_have_the_numbers_that_were_agreed_on(tmp_path: Path) -> None:
    hospitals = folders(tmp_path)
    here = deployed(plan(*hospitals), None, 2)
    away = deployed(plan("elsewhere/a", "elsewhere/b", "elsewhere/c"), "malign,benign", 2)
    assert here.names == away.names == ("benign", "malign")
    for party in (here, replace(away, own=str(hospitals[2]))):
        found = own(party, 2, tmp_path)
        assert isinstance(found, Batch)
        assert found.labels.tolist() == [1] * EACH
    unnamed = replace(deployed(plan("elsewhere/a", "elsewhere/b"), "2", 1), own=str(hospitals[2]))
    with pytest.raises(BadConfig, match=r"c' names its classes \(malign\), and no names were agreed on"):
        own(unnamed, 1, tmp_path)
    foreign = replace(away, own=str(hospitals[2]), names=("benign", "other"))
    with pytest.raises(BadConfig, match=r"c/malign' is a class that was not agreed on"):
        own(foreign, 2, tmp_path)
    folders(tmp_path, {"c": 12})
    with pytest.raises(UnfitBatch, match=r"c' is scaled from 16 bits, and 8 bits or 0 to 1 was agreed on"):
        own(here, 2, tmp_path)


@pytest.mark.parametrize("text", ["1", "0", "-3", "benign", "benign,", ""])
def test_classes_are_a_number_or_names(text: str) -> None:
    with pytest.raises(FedsealError, match="two or more names"):
        deployed(plan("elsewhere/a", "elsewhere/b"), text, 0)


def test_an_audit_says_the_range_of_its_pictures(tmp_path: Path) -> None:
    _, _, deep = folders(tmp_path, {"c": 12})

    def most(more: str) -> float:
        (tmp_path / "audit.yaml").write_text(f"data: {deep}\nsize: [1, 6, 6]\n{more}\n")
        return float(load_config(tmp_path / "audit.yaml").case.batch.inputs.max())

    assert most("") < 0.06
    assert 0.8 < most("range: [0, 4095]") <= 1
    with pytest.raises(BadConfig, match=r"'range' is \[5.0, 1.0\]"):
        most("range: [5, 1]")


@pytest.mark.parametrize("shape", [(4, 6), (4, 1, 6, 6, 6)])
def test_rows_and_volumes_of_another_scale_are_refused_too(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(17, 93, shape)
    bytes_, numbers = (arrays(tmp_path / f"{kind}.npz", values.astype(kind)) for kind in ("uint8", "float32"))
    told = r"float32.npz' holds values from 17 to 9., scaled from numbers as they are, and '.*uint8.npz' values"
    with pytest.raises(UnfitBatch, match=told):
        plan(bytes_, numbers, shape=None).read()
    one, other = plan(bytes_, numbers, shape=None, range="0,255").read().owners
    assert torch.equal(one.inputs, other.inputs)
    assert len(plan(numbers, numbers, shape=None).read().owners) == 2


def test_rows_of_numbers_are_as_they_are_wherever_they_lie(tmp_path: Path) -> None:
    """Features of one owner may happen to lie between 0 and 1."""
    draw = np.random.default_rng(0)
    narrow, wide = (
        arrays(tmp_path / "a.npz", draw.random((4, 5))),
        arrays(tmp_path / "b.npz", draw.normal(0, 3, (4, 5))),
    )
    assert plan(narrow, wide, shape=None).read().scale == "numbers as they are"


def test_channels_in_an_order_that_is_not_said_do_not_mix_with_others(tmp_path: Path) -> None:
    images = np.zeros((4, 3, 6, 6), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(4) % 2, channels="BGR")
    silent = arrays(tmp_path / "b.npz", images)
    with pytest.raises(UnfitBatch, match=r"b.npz' has channels in the order not said, and '.*a.npz' RGB"):
        plan(tmp_path / "a.npz", silent, shape=None).read()
    assert plan(silent, silent, shape=None).read().channels == "not said"


def test_on_several_hosts_scale_and_channels_are_those_of_the_data_that_is_here(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    here = arrays(tmp_path / "here.npz", draw.normal(0, 3, (4, 3, 6, 6)))
    party = deployed(plan("elsewhere/a", str(here), shape="3,6,6"), "2", 0)
    assert (party.scale, party.channels) == ("numbers as they are", "not said")
    away = deployed(plan("elsewhere/a", "elsewhere/b", shape="3,6,6"), "2", 0)
    assert (away.scale, away.channels) == ("8 bits or 0 to 1", "RGB")
    with pytest.raises(UnfitBatch, match=r"here.npz' is scaled from numbers as they are, and 8 bits or 0 to 1"):
        own(replace(away, own=str(here)), 0, tmp_path)
    silent = arrays(tmp_path / "silent.npz", draw.random((4, 3, 6, 6)))
    with pytest.raises(UnfitBatch, match=r"silent.npz' has channels in the order not said, and RGB was agreed on"):
        own(replace(away, own=str(silent)), 0, tmp_path)
    assert deployed(plan("elsewhere/a", "elsewhere/b", shape="5"), "2", 0).scale == "numbers as they are"
    with pytest.raises(UnfitBatch, match=r"here.npz' holds examples of the shape \(3, 6, 6\), and --shape is 3,7,7"):
        deployed(plan("elsewhere/a", str(here), shape="3,7,7"), "2", 0)


def test_folders_of_deep_colors_go_together_by_their_range(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (6, 6, 3), dtype=np.uint16)
    for name in ("a", "b"):
        for kind in ("benign", "malign"):
            (tmp_path / name / kind).mkdir(parents=True)
            (tmp_path / name / kind / "0.png").write_bytes(png(values))
    store(tmp_path / "c" / "benign" / "0.png", pictures("benign", 1, 0)[0], 8)
    deep = plan(tmp_path / "a", tmp_path / "b", shape="3,6,6")
    assert len(set(replace(deep, range="0,4095").read().owners[0].inputs.flatten().tolist())) > 50
    assert deep.read().notes == tuple(
        f"'{tmp_path / name}': 2 pictures: scaled from 16 bits to [0, 1]" for name in "ab"
    )
    with pytest.raises(UnfitBatch, match=r"c' holds values .* scaled from 8 bits or 0 to 1, and '.*a' .* from 16 bits"):
        plan(tmp_path / "a", tmp_path / "c", shape="3,6,6").read()
    found = proposal(str(tmp_path / "a"), size=(3, 6, 6), label="label", span=None)[0]
    assert (found.bits, found.range) == (12, None)


def test_notes_on_pictures_are_summed_up_by_kind(tmp_path: Path) -> None:
    for number, side in enumerate((8, 9, 6)):
        (tmp_path / "kind").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((side, 6), np.uint8)).save(tmp_path / "kind" / f"{number}.png")
    assert load_data(tmp_path, size=(3, 6, 6)).notes == (
        "note: 2 pictures: cropped the center 6x6 of 6x8, or the like",
        "note: 3 pictures: repeated its grey channel 3 times",
    )


def test_names_of_classes_are_one_in_either_form_of_an_accent(tmp_path: Path) -> None:
    """macOS writes it as a letter of its own."""
    one, two = "b\u00f6sartig", "bo\u0308sartig"
    for name, kind in {"a": one, "b": two, "c": "gutartig"}.items():
        store(tmp_path / name / kind / "0.png", pictures("malign", 1, 0)[0], 8)
    named = [tmp_path / name for name in "abc"]
    found = plan(*named).read()
    assert found.names == (one, "gutartig")
    assert [int(owner.labels) for owner in found.owners] == [0, 0, 1]
    party = replace(deployed(plan("elsewhere/a", "elsewhere/b"), f"{two},gutartig", 1), own=str(named[0]))
    assert party.names == (one, "gutartig")
    labeled = own(party, 1, tmp_path)
    assert isinstance(labeled, Batch)
    assert labeled.labels.tolist() == [0]
    store(tmp_path / "a" / two / "1.png", pictures("malign", 1, 0)[0], 8)
    assert load_data(named[0], size=(1, 6, 6)).batch.labels.tolist() == [0, 0]
