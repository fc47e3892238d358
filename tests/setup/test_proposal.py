"""What a proposal says of a table, and that merging files of terms hangs neither on their order nor on the steps."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fedseal.errors import FedsealError, StorageFailure
from fedseal.setup.data.agreement import agreed
from fedseal.setup.data.proposal import Proposal, proposal, widened
from fedseal.setup.data.terms import ColumnTerms, DataTerms, read_terms, write_terms
from setup.test_terms import AGE, rows, terms


def proposed(path: Path, names: str, lines: Sequence[str]) -> Proposal:
    path.write_text("\n".join([f"{names},label", *[f"{line},{'ab'[n % 2]}" for n, line in enumerate(lines)]]) + "\n")
    return proposal(str(path), size=None, label="label", span=None)


def test_of_codes_a_file_has_the_values_and_no_share(tmp_path: Path) -> None:
    found = proposed(tmp_path / "t.csv", "age,hiv", [f"{20 + n % 45},{int(n == 3)}" for n in range(50)])
    write_terms(tmp_path / "t.json", found.terms)
    _, hiv = json.loads((tmp_path / "t.json").read_text())["columns"]
    assert hiv == {"name": "hiv", "kind": "codes", "values": ["0", "1"]}
    assert found.tells == ("values of 'hiv' that stand in one row each, and are in the file: 1",)


def leaves(value: object) -> list[str]:
    """Every name and number of a JSON document, numbers as they are read."""
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [str(value)]


def test_all_that_a_file_holds_is_told(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    lines = [f"{draw.normal(1e6, 3e5):.2f},{draw.normal(0, 1e-3)!r},place {n % 40},{n % 7}" for n in range(1, 80)]
    one = proposed(tmp_path / "a.csv", "pay,crp,town,stage", lines).terms
    other = proposed(tmp_path / "b.csv", "pay,crp,town,stage", lines[:30]).terms
    files = [one, agreed({"a": one, "b": other}), terms(range=(-3.25, 4000.125), bits=12)]
    files += [terms(kind="arrays", names=(), scale="", values=(0.1, 0.7), targets="probabilities")]
    for found in files:
        write_terms(tmp_path / "t.json", found)
        facts = json.loads((tmp_path / "t.json").read_text())
        told = "\n".join(found.words(whole=True))
        numbers = {float(text) for text in re.findall(r"-?\d[\d.]*(?:e[+-]?\d+)?", told)}
        for fact in ("version", "kind", "classes", *(["shape"] if "shape" in facts else [])):
            facts.pop(fact)
        for column in facts.get("columns", []):
            column.pop("kind")
        for leaf in leaves(facts):
            assert leaf in told or float(leaf) in numbers, leaf


@pytest.mark.parametrize(
    ("low", "high", "digits"),
    [
        (63, 69, 0), (0, 9, 0), (1931, 1990, 0), (17, 93, 0), (60, 70, 0), (0.31, 0.68, 2), (5.25, 5.5, 2), (0, 1, 0),
        (-1024, 2873, 0), (1e15, 1e15 + 8, 0), (-1e-9, 3e-9, None), (0.1, 0.3, None), (-7, -3, 0), (1e99, 9e99, None),
        (123456.789, 123456.791, 3), (1 / 3, 2 / 3, None),
    ],
)  # fmt: skip
def test_a_range_is_wider_than_the_rows_and_does_not_say_their_extremes(
    low: float, high: float, digits: int | None
) -> None:
    least, most = widened(low, high, digits)
    assert least < low < high < most
    step = math.ulp(max(abs(low), abs(high))) if digits is None else 10.0**-digits
    ends = itertools.product(*([end + k * step for k in range(-10, 11)] for end in (low, high)))
    alike = [(one, two) for one, two in ends if one < two and widened(one, two, digits) == (least, most)]
    assert min(len(set(values)) for values in zip(*alike, strict=True)) >= 8


def test_a_column_that_numbers_the_rows_is_not_proposed(tmp_path: Path) -> None:
    ages = [20 + n * n for n in range(57)]
    found = proposed(tmp_path / "t.csv", ",age", [f"{n},{age}" for n, age in enumerate(ages)])
    assert [column.name for column in found.terms.columns] == ["age"]
    assert found.notes == ("columns without a name, as rows are numbered in, were left out: number 1",)
    for first in (0, 1, 1000):
        with pytest.raises(FedsealError, match=r"the column 'id' of '.*t.csv' numbers the rows"):
            proposed(tmp_path / "t.csv", "id,age", [f"{first + (5 * n) % 57},{age}" for n, age in enumerate(ages)])


def test_more_classes_than_are_trained_on_are_refused_before_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,label\n" + "".join(f"{n % 60},Patient{n}\n" for n in range(101)))
    with pytest.raises(FedsealError, match=r"'label' has 101 different values in '.*t.csv'") as caught:
        proposal(str(tmp_path / "t.csv"), size=None, label="label", span=None)
    assert "Patient" not in str(caught.value)


def test_a_mean_of_few_rows_is_told_to_tell_of_them(tmp_path: Path) -> None:
    told = proposed(tmp_path / "t.csv", "kg", ["70.5", "80.25", "75.5", "60.25"]).tells
    assert told == ("mean and deviation of as few as 4 rows tell much of each, and are in the file",)


def numbers(mean: float, std: float = 3.0, **facts: object) -> dict[str, object]:
    return AGE | {"low": 0, "high": 100, "mean": mean, "std": std} | facts


CODES: dict[str, object] = {"kind": "codes", "values": ("1", "2")}
OWNERS: dict[str, list[dict[str, object]]] = {
    "numbers": [numbers(10), numbers(20, 5), numbers(90, 1)],
    "numbers and codes": [CODES, numbers(20), CODES | {"values": ("1", "7")}, numbers(40)],
    "too many codes": [CODES | {"values": tuple(map(str, range(n, n + 5)))} for n in (1, 4, 20)],
    "one broken number each": [CODES | {"values": (text,)} for text in ("5.25", "6", "5.25")],
    "codes": [CODES, CODES | {"values": ("2", "10")}, CODES],
}


@pytest.mark.parametrize("kind", OWNERS)
def test_merging_in_steps_and_in_any_order_is_merging_at_once(kind: str) -> None:
    files = {
        str(place): rows(age=facts, job={"kind": "texts", "values": ("x",)}) for place, facts in enumerate(OWNERS[kind])
    }
    expected = agreed(files).columns[0]
    for order in itertools.permutations(files):
        merged = files[order[0]]
        for name in order[1:]:
            merged = agreed({"all": merged, name: files[name]})
        found = merged.columns[0]
        assert (found.kind, found.values, found.low, found.high, found.digits, found.owners) == (
            expected.kind, expected.values, expected.low, expected.high, expected.digits, expected.owners,
        )  # fmt: skip
        assert (found.mean, found.std) == pytest.approx((expected.mean, expected.std))


def test_codes_that_become_numbers_are_normalized_by_what_was_said(tmp_path: Path) -> None:
    for kind, mean, std in (
        ("numbers", 40, math.sqrt((9 + 25 + 1) / 3 + (900 + 400 + 2500) / 3)),
        ("too many codes", 12.5, 23 / math.sqrt(12)),
    ):
        found = agreed({str(place): rows(age=facts) for place, facts in enumerate(OWNERS[kind])}).columns[0]
        assert (found.mean, found.std) == pytest.approx((mean, std))
    both = agreed({str(place): rows(age=facts) for place, facts in enumerate(OWNERS["numbers and codes"])}).columns[0]
    assert (both.mean, both.owners, both.low) == (30, 2, 0)


def test_models_are_fed_the_same_columns_whatever_the_order_of_files() -> None:
    job = {"kind": "texts", "values": ("cook", "smith")}
    one, other = rows(bmi=AGE, job=job, age=AGE), rows(job=job, age=AGE, bmi=AGE)
    found = [agreed({"a": one, "b": other}), agreed({"b": other, "a": one}), agreed({"b": other})]
    assert {tuple(column.name for column in terms.table().columns) for terms in found} == {("age", "bmi", "job")}


HUGE = {"kind": "codes", "values": ("1e200",), "low": 0, "high": 0, "mean": 0, "std": 0, "digits": None}


@pytest.mark.parametrize(
    "facts",
    [
        {"std": 1e-99}, {"std": 0}, {"std": 41}, {"mean": 51}, {"low": 50, "high": 10}, {"owners": -1},
        {"owners": 10**9}, {"digits": 7}, HUGE,
        {"kind": "codes", "values": ("0", "1")}, {"kind": "codes", "values": ("x",), "low": 0, "high": 0, "mean": 0},
    ],
)  # fmt: skip
def test_a_column_of_no_numbers_is_refused(tmp_path: Path, facts: dict[str, object]) -> None:
    good = json.loads(rows(age=AGE).model_dump_json(exclude_defaults=True))
    (tmp_path / "t.json").write_text(json.dumps(good | {"columns": [AGE | {"name": "age"} | facts]}))
    with pytest.raises(StorageFailure, match=r"t.json' holds no terms on data"):
        read_terms(tmp_path / "t.json")
    assert ColumnTerms.model_validate(AGE | {"name": "age"}).column is not None


def test_ends_of_what_a_file_may_say_are_merged() -> None:
    far = [
        AGE | {"low": low, "high": low + 1e100, "mean": mean, "std": 1e100}
        for low, mean in ((-1e100, -1e100), (0, 1e100))
    ]
    found = agreed({str(place): rows(age=facts) for place, facts in enumerate(far)}).columns[0]
    assert (found.low, found.high, found.mean) == (-1e100, 1e100, 0)


def test_a_column_in_two_units_is_refused_by_both_files() -> None:
    with pytest.raises(FedsealError, match=r"the column 'age' goes from 10 in 'a' to 1e\+12 in 'b'"):
        agreed({"a": rows(age=AGE), "b": rows(age={"kind": "codes", "values": ("1000000000000",)})})


def pictures(*names: str) -> DataTerms:
    return terms(names=names)


def test_classes_that_mean_the_same_are_refused_by_both_files() -> None:
    forms = "b\u00f6s", "bo\u0308s"
    with pytest.raises(FedsealError, match=r"in 'a' and the class '.*' in 'b' mean the same"):
        agreed({"a": pictures(forms[0], "gut"), "b": pictures(forms[1], "gut")})
    assert agreed({"a": pictures("1", "01"), "b": pictures("2", "x")}).names == ("01", "1", "2", "x")
    for one, other in (("250", "250.00"), ("True", "1")):
        with pytest.raises(
            FedsealError, match=rf"the class '{one}' in 'a' and the class '{other}' in 'b' mean the same"
        ):
            agreed(
                {
                    "a": rows(age=AGE).model_copy(update={"names": (one, "x")}),
                    "b": rows(age=AGE).model_copy(update={"names": (other, "x")}),
                }
            )
