"""Terms on the data of several owners: what a file of them tells, how several become one, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedseal.errors import FedsealError, StorageFailure, UnfitBatch
from fedseal.federation import View
from fedseal.modality import Categorical, Continuous
from fedseal.setup import manifest
from fedseal.setup.data.agreement import agreed
from fedseal.setup.data.common import common_schema
from fedseal.setup.data.proposal import proposal
from fedseal.setup.data.tables import frame_of
from fedseal.setup.data.terms import DataTerms, read_terms, write_terms
from setup.test_owners_data import EACH, accuracy, arrays, deployed, folders, own, pictures, plan, pooled, store, tables


def proposed(*data: Path, label: str = "kind", span: tuple[float, float] | None = None) -> DataTerms:
    size = (1, 6, 6)
    return agreed({path.name: proposal(str(path), size=size, label=label, span=span)[0] for path in data})


def test_three_hospitals_under_proposed_terms_train_as_their_pooled_pictures(tmp_path: Path) -> None:
    """Folders {benign}, {benign, malign} and {malign}, of 8 and of 12 bits, and nobody says a range."""
    hospitals = folders(tmp_path, {"c": 12})
    terms = proposed(*hospitals)
    assert (terms.names, terms.bits, terms.range) == (("benign", "malign"), 12, (0.0, 4095.0))
    spec = plan(*hospitals, validation=str(tmp_path / "held"), shape=None).under(terms)
    assert abs(accuracy(spec) - pooled(tmp_path)) <= 0.01


def test_one_hospitals_pictures_may_have_both_depths(tmp_path: Path) -> None:
    hospitals = folders(tmp_path)
    for number, picture in enumerate(pictures("malign", EACH, 2)):
        if number % 2:
            store(tmp_path / "c" / "malign" / f"{number}.png", picture, 12)
    terms = proposed(*hospitals)
    assert (terms.bits, terms.range) == (12, (0.0, 4095.0))
    spec = plan(*hospitals, validation=str(tmp_path / "held"), shape=None).under(terms)
    assert abs(accuracy(spec) - pooled(tmp_path)) <= 0.01
    with pytest.raises(FedsealError, match=r"c/malign/\d+.png' holds the value \d+, and the range is 0 to 1023"):
        proposed(hospitals[2], span=(0, 1023))


def test_pictures_without_classes_have_no_terms(tmp_path: Path) -> None:
    store(tmp_path / "x" / "0.png", pictures("benign", 1, 0)[0], 8)
    with pytest.raises(FedsealError, match="x' holds pictures without classes"):
        proposed(tmp_path / "x")


def test_three_hospitals_tables_under_proposed_terms_train_as_one(tmp_path: Path) -> None:
    """One of them with semicolons and decimal commas, one with tabs."""
    files = [*tables(tmp_path), tmp_path / "held.csv"]
    facts: dict[str, Any] = {"validation": str(files[-1]), "label": "kind", "shape": None}
    spec = plan(*files[:-1], **facts).under(proposed(*files))
    whole = plan(tmp_path / "pooled.csv", owners=3, **facts)
    assert accuracy(whole) > 0.95
    assert abs(accuracy(spec) - accuracy(whole)) <= 0.01


def add_class(at: Path) -> None:
    store(at / "c" / "unclear" / "0.png", pictures("benign", 1, 0)[0], 8)


def add_bits(at: Path) -> None:
    store(at / "a" / "benign" / "deep.png", np.full((6, 6), 0.5), 16)


def no_classes(at: Path) -> None:
    (at / "b").rename(at / "gone")
    arrays(at / "b", np.zeros((2, 6, 6), np.uint8))
    (at / "b.npz").rename(at / "b")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (add_class, r"c/unclear' is a class that was not agreed on"),
        (add_bits, r"a/benign/deep.png' holds the value 32768, and the range is 0 to 4095"),
        (no_classes, r"b' is arrays of numbers, and pictures was agreed on"),
    ],
)
def test_pictures_that_do_not_fit_are_refused_by_file_and_value(
    tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    hospitals = folders(tmp_path, {"c": 12})
    spec = plan(*hospitals, shape=None).under(proposed(*hospitals))
    spoil(tmp_path)
    with pytest.raises(FedsealError, match=told):
        spec.read()


def test_deeper_pictures_where_all_have_8_bits_name_the_file_and_its_value(tmp_path: Path) -> None:
    hospitals = folders(tmp_path)
    spec = plan(*hospitals, shape=None).under(proposed(*hospitals))
    folders(tmp_path, {"c": 12})
    with pytest.raises(UnfitBatch, match=r"c/malign/\d+.png' holds the value \d+, scaled from 16 bits, and 8 bits"):
        spec.read()


def rewritten(old: str, new: str) -> Callable[[Path], None]:
    def spoil(at: Path) -> None:
        text = (at / "c.csv").read_text("utf-8-sig")
        (at / "c.csv").write_text(text.replace(old, new, 1))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (rewritten("weight", "size"), r"c.csv' has no column 'weight', which was agreed on"),
        (rewritten("malign", "unclear"), r"row 1 of '.*c.csv' has the class 'unclear', which was not agreed on"),
        (
            rewritten("malign\n", "malign\n712,5;64,0;malign\n"),
            r"row 2 of '.*c.csv' has '712.5' in the column 'age', and",
        ),
        (
            rewritten("malign\n", "malign\nold;64,0;malign\n"),
            r"row 2 of '.*c.csv' has 'old' in the column 'age', and 30 to",
        ),
        (rewritten("malign\n", "malign\n;64,0;malign\n"), r"c.csv' has no value in some rows of 'age'"),
    ],
)
def test_tables_that_do_not_fit_are_refused_by_file_and_value(
    tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    files = tables(tmp_path)
    spec = plan(*files, shape=None).under(proposed(*files))
    spoil(tmp_path)
    with pytest.raises(UnfitBatch, match=told):
        spec.read()


def terms(**facts: Any) -> DataTerms:
    usual: dict[str, Any] = {"version": 1, "kind": "pictures", "classes": 2, "names": ("x", "y"), "shape": (1, 6, 6)}
    return DataTerms.model_validate(usual | {"channels": "grey", "scale": "8 bits or 0 to 1"} | facts)


def numbers(**facts: Any) -> DataTerms:
    return terms(**{"kind": "arrays", "names": (), **facts})


def rows(label: str = "l", **columns: dict[str, Any]) -> DataTerms:
    found = [{"name": name, **facts} for name, facts in columns.items()]
    usual = {"kind": "table", "shape": (), "channels": "", "scale": "", "names": ("no", "yes")}
    return terms(**usual, label=label, columns=found)


AGE = {"kind": "numbers", "low": 10, "high": 50, "mean": 30, "std": 3, "digits": 0}
JOB = {"kind": "texts", "values": ("cook",)}
GRADE = {"kind": "codes", "values": ("1", "2")}


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (terms(), numbers(), r"'b' has arrays of numbers, and 'a' has pictures"),
        (terms(), terms(names=()), r"'b' has classes by number, and 'a' by name \(x, y\)"),
        (terms(), terms(shape=(1, 8, 8)), r"'b' has examples of the shape \(1, 8, 8\), and 'a'"),
        (
            terms(bits=12),
            terms(bits=16),
            r"pictures of 'b' take 16 bits, 0 to 65535, and those of 'a' go from 0",
        ),
        (
            terms(range=(-5, 5)),
            terms(bits=10),
            r"pictures of 'b' take 10 bits, 0 to 1023, and those of 'a' go fr",
        ),
        (numbers(), numbers(range=(0, 9)), r"'b' is scaled from 0 to 9, and 'a' from 8 bits"),
        (
            numbers(),
            numbers(scale="numbers as they are", values=(0, 200)),
            r"'b' has values from 0 to 200, scaled",
        ),
        (numbers(), numbers(targets="probabilities"), r"'b' has probabilities for targets, and 'a' has classes"),
        (numbers(channels="RGB"), numbers(channels="not said"), r"'b' has channels in the order not said, and 'a' has"),
        (rows(age=AGE), rows("m", age=AGE), r"'b' has the label 'm', and 'a' has the label 'l'"),
        (rows(age=AGE), rows(age=AGE, job=JOB), r"'b' has the column 'job', and 'a' has not"),
        (rows(age=AGE), rows(age=JOB), r"the column 'age' holds numbers in 'a', and 'cook' in 'b'"),
        (rows(age=GRADE), rows(age=JOB), r"the column 'age' holds numbers in 'a', and 'cook' in 'b'"),
    ],
)
def test_terms_that_contradict_each_other_are_refused_by_file_and_value(
    one: DataTerms, other: DataTerms, told: str
) -> None:
    for parts in ({"a": one, "b": other}, {"b": other, "a": one}):
        with pytest.raises(FedsealError):
            agreed(parts)
    with pytest.raises(FedsealError, match=told):
        agreed({"a": one, "b": other})


def test_classes_and_categories_are_united_and_ranges_the_widest() -> None:
    older = AGE | {"low": 30, "high": 90, "mean": 50, "std": 4, "digits": 1}
    one = agreed(
        {"a": rows(age=AGE, job=JOB, grade=GRADE), "b": rows(age=older, job=JOB, grade=GRADE | {"values": ("1",)})}
    )
    age, grade = one.table().columns  # and of `job` one value is known
    assert isinstance(age, Continuous)
    assert (age.low, age.high, age.mean, age.digits) == (10, 90, 40, 1)
    assert age.std == pytest.approx(np.sqrt((9 + 16) / 2 + 100))
    assert isinstance(grade, Categorical)
    assert grade.values == ("1", "2")
    many = GRADE | {"values": tuple(map(str, range(9, 20)))}
    far = agreed({"a": one, "b": rows(age=AGE, job=JOB | {"values": ("baker",)}, grade=many)})
    _, number, job = far.table().columns
    assert isinstance(job, Categorical)
    assert job.values == ("baker", "cook")
    assert isinstance(number, Continuous)  # as codes there would be too many
    assert (number.low, number.high) == (1, 19)
    assert agreed({"a": terms(range=(0, 5)), "b": terms(range=(-3, 4))}).range == (-3, 5)
    assert agreed({"a": terms(names=("x",)), "b": terms(names=("w", "z"))}).names == ("w", "x", "z")
    assert agreed({"a": terms(bits=12), "b": agreed({"a": terms(bits=12), "b": terms()})}).range == (0, 4095)


def test_a_proposal_holds_no_row_and_no_count(tmp_path: Path) -> None:
    lines = [f"{20 + 7 * n}.25,{'cook' if n % 2 else 'baker'},{1000 + n},{'yes' if n % 3 else 'no'}" for n in range(11)]
    (tmp_path / "t.csv").write_text("\n".join(["age,job,pay,kind", *lines, "93.25,astronaut,1017,yes"]) + "\n")
    found, tells, notes = proposal(str(tmp_path / "t.csv"), size=None, label="kind", span=None)
    write_terms(tmp_path / "t.json", found)
    assert read_terms(tmp_path / "t.json") == found
    text = (tmp_path / "t.json").read_text()
    for value in ("93.25", "20.25", "1017", "12"):
        assert value not in text
    assert {column["name"]: column.get("values") for column in json.loads(text)["columns"]} == {
        "age": None, "job": ["astronaut", "baker", "cook"], "pay": None,
    }  # fmt: skip
    assert tells == ("values of 'job' that stand in one row each, and are in the file: 1",)
    assert notes == ()


def colors(path: Path, order: str | None, last: bool = False) -> Path:
    """Red pictures."""
    images = np.zeros((4, 3, 6, 6), np.uint8)
    images[:, {"BGR": 2}.get(order or "", 0)] = 255
    said = {} if order is None else {"channels": order}
    np.savez(path, images=np.moveaxis(images, 1, -1) if last else images, labels=np.arange(4) % 2, **said)  # type: ignore[arg-type]
    return path


def test_the_order_of_channels_is_agreed_on_and_turned_where_a_file_says_it(tmp_path: Path) -> None:
    red, blue = colors(tmp_path / "a.npz", "RGB"), colors(tmp_path / "b.npz", "BGR", last=True)
    found = plan(red, blue, shape=None).under(proposed(red, blue)).read().owners
    for owner in found:
        assert float(owner.inputs[:, 0].min()) == 1
        assert float(owner.inputs[:, 1:].max()) == 0
    silent = colors(tmp_path / "c.npz", None)
    with pytest.raises(UnfitBatch, match=r"c.npz' has channels in the order not said, and 'a.npz' has .* RGB"):
        proposed(red, silent)
    with pytest.raises(UnfitBatch, match=r"c.npz' has channels in the order not said, and RGB was agreed on"):
        plan(silent, shape=None).under(proposed(red)).read()
    with pytest.raises(UnfitBatch, match=r"'channels' in '.*d.npz' is 'GRB'"):
        proposed(colors(tmp_path / "d.npz", "GRB"))


def test_arrays_beyond_what_was_agreed_on_are_refused_by_example_and_value(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    a = arrays(tmp_path / "a.npz", draw.random((4, 5)) * 3)
    spec = plan(a, shape=None, owners=1, validation_split=0.0).under(proposed(a))
    assert spec.read().shape == (5,)
    values = draw.random((4, 5))
    values[2, 1] = 70
    arrays(a, values)
    with pytest.raises(UnfitBatch, match=r"example 2 of '.*a.npz' holds the value 70, and 0 to 3 was agreed on"):
        spec.read()
    arrays(a, draw.random((4, 5)), np.array([0, 1, 2, 0]))
    with pytest.raises(UnfitBatch, match=r"example 2 of '.*a.npz' has the class 2, and 2 were agreed on"):
        spec.read()
    arrays(a, draw.random((4, 6)))
    with pytest.raises(UnfitBatch, match=r"a.npz' holds examples of the shape \(6,\), and \(5,\) was agreed on"):
        spec.read()


@pytest.mark.parametrize(
    "facts",
    [
        {"version": 2}, {"classes": 1}, {"classes": 3}, {"names": ["x", "x"]}, {"range": [5, 1]}, {"kind": "table"},
        {"shape": []}, {"shape": [0]}, {"bits": 8}, {"extra": 1}, {"values": [0, float("nan")]}, {"values": [0, 1]},
        {"kind": "arrays"}, {"kind": "arrays", "names": [], "values": [5, 1]},
        {"kind": "arrays", "names": [], "bits": 12},
    ],
)  # fmt: skip
def test_a_file_that_holds_no_terms_is_refused(tmp_path: Path, facts: dict[str, Any]) -> None:
    good = json.loads(terms().model_dump_json(exclude_defaults=True))
    (tmp_path / "t.json").write_text(json.dumps(good | facts))
    with pytest.raises(StorageFailure, match=r"t.json' holds no terms on data"):
        read_terms(tmp_path / "t.json")
    (tmp_path / "t.json").write_text(json.dumps(good))
    assert read_terms(tmp_path / "t.json") == terms()


def test_owners_on_other_hosts_read_tables_as_was_agreed_on(tmp_path: Path) -> None:
    files = tables(tmp_path)
    spec = plan("elsewhere/a.csv", "elsewhere/b.csv", shape=None).under(proposed(*files))
    party = replace(deployed(spec, None, 1, examples=100), own=str(files[2]))
    found: Any = own(party, 1, tmp_path)
    assert (found.inputs.shape[1:], found.labels.unique().tolist()) == ((2,), [1])
    rewritten("malign\n", "malign\n712,5;64,0;malign\n")(tmp_path)
    with pytest.raises(UnfitBatch, match=r"row 2 of '.*c.csv' has '712.5' in the column 'age'"):
        own(party, 1, tmp_path)


def test_notes_on_how_a_table_was_read_come_with_its_examples(tmp_path: Path) -> None:
    files = tables(tmp_path)
    under = plan(*files, shape=None).under(proposed(*files))
    for spec in (plan(*files, label="kind", shape=None), under):
        like = common_schema(spec.data, "kind") if spec.terms is None else None
        notes = [spec.read_one(str(path), like=like).notes for path in files]
        for words in ("note: columns are separated by semicolons", "note: numbers have decimal commas"):
            assert [words in told for told in notes] == [False, False, True]


def test_a_record_is_audited_under_the_terms_of_its_training(tmp_path: Path) -> None:
    hospitals = folders(tmp_path, {"c": 12})
    spec = plan(*hospitals, shape=None, protocol="plain").under(proposed(*hospitals))
    found = spec.read()
    manifest.keep(tmp_path / "seen", spec, found)
    spec.federation(found).fit(1, record=tmp_path / "seen")
    assert View.load(tmp_path / "seen").entries
    known = manifest.known_federation(tmp_path / "seen", None)
    assert known is not None
    assert [len(owner.build_data()) for owner in known.owners] == [EACH, 2 * EACH, EACH]


def test_a_label_beside_terms_that_have_none_is_refused_by_what_they_are_on() -> None:
    with pytest.raises(FedsealError, match="--label is 'foo', and the terms are on pictures, which have no columns"):
        plan("photos", shape=None, label="foo").under(terms())
    with pytest.raises(FedsealError, match="--label is 'foo', and 'kind' was agreed on"):
        plan("a.csv", shape=None, label="foo").under(rows("kind", age=AGE))


def test_a_deployment_of_tables_that_are_here_tells_no_row_by_its_ranges(tmp_path: Path) -> None:
    """Every party's folder had the least and the greatest number of all rows."""
    files = tables(tmp_path)
    party = deployed(plan(*files, label="kind", shape=None, validation=str(tmp_path / "held.csv")), None, 1)
    assert party.plan.terms is not None
    frames = [frame_of(path, "kind", []) for path in (*files, tmp_path / "held.csv")]
    for column in party.plan.terms.columns:
        least, most = (pick(pick(frame[column.name]) for frame in frames) for pick in (min, max))
        step = 10 * 10.0 ** -(column.digits or 0)
        assert column.low < least
        assert column.high > most
        assert round(column.low / step, 6).is_integer()
        assert round(column.high / step, 6).is_integer()


def test_an_owner_is_told_how_its_own_file_was_read(tmp_path: Path) -> None:
    """`fedseal join` checked the notes away."""
    files = tables(tmp_path)
    party = replace(deployed(plan(*files, shape=None).under(proposed(*files)), None, 2), own=str(files[2]))
    notes: list[str] = []
    place: Any = SimpleNamespace(
        number=2, folder=tmp_path, who="data owner 2", leads=False, pact=SimpleNamespace(secure=party.plan.secure)
    )
    party.federation(place, notes)
    assert [note.split("c.csv': ")[1] for note in notes] == [
        "columns are separated by semicolons",
        "began with a byte-order mark",
        "numbers have decimal commas",
    ]
