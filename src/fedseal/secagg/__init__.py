"""Sums of many clients' updates of which nobody can read one: three protocols as roles that only exchange bytes.

`sharing` needs two or more aggregators who do not all collude, `masking` one server, `ring` none. What they protect
from and what not is in docs/secagg.md. This package imports nothing of fedseal but its errors, so that it can be
reviewed alone; `hazmat` holds the primitives. The roles are in `sharing`, `masking` and `ring`.
"""

try:
    import cryptography as _cryptography
except ModuleNotFoundError:
    from fedseal.errors import MissingExtra

    raise MissingExtra("cryptography is not installed", "pip install 'fedseal[federation]'") from None

from fedseal.secagg import masking, ring, sharing
from fedseal.secagg.accounting import SumRelease
from fedseal.secagg.hazmat.keys import Buffer, Identity, Public, trusting_itself
from fedseal.secagg.ledger import Ledger, LedgerEntry
from fedseal.secagg.party import OWNER, SERVER, Party, aggregator
from fedseal.secagg.terms import Roster, Terms
from fedseal.secagg.transcript import Transcript, VectorFormat
from fedseal.secagg.vector import Opened
from fedseal.secagg.wire import Outgoing

del _cryptography
__all__ = [
    "OWNER",
    "SERVER",
    "Buffer",
    "Identity",
    "Ledger",
    "LedgerEntry",
    "Opened",
    "Outgoing",
    "Party",
    "Public",
    "Roster",
    "SumRelease",
    "Terms",
    "Transcript",
    "VectorFormat",
    "aggregator",
    "masking",
    "ring",
    "sharing",
    "trusting_itself",
]
