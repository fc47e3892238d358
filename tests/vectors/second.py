"""A second implementation of every primitive, that shares no code with the first, and the vectors made by it.

`python -m vectors.second` in tests/ writes golden.json anew. AES, HKDF, Ed25519 and X25519 are pycryptodome's (under
test are OpenSSL's), Shamir's sharing over GF(2^128) is written out below (there it is pycryptodome's), the
discrete Gaussian is Canonne, Kamath and Steinke's own loop over fractions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol import DH
from Crypto.Protocol.KDF import HKDF
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

GOLDEN = Path(__file__).parent / "golden.json"


def stream(seed: bytes, count: int, offset: int) -> bytes:
    """AES-256 of the block numbers, block by block."""
    cipher = AES.new(seed, AES.MODE_ECB)
    first, last = offset // 16, -(-(offset + count) // 16)
    data = b"".join(cipher.encrypt(block.to_bytes(16, "big")) for block in range(first, last))
    return data[:count]


def hkdf(secret: bytes, context: bytes) -> bytes:
    return bytes(HKDF(secret, 32, b"", SHA256, context=context))  # type: ignore[arg-type]


def exchanged(secret: bytes, public: bytes) -> bytes:
    private, peer = DH.import_x25519_private_key(secret), DH.import_x25519_public_key(public)
    return bytes(DH.key_agreement(static_priv=private, static_pub=peer, kdf=lambda shared: shared))


def x25519_public(secret: bytes) -> bytes:
    return bytes(DH.import_x25519_private_key(secret).public_key().export_key(format="raw"))


def sealed(key: bytes, number: int, message: bytes, associated: bytes) -> bytes:
    cipher = AES.new(key, AES.MODE_GCM, nonce=number.to_bytes(12, "little"))
    cipher.update(associated)
    text, tag = cipher.encrypt_and_digest(message)
    return bytes(text + tag)


def signature(secret: bytes, message: bytes) -> bytes:
    return bytes(eddsa.new(eddsa.import_private_key(secret), "rfc8032").sign(message))


def verifying_key(secret: bytes) -> bytes:
    key: ECC.EccKey = eddsa.import_private_key(secret)
    return bytes(key.public_key().export_key(format="raw"))


def times(a: int, b: int) -> int:
    """In GF(2^128) with x^128 + x^7 + x^2 + x + 1."""
    product = 0
    for bit in range(128):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(254, 127, -1):
        if product >> bit & 1:
            product ^= (1 << 128 | 0x87) << bit - 128
    return product


def inverse(a: int) -> int:
    """a^(2^128 - 2)."""
    result = 1
    for _ in range(127):
        a = times(a, a)
        result = times(result, a)
    return result


def share(coefficients: list[int], holder: int) -> int:
    """The polynomial, secret first, at a holder's number."""
    value = 0
    for coefficient in reversed(coefficients):
        value = times(value, holder) ^ coefficient
    return value


def interpolated(shares: dict[int, int]) -> int:
    """The polynomial at zero."""
    secret = 0
    for x, y in shares.items():
        for other in shares:
            if other != x:
                y = times(y, times(other, inverse(other ^ x)))
        secret ^= y
    return secret


def discrete_gaussian(variance: Fraction, uniform: Callable[[int], int]) -> int:
    """One draw by the paper's algorithms 1 to 3; `uniform(n)` is one of 0, ..., n - 1."""
    step = int(float(variance) ** 0.5) + 1
    while True:
        rest = uniform(step)
        if not _heads(Fraction(rest, step), uniform):
            continue
        turns = 0
        while _heads(Fraction(1), uniform):
            turns += 1
        size, minus = rest + step * turns, uniform(2)
        if minus and not size:
            continue
        if _heads((size - variance / step) ** 2 / (2 * variance), uniform):
            return -size if minus else size


def _heads(x: Fraction, uniform: Callable[[int], int]) -> bool:
    """With probability exp(-x), x >= 0."""
    while x > 1:
        if not _heads(Fraction(1), uniform):
            return False
        x -= 1
    count = 1
    while uniform(x.denominator * count) < x.numerator:
        count += 1
    return count % 2 == 1


def made() -> dict[str, Any]:
    """All vectors, as hexadecimal; the inputs are hashes of counters."""
    numbers = iter(range(1000))

    def some(count: int) -> bytes:
        return hashlib.shake_256(f"fedseal vector {next(numbers)}".encode()).digest(count)

    out: dict[str, Any] = {name: [] for name in ("stream", "hkdf", "x25519", "sealed", "signed", "shamir")}
    for count, offset in ((64, 0), (48, 16), (33, 16 * (2**32 - 1)), (16, 16 * 25_000_000)):
        seed = some(32)
        row = {"seed": seed.hex(), "count": count, "offset": offset, "out": stream(seed, count, offset).hex()}
        out["stream"].append(row)
    for length in (0, 10, 100):
        secret, context = some(32), some(length)
        out["hkdf"].append({"secret": secret.hex(), "context": context.hex(), "out": hkdf(secret, context).hex()})
    for _ in range(3):
        ours, theirs, context = some(32), x25519_public(some(32)), some(20)
        shared = hkdf(exchanged(ours, theirs), context)
        row = {"secret": ours.hex(), "peer": theirs.hex(), "context": context.hex()}
        out["x25519"].append(row | {"public": x25519_public(ours).hex(), "out": shared.hex()})
    for number, length in ((0, 0), (0, 32), (7, 100)):
        key, message, associated = some(32), some(length), some(13)
        row = {"key": key.hex(), "number": number, "message": message.hex(), "associated": associated.hex()}
        out["sealed"].append(row | {"out": sealed(key, number, message, associated).hex()})
    for length in (0, 1, 200):
        secret, message = some(32), some(length)
        row = {"secret": secret.hex(), "message": message.hex(), "public": verifying_key(secret).hex()}
        out["signed"].append(row | {"out": signature(secret, message).hex()})
    for threshold, holders in ((2, 2), (3, 5), (7, 10)):
        halves = [[int.from_bytes(some(16), "big") for _ in range(threshold)] for _ in range(2)]
        shares = {
            x: b"".join(share(half, x).to_bytes(16, "big") for half in halves).hex() for x in range(1, holders + 1)
        }
        secret = b"".join(half[0].to_bytes(16, "big") for half in halves)
        out["shamir"].append({"threshold": threshold, "shares": shares, "secret": secret.hex()})
    return out


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(made(), indent=1) + "\n")
