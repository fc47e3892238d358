"""Strict reading: whatever is not exactly a message is refused, and says why."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedseal.errors import FedsealError
from fedseal.secagg import wire
from fedseal.secagg.errors import BadMessage
from fedseal.secagg.hazmat.keys import Agreement, Opener
from fedseal.secagg.wire import ChunkWriter, Kind, Reader, open_chunk
from secagg.rounds import flipped, identity

TERMS = bytes(range(32))
WHOLE = wire.signed_message(Kind.SHARE, TERMS, 3, 4, b"body", identity(3)).message


def test_a_message_is_read_as_it_was_written() -> None:
    message = wire.read_message(WHOLE, 1000)
    assert message[:4] == (Kind.SHARE, TERMS, 3, 4)
    assert bytes(message.body) == b"body"
    message.verify(identity(3).public)
    with pytest.raises(BadMessage, match="signature"):
        message.verify(identity(4).public)


def test_the_layout_is_as_documented() -> None:
    assert bytes(WHOLE[:8]) == b"FSEC" + struct.pack("<HH", 3, 11)
    assert bytes(WHOLE[8:40]) == TERMS
    assert struct.unpack("<QQQ", WHOLE[40:64]) == (3, 4, 4 + 64)
    assert len(WHOLE) == 64 + 4 + 64


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_truncated_message_is_refused(length: int) -> None:
    with pytest.raises(BadMessage):
        wire.read_message(WHOLE[:length], 1000)


def test_a_flipped_bit_anywhere_is_refused() -> None:
    for bit in range(8 * len(WHOLE)):
        with pytest.raises(BadMessage):
            wire.read_message(flipped(WHOLE, bit), 1000).verify(identity(3).public)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (bytes(WHOLE) + b"x", "says 68 bytes and has 69"),
        (b"PICK" + bytes(WHOLE[4:]), "no message"),
        (bytes(WHOLE[:4]) + b"\x02" + bytes(WHOLE[5:]), "version 2, and this is 3"),
        (bytes(WHOLE[:6]) + b"\x63" + bytes(WHOLE[7:]), "unknown kind 99"),
        (bytes(2000), "2,000 bytes where at most 1,000"),
    ],
)
def test_what_is_wrong_is_said(changed: bytes, reason: str) -> None:
    with pytest.raises(BadMessage, match=reason):
        wire.read_message(changed, 1000)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_noise_is_refused(raw: bytes) -> None:
    with pytest.raises(BadMessage):
        wire.read_message(raw, 150)


def test_a_list_longer_than_due_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadMessage, match="list of 4,294,967,295"):
        Reader(wire.wire_number(2**32 - 1)).count(10)


def test_what_is_left_or_missing_in_a_body_is_refused() -> None:
    reader = Reader(b"12345")
    assert reader.number() == struct.unpack("<I", b"1234")[0]
    with pytest.raises(BadMessage, match="1 bytes too many"):
        reader.end()
    with pytest.raises(BadMessage, match="too early"):
        reader.party()


@pytest.fixture
def stream() -> tuple[ChunkWriter, Opener]:
    mine = Agreement.fresh()
    key, sealer = wire.announcement(TERMS, 3, 4, mine.public, b"beside")
    secret, opener = wire.announced(TERMS, 3, 4, key, mine)
    assert secret == b"beside"
    return ChunkWriter(TERMS, 3, 4, sealer), opener


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_chunks_are_little_endian_numbers_and_open_in_any_order(stream: tuple[ChunkWriter, Opener], dtype: str) -> None:
    writer, opener = stream
    vectors = [np.arange(4, dtype=dtype) + number for number in range(3)]
    messages = [writer.chunk(vector).message for vector in vectors]
    assert {len(message) for message in messages} == {64 + 4 + vectors[0].nbytes + 16}
    for number in (2, 0, 1, 1):
        out = np.zeros(4, dtype)
        message = wire.read_message(messages[number], 1000)
        assert wire.number_of(message) == number
        open_chunk(opener, message, out)
        assert np.array_equal(out, vectors[number])


def test_a_changed_chunk_does_not_open(stream: tuple[ChunkWriter, Opener]) -> None:
    writer, opener = stream
    raw = writer.chunk(np.arange(4, dtype="<u4")).message
    out = np.zeros(4, "<u4")
    for bit in range(8 * len(raw)):
        with pytest.raises(FedsealError):
            open_chunk(opener, wire.read_message(flipped(raw, bit), 1000), out)
    with pytest.raises(BadMessage, match="16 bytes where 32 are due"):
        open_chunk(opener, wire.read_message(raw, 1000), np.zeros(8, "<u4"))


def test_one_fresh_key_serves_several_recipients_and_gives_each_another_stream() -> None:
    ephemeral, mine, other = Agreement.fresh(), Agreement.fresh(), Agreement.fresh()
    sent = [wire.announcement(TERMS, 3, to, who.public, b"beside", ephemeral)[0] for to, who in ((4, mine), (5, other))]
    assert sent[0][:32] == sent[1][:32] == ephemeral.public
    assert sent[0][32:] != sent[1][32:]
    assert [wire.announced(TERMS, 3, 4, sent[0], mine)[0], wire.announced(TERMS, 3, 5, sent[1], other)[0]] == [
        b"beside"
    ] * 2
    for to, key, who in ((4, sent[1], mine), (5, sent[0], other), (5, sent[1], mine), (4, sent[1], other)):
        with pytest.raises(BadMessage, match="does not open"):
            wire.announced(TERMS, 3, to, key, who)


@pytest.mark.parametrize(("terms", "sender", "to"), [(bytes(32), 3, 4), (TERMS, 2, 4), (TERMS, 3, 5)])
def test_a_key_is_bound_to_its_round_its_sender_and_its_recipient(terms: bytes, sender: int, to: int) -> None:
    mine = Agreement.fresh()
    key, _ = wire.announcement(TERMS, 3, 4, mine.public)
    with pytest.raises(BadMessage, match="does not open"):
        wire.announced(terms, sender, to, key, mine)
    with pytest.raises(BadMessage, match="does not open"):
        wire.announced(TERMS, 3, 4, key, Agreement.fresh())
