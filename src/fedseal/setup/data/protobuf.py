"""Two of TensorFlow's messages, read from protobuf's wire format: `Example`, named lists of values, and `TensorProto`.

A message is a row of fields, each a number and a value; what is not known here is passed over, as protobuf asks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Feature = list[bytes] | NDArray[Any]
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8"}  # of TensorProto.dtype
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MORE, LARGEST = 0x80, 10  # bytes of a varint at most


def features(message: bytes) -> dict[str, Feature]:
    """The features of an `Example`: byte strings, float32 `(k,)` or int64 `(k,)` by name.

    Raises:
        ValueError: it is none.
    """
    found: dict[str, Feature] = {}
    for number, block in _fields(message):
        for _, entry in _fields(_bytes(block)) if number == 1 else ():
            parts = dict(_fields(_bytes(entry)))
            found[_bytes(parts.get(1, b"")).decode()] = _feature(_bytes(parts.get(2, b"")))
    return found


def tensor(message: bytes) -> NDArray[Any] | None:
    """What `tf.io.serialize_tensor` wrote of numbers; None if it did not write this."""
    try:
        fields = list(_fields(message))
        parts = dict(fields)
        if len(parts) < len(fields) or not {1, 4} <= parts.keys() <= {1, 2, 3, 4} or parts[1] not in TYPES:
            return None
        dims = [_bytes(dim) for number, dim in _fields(_bytes(parts.get(2, b""))) if number == 2]
        shape = [int(dict(_fields(dim)).get(1, 0)) for dim in dims]
        return np.frombuffer(_bytes(parts[4]), TYPES[int(parts[1])]).reshape(shape)
    except (ValueError, TypeError):
        return None


def _feature(message: bytes) -> Feature:
    for kind, block in _fields(message):
        values = [value for number, value in _fields(_bytes(block)) if number == 1]
        if kind == 1:
            return [_bytes(value) for value in values]
        if kind == 2:  # packed, or one by one
            return np.frombuffer(b"".join(map(_floats, values)), "<f4")
        if kind == 3:
            numbers = [n for value in values for n in ([value] if isinstance(value, int) else _varints(value))]
            return np.array(numbers, np.uint64).astype(np.int64)
    return []


def _floats(value: int | bytes) -> bytes:
    return struct.pack("<I", value) if isinstance(value, int) else value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message is due")
    return value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        wire = key & 7
        if wire == VARINT:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if wire == BYTES:
            size, place = _varint(message, place)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        part, place = message[place : place + size], place + size
        if place > len(message):
            raise ValueError("a field that is cut off")
        yield key >> 3, part if wire == BYTES else int.from_bytes(part, "little")


def _varints(packed: bytes) -> Iterator[int]:
    place = 0
    while place < len(packed):
        value, place = _varint(packed, place)
        yield value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for count, byte in enumerate(message[place : place + LARGEST]):
        value |= (byte & ~MORE) << 7 * count
        if not byte & MORE:
            return value & (1 << 64) - 1, place + count + 1
    raise ValueError("a number that does not end")
