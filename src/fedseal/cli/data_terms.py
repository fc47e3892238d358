"""Terms on the data of several owners: written of one owner's, agreed on from several files, and trained under."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedseal.cli import terminal
from fedseal.errors import BadConfig

if TYPE_CHECKING:
    from fedseal.setup.federation import FederationSpec


def propose(spec: FederationSpec | None, files: Sequence[Path], out: Path, *, quiet: bool) -> None:
    """Write the terms that data fits and that files say, all as one.

    Args:
        spec: names the data; None for none.
        quiet: do not tell how data was read; what the terms tell of single rows is told all the same.

    Raises:
        BadConfig: neither data nor files.
        FedsealError: data that is none, or terms that contradict each other.
    """
    from fedseal.setup.data.agreement import agreed
    from fedseal.setup.data.proposal import proposal
    from fedseal.setup.data.terms import read_terms, write_terms

    if spec is None and not files:
        raise BadConfig("--propose has neither data nor terms to go by", "name your own data: --data scans")
    parts = {str(path): read_terms(path) for path in files}
    tells: list[str] = []
    notes: list[str] = []
    for name in () if spec is None else spec.data:
        assert spec is not None
        found = proposal(name, size=spec.sizes, label=spec.label, span=spec.span)
        parts[name] = found.terms
        tells += [f"'{name}': {note}" for note in found.tells]
        notes += [f"'{name}': {note}" for note in found.notes]
    terms = next(iter(parts.values())) if len(parts) == 1 and not files else agreed(parts)
    write_terms(out, terms)
    for line in terms.words(whole=True):
        terminal.say(line)
    terminal.say(f"{out} says this and no more; read it before you hand it over")
    for note in [*([] if quiet else notes), *tells]:
        terminal.note(f"note: {note}")


def under(spec: FederationSpec, files: Sequence[Path]) -> FederationSpec:
    """The training that was asked for, of data as the terms in files say it.

    Raises:
        FedsealError: no such files, terms that contradict each other, or an option that they have.
    """
    from fedseal.setup.data.agreement import agreed
    from fedseal.setup.data.terms import read_terms

    return spec.under(agreed({str(path): read_terms(path) for path in files}))
