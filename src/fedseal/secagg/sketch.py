"""A few numbers from which it shows how far a long vector moved, without a copy of it.

Sums of entries under random signs (Alon, Matias and Szegedy, STOC 1996): two vectors' sketches are on average as far
apart as the vectors. The signs are secret, so that nobody can choose a vector whose sketch misleads.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedseal.secagg.hazmat.prg import BLOCK, Stream

NUMBERS = 64  # a length is right within a fifth, a difference's share of it within two, most often within half of that
PART = 1 << 20  # entries at a time


def sketch_of(arrays: Iterable[NDArray[np.float32]], secret: bytes) -> NDArray[np.float32]:
    """`(64,)`.

    Args:
        arrays: flat, in an order that is always the same.
        secret: 32 bytes.

    >>> one, other = (sketch_of([np.full(10_000, value, np.float32)], bytes(32)) for value in (1.0, 1.1))
    >>> bool(np.isclose(np.linalg.norm(other - one) / np.linalg.norm(one), 0.1))
    True
    """
    found, offset, stream = np.zeros(NUMBERS), 0, Stream(secret)
    for array in arrays:
        for first in range(0, array.size, PART):
            part = np.ascontiguousarray(array[first : first + PART])
            rows = -(-part.size // NUMBERS)
            drawn = np.frombuffer(stream.read(rows * NUMBERS // 8, offset=offset), np.uint8)
            offset += -(-drawn.size // BLOCK) * BLOCK
            signed = np.unpackbits(drawn).astype(np.uint32)
            np.left_shift(signed, 31, out=signed)  # the bit of a float32 that is its sign
            signed[: part.size] ^= part.view(np.uint32)
            signed[part.size :] = 0
            found += np.ones(rows, np.float32) @ signed.view(np.float32).reshape(rows, NUMBERS)
    return found.astype("<f4")
