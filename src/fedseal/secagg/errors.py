"""What a party of a secure sum refuses. A refused message leaves no trace, unless it says that the round ends."""

from __future__ import annotations

from fedseal.errors import FedsealError


class BadMessage(FedsealError):
    """Bytes that are no message of this version, of this round, for this party or from who they say."""


class OutOfPhase(FedsealError):
    """A message or call that comes too late, too early or a second time."""


class KnownState(FedsealError):
    """A round from a model that this party answered before, or from one too near to it."""


class Overspent(FedsealError):
    """A round more than this party agreed to answer."""


class Misbehavior(FedsealError):
    """A correctly signed message that an honest party would not have sent. The round ends here."""


class CohortTooSmall(FedsealError):
    """Fewer clients than the terms ask for, so that the sum would say too much of each. The round ends here."""


class WrongSum(FedsealError):
    """The masks did not cancel, so that what was opened is no sum of the cohort's vectors. The round ends here."""


class BrokenCommitment(WrongSum):
    """A client handed over another seed than the one that it committed to, so that its mask cannot be taken out."""


class InsecureRandomness(FedsealError):
    """A seed that is not 256 bits."""
