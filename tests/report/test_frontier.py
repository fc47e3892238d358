from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from fedseal.audit.cost import Cost
from fedseal.audit.record import Record
from fedseal.report.advice import recommendation, said
from fedseal.report.frontier import Panel, median_interval, panels
from fedseal.report.strength import strength_of
from report.costs import cost
from report.records import Shot, record

OPEN, TRACES, SHUT = 40.0, 17.0, 12.0


def shots(table: Mapping[str, Sequence[float | None]], **facts: Any) -> list[Shot]:
    """One cell for each value, by defense."""
    return [
        Shot(
            (value,),
            first=place,
            defense=name,
            status="refused" if value is None else "budget",
            hit=hit(value),
            **facts,
        )
        for name, values in table.items()
        for place, value in enumerate(values)
    ]


def hit(value: float | None) -> bool:
    return value is not None and value >= OPEN


def one(made: Record, *costs: Cost) -> Panel:
    (panel,) = panels(made, costs)
    return panel


@pytest.mark.parametrize(
    ("weaker", "stronger"),
    [
        ("prune:0.2", "prune:0.7"),
        ("prune:9e-1,scope=global", "prune:0.99,scope=global"),
        ("gaussian:1e-4", "gaussian:0.001"),
        ("topk:0.1", "topk:0.01"),
        ("clip:10", "clip:1"),
        ("float16", "bfloat16"),
        ("int8", "sign"),
        ("clip:1+gaussian:1e-3", "clip:1+gaussian:0.1"),
        ("gaussian:0.1+float16", "gaussian:1e+3+float16"),
    ],
)
def test_a_stronger_one_of_the_same_family_stands_later(weaker: str, stronger: str) -> None:
    one, two = strength_of(weaker), strength_of(stronger)
    assert one.family == two.family
    assert one.order < two.order


@pytest.mark.parametrize(
    ("name", "other"),
    [("prune:0.5", "prune:0.5,scope=global"), ("clip:1+gaussian:1", "clip:2+gaussian:1"), ("ats:3-1-7", "ats:1-2")],
)
def test_what_differs_in_more_than_strength_is_another_family(name: str, other: str) -> None:
    assert strength_of(name).family != strength_of(other).family


def test_families_stand_in_the_order_of_strength_with_their_costs() -> None:
    made = record(shots({"none": [90.0], "prune:0.9": [SHUT], "prune:0.1": [OPEN], "prune:0.5": [TRACES]}))
    panel = one(made, cost("none"), cost("prune:0.9", 4.2), cost("prune:0.1", 0.1))
    (family,) = panel.frontiers
    assert [point.strength.text for point in family.points] == ["0.1", "0.5", "0.9"]
    assert [point.lost for point in family.points] == [0.1, None, 4.2]
    assert [point.protects for point in family.points] == [False, False, True]
    assert family.start is family.points[2]
    assert panel.bare is not None
    assert panel.bare.value == 90.0
    assert said(family) == "prune protects from 0.9 on, at 4.2 points of accuracy (95 % interval 3.2 to 5.2)."


def test_a_stronger_strength_that_leaks_takes_the_protection_of_weaker_ones_away() -> None:
    made = record(
        shots(
            {
                "prune:0.1": [SHUT],
                "prune:0.5": [OPEN],
                "prune:0.9": [SHUT],
                "gaussian:1": [SHUT],
                "gaussian:2": [TRACES],
            }
        )
    )
    prune, gaussian = one(made).frontiers
    assert prune.start is prune.points[2]
    assert gaussian.start is None
    assert said(gaussian) == "gaussian does not protect at any of the 2 strengths tried, up to 2."


def test_the_best_of_all_attacks_and_attackers_that_know_the_defense_counts() -> None:
    weak = shots({"prune:0.5": [SHUT, SHUT]})
    for strong in (
        shots({"prune:0.5": [SHUT, OPEN]}, attack="dlg"),
        shots({"prune:0.5": [SHUT, OPEN]}, threat="malicious_server"),
    ):
        point = one(record([*weak, *strong])).frontiers[0].points[0]
        assert point.protects is False
        assert (point.rate.hits, point.rate.trials) == (1, 2)
        assert point.worst is not None
        assert point.worst.cell.key.first == 1
    for foreign in ("unaware", "eavesdropper", "oracle"):
        panel = one(record([*weak, *shots({"prune:0.5": [SHUT, OPEN]}, threat=foreign)]))
        assert panel.frontiers[0].points[0].protects is True
        assert (foreign in panel.left_out) == (foreign != "oracle")


def test_who_was_not_told_is_kept_beside() -> None:
    told = shots({"prune:0.2": [OPEN], "prune:0.9": [SHUT]})
    untold = shots({"prune:0.2": [SHUT], "prune:0.9": [SHUT]}, threat="unaware")
    (family,) = one(record([*told, *untold])).frontiers
    assert family.start is family.points[1]
    assert family.unaware_start is family.points[0]


def test_what_nobody_could_attack_is_not_measured() -> None:
    made = record(shots({"prune:0.2": [OPEN], "prune:0.9": [None, None]}))
    (family,) = one(made).frontiers
    point = family.points[1]
    assert (point.protects, point.value, point.interval, point.worst, point.refused) == (None, None, None, None, 2)
    assert family.start is None
    assert said(one(record(shots({"prune:0.9": [None]}))).frontiers[0]) == (
        "prune: nothing could be attacked, so whether it protects was not measured."
    )


def test_a_record_without_a_defense_has_no_panel() -> None:
    assert panels(record(shots({"none": [90.0]}))) == ()
    assert panels(record([])) == ()


def test_a_few_values_have_a_range_and_more_an_interval() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_interval([float(n) for n in range(100)]) == (39.0, 60.0)


# The recommendation.


def advised(table: Mapping[str, Sequence[float | None]], *costs: Cost, **facts: Any) -> str:
    made = record(shots(table, **facts))
    return recommendation(one(made, *costs), made)


PRICES = (cost("none"), cost("prune:0.9", 4.2, size=7000.0), cost("gaussian:1", 1.0), cost("sign", 75.0))


def test_the_cheapest_that_protects_is_recommended_with_all_that_it_rests_on() -> None:
    text = advised(
        {"none": [90.0, 90.0], "prune:0.9": [SHUT, SHUT], "gaussian:1": [SHUT, SHUT], "sign": [SHUT, SHUT]}, *PRICES
    )
    assert text == (
        "Of the 3 defenses tried, gaussian:1 is the cheapest that protects: 0 of 2 pictures recovered and no traces "
        "(95 % interval of the rate 0 to 66 %), at 1.0 points of accuracy (95 % interval 0.0 to 2.0; 80 % without a "
        "defense; 20 rounds with 10 clients, 3 seeds, 400 examples); this rests on auto by the server (honest but "
        "curious), 2 pictures a defense, the model Sequential (15,826 parameters) as it stood, and says nothing of "
        "other attacks, data or weights."
    )


def test_a_cheaper_one_that_leaks_is_not() -> None:
    text = advised({"prune:0.9": [SHUT], "gaussian:1": [OPEN]}, *PRICES)
    assert text.startswith("Of the 2 defenses tried, prune:0.9 is the only one that protects at a known cost")


def test_equal_accuracy_is_decided_by_bytes() -> None:
    prices = (cost("none"), cost("prune:0.9", 1.0, size=7000.0), cost("gaussian:1", 1.0))
    assert "tried, prune:0.9 is" in advised({"gaussian:1": [SHUT], "prune:0.9": [SHUT]}, *prices)


def test_nothing_is_recommended_where_nothing_protects_or_only_ruin_does() -> None:
    assert advised({"prune:0.2": [OPEN], "prune:0.5": [TRACES]}, *PRICES).startswith(
        "None of the 2 strengths of 1 defense tried protects, so none can be recommended; this rests on"
    )
    assert advised({"prune:0.9": [OPEN], "sign": [SHUT]}, *PRICES).startswith(
        "None of the 2 defenses tried can be recommended: sign protects, but leaves next to nothing"
    )


def test_without_costs_none_is_preferred_and_unknown_is_never_nothing() -> None:
    text = advised({"prune:0.9": [SHUT], "gaussian:1": [SHUT]})
    assert text.startswith(
        "Of the 2 defenses tried, prune:0.9 and gaussian:1 protect, and what they cost in accuracy is not known"
    )
    some = advised({"prune:0.9": [SHUT], "gaussian:1": [SHUT]}, *PRICES[:2])
    assert "prune:0.9 is the only one that protects at a known cost" in some
    assert "what gaussian:1, which protects too, costs was not measured" in some


def test_a_model_that_learned_nothing_prices_nothing() -> None:
    bad = [cost(name, 0.0, without=0.1, chance=0.12) for name in ("none", "prune:0.9")]
    panel = one(record(shots({"prune:0.9": [SHUT]})), *bad)
    assert panel.frontiers[0].points[0].lost is None
    assert panel.cheapest is None
    assert said(panel.frontiers[0]).endswith(
        "cost in accuracy that cannot be said, as the undefended model learned nothing."
    )


def test_no_recommendation_rests_on_a_defense_that_no_attack_reckons_with() -> None:
    text = advised({"mine:3": [SHUT], "prune:0.2": [OPEN]}, cost("none"), cost("mine:3", 0.0))
    assert text.startswith(
        "None of the 2 defenses tried protects, beside mine, whose steps no attack here reckons with, so none can be"
    )


def test_an_unfinished_run_says_so() -> None:
    made = record(shots({"prune:0.2": [OPEN]}), missing=2)
    assert "in a run that is not finished" in recommendation(one(made), made)
