"""A client of the masking protocol that can be put aside between two phases, for engines that start it anew each time.

What is kept is as secret as the update itself, and belongs into the client's own storage.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fedseal.secagg import Identity, Ledger, Terms, masking
from fedseal.secagg.hazmat.keys import Agreement
from fedseal.secagg.masking.told import Directory, Keys
from fedseal.secagg.wire import Kind

VERSION = 1


class MaskingClient(masking.Client):
    """As its base; `load` of what `dump` gave goes on where that one was.

    A client that answered must not be loaded from before its answer: whoever keeps the bytes keeps the newest only.
    """

    def dump(self) -> bytes:
        """All that it knows of the round."""
        facts: dict[str, Any] = {
            "version": VERSION,
            "round": self.terms.round,
            "size": self.terms.size,
            "ended": self.ended,
            "due": [int(step) if isinstance(step, Kind) else step for step in self._due],
            "seen": [digest.hex() for digest in sorted(self._seen)],
            "secrets": [secret.hex() for secret in (self._channel.secret, self._masking.secret, self._seed)],
            "shares": {str(who): share.hex() for who, share in self._shares.items()},
        }
        if Kind.KEYS not in self._due:
            facts["keys"] = {
                str(who): [keys.channel.hex(), keys.masking.hex()] for who, keys in self._told.keys.items()
            }
        if Kind.RELAY not in self._due:
            facts |= {"sharing": list(self._sharing), "neighbors": list(self._neighbors)}
        if Kind.SURVIVORS not in self._due:
            facts["survivors"] = list(self._survivors)
        return json.dumps(facts).encode()

    @classmethod
    def load(
        cls, terms: Callable[[int, int], Terms], number: int, identity: Identity, ledger: Ledger, kept: bytes
    ) -> MaskingClient:
        """A client as it was.

        Args:
            terms: the agreed terms, by round and size.
        """
        facts = json.loads(kept)
        client = cls(terms(facts["round"], facts["size"]), number, identity, ledger)
        client.ended = facts["ended"]
        client._due = [Kind(step) if isinstance(step, int) else step for step in facts["due"]]
        client._seen = {bytes.fromhex(digest) for digest in facts["seen"]}
        channel, mask, client._seed = (bytes.fromhex(secret) for secret in facts["secrets"])
        client._channel, client._masking = Agreement(channel), Agreement(mask)
        client._shares = {int(who): bytes.fromhex(share) for who, share in facts["shares"].items()}
        if "keys" in facts:
            keys = {int(who): Keys(*map(bytes.fromhex, pair)) for who, pair in facts["keys"].items()}
            client._told = Directory(client.terms, keys)
        if "sharing" in facts:
            client._sharing, client._neighbors = tuple(facts["sharing"]), list(facts["neighbors"])
        if "survivors" in facts:
            client._survivors = tuple(facts["survivors"])
        return client
