"""What can be wrong with what a user hands in. Every message says fact, culprit and remedy.

`FedsealError` is the root; the command line turns it into one line on standard error and exit code 2. A search that
does not succeed is no error but an `Outcome`.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable

LONG = 60  # characters of a name or a value that a message shows
# controls but tab and line feed, what ends lines elsewhere, what turns the direction of writing, halves of characters
UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class FedsealError(Exception):
    """The user's input does not fit; the message says what, where and what to do.

    Args:
        fact: what is wrong and with what, as a clause without a full stop.
        remedy: what to do about it.

    >>> str(UnfitUpdate("the update is zero everywhere", "send one from a real step"))
    'the update is zero everywhere; send one from a real step'
    """

    def __init__(self, fact: str, remedy: str) -> None:
        self.fact = fact
        self.remedy = remedy
        super().__init__(f"{fact}; {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        # as every exception, but for subclasses that take other arguments: workers send errors to other processes
        return _again, (type(self), self.fact, self.remedy)


def _again(kind: type[FedsealError], fact: str, remedy: str) -> FedsealError:
    error = kind.__new__(kind)
    FedsealError.__init__(error, fact, remedy)
    return error


class UnfitBatch(FedsealError):
    """Inputs and labels that do not belong together, or not to the model."""


class Misfit(UnfitBatch):
    """Inputs and labels that a model or its loss does not take, in torch's own words.

    Of a client's batch it is the user's mistake; of a guess that an attack made itself it is the attack's fault.
    """


class UnfitUpdate(FedsealError):
    """An update that cannot be read, or that is not this model's."""


class UnfitModel(FedsealError):
    """A model that cannot be trained or attacked as it stands."""


class NotTwiceDifferentiable(UnfitModel):
    """Gradient matching needs second derivatives that an operator of the model does not have."""


class UnfitPicture(FedsealError):
    """A file that is no picture, or one that no model could have seen."""


class UnknownToAdversary(FedsealError):
    """An attack asked for a fact that the threat model withholds."""


class BrokenAttack(FedsealError):
    """An attack answered with what is no reconstruction: inputs of another shape, or labels of another number."""


class BadConfig(FedsealError):
    """A configuration, option or specification that means nothing."""


class MissingExtra(FedsealError):
    """A package that only a part of fedseal needs is not installed."""


class StorageFailure(FedsealError):
    """A file or folder that cannot be read or written."""


class EngineFailure(FedsealError):
    """Workers that cannot be reached, or that die."""


class Diverged(FedsealError):
    """A training whose model or loss is no number any more."""


class UnknownName(FedsealError):
    """A name that no table holds.

    >>> raise UnknownName("recipe", "dgl", ["dlg", "idlg", "auto"])
    Traceback (most recent call last):
        ...
    fedseal.errors.UnknownName: there is no recipe 'dgl'; did you mean 'dlg'? Known: auto, dlg, idlg
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        super().__init__(f"there is no {kind} '{name}'", f"{hint}Known: {', '.join(known)}")


def brief(text: str, most: int = LONG) -> str:
    """A text to show: of a long one the beginning and its length.

    >>> brief("a" * 5000, most=8), brief("cook")
    ('aaaaaaaa… (5,000 characters)', 'cook')
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def shown(text: str) -> str:
    """A text that a terminal shows and does not obey: control and bidirectional characters as what they are.

    >>> shown("a\\x1b[2Jb"), shown("\\u202egpj.exe"), shown("Zürich\\n")
    ('a\\\\x1b[2Jb', '\\\\u202egpj.exe', 'Zürich\\n')
    """
    return UNSHOWN.sub(lambda found: _escaped(ord(found[0])), text)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def shown_record(record: logging.LogRecord) -> bool:
    """A filter of loggers whose lines end on a terminal: it lets all pass, as `shown`, tracebacks included."""
    record.msg, record.args = shown(record.getMessage()), ()
    if record.exc_info and not record.exc_text:
        record.exc_text = shown(logging.Formatter().formatException(record.exc_info))
    return True
