from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from fedseal.audit.cost import Cost
from fedseal.audit.record import Cell, Record, Step
from fedseal.intervals import of_median
from fedseal.report.advice import advice_text, recommendation
from fedseal.report.frontier import Panel, panels
from fedseal.report.strength import strength_of
from fedseal.types import RouteNote
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


def test_the_strength_is_said_without_the_options_and_the_family_with_them() -> None:
    found = strength_of("prune:0.9,scope=global")
    assert (found.text, found.family) == ("0.9", "prune,scope=global")


def test_families_stand_in_the_order_of_strength_with_their_costs() -> None:
    made = record(shots({"none": [90.0], "prune:0.9": [SHUT] * 4, "prune:0.1": [OPEN], "prune:0.5": [TRACES]}))
    panel = one(made, cost("none"), cost("prune:0.9", 4.2), cost("prune:0.1", 0.1))
    (family,) = panel.frontiers
    assert [point.strength.text for point in family.points] == ["0.1", "0.5", "0.9"]
    assert [point.lost for point in family.points] == [0.1, None, 4.2]
    assert [point.protects for point in family.points] == [False, False, True]
    assert family.start is family.points[2]
    assert panel.bare is not None
    assert panel.bare.value == 90.0
    assert advice_text(family) == "prune protects from 0.9 on, at 4.2 points of accuracy (95 % interval 3.2 to 5.2)."


def test_a_stronger_strength_that_leaks_takes_the_protection_of_weaker_ones_away() -> None:
    made = record(
        shots(
            {
                "prune:0.1": [SHUT] * 4,
                "prune:0.5": [OPEN],
                "prune:0.9": [SHUT] * 4,
                "gaussian:1": [SHUT] * 4,
                "gaussian:2": [TRACES],
            }
        )
    )
    prune, gaussian = one(made).frontiers
    assert prune.start is prune.points[2]
    assert gaussian.start is None
    assert advice_text(gaussian) == "gaussian does not protect at any of the 2 strengths tried, up to 2."


def test_the_best_of_all_attacks_and_attackers_that_know_the_defense_counts() -> None:
    weak = shots({"prune:0.5": [SHUT] * 4})
    for strong in (
        shots({"prune:0.5": [SHUT] * 3 + [OPEN]}, attack="dlg"),
        shots({"prune:0.5": [SHUT] * 3 + [OPEN]}, threat="malicious_server"),
    ):
        point = one(record([*weak, *strong])).frontiers[0].points[0]
        assert point.protects is False
        assert (point.rate.hits, point.rate.trials) == (1, 4)
        assert point.worst is not None
        assert point.worst.cell.key.first == 3
    for foreign in ("unaware", "eavesdropper", "oracle"):
        panel = one(record([*weak, *shots({"prune:0.5": [SHUT] * 3 + [OPEN]}, threat=foreign)]))
        assert panel.frontiers[0].points[0].protects is True
        assert (foreign in panel.left_out) == (foreign != "oracle")


def test_who_was_not_told_is_kept_beside() -> None:
    told = shots({"prune:0.2": [OPEN], "prune:0.9": [SHUT] * 4})
    untold = shots({"prune:0.2": [SHUT] * 4, "prune:0.9": [SHUT] * 4}, threat="unaware")
    (family,) = one(record([*told, *untold])).frontiers
    assert family.start is family.points[1]
    assert family.unaware_start is family.points[0]


def test_a_weaker_one_below_a_leaking_one_is_not_among_those_that_protect() -> None:
    table = {"gaussian:1e-4": [SHUT] * 4, "gaussian:0.001": [OPEN] * 4, "gaussian:1": [SHUT] * 4}
    panel = one(record(shots(table)), cost("none"), *(cost(name) for name in table))
    assert [point.strength.text for point in panel.frontiers[0].points] == ["1e-4", "0.001", "1"]
    assert [point.defense for point in panel.protecting] == ["gaussian:1"]


def test_who_has_no_weights_is_no_unaware_attacker() -> None:
    made = record([*shots({"prune:0.9": [SHUT]}), *shots({"prune:0.9": [SHUT]}, threat="eavesdropper")])
    assert one(made).frontiers[0].points[0].unaware is None


def test_a_point_has_the_median_of_what_could_be_scored_and_of_its_blind_guesses() -> None:
    made = record(shots({"prune:0.9": [SHUT, SHUT + 1, OPEN, float("nan")]}))
    blinds = (1.0, 2.0, 9.0, 3.0)
    cells = tuple(_with_blind(cell, blind) for cell, blind in zip(made.cells, blinds, strict=True))
    point = one(made.model_copy(update={"cells": cells})).frontiers[0].points[0]
    assert (point.value, point.interval, point.blind) == (SHUT + 1, (SHUT, OPEN), 2.5)


def _with_blind(cell: Cell, blind: float) -> Cell:
    assert cell.scores is not None
    (sample,) = cell.scores.samples
    guess = replace(sample.headline.baselines[-1], value=blind)
    scores = replace(cell.scores, samples=(replace(sample, scores=(replace(sample.headline, baselines=(guess,)),)),))
    return cell.model_copy(update={"scores": scores})


def test_local_trainings_have_a_panel_each() -> None:
    made = record([*shots({"prune:0.9": [SHUT]}), *shots({"prune:0.9": [OPEN]}, seed=1)])
    cells = tuple(c.model_copy(update={"key": c.key.model_copy(update={"epochs": 5 * c.key.seed})}) for c in made.cells)
    header = made.header.model_copy(update={"config": made.header.config.model_copy(update={"epochs": (0, 5)})})
    found = panels(made.model_copy(update={"cells": cells, "header": header}))
    assert [panel.setting for panel in found] == ["one gradient", "5 local epochs"]
    assert [panel.frontiers[0].points[0].rate.hits for panel in found] == [0, 1]


def test_what_nobody_could_attack_is_not_measured() -> None:
    made = record(shots({"prune:0.2": [OPEN], "prune:0.9": [None, None]}))
    (family,) = one(made).frontiers
    point = family.points[1]
    assert (point.protects, point.value, point.interval, point.worst, point.refused) == (None, None, None, None, 2)
    assert family.start is None
    assert advice_text(one(record(shots({"prune:0.9": [None]}))).frontiers[0]) == (
        "prune: nothing could be attacked, so whether it protects was not measured."
    )


def test_a_record_without_a_defense_has_no_panel() -> None:
    assert panels(record(shots({"none": [90.0]}))) == ()
    assert panels(record([])) == ()


def test_a_few_values_have_a_range_and_more_an_interval() -> None:
    assert of_median([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert of_median([float(n) for n in range(100)]) == (39.0, 60.0)


# The recommendation.


def advised(table: Mapping[str, Sequence[float | None]], *costs: Cost, **facts: Any) -> str:
    made = record(shots(table, **facts))
    return recommendation(one(made, *costs), made)


PRICES = (cost("none"), cost("prune:0.9", 4.2, size=7000.0), cost("gaussian:1", 1.0), cost("sign", 75.0))


def test_the_cheapest_that_protects_is_recommended_with_all_that_it_rests_on() -> None:
    text = advised(
        {"none": [90.0, 90.0], "prune:0.9": [SHUT] * 4, "gaussian:1": [SHUT] * 4, "sign": [SHUT] * 4}, *PRICES
    )
    assert text == (
        "Of the 3 defenses tried, gaussian:1 is the cheapest that protects: 0 of 4 pictures recovered and no traces "
        "(95 % interval of the share that leaks 0 to 49 %), at 1.0 points of accuracy (95 % interval 0.0 to 2.0; 80 % "
        "without a defense; 20 rounds with 10 clients, 3 seeds, 400 examples); this rests on auto by the server "
        "(honest but curious), 4 pictures a defense, the model Sequential (15,826 parameters) as it stood, and says "
        "nothing of "
        "other attacks, data or weights."
    )


def test_a_cheaper_one_that_leaks_is_not() -> None:
    text = advised({"prune:0.9": [SHUT] * 4, "gaussian:1": [OPEN]}, *PRICES)
    assert text.startswith("Of the 2 defenses tried, prune:0.9 is the only one that protects at a known cost")


def test_costs_whose_intervals_overlap_are_not_ranked_and_bytes_decide_which_is_named_first() -> None:
    prices = (cost("none"), cost("prune:0.9", 1.0, size=7000.0), cost("gaussian:1", 1.0), cost("sign", 3.0))
    text = advised({"gaussian:1": [SHUT] * 4, "prune:0.9": [SHUT] * 4, "sign": [SHUT] * 4}, *prices)
    assert text.startswith(
        "Of the 3 defenses tried, prune:0.9, gaussian:1 and sign protect, and what they cost cannot be told apart with "
        "3 seeds: prune:0.9, 0 of 4 pictures recovered and no traces"
    )
    assert "; gaussian:1 1.0 points (95 % interval 0.0 to 2.0) and sign 3.0 points (95 % interval 2.0 to 4.0);" in text


def test_one_seed_tells_no_costs_apart_and_a_dear_one_is_told_apart_from_the_rest() -> None:
    table = {"gaussian:1": [SHUT] * 4, "prune:0.9": [SHUT] * 4}
    single = advised(table, cost("none"), cost("gaussian:1", 1.0, None), cost("prune:0.9", 40.0, None))
    assert "gaussian:1 and prune:0.9 protect, and what they cost cannot be told apart with 1 seed" in single
    made = record(shots({**table, "sign": [SHUT] * 4}))
    panel = one(made, cost("none"), cost("gaussian:1", 1.0), cost("prune:0.9", 2.0), cost("sign", 3.5))
    assert [point.defense for point in panel.cheapest] == ["gaussian:1", "prune:0.9"]


def test_of_one_family_the_weakest_that_protects_is_named_whatever_stronger_ones_cost() -> None:
    prices = (cost("none"), cost("prune:0.9", 2.0), cost("prune:0.99", 1.9))
    assert "tried, prune:0.9 is the weakest that protects at a known cost" in advised(
        {"prune:0.9": [SHUT] * 4, "prune:0.99": [SHUT] * 4}, *prices
    )


# How much must be seen before a defense is said to protect.


def test_a_stronger_one_that_nobody_could_attack_is_not_recommended_for_it() -> None:
    table: dict[str, list[float | None]] = {"prune:0.9": [SHUT] * 4, "prune:0.99": [None] * 4, "prune:0.999": [SHUT]}
    (panel,) = panels(record(shots(table)), [cost("none"), *(cost(name, 1.0) for name in table)])
    assert [point.defense for point in panel.protecting] == ["prune:0.9"]
    assert panel.frontiers[0].start is panel.frontiers[0].points[0]


def test_advice_says_which_exact_routes_were_left_out_for_what_is_not_known() -> None:
    left = (RouteNote("layerwise", False, "the batch size is unknown"),)
    given = shots({"prune:0.9": [SHUT] * 6})
    made = record([replace(shot, explanation=left) for shot in given])
    assert recommendation(one(made, *PRICES), made).endswith(
        ". Exact routes were left out because something is not known: layerwise (the batch size is unknown)."
    )
    plain = record(given)
    assert "left out" not in recommendation(one(plain, *PRICES), plain)


def test_too_few_examples_say_of_no_defense_that_it_protects() -> None:
    made = record(shots({"prune:0.2": [OPEN] * 3, "prune:0.9": [SHUT] * 3, "sign": [SHUT] * 3}))
    panel = one(made, *PRICES)
    prune, sign = panel.frontiers
    assert (prune.start, prune.silent) == (None, prune.points[1])
    assert [point.protects for point in prune.points] == [False, None]
    assert (
        advice_text(prune) == "prune: nothing leaked from 0.9 on, but 3 examples are too few to say that it protects."
    )
    assert advice_text(sign) == (
        "precision: nothing leaked from sign on, but 3 examples are too few to say that it protects."
    )
    assert recommendation(panel, made).startswith(
        "None of the 3 strengths of 2 defenses tried is known to protect: nothing leaked under prune:0.9 and sign, but "
        "3 examples are too few to say more, so none can be recommended; "
    )


def test_one_example_under_many_seeds_is_one_example() -> None:
    made = record([shot for seed in range(6) for shot in shots({"prune:0.9": [SHUT]}, seed=seed)])
    point = one(made).frontiers[0].points[0]
    assert (len(point.samples), point.leaks.trials, point.protects) == (6, 1, None)


def test_an_example_that_no_score_could_be_given_counts_for_nothing() -> None:
    made = record(shots({"prune:0.9": [SHUT] * 3}))
    odd = record(shots({"prune:0.9": [SHUT]}, seed=1)).cells[0]
    assert odd.scores is not None
    (seen,) = odd.scores.samples
    blank = replace(seen, scores=(replace(seen.headline, value=None),), identification=None)
    facts = {"scores": replace(odd.scores, samples=(blank,)), "key": odd.key.model_copy(update={"first": 3})}
    point = one(made.model_copy(update={"cells": (*made.cells, odd.model_copy(update=facts))}))
    found = point.frontiers[0].points[0]
    assert (len(found.samples), found.leaks.trials, found.protects) == (4, 3, None)


def test_an_example_that_leaked_under_one_seed_has_leaked() -> None:
    quiet = shots({"prune:0.9": [SHUT] * 4}, seed=0)
    made = record([*quiet, *shots({"prune:0.9": [SHUT, SHUT, SHUT, TRACES]}, seed=1)])
    point = one(made).frontiers[0].points[0]
    assert (point.leaks.hits, point.leaks.trials, point.protects) == (1, 4, False)


def test_nothing_is_recommended_where_nothing_protects_or_only_ruin_does() -> None:
    assert advised({"prune:0.2": [OPEN], "prune:0.5": [TRACES]}, *PRICES).startswith(
        "None of the 2 strengths of 1 defense tried protects, so none can be recommended; this rests on"
    )
    assert advised({"prune:0.9": [OPEN], "sign": [SHUT] * 4}, *PRICES).startswith(
        "None of the 2 defenses tried can be recommended: sign protects, but leaves next to nothing"
    )


def test_what_nobody_could_attack_is_not_said_to_leak() -> None:
    assert advised({"prune:0.9": [None], "sign": [None]}).startswith(
        "None of the 2 defenses tried could be attacked, so"
    )
    assert advised({"prune:0.9": [None], "sign": [OPEN]}).startswith(
        "None of the 2 defenses tried is known to protect, "
    )


@pytest.mark.parametrize(("lost", "ruined"), [(62.0, False), (64.0, True)])
def test_a_tenth_of_what_was_learned_is_the_least_that_is_worth_having(lost: float, ruined: bool) -> None:
    point = one(record(shots({"sign": [SHUT] * 4})), cost("none"), cost("sign", lost)).frontiers[0].points[0]
    assert point.ruins is ruined  # of 70 points above chance


def test_without_costs_none_is_preferred_and_unknown_is_never_nothing() -> None:
    text = advised({"prune:0.9": [SHUT] * 4, "gaussian:1": [SHUT] * 4})
    assert text.startswith(
        "Of the 2 defenses tried, prune:0.9 and gaussian:1 protect, and what they cost in accuracy is not known"
    )
    some = advised({"prune:0.9": [SHUT] * 4, "gaussian:1": [SHUT] * 4}, *PRICES[:2])
    assert "prune:0.9 is the only one that protects at a known cost" in some
    assert "what gaussian:1, which protects too, costs was not measured" in some


def test_a_model_that_learned_nothing_prices_nothing() -> None:
    bad = [cost(name, 0.0, without=0.1, chance=0.12) for name in ("none", "prune:0.9")]
    panel = one(record(shots({"prune:0.9": [SHUT] * 4})), *bad)
    assert panel.frontiers[0].points[0].lost is None
    assert panel.cheapest == ()
    assert advice_text(panel.frontiers[0]).endswith(
        "cost in accuracy that cannot be said, as the undefended model learned nothing."
    )


def test_accuracy_that_merely_reaches_chance_is_not_called_nothing() -> None:
    told = cost("prune:0.9", 1.0, 40.0, without=0.405)
    assert (told.learned, told.kept) == (None, None)
    (family,) = one(record(shots({"prune:0.9": [SHUT] * 4})), told).frontiers
    assert advice_text(family) == (
        "prune protects from 0.9 on, at a cost in accuracy that cannot be said, as the undefended model's 40.5 % are "
        "not told apart from the 10 % of a blind guess with 3 seeds."
    )


@pytest.mark.parametrize(
    ("without", "within", "learned"),
    [(0.3, 10.0, True), (0.15, 6.0, None), (0.11, 3.0, False), (0.5, None, True), (0.12, None, None)],
)
def test_what_a_model_learned_is_judged_by_both_ends_of_its_interval(
    without: float, within: float | None, learned: bool | None
) -> None:
    assert cost("none", 0.0, within, without=without).learned is learned


def test_no_recommendation_rests_on_a_defense_that_no_attack_reckons_with() -> None:
    text = advised({"mine:3": [SHUT] * 4, "prune:0.2": [OPEN]}, cost("none"), cost("mine:3", 0.0))
    assert text.startswith(
        "None of the 2 defenses tried protects, beside mine, whose steps no attack here reckons with, so none can be"
    )


def test_a_users_own_defense_counts_once_its_steps_are_public() -> None:
    steps = {"mine:3": (Step(kind="gaussian", figures={"sigma": 3.0}),), "mute:3": ()}
    made = record(shots({"mine:3": [SHUT] * 4, "mute:3": [SHUT] * 4}), public=steps)
    panel = one(made, cost("none"), cost("mine:3", 0.5), cost("mute:3", 0.0))
    assert [frontier.modelled for frontier in panel.frontiers] == [True, False]
    assert [point.defense for point in panel.cheapest] == ["mine:3"]


def test_an_unfinished_run_says_so() -> None:
    made = record(shots({"prune:0.2": [OPEN]}), missing=2)
    assert "in a run that is not finished" in recommendation(one(made), made)
