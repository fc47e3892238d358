"""Protocols, one a file: the client's side, the model owner's side, and what a party sees. `PROTOCOLS` lists them."""

from __future__ import annotations

from collections.abc import Mapping

from fedseal.federation.protocol.base import Call, PartyReading, Sum, SumProtocol
from fedseal.federation.protocol.masking import MASKING
from fedseal.federation.protocol.messages import LOG, Ask, Link, Member, Reply, answer_of, known_kind, refusal_kind
from fedseal.federation.protocol.plain import PLAIN
from fedseal.federation.protocol.ring import MASKED_RING, RING
from fedseal.federation.protocol.sharing import SHARING, AggregatorMember

PROTOCOLS: Mapping[str, SumProtocol] = {
    "sharing": SHARING,
    "masking": MASKING,
    "plain": PLAIN,
    "ring": RING,
    "masked_ring": MASKED_RING,
}
__all__ = [
    "LOG",
    "PROTOCOLS",
    "AggregatorMember",
    "Ask",
    "Call",
    "Link",
    "Member",
    "PartyReading",
    "Reply",
    "Sum",
    "SumProtocol",
    "answer_of",
    "known_kind",
    "refusal_kind",
]
