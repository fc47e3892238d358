"""Shamir's secret sharing of 32-byte secrets over GF(2^128), by pycryptodome, half by half.

Shamir, How to share a secret, Communications of the ACM 1979.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedseal.errors import BadConfig, MissingExtra
from fedseal.secagg.errors import CohortTooSmall

SECRET, HALF = 32, 16


def split_secret(secret: bytes, threshold: int, holders: int) -> tuple[bytes, ...]:
    """Shares of 32 bytes for holders 1, 2, ...: any `threshold` of them give the secret, fewer say nothing of it.

    Raises:
        BadConfig: the threshold is below two or above the holders, or the secret is not 32 bytes.

    >>> shares = split_secret(bytes(range(32)), 2, 3)
    >>> combine({1: shares[0], 3: shares[2]}, 2) == bytes(range(32))
    True
    """
    if len(secret) != SECRET or not 2 <= threshold <= holders:
        raise BadConfig(f"{threshold} of {holders} shares of {len(secret)} bytes", "share 32 bytes, two or more of n")
    shamir = _library()
    low, high = (shamir.split(threshold, holders, half) for half in (secret[:HALF], secret[HALF:]))
    return tuple(a + b for (_, a), (_, b) in zip(low, high, strict=True))


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret, from shares by the number of their holder.

    Raises:
        CohortTooSmall: fewer shares than the threshold.
    """
    if len(shares) < threshold:
        raise CohortTooSmall(f"{len(shares)} shares of a secret that takes {threshold}", "start another round")
    chosen = sorted(shares.items())[:threshold]
    shamir = _library()
    halves = [shamir.combine([(x, share[part]) for x, share in chosen]) for part in (slice(HALF), slice(HALF, None))]
    return b"".join(halves)


def _library() -> Any:
    try:
        from Crypto.Protocol.SecretSharing import Shamir
    except ModuleNotFoundError:
        raise MissingExtra("pycryptodome is not installed", "pip install 'fedseal[federation]'") from None
    return Shamir
