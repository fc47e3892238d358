"""A few numbers from which it shows how far a long vector moved, without a copy of it.

Sums of entries under random signs (Alon, Matias and Szegedy, STOC 1996): two vectors' sketches are on average as far
apart as the vectors. The signs are secret, so that nobody can choose a vector whose sketch misleads.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedseal.secagg.hazmat.prg import BLOCK, Drawing, Stream

NUMBERS = 64  # a length is right within a fifth, a difference's share of it within two, most often within half of that
PART = 1 << 15  # entries at a time: what they need stays in the processor's nearer caches
ONES = np.ones(PART // NUMBERS, np.float32)
SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)).reshape(256, 8).astype(np.uint32) << 31  # of float32, by byte


def sketch_of(arrays: Iterable[NDArray[np.float32]], secret: bytes) -> NDArray[np.float32]:
    """`(64,)`.

    Args:
        arrays: flat, in an order that is always the same.
        secret: 32 bytes.

    >>> one, other = (sketch_of([np.full(10_000, value, np.float32)], bytes(32)) for value in (1.0, 1.1))
    >>> bool(np.isclose(np.linalg.norm(other - one) / np.linalg.norm(one), 0.1))
    True
    """
    found, drawing, drawn = np.zeros(NUMBERS), Drawing(Stream(secret), 0), bytearray(PART // 8 + BLOCK - 1)
    for array in arrays:
        for first in range(0, array.size, PART):
            part = np.ascontiguousarray(array[first : first + PART])
            rows = -(-part.size // NUMBERS)
            count = rows * NUMBERS // 8
            drawing.into(memoryview(drawn), -(-count // BLOCK) * BLOCK)
            signed = SIGNS.take(np.frombuffer(drawn, np.uint8, count), axis=0).reshape(-1)
            signed[: part.size] ^= part.view(np.uint32)
            found += ONES[:rows] @ signed.view(np.float32).reshape(rows, NUMBERS)
    return found.astype("<f4")
