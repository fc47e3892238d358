"""Two of TensorFlow's messages, read by protobuf: `Example`, named lists of values, and `TensorProto`.

Their fields are described here, in a pool of their own, so that TensorFlow is not needed and may be there.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedseal.errors import MissingExtra

Feature = list[bytes] | NDArray[Any]
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8"}  # of TensorProto.dtype
# of each message its fields: number, type, "*" where it repeats, "|" where one of several is set
MESSAGES = {
    "BytesList": {"value": (1, "bytes", "*")},
    "FloatList": {"value": (1, "float", "*")},
    "Int64List": {"value": (1, "int64", "*")},
    "Feature": {
        "bytes_list": (1, "BytesList", "|"),
        "float_list": (2, "FloatList", "|"),
        "int64_list": (3, "Int64List", "|"),
    },
    "Entry": {"key": (1, "string", ""), "value": (2, "Feature", "")},
    "Features": {"feature": (1, "Entry", "*")},
    "Example": {"features": (1, "Features", "")},
    "Dim": {"size": (1, "int64", "")},
    "TensorShapeProto": {"dim": (2, "Dim", "*")},
    "TensorProto": {
        "dtype": (1, "int32", ""),
        "tensor_shape": (2, "TensorShapeProto", ""),
        "version_number": (3, "int32", ""),
        "tensor_content": (4, "bytes", ""),
    },
}


def features(message: bytes) -> dict[str, Feature]:
    """The features of an `Example`: byte strings, float32 `(k,)` or int64 `(k,)` by name.

    Raises:
        ValueError: it is none.
        MissingExtra: protobuf is not installed.
    """
    return {entry.key: _values(entry.value) for entry in _parsed("Example", message).features.feature}


def tensor(message: bytes) -> NDArray[Any] | None:
    """What `tf.io.serialize_tensor` wrote of numbers; None if it did not write this.

    Raises:
        MissingExtra: protobuf is not installed.
    """
    try:
        found = _parsed("TensorProto", message)
        from google.protobuf.unknown_fields import UnknownFieldSet

        known = found.HasField("dtype") and found.HasField("tensor_content") and found.dtype in TYPES
        if not known or len(UnknownFieldSet(found)) or found.SerializeToString() != message:
            return None  # values in other fields, or pixels that happen to pass for a message
        shape = [dim.size for dim in found.tensor_shape.dim]
        return np.frombuffer(found.tensor_content, TYPES[found.dtype]).reshape(shape)
    except ValueError:
        return None


def _values(feature: Any) -> Feature:
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else []
    if kind == "float_list":
        return np.array(values, np.float32)
    return np.array(values, np.int64) if kind == "int64_list" else list(values)


def _parsed(name: str, message: bytes) -> Any:
    """The message of that name.

    Raises:
        ValueError: it is none.
    """
    read, error = _readers()
    try:
        return read[name].FromString(message)
    except error as wrong:
        raise ValueError(str(wrong)) from None


@cache
def _readers() -> tuple[dict[str, Any], type[Exception]]:
    """The classes of the messages by name, and what they raise."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
        from google.protobuf.message import DecodeError
    except ImportError:
        raise MissingExtra("protobuf is not installed", "pip install 'fedseal[tfrecord]'") from None
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="fedseal", syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, mark) in fields.items():
            label = kinds.LABEL_REPEATED if mark == "*" else kinds.LABEL_OPTIONAL
            told = message.field.add(name=field, number=number, label=label)
            if kind in MESSAGES:
                told.type, told.type_name = kinds.TYPE_MESSAGE, f".fedseal.{kind}"
            else:
                told.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
            if mark == "|":
                told.oneof_index = 0
        if any(mark == "|" for _, _, mark in fields.values()):
            message.oneof_decl.add(name="kind")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    found = {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"fedseal.{name}")) for name in MESSAGES}
    return found, DecodeError
