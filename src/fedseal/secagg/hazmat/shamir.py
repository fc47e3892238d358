"""Shamir's secret sharing of 32-byte secrets over GF(2^128), half by half; secrets are put together by pycryptodome.

Shamir, How to share a secret, Communications of the ACM 1979. Shares are those of pycryptodome's `Shamir.split`, whose
arithmetic goes bit by bit and was most of what a client of a short round computed.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from fedseal.errors import BadConfig, MissingExtra
from fedseal.secagg.errors import CohortTooSmall

SECRET, HALF = 32, 16
LANE = 32  # bytes between the halves' places in one integer: a half and what a product has beyond it
BITS = 8 * HALF
LOW = sum(((1 << BITS) - 1) << 8 * LANE * lane for lane in range(SECRET // HALF))  # the halves' bits of such an integer
TERMS = (0, 1, 2, 7)  # x^128 is the sum of these powers of x


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
    drawn = [secrets.token_bytes(SECRET) for _ in range(threshold - 1)]
    polynomial = [_spread(part) for part in (*drawn, secret)]  # the highest power's coefficient first
    return tuple(_gathered(_value(polynomial, holder)) for holder in range(1, holders + 1))


def _value(polynomial: list[int], place: int) -> int:
    """What the polynomials of both halves are at a place, by Horner's rule.

    No branch and no index hangs on a coefficient; the place is no secret.
    """
    shifts = [bit for bit in range(place.bit_length()) if place >> bit & 1]
    found = 0
    for coefficient in polynomial:
        product = 0
        for shift in shifts:
            product ^= found << shift
        high = (product & ~LOW) >> BITS  # as many bits as the place has, so that one step reduces it
        product &= LOW
        for power in TERMS:
            product ^= high << power
        found = product ^ coefficient
    return found


def _spread(halves: bytes) -> int:
    """Two elements of the field in one integer, with room between them."""
    return int.from_bytes(bytes(LANE - HALF) + halves[:HALF] + bytes(LANE - HALF) + halves[HALF:], "big")


def _gathered(value: int) -> bytes:
    whole = value.to_bytes(2 * LANE, "big")
    return whole[LANE - HALF : LANE] + whole[2 * LANE - HALF :]


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
