"""What the frontier says, in sentences: where each defense starts to protect, and one recommendation.

A recommendation names what it rests on: the attackers, attacks, model, examples and strengths tried, and what was not
measured. It is never a proof, and says so where the report ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedseal.audit.cost_record import Cost
from fedseal.audit.record import Record
from fedseal.report import words
from fedseal.report.frontier import Frontier, Panel, Point
from fedseal.report.kind import ExampleKind, kind_of


def advice_text(frontier: Frontier) -> str:
    """One sentence on one family."""
    known = [point for point in frontier.points if point.samples]
    name = frontier.family
    if not known:
        return f"{name}: nothing could be attacked, so whether it protects was not measured."
    start, silent = frontier.start, frontier.silent
    if start is None and silent is not None:
        place = "" if silent.strength.text == name else f" from {silent.strength.text} on"
        return f"{name}: nothing leaked{place}, but {_few(silent)} too few to say that it protects."
    if start is None:
        tried = f"at the only strength tried, {known[0].strength.text}"
        if len(known) > 1:
            tried = f"at any of the {len(known)} strengths tried, up to {known[-1].strength.text}"
        return f"{name} does not protect {tried}." if known[-1].strength.text != name else f"{name} does not protect."
    place = "protects" if start.strength.text == name else f"protects from {start.strength.text} on"
    ruins = ", which ruins the training" if start.ruins else ""
    return f"{name} {place}, {price(start)}{ruins}."


def price(point: Point) -> str:
    """What a point costs, as a clause."""
    lost = point.lost
    if lost is None:
        why = "was not measured" if point.cost is None else f"cannot be said, as {untold(point.cost)}"
        return f"at a cost in accuracy that {why}"
    return f"at {words.points(lost)} of accuracy{_within(point)}"


def untold(cost: Cost) -> str:
    """Why nothing can be said of what a defense costs: a clause on the model that was trained without one."""
    if cost.learned is False:
        return "the undefended model learned nothing"
    seeds = words.count(len(cost.seeds), "seed")
    right, chance = words.percent(cost.accuracy_without), words.percent(cost.chance)
    return f"the undefended model's {right} are not told apart from the {chance} of a blind guess with {seeds}"


def recommendation(panel: Panel, record: Record) -> str:
    """One sentence on which defense to take at which strength, or why none, and what that rests on.

    A second one follows where exact routes were left out for what is not known.
    """
    cells = [cell for cell in record.cells if cell.key.threat in panel.attackers]
    routes = words.left_out(cells)
    missing = f" Exact routes were left out because something is not known: {routes}." if routes else ""
    return f"{_recommended(panel, record)}{missing}"


def _recommended(panel: Panel, record: Record) -> str:
    best, protecting = panel.cheapest, panel.protecting
    basis = _basis(panel, record)
    if best:
        return f"Of the {_tried(panel)} tried, {_chosen(best, protecting, kind_of(record))}; {basis}."
    if not protecting:
        return f"None of the {_tried(panel)} tried {_unsure(panel)}, so none can be recommended; {basis}."
    names, do = words.listing(p.defense for p in protecting), _verb(protecting, "protect", "protects")
    if all(p.ruins for p in protecting):
        return (
            f"None of the {_tried(panel)} tried can be recommended: {names} {do}, but "
            f"{_verb(protecting, 'leave', 'leaves')} next to nothing of what the model learns; {basis}."
        )
    return (
        f"Of the {_tried(panel)} tried, {names} {do}, and what "
        f"{_verb(protecting, 'they cost', 'it costs')} in accuracy is not known, so none is preferred; {basis}."
    )


def _chosen(best: Sequence[Point], protecting: Sequence[Point], kind: ExampleKind) -> str:
    """What to take, or what it cannot be told apart from, and at which cost."""
    first, *rest = best
    found = f"{_nothing(first, kind)}, at {words.points(first.lost)} of accuracy ({_trained(first)})"
    if rest:
        assert first.cost is not None
        seeds = words.count(min(len(p.cost.seeds) for p in best if p.cost), "seed")
        others = words.listing(f"{p.defense} {words.points(p.lost)}{_within(p)}" for p in rest)
        names = words.listing(p.defense for p in best)
        told = f"{names} protect, and what they cost cannot be told apart with {seeds}"
        return f"{told}: {first.defense}, {found}; {others}{_unpriced(protecting)}"
    priced = [p for p in protecting if p.lost is not None and not p.ruins]
    among = "the only one that protects at a known cost"
    if len(priced) > 1:
        alone = len({p.strength.family for p in priced}) == 1
        among = "the weakest that protects at a known cost" if alone else "the cheapest that protects"
    return f"{first.defense} is {among}: {found}{_unpriced(protecting)}"


def _unsure(panel: Panel) -> str:
    """That none protects for all that is known; which ones no attack reckons with, or too few examples speak for."""
    foreign = [one.family for one in panel.frontiers if one.start is not None and not one.modelled]
    few = [one.silent for one in panel.frontiers if one.start is None and one.silent is not None]
    if foreign:
        return f"protects, beside {words.listing(foreign)}, whose steps no attack here reckons with"
    if few:
        names = words.listing(one.defense for one in few)
        return f"is known to protect: nothing leaked under {names}, but {_few(few[0])} too few to say more"
    measured = [any(point.leaks.trials for point in one.points) for one in panel.frontiers]
    return "protects" if all(measured) else "is known to protect" if any(measured) else "could be attacked"


def _few(point: Point) -> str:
    """Such as "1 example is"."""
    return f"{words.count(point.leaks.trials, 'example')} {'is' if point.leaks.trials == 1 else 'are'}"


def _basis(panel: Panel, record: Record) -> str:
    """What the sentence rests on, and what it leaves open."""
    config, kind = record.header.config, kind_of(record)
    who = words.listing(words.attacker(name) for name in panel.attackers)
    attacked = max((len(point.samples) for point in panel.points), default=0)
    where = f", {panel.setting}" if panel.setting else ""
    unfinished = "" if record.complete else ", in a run that is not finished"
    return (
        f"this rests on {words.listing(panel.attacks)} by {who}, {words.count(attacked, kind.noun)} a defense, "
        f"the model {config.model} as it stood{where}{unfinished}, and says nothing of other attacks, data or weights"
    )


def _nothing(point: Point, kind: ExampleKind) -> str:
    found = f"0 of {words.count(point.leaks.trials, kind.noun)} recovered and no traces"
    return f"{found} (95 % interval of the share that leaks {words.interval(point.leaks.interval)})"


def _tried(panel: Panel) -> str:
    strengths = sum(len(one.points) for one in panel.frontiers)
    if len(panel.frontiers) == strengths:
        return words.count(strengths, "defense")
    return f"{strengths} strengths of {words.count(len(panel.frontiers), 'defense')}"


def _trained(point: Point) -> str:
    cost, bounds = point.cost, point.lost_interval
    assert cost is not None
    interval = "" if bounds is None else f"95 % interval {words.span(*bounds)}; "
    return (
        f"{interval}{words.percent(cost.accuracy_without)} without a defense; {words.count(cost.rounds, 'round')} with "
        f"{words.count(cost.clients, 'client')}, {words.count(len(cost.seeds), 'seed')}, {cost.examples} examples"
    )


def _unpriced(protecting: Sequence[Point]) -> str:
    rest = [point for point in protecting if point.lost is None]
    if not rest:
        return ""
    names = words.listing(point.defense for point in rest)
    protect, cost = _verb(rest, "protect", "protects"), _verb(rest, "cost", "costs")
    return f"; what {names}, which {protect} too, {cost} was not measured"


def _within(point: Point) -> str:
    bounds = point.lost_interval
    return "" if bounds is None else f" (95 % interval {words.span(*bounds)})"


def _verb(points: Sequence[Point], several: str, one: str) -> str:
    return one if len(points) == 1 else several
