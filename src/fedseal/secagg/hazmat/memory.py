"""Memory for long vectors, in large pages where the system has them: many small ones cost more than what fills them."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

PAGE = 1 << 21  # bytes of a large page
SPARE = PAGE // 4  # the most that may be left over of one


def zeros(size: int, dtype: DTypeLike) -> NDArray[Any]:
    """`(size,)`, as by numpy.

    >>> zeros(3, "<u4").tolist(), int(zeros(1 << 20, "<u4").sum())
    ([0, 0, 0], 0)
    """
    found = _paged(size, dtype)
    return np.zeros(size, dtype) if found is None else found


def empty(size: int, dtype: DTypeLike) -> NDArray[Any]:
    """`(size,)`, to be written before it is read."""
    found = _paged(size, dtype)
    return np.empty(size, dtype) if found is None else found


def _paged(size: int, dtype: DTypeLike) -> NDArray[Any] | None:
    """Zeros, where there are large pages and enough to put into them."""
    wanted = size * np.dtype(dtype).itemsize
    pages = (wanted + SPARE) // PAGE
    if not pages or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    whole = -(-wanted // PAGE) * PAGE  # so that the system puts it where large pages begin; what is not used costs none
    room = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without large pages
        room.madvise(mmap.MADV_HUGEPAGE, 0, pages * PAGE)
    return np.frombuffer(room, dtype, size)


class Arena:
    """Buffers of one size one after the other, in memory that is asked for some 4 MB at a time.

    A buffer that stays keeps its neighbors' memory too.

    Args:
        total: bytes that will be asked for in all.
    """

    def __init__(self, total: int) -> None:
        self._left, self._room = total, memoryview(b"")

    def buffer(self, count: int) -> memoryview:
        """The next `count` bytes, to be written before they are read."""
        if len(self._room) < count:
            several = -(-2 * PAGE // count) * count
            self._room = empty(max(count, min(self._left, several)), np.uint8).data
        self._left -= count
        taken, self._room = self._room[:count], self._room[count:]
        return taken
