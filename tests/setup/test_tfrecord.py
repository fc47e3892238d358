"""TFRecord files, against golden bytes of another implementation and a writer of the test's own."""

from __future__ import annotations

import gzip
import io
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedseal.errors import MissingExtra, StorageFailure, UnfitBatch
from fedseal.setup.data.example import _readers, features, tensor
from fedseal.setup.data.tfrecord import read_tfrecord, records
from modality.test_depth import png

# written by the package tfrecord 1.14.6 (with protobuf and crc32c): image [0, 1, 2, 3] with label 3, then
# [255, 0, 128, 7] with label 300
GOLDEN = bytes.fromhex(
    "2500000000000000eabc36f30a230a110a05696d61676512080a060a04000102030a0e0a056c6162656c12051a030a010302ca8074"
    "2600000000000000734fe3000a240a110a05696d61676512080a060a04ff0080070a0f0a056c6162656c12061a040a02ac0214b03999"
)
# x [0.5, -1, 2] with label -1
FLOATS = bytes.fromhex(
    "3200000000000000241956ec0a300a150a01781210120e0a0c0000003f000080bf000000400a170a056c6162656c120e1a0c0a0a"
    "ffffffffffffffffff01fb39af7b"
)


def naive(content: bytes) -> int:
    """Bit by bit, as RFC 3720 has it."""
    state = 0xFFFFFFFF
    for byte in content:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def rotated(checksum: int) -> int:
    """As TensorFlow writes checksums."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def feature(value: Any, *, packed: bool = True) -> bytes:
    if isinstance(value, bytes):
        return field(1, field(1, value))
    if isinstance(value, list) and value and isinstance(value[0], float):
        parts = [struct.pack("<f", one) for one in value]
        return field(2, field(1, b"".join(parts)) if packed else b"".join(varint(1 << 3 | 5) + part for part in parts))
    numbers = [varint(one) for one in value]
    return field(3, field(1, b"".join(numbers)) if packed else b"".join(varint(1 << 3) + one for one in numbers))


def record(*, packed: bool = True, **values: Any) -> bytes:
    entries = [field(1, name.encode()) + field(2, feature(value, packed=packed)) for name, value in values.items()]
    return field(1, b"".join(field(1, entry) for entry in entries))


def framed(*contents: bytes) -> bytes:
    out = b""
    for content in contents:
        length = struct.pack("<Q", len(content))
        for part in (length, content):
            out += part + struct.pack("<I", rotated(naive(part)))
    return out


def put(folder: Path, content: bytes) -> Path:
    (folder / "data.tfrecord").write_bytes(content)
    return folder / "data.tfrecord"


def serialized(array: np.ndarray) -> bytes:
    """As `tf.io.serialize_tensor`: a TensorProto with its content as bytes."""
    kind = {"float32": 1, "uint8": 4, "int64": 9}[str(array.dtype)]
    shape = b"".join(field(2, field(1, side)) for side in array.shape)
    return field(1, kind) + field(2, shape) + field(4, array.tobytes())


def test_golden_files(tmp_path: Path) -> None:
    batch = read_tfrecord(put(tmp_path, GOLDEN))
    assert batch.labels.tolist() == [3, 300]
    assert batch.inputs.shape == (2, 1, 2, 2)
    assert (batch.inputs[1] * 255).round().flatten().tolist() == [255, 0, 128, 7]
    batch = read_tfrecord(put(tmp_path, gzip.compress(FLOATS)))
    assert (batch.inputs.tolist(), batch.labels.tolist()) == ([[0.5, -1.0, 2.0]], [-1])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
    st.binary(max_size=40),
    st.text(max_size=5),
    st.booleans(),
)
def test_what_is_written_is_read(
    numbers: list[int], fractions: list[float], text: bytes, name: str, packed: bool
) -> None:
    found = features(record(packed=packed, numbers=numbers, fractions=fractions, **{f"_{name}": text}))
    assert np.asarray(found["numbers"]).tolist() == numbers
    assert np.asarray(found["fractions"]).tolist() == fractions
    assert found[f"_{name}"] == [text]


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, len(GOLDEN) - 1),
    bit=st.integers(0, 7),
    cut=st.integers(1, len(GOLDEN) - 1).filter(lambda end: end != 53),
)
def test_damage_is_never_taken_for_data(
    place: int, bit: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "x.tfrecord"
    changed = bytearray(GOLDEN)
    changed[place] ^= 1 << bit
    path.write_bytes(changed)
    with pytest.raises(StorageFailure, match=r"record [01] of .* is damaged|cut off in record [01]"):
        read_tfrecord(path)
    path.write_bytes(GOLDEN[:cut])
    with pytest.raises(StorageFailure, match="is cut off in record"):
        read_tfrecord(path)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(2, 200), bit=st.integers(0, 7))
def test_damage_in_a_gzipped_file_is_refused(place: int, bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "x.tfrecord.gz"
    changed = bytearray(gzip.compress(GOLDEN, mtime=0))
    changed[place % len(changed)] ^= 1 << bit
    path.write_bytes(changed)
    with suppress(StorageFailure):  # some bits of the header say nothing
        assert read_tfrecord(path).labels.tolist() == [3, 300]


@settings(max_examples=60, deadline=None)
@given(place=st.integers(8, 200), byte=st.integers(0, 255))
def test_a_damaged_picture_is_refused_or_read(place: int, byte: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = io.BytesIO()
    Image.fromarray(np.arange(30, dtype=np.uint8).reshape(2, 5, 3)).save(file, "PNG")
    changed = bytearray(file.getvalue())
    changed[place % len(changed)] = byte
    path = put(tmp_path_factory.getbasetemp(), framed(record(image=bytes(changed), label=[1])))
    with suppress(UnfitBatch):
        read_tfrecord(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_refused(content: bytes) -> None:
    with suppress(ValueError):
        features(content)
    tensor(content)


@pytest.mark.parametrize("package", ["google_crc32c", "google.protobuf"])
def test_a_package_that_is_not_installed_is_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _readers.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtra, match=r"(google-crc32c|protobuf) is not installed; pip install 'fedseal\[tfrecord\]'"
    ):
        read_tfrecord(put(tmp_path, GOLDEN))


def test_bytes_that_happen_to_parse_are_no_serialized_tensor() -> None:
    whole = serialized(np.array([1, 2, 3], np.uint8))
    assert tensor(whole).tolist() == [1, 2, 3]  # type: ignore[union-attr]
    assert tensor(whole + field(13, 1)) is None  # another of TensorProto's fields holds values as well
    assert tensor(whole[2:]) is None
    assert tensor(whole + whole) is None


def test_serialized_tensors_as_tf_encrypted_writes_them(tmp_path: Path) -> None:
    pixels = np.arange(3 * 4 * 3, dtype=np.uint8).reshape(3, 4, 3)
    content = record(image=serialized(pixels), label=serialized(np.array(7, np.int64)))
    batch = read_tfrecord(put(tmp_path, framed(content, content)))
    assert batch.labels.tolist() == [7, 7]
    assert (batch.inputs[0] * 255).round().to(torch.uint8).tolist() == pixels.transpose(2, 0, 1).tolist()


def test_pictures_in_every_way(tmp_path: Path) -> None:
    pixels = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    sides: dict[str, Any] = {"height": [2], "width": [5], "depth": [3]}
    raw = pixels.tobytes()
    for values, shape in (
        ({"image/encoded": file.getvalue(), "image/class/label": [1]}, None),
        ({"image_raw": raw, "label": [1], **sides}, None),
        ({"image_raw": raw, "label": [1]}, (3, 2, 5)),
        ({"x": [value / 255 for value in raw], "y": [1]}, (3, 2, 5)),
    ):
        batch = read_tfrecord(put(tmp_path, framed(record(**values))), shape)
        assert torch.allclose(batch.inputs[0] * 255, torch.from_numpy(pixels.transpose(2, 0, 1)).float(), atol=1e-4)
    flat = read_tfrecord(put(tmp_path, framed(record(image=raw, label=[0]))), (30,))
    assert flat.inputs.shape == (1, 30)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ((record(image=b"abcd"),), "example 0 of .* holds .*name a feature 'label'"),
        ((record(label=[1]),), "name a feature 'image'"),
        ((record(image=b"abcde", label=[1]),), "5 values, which make no picture of a square; name the shape"),
        ((record(image=b"abcd", label=[0.5]),), "the class of example 0 .* is no whole number"),
        ((record(image=b"\x89PNG", label=[1]),), "a picture that cannot be read"),
        ((record(image=b"abcd", label=[1]), record(image=b"a", label=[1])), "example 1 .* and the first"),
        ((), "holds no example"),
    ],
)
def test_what_does_not_fit_is_refused(contents: tuple[bytes, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(UnfitBatch, match=said):
        read_tfrecord(put(tmp_path, framed(*contents)))


def test_pictures_are_read_with_all_of_their_bits_and_in_their_colors(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (2, 5, 3), dtype=np.uint16)
    path = put(tmp_path, framed(record(image=png(deep), label=[1])))
    with pytest.raises(UnfitBatch, match="and the range is 0 to 255"):
        read_tfrecord(path)
    values = read_tfrecord(path, span=(0, 4095)).inputs[0].permute(1, 2, 0)
    assert (values * 4095).round().int().tolist() == deep.tolist()
    file = io.BytesIO()
    colors = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    Image.fromarray(colors).convert("P", palette=Image.Palette.ADAPTIVE).save(file, "PNG")
    found = read_tfrecord(put(tmp_path, framed(record(image=file.getvalue(), label=[1])))).inputs[0]
    assert (found.permute(1, 2, 0) * 255).round().int().tolist() == colors.tolist()


def test_a_wrong_shape_or_file_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, GOLDEN)
    for shape in ((1, 3, 3), (9,)):
        with pytest.raises(UnfitBatch, match=r"check --shape|make no picture"):
            read_tfrecord(path, shape)
    with pytest.raises(StorageFailure, match=r"is no tf\.train\.Example"):
        read_tfrecord(put(tmp_path, framed(b"\x0a\xff")))
    with pytest.raises(StorageFailure, match="the file is no TFRecord"):
        read_tfrecord(put(tmp_path, b"no such thing at all"))
    with pytest.raises(StorageFailure, match="cannot read"):
        list(records(tmp_path / "missing"))
