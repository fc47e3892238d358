"""Ring vectors from 256-bit seeds: AES-256 in counter mode, at any offset, in bounded memory. There is no fallback."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from fedseal.secagg.errors import InsecureRandomness
from fedseal.secagg.hazmat.ring import Elements

SEED = 32  # bytes
BLOCK = 16
TILE = 1 << 18  # bytes at a time: stays in the processor's cache
_ZEROS = memoryview(bytes(TILE))


def fresh_seed() -> bytes:
    """32 bytes from the operating system."""
    return secrets.token_bytes(SEED)


class Stream:
    """The key stream of a seed.

    A seed serves one purpose in its life: the counter starts at zero for each.

    Raises:
        InsecureRandomness: the seed is not 256 bits.

    >>> Stream(bytes(32)).read(4, offset=0).hex()
    'dc95c078'
    """

    def __init__(self, seed: bytes) -> None:
        if not isinstance(seed, bytes) or len(seed) != SEED:
            raise InsecureRandomness(f"a seed of {8 * len(seed)} bits", "draw it with fresh_seed(), which gives 256")
        self._algorithm = algorithms.AES(seed)

    def read(self, count: int, *, offset: int) -> bytes:
        """`count` bytes at a byte offset that is a multiple of 16."""
        return self.at(offset).update(bytes(count))

    def at(self, offset: int) -> CipherContext:
        """What encrypts zeros to the stream from a byte offset that is a multiple of 16."""
        if offset % BLOCK:
            raise ValueError(f"offset {offset} is inside a block of {BLOCK} bytes")
        counter = (offset // BLOCK).to_bytes(BLOCK, "big")
        return Cipher(self._algorithm, modes.CTR(counter)).encryptor()


class Masks:
    """Several seeds' streams, some added and some subtracted.

    >>> seeds = [bytes(32), bytes([1] * 32)]
    >>> vector = np.zeros(8, "<u4")
    >>> Masks(added=seeds).add_to(vector, offset=0)
    >>> Masks(subtracted=seeds).add_to(vector, offset=0)
    >>> vector.tolist()
    [0, 0, 0, 0, 0, 0, 0, 0]
    """

    def __init__(self, added: Iterable[bytes] = (), subtracted: Iterable[bytes] = ()) -> None:
        self._parts: list[tuple[np.ufunc, Stream]] = [(np.add, Stream(seed)) for seed in added]
        self._parts += [(np.subtract, Stream(seed)) for seed in subtracted]
        self._tile = bytearray(TILE + BLOCK - 1)  # what update_into asks for

    def add_to(self, elements: Elements, *, offset: int) -> None:
        """Add the masks' part from an offset in elements, whose bytes are a multiple of 16, in place."""
        width = elements.itemsize
        step = TILE // width
        tile = np.frombuffer(self._tile, elements.dtype, step)
        for operation, stream in self._parts:
            cipher = stream.at(offset * width)
            for start in range(0, elements.size, step):
                part = elements[start : start + step]
                cipher.update_into(_ZEROS[: part.nbytes], self._tile)
                operation(part, tile[: part.size], out=part)
