"""The verdict: what was recovered, by whom, how surely, how fast, beside which blind guess; never that all is safe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedseal.audit.record import Record
from fedseal.report import words
from fedseal.report.kind import ExampleKind, kind_of
from fedseal.report.tally import Tally, leading, tally

Level = Literal["recovered", "partial", "traces", "none", "empty"]

PROVED = 5  # the record's version from which on certificates are worked out by who writes it
CAVEAT = "This speaks of these attacks only, and is no proof of safety: another attack may read what these did not."


@dataclass(frozen=True)
class Verdict:
    """The report's first words.

    Args:
        level: the leakiest setting's result; "empty" if nothing was measured.
        headline: one sentence.
        details: further sentences: the other settings, what is incomplete, what this does not show.
    """

    level: Level
    headline: str
    details: tuple[str, ...]


def verdict(record: Record) -> Verdict:
    """The verdict on a record, finished or not.

    The headline speaks of the leakiest setting that a real attacker was measured in.
    """
    kind = kind_of(record)
    noun = kind.noun
    progress = _progress(record)
    tallies = tally(record.cells)
    if not record.cells:
        return Verdict(
            "empty", "No attack has finished yet, so nothing is known about what the updates reveal.", progress
        )
    worst = leading(tallies)
    if worst is None:
        why = "None of the attacks could start with what this attacker knows"
        why = "Every attack crashed" if all(cell.status == "failed" for cell in record.cells) else why
        return Verdict("empty", f"{why}, so nothing was measured.", (*progress, CAVEAT))
    progress += _left_out(record)
    rest = _rest([t for t in tallies if t is not worst and t.attacked], worst, noun)
    if worst.recovered:
        level: Level = "recovered" if worst.recovered == worst.attacked else "partial"
        return Verdict(level, _found(worst, kind), (*progress, *_labels(worst), *rest, *_refusals(tallies, noun)))
    level = "traces" if worst.traces else "none"
    return Verdict(
        level, _not_found(worst, kind), (*progress, *_labels(worst), *rest, *_refusals(tallies, noun), CAVEAT)
    )


def _found(tally: Tally, kind: ExampleKind) -> str:
    noun = kind.noun
    what = f"{tally.recovered} of {tally.attacked} private {noun}s"
    if tally.recovered == tally.attacked:
        what = f"all {tally.attacked} private {noun}s" if tally.attacked > 1 else f"the private {noun}"
    speed = f"in {'a median of ' if tally.recovered > 1 else ''}{words.seconds(tally.seconds)} per update"
    closeness = f", at {_closeness(tally, tally.recovered, kind)}" if tally.value is not None else ""
    return _sentence(
        f"{_who(tally)} recovered {what} from {words.defended(tally.defense, tally.where)}; "
        f"{_certainty(tally)} without seeing the originals, {speed}{closeness}"
    )


def _labels(tally: Tally) -> tuple[str, ...]:
    """The labels of whole batches, which can leak where no picture does; of one example they say little."""
    found = tally.labels
    if not found.trials or max((s.cell.key.batch_size for s in tally.best), default=1) == 1:
        return ()
    blind = "" if found.chance is None else f", where a blind guess would name {words.expected(found)}"
    whose = f"of the {found.trials} labels in {words.defended(tally.defense, tally.where)}"
    return (_sentence(f"{words.attacker(tally.threat)} named {found.hits} {whose}, in whatever order{blind}"),)


def _certainty(tally: Tally) -> str:
    if tally.recovered == 1:
        return "it was certain of its finding" if tally.certified else "it could not be certain of its finding"
    if tally.certified in (0, tally.recovered):
        return f"it was certain of {'all' if tally.certified else 'none'} of them"
    return f"it was certain of {tally.certified} of {tally.recovered}"


def _not_found(tally: Tally, kind: ExampleKind) -> str:
    noun = kind.noun
    whole = f"any of the {tally.attacked} private {noun}s" if tally.attacked > 1 else f"the private {noun}"
    parts = [
        f"for {_who(tally)} these attacks did not recover {whole} from {words.defended(tally.defense, tally.where)}"
    ]
    if tally.value is not None:
        parts.append(f"their best reconstructions have {_closeness(tally, tally.attacked, kind)}")
    found = tally.identification
    if found.chance is not None:
        guessed = words.expected(found)
        parts.append(
            f"they picked {found.hits} of {found.trials} out of a gallery, where guessing would pick {guessed}"
        )
    if tally.traces:
        parts.append(f"{tally.traces} of {tally.attacked} show traces of the original")
    return _sentence("; ".join(parts))


def _closeness(tally: Tally, examples: int, kind: ExampleKind) -> str:
    """The headline score beside the blind guess's."""
    measure = kind.measure
    value = f"a {'median ' if examples > 1 else ''}{measure.phrase} of {measure.written(tally.value)}"
    return value if tally.blind is None else f"{value} where the best blind guess has {measure.written(tally.blind)}"


def _rest(others: Sequence[Tally], worst: Tally, noun: str) -> tuple[str, ...]:
    """For each attacker, what the other settings gave: a sentence on what was recovered, and one on what was not."""
    sentences = []
    for threat in dict.fromkeys(t.threat for t in others):
        shown = [t for t in others if t.threat == threat]
        who = "the same attacker" if threat == worst.threat else _who(shown[0])
        found = [
            f"{t.recovered} of {t.attacked} {noun}s from {words.defended(t.defense, t.where)}"
            for t in shown
            if t.recovered
        ]
        nothing = [f"{words.defended(t.defense, t.where)}{_traces(t)}" for t in shown if not t.recovered]
        if found:
            sentences.append(_sentence(f"{who} recovered {words.listing(found)}"))
        if nothing:
            these = f"for {who} these attacks" if not found else "these attacks"
            sentences.append(_sentence(f"{these} did not recover any {noun} from {words.listing(nothing)}"))
    return tuple(sentences)


def _traces(tally: Tally) -> str:
    return f" (though {tally.traces} of {tally.attacked} show traces)" if tally.traces else ""


def _who(tally: Tally) -> str:
    return f"{words.attacker(tally.threat)}, {words.knowledge(tally.knows)},"


def _refusals(tallies: Sequence[Tally], noun: str) -> tuple[str, ...]:
    sentences = []
    for what, failed in (("None of these attacks could start", False), ("Every attack crashed", True)):
        shown = [t for t in tallies if t.attacked == 0 and t.failed == failed]
        none = [f"{words.attacker(t.threat)} from {words.defended(t.defense, t.where)}" for t in shown]
        sentences += [f"{what} for {words.listing(none)}."] if none else []
    return tuple(sentences)


def _left_out(record: Record) -> tuple[str, ...]:
    """For each attacker the exact routes that were left out because something is not known."""
    sentences = []
    for threat in dict.fromkeys(cell.key.threat for cell in record.cells):
        routes = words.left_out(cell for cell in record.cells if cell.key.threat == threat)
        if routes:
            sentences.append(
                f"For {words.attacker(threat)}, exact routes were left out because something is not known, and whoever "
                f"knows it may read more: {routes}."
            )
    return tuple(sentences)


def _progress(record: Record) -> tuple[str, ...]:
    failed, done, planned = len(record.failed), len(record.cells), len(record.header.keys)
    sentences = []
    if record.header.version < PROVED:
        sentences.append(
            "This record is of an earlier version, whose certificates proved less, so that nothing in it counts as "
            "certain."
        )
    if done < planned:
        sentences.append(
            f"This run is incomplete: {done} of {planned} cells are finished, and everything here speaks of these "
            "alone."
        )
    if failed:
        sentences.append(
            f"{words.count(failed, 'cell')} of {planned} crashed, which says nothing of the data: {record.folder}/"
            f"{words.traceback(record.failed[0])} says where, and the same command tries again."
        )
    return tuple(sentences)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def mixed_verdict(records: Sequence[Record]) -> Verdict:
    """One verdict on several audits: in how many something was recovered, and from what."""
    found = [verdict(record) for record in records]
    leaking = [kind_of(r).noun for r, v in zip(records, found, strict=True) if v.level in ("recovered", "partial")]
    order: tuple[Level, ...] = ("recovered", "partial", "traces", "none", "empty")
    level: Level = min((v.level for v in found), key=order.index, default="empty")
    if not leaking:
        return Verdict(level, f"In none of these {len(records)} audits private examples were recovered.", (CAVEAT,))
    what = words.listing(f"{noun}s" for noun in dict.fromkeys(leaking))
    rest = (CAVEAT,) if len(leaking) < len(records) else ()
    return Verdict(level, f"In {len(leaking)} of {len(records)} audits private {what} were recovered.", rest)
