"""A sketch is what its definition says, however it is computed; the nearest of several is found."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedseal.secagg.ledger import Ledger, LedgerEntry, entry_of
from fedseal.secagg.sketch import NUMBERS, PART, sketch_of
from secagg.rounds import terms


def by_definition(arrays: list[np.ndarray], secret: bytes) -> np.ndarray:
    """Every entry under the sign of its bit, row by row; each array begins at a block of the stream."""
    stream = Cipher(algorithms.AES(secret), modes.CTR(bytes(16))).encryptor()
    found = np.zeros(NUMBERS)
    for array in arrays:
        for first in range(0, array.size, PART):
            part = array[first : first + PART].astype(np.float64)
            rows = -(-part.size // NUMBERS)
            blocks = -(-rows * NUMBERS // 128)
            bits = np.unpackbits(np.frombuffer(stream.update(bytes(16 * blocks)), np.uint8))[: part.size]
            padded = np.zeros(rows * NUMBERS)
            padded[: part.size] = part * (1.0 - 2.0 * bits)
            found += padded.reshape(rows, NUMBERS).sum(0)
    return found


@pytest.mark.parametrize("sizes", [(1,), (64, 65), (PART,), (PART + 1, 3), (10, 2 * PART + 777, 128)])
def test_a_sketch_is_a_sum_under_secret_signs(sizes: tuple[int, ...]) -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    arrays = [generator.standard_normal(size, np.float32) for size in sizes]
    assert np.allclose(sketch_of(arrays, bytes(range(32))), by_definition(arrays, bytes(range(32))), atol=2e-3)


def test_the_nearest_of_several_models_counts_and_others_lengths_do_not() -> None:
    ledger, other = Ledger(), np.zeros(3, np.float32)
    own = np.zeros(NUMBERS, np.float32)
    own[0] = 3.0
    assert ledger.nearest(own) == float("inf")
    for number, place in enumerate((other, own * 2, -own, np.zeros(NUMBERS, np.float32))):
        ledger.note(_entry(number, place))
    assert ledger.nearest(own) == 0.5  # of 6 where 3 is the smaller norm
    assert ledger.nearest(np.zeros(NUMBERS, np.float32)) == 0.0
    assert Ledger(ledger.entries[:1]).nearest(own) == float("inf")
    assert Ledger(ledger.entries[3:]).nearest(own) == 1.0


def _entry(number: int, place: np.ndarray) -> LedgerEntry:
    return entry_of(terms(round=number), place.astype("<f4"))
