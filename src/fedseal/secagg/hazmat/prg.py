"""Ring vectors from 256-bit seeds: AES-256 in counter mode, at any offset, in bounded memory. There is no fallback."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from fedseal.secagg.errors import InsecureRandomness
from fedseal.secagg.hazmat.ring import Elements

SEED = 32  # bytes
BLOCK = 16
TILE = 1 << 17  # bytes at a time: stays in the processor's cache, beside zeros and elements
GCM_FIRST, GCM_END = 2 * BLOCK, 1 << 36  # bytes of a stream between which GCM's counter is the stream's
_ZEROS = memoryview(bytes(TILE))
_GCM = modes.GCM(bytes(12))


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

    def onward(self, offset: int) -> tuple[CipherContext, int]:
        """As `at`, from a start as fast as the library is, and for how many bytes it is good.

        From its third block on the stream is what AES-GCM encrypts zeros to under a nonce of zeros, of which nobody is
        given the tag: the counter begins at 2 there. On some processors the library has faster code for that than for
        the counter alone.
        """
        if offset > GCM_FIRST or not gcm_pays():
            return self.at(offset), 1 << 62
        if offset < GCM_FIRST:
            return self.at(offset), GCM_FIRST - offset
        return Cipher(self._algorithm, _GCM).encryptor(), GCM_END - GCM_FIRST


@cache
def gcm_pays() -> bool:
    """Whether AES-GCM draws a stream faster than the counter mode on this machine; tried once."""
    tile, spent = bytearray(len(_ZEROS) + BLOCK - 1), []
    for mode in (_GCM, modes.CTR(bytes(BLOCK))):
        cipher, seconds = Cipher(algorithms.AES(bytes(SEED)), mode).encryptor(), []
        for _ in range(9):
            began = time.perf_counter()
            cipher.update_into(_ZEROS, tile)
            seconds.append(time.perf_counter() - began)
        spent.append(min(seconds))
    return spent[0] < spent[1]


class Drawing:
    """A stream from a byte offset on, part by part."""

    def __init__(self, stream: Stream, offset: int) -> None:
        self._stream, self._at = stream, offset
        self._cipher, self._left = stream.onward(offset)

    def into(self, buffer: memoryview, count: int) -> None:
        """Write the next bytes, `TILE` at most, into a buffer with room for `BLOCK - 1` more."""
        done = 0
        while done < count:
            if not self._left:
                self._cipher, self._left = self._stream.onward(self._at)
            part = min(count - done, self._left)
            self._cipher.update_into(_ZEROS[:part], buffer[done:])
            done, self._at, self._left = done + part, self._at + part, self._left - part


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
        self._streams: list[tuple[np.ufunc, Stream]] = [(np.add, Stream(seed)) for seed in added]
        self._streams += [(np.subtract, Stream(seed)) for seed in subtracted]
        self._drawings: list[tuple[np.ufunc, Drawing]] = []
        self._at = -1  # byte up to which they are drawn
        self._tile = bytearray(TILE + BLOCK - 1)  # what update_into asks for

    def add_to(self, elements: Elements, *, offset: int) -> None:
        """Add the masks' part from an offset in elements, whose bytes are a multiple of 16, in place.

        Where the part before was added last, the streams go on; elsewhere they are begun anew.
        """
        start = offset * elements.itemsize
        if start != self._at or start % BLOCK:
            self._drawings = [(operation, Drawing(stream, start)) for operation, stream in self._streams]
        buffer, tile = memoryview(self._tile), np.frombuffer(self._tile, elements.dtype, TILE // elements.itemsize)
        for first in range(0, elements.size, tile.size):
            part = elements[first : first + tile.size]
            drawn = tile[: part.size]
            for operation, drawing in self._drawings:
                drawing.into(buffer, part.nbytes)
                operation(part, drawn, out=part)
        self._at = start + elements.nbytes
