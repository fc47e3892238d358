"""Numbers and facts in plain words; every other file of the report takes its wording from here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from fedseal.audit.record import Cell, CellCertificate
from fedseal.audit.summary import Rate
from fedseal.errors import brief
from fedseal.vocabulary import MARGIN

CERTIFIED = ("exact", "converged")
UNSETTLED = ("refused", "failed")  # of cells that no attack worked on, which say nothing of the data

STATUS = {
    "exact": ("Exact", "A closed formula, and every example is certain: see “Certain” in the glossary."),
    "converged": ("Converged", "A search, and every example is certain: see “Certain” in the glossary."),
    "budget": ("Not certain", "Not every example is certain; what is shown for the others is the nearest guess."),
    "diverged": ("Diverged", "What the search found explains the update worse than nothing would, or is no number."),
    "not_applicable": ("No route", "The attack looked at what it was given and found no way that fits."),
    "refused": ("Refused", "The attack could not start: what this attacker holds is not what the attack needs."),
    "failed": ("Failed", "The attack or its scoring crashed, which says nothing of the data."),
}

_ATTACKERS = {
    "honest_but_curious": ("Honest-but-curious server", "the server (honest but curious)"),
    "eavesdropper": ("Eavesdropper", "an eavesdropper on the line"),
    "unknown_training": (
        "Server without the training settings",
        "a server that does not know the training settings",
    ),
    "unaware": (
        "Server that does not know the defense",
        "a server that does not know of the defense",
    ),
    "aggregate_only": ("Server behind secure aggregation", "the server behind secure aggregation"),
    "malicious_server": ("Malicious server", "a malicious server"),
    "neighbor": ("Neighboring data owner", "a neighboring data owner"),
    "oracle": ("Oracle (no real attacker)", "an oracle (no real attacker, but an upper bound)"),
}

_FACTS = {
    "state": "the model's weights",
    "training": "the training settings",
    "num_examples": "the number of examples",
    "buffers": "the statistics that are sent along",
    "defense": "which defense runs",
    "single_updates": "each client's own update",
    "choose_state": "weights of its own choosing",
    "labels": "the true labels",
}

NOTHING = "nothing beside the message and the architecture"
_LACKING = {"choose_state": "any say in the model's weights"}


def attacker_title(threat: str) -> str:
    """A heading for a threat model; a custom one keeps its name."""
    return _ATTACKERS.get(threat, (threat, ""))[0]


def attacker(threat: str) -> str:
    """A threat model as the subject of a sentence.

    >>> attacker("eavesdropper"), attacker("insider")
    ('an eavesdropper on the line', 'the attacker “insider”')
    """
    return _ATTACKERS[threat][1] if threat in _ATTACKERS else f"the attacker “{threat}”"


def knowledge(knows: Iterable[str]) -> str:
    """The facts that matter most for an attack, as a clause.

    >>> knowledge(["state", "training", "buffers"]), knowledge(["buffers"])
    ("knowing the model's weights and the training settings", "without knowing the model's weights")
    """
    granted = set(knows)
    if "state" not in granted:
        return "without knowing the model's weights"
    first = _FACTS["choose_state"] if "choose_state" in granted else _FACTS["state"]
    return "knowing " + listing([first, *(_FACTS[fact] for fact in ("training", "labels") if fact in granted)])


def facts(knows: Iterable[str]) -> list[str]:
    """Every granted fact in words, in a fixed order; unknown ones as they are."""
    granted = set(knows)
    return [words for fact, words in _FACTS.items() if fact in granted] + sorted(granted - set(_FACTS))


def lacking(knows: Iterable[str]) -> list[str]:
    """Every fact in words that is not granted, in the same order.

    >>> lacking(["state", "training", "num_examples", "buffers", "defense", "single_updates"])
    ["any say in the model's weights", 'the true labels']
    """
    granted = set(knows)
    return [_LACKING.get(fact, words) for fact, words in _FACTS.items() if fact not in granted]


def standpoint(knows: Iterable[str]) -> str:
    """What an attacker knows and what it does not.

    >>> standpoint(["state", "training"]).partition(". ")[0]
    "Knows the model's weights and the training settings"
    >>> standpoint([fact for fact in _FACTS if fact != "state"]).partition(". ")[2]
    "Lacks the model's weights."
    """
    granted = set(knows)
    missing = lacking(granted)
    known = f"Knows {listing(facts(granted))}." if granted else f"Knows {NOTHING}."
    return f"{known} Lacks {listing(missing)}." if missing else known


def step(kind: str, figures: Mapping[str, float], where: Sequence[str] = ()) -> str:
    """A public step of a defense.

    >>> step("gaussian", {"sigma": 0.001}), step("masked_layer", {}, ["7.weight"])
    ('gaussian (sigma 0.001)', 'masked_layer (on 7.weight)')
    """
    told = [f"{name} {value:g}" for name, value in figures.items()]
    told += [f"on {listing(where)}" if len(where) <= 2 else f"on {len(where)} parameters"] if where else []
    return f"{kind} ({', '.join(told)})" if told else kind


def by_knowledge(threats: Mapping[str, Iterable[str]]) -> list[str]:
    """Threat models, given with the facts that they grant, from the least knowledge to the most; an oracle last.

    Where one knows all that another knows and more, it stands later; else the weights count for more than the rest.

    >>> by_knowledge({"oracle": "abc", "server": "ab", "eavesdropper": "a"})
    ['eavesdropper', 'server', 'oracle']
    """

    def rank(name: str) -> tuple[bool | int, ...]:
        weighty = ("choose_state", "state", "single_updates")
        return (name == "oracle", *(fact in threats[name] for fact in weighty), len(set(threats[name])))

    return sorted(threats, key=rank)


def defended(defense: str, where: str = "") -> str:
    """Which updates a sentence speaks of.

    >>> defended("none"), defended("prune:0.2", "batches of 4")
    ('updates without a defense', 'updates under the defense prune:0.2 (batches of 4)')
    """
    updates = "updates without a defense" if defense == "none" else f"updates under the defense {defense}"
    return f"{updates} ({where})" if where else updates


def setting(batch_size: int | None, epochs: int | None) -> str:
    """Batch size and local training; what is None is left out.

    >>> setting(4, 0), setting(None, 5), setting(None, None)
    ('batches of 4, one gradient', '5 local epochs', '')
    """
    size = [] if batch_size is None else [f"batches of {batch_size}"]
    course = [] if epochs is None else ["one gradient" if epochs == 0 else count(epochs, "local epoch")]
    return ", ".join([*size, *course])


def certificate(cell: Cell) -> str:
    """What can be proved of a cell's result, in a sentence or two."""
    proof, reason = cell.certificate, reason_of(cell)
    if cell.status == "failed":
        return f"Failed: {reason or 'no reason given'}".rstrip(".") + f". Its traceback lies in {traceback(cell)}."
    if cell.status == "diverged" and cell.scores is not None:
        return f"Not certain: diverged, replayed update differs by {unexplained(cell.residual)}."
    if cell.scores is None and cell.status not in (*CERTIFIED, "budget"):
        what = {"diverged": "Diverged; nothing came out", "not_applicable": "No route applies", "refused": "Refused"}
        return f"{what[cell.status]}{': ' + reason if reason else ''}".rstrip(".") + "."
    if proof is None:
        return unproved(cell)
    if not any(proof.certain):
        return f"Not certain: {_why(proof) or 'for reasons not told'}."
    certain, many = sum(proof.certain), len(proof.certain)
    who = "Certain" if many == 1 else f"Certain of all {many}" if certain == many else f"Certain of {certain} of {many}"
    how = "replayed update agrees" if proof.kind == "replay" else "the first layer's equations hold"
    moved = min(s for s, sure in zip(proof.sensitivity, proof.certain, strict=True) if sure and s is not None)
    rest = f"; the rest: {_why(proof)}" if certain < many else ""
    return (
        f"{who}: {how} to {unexplained(proof.residual)}, and a visible change would move the update by at least "
        f"{unexplained(moved)}{rest}. Assumes {proof.assumption}."
    )


def unproved(cell: Cell) -> str:
    """Why a result without a certificate is not certain."""
    if cell.status in CERTIFIED:
        return "Not certain: this record is of an earlier version, which did not tell what is determined."
    if cell.residual is None:
        return "Not certain: this attacker cannot replay the update."
    return f"Not certain: replayed update still differs by {unexplained(cell.residual)}."


def doubt(cell: Cell, index: int, noun: str) -> str:
    """Why one example is not certain, as a clause; empty if it is, or if nothing was found.

    The data may explain the update without being determined by it, which is another fact.
    """
    proof = cell.certificate
    if cell.scores is None or (index < len(cell.certain) and cell.certain[index]):
        return ""
    if proof is None:
        return _clause(unproved(cell))
    if not proof.residual <= proof.tolerance:
        return f"does not explain the update, which differs by {unexplained(proof.residual)}"
    moved = proof.sensitivity[index] if index < len(proof.sensitivity) else None
    if moved is None:
        return f"nothing was read for this {noun}"
    if not moved > MARGIN * max(proof.tolerance, proof.residual):
        return f"explains the update, does not determine the {noun}"
    return _clause(proof.note)


def _why(proof: CellCertificate) -> str:
    """Why examples are not certain."""
    if not proof.residual <= proof.tolerance:
        return f"replayed update still differs by {unexplained(proof.residual)}"
    return proof.note.rstrip(".")


def _clause(sentence: str) -> str:
    return sentence.removeprefix("Not certain: ").rstrip(".")


def traceback(cell: Cell) -> str:
    """Where the traceback of a failed cell lies, seen from the run folder."""
    return f"cells/{cell.key.id}.traceback.txt"


def left_out(cells: Iterable[Cell]) -> str:
    """Which exact routes were left out for what is not known, as a clause; empty if none was.

    Where every example is certain without them, nothing is missing.
    """
    missing: dict[str, list[str]] = {}
    for cell in cells:
        for note in cell.explanation if not all(cell.certain) else ():
            if not note.taken and note.route in EXACT and any(word in note.reason for word in _UNKNOWN):
                missing.setdefault(note.reason.rstrip("."), []).append(note.route)
    told = [f"{listing(dict.fromkeys(routes))} ({reason})" for reason, routes in missing.items()]
    return "; ".join(told)


EXACT = ("linear", "spear", "bottleneck", "layerwise", "separation", "dager")
_UNKNOWN = ("withh", "unknown", "not known", "recognized")  # so routes say that they miss a fact


def reason_of(cell: Cell) -> str:
    """Why a cell ended as it did: its note, else the first reason of its explanation."""
    return cell.note or next((note.reason for note in cell.explanation if note.reason), "")


def listing(items: Iterable[str]) -> str:
    """Items joined as prose.

    >>> listing(["a", "b", "c"])
    'a, b and c'
    """
    words = list(items)
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def printed(text: str) -> str:
    """A text of somebody else's in one line: characters that control a screen or turn its direction are spelled out.

    >>> printed("a\\tb"), printed("über"), printed("\\u202eabc")
    ('a\\\\tb', 'über', '\\\\u202eabc')
    """
    return "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in text)


_JOINERS = "\u200c\u200d"  # of letters and of pictograms


def abbreviated(text: str, most: int = 60) -> str:
    """The same, and of a long text the beginning and its length.

    >>> abbreviated("a" * 5000, most=8), abbreviated("cook")
    ('aaaaaaaa… (5,000 characters)', 'cook')
    """
    return printed(brief(text, most))


def decibel(value: float | None) -> str:
    """Such as "31.4 dB"; a dash where nothing was measured.

    >>> decibel(31.44), decibel(None), decibel(float("inf"))
    ('31.4 dB', '–', '∞ dB')
    """
    return f"{number(value, 1)} dB" if was_measured(value) else "–"


def number(value: float | None, digits: int = 2) -> str:
    """A plain number; a dash where nothing was measured."""
    if value is None or math.isnan(value):
        return "–"
    return ("∞" if value > 0 else "−∞") if math.isinf(value) else f"{value:.{digits}f}"


def unexplained(value: float | None) -> str:
    """A relative distance with one digit.

    >>> unexplained(3.2e-7), unexplained(0.0), unexplained(0.25), unexplained(None)
    ('3e-7', '0', '0.2', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    if value == 0 or math.isinf(value):
        return "0" if value == 0 else "∞"
    if value >= 0.01:
        return f"{value:.2g}" if value >= 1 else f"{value:.1g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def seconds(value: float | None) -> str:
    """A duration for people.

    >>> seconds(0.0421), seconds(8.26), seconds(95.0), seconds(7320.0)
    ('0.04 s', '8.3 s', '1 min 35 s', '2 h 2 min')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value < 59.95:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(share: float | None) -> str:
    """A share; small ones keep a digit.

    >>> percent(0.01), percent(0.005), percent(1.0)
    ('1 %', '0.5 %', '100 %')
    """
    return "–" if share is None else f"{100 * share:.3g} %"


def rate(found: Rate) -> str:
    """Hits and trials, and beside them how many a blind guess expects, where that is known.

    >>> rate(Rate(7, 8, 0.25)), rate(Rate(0, 0))
    ('7 of 8 (blind guess 2)', '–')
    """
    if not found.trials:
        return "–"
    blind = "" if found.chance is None else f" (blind guess {expected(found)})"
    return f"{found.hits} of {found.trials}{blind}"


def expected(found: Rate) -> str:
    """How many hits a blind guess expects.

    >>> expected(Rate(1, 8, 0.04)), expected(Rate(9, 134, 0.94)), expected(Rate(0, 0))
    ('0.32', '126', '–')
    """
    if found.chance is None:
        return "–"
    hits = found.chance * found.trials
    return f"{hits:.2g}" if hits < 10 else f"{hits:.0f}"


def interval(bounds: tuple[float, float] | None) -> str:
    """A range of shares.

    >>> interval((0.0, 0.2775)), interval(None)
    ('0 to 28 %', '–')
    """
    return "–" if bounds is None else f"{100 * bounds[0]:.0f} to {100 * bounds[1]:.0f} %"


def shares(bounds: tuple[float, float]) -> str:
    """A narrow range of shares.

    >>> shares((0.3529, 0.3641))
    '35.3 to 36.4 %'
    """
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"


def points(value: float | None) -> str:
    """Percentage points lost; a dash where nothing was measured.

    >>> points(4.23), points(-1.0), points(0.04), points(None)
    ('4.2 points', '−1.0 points', '0.0 points', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{signed(value)} points"


def span(low: float, high: float) -> str:
    """A range of plain numbers.

    >>> span(-0.52, 3.0)
    '−0.5 to 3.0'
    """
    return f"{signed(low)} to {signed(high)}"


def signed(value: float) -> str:
    """A number with one digit and a proper minus, none before a zero."""
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def factor(value: float | None) -> str:
    """A ratio.

    >>> factor(1.04), factor(12.3), factor(None)
    ('×1.0', '×12', '–')
    """
    return "–" if value is None else f"×{value:.1f}" if value < 9.95 else f"×{value:.0f}"


def size(count: float) -> str:
    """Bytes for people.

    >>> size(712.0), size(71240.0), size(2.5e6)
    ('712 B', '71.2 kB', '2.5 MB')
    """
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.3g} {unit}"
    return f"{count:.0f} B"


def was_measured(value: float | None) -> bool:
    """Whether a score was measured."""
    return value is not None and not math.isnan(value)


def count(n: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "picture"), count(3, "picture")
    ('1 picture', '3 pictures')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
