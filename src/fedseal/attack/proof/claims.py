"""Which examples a certificate holds, and why it does not hold the others."""

from __future__ import annotations

from dataclasses import replace

from fedseal.attack.proof.sensitivity import Sensitivity
from fedseal.types import Certificate
from fedseal.vocabulary import MARGIN

OPEN = "explains the update, does not determine"


def judged_by(bare: Certificate, moved: Sensitivity, reasons: list[str], unseen: float) -> Certificate:
    """Which examples are certain, and why the others are not; by their number alone, as they stand in no order."""
    held = [not reasons and value > MARGIN * unseen for value in moved.values]
    short = sum(not value > MARGIN * unseen for value in moved.values)
    notes = list(reasons)
    if short:
        which = "the example" if len(held) == 1 else f"{short} of {len(held)} examples"
        notes.append(f"{OPEN} {which} ({moved.how})")
    return replace(bare, sensitivity=moved.values, certain=tuple(held), note="; ".join(notes))


def less_certain(judged: Certificate, certain: tuple[bool, ...], why: str) -> Certificate:
    """The certificate with fewer certain examples, and why; itself where there are as many."""
    if certain == judged.certain:
        return judged
    return replace(judged, certain=certain, note="; ".join(filter(None, [judged.note, why])))
