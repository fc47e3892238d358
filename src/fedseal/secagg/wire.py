"""Messages as bytes: a header of 64 bytes, a body, a signature. No pickle; nothing is read beyond what is declared.

    0  4 magic "FSEC"      8 32 digest of the round's terms    48 8 recipient
    4  2 version          40  8 sender                         56 8 bytes after the header
    6  2 kind

Numbers are little-endian. The signature (the last 64 bytes) covers everything before it: it is Ed25519's or, where
only the recipient checks it, an HMAC-SHA-512 under a key that signed messages agreed on. A chunk of a vector has none
but is sealed (AES-256-GCM, the header and the number of the chunk are associated data) under a key that was announced
or that the two have agreed on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from fedseal.secagg.errors import BadMessage
from fedseal.secagg.hazmat.keys import KEY, SIGNATURE, TAG, Agreement, Buffer, Opener, Sealer, Signer, Verifier
from fedseal.secagg.hazmat.memory import Arena
from fedseal.secagg.hazmat.ring import Elements

MAGIC, VERSION = b"FSEC", 3
HEADER = struct.Struct("<4sHH32sQQQ")
NUMBER = struct.Struct("<I")
BESIDE = NUMBER.size + TAG  # bytes of a chunk's body beside its elements
RESEND = "send the original"


class Kind(IntEnum):
    """What a message says; the first digit is its protocol."""

    CHUNK = 1  # sealed part of a vector, of whatever stream its sender announced
    SHARE = 11  # client to aggregator: a seed, or the key of the masked vector's chunks
    ROLL = 12  # aggregator to aggregators: whose contributions it holds
    AGREE = 13  # aggregator to aggregators: the cohort
    SUM = 14  # aggregator to owner: the cohort, all agreements, the key of its sum's chunks
    ADVERTISE = 21  # client to server: two keys
    KEYS = 22  # server to clients: all advertisements
    BACKUP = 23  # client to server: shares of its secrets, sealed for its neighbors
    RELAY = 24  # server to client: who shared, and the shares for it
    MASKED = 25  # client to server: the masked vector's chunks follow
    SURVIVORS = 26  # server to clients: whose vectors arrived
    CONFIRM = 27  # client to server: a signature over what it was told
    CONFIRMED = 28  # server to clients: the confirmations
    UNMASK = 29  # client to server: shares


class Outgoing(NamedTuple):
    """A message to carry, and to whom."""

    to: int
    message: Buffer


class Message(NamedTuple):
    """A message whose header was read and whose signature was not yet checked."""

    kind: Kind
    terms: bytes
    sender: int
    to: int
    body: memoryview  # without the signature
    raw: Buffer

    def verify(self, sender: Verifier) -> None:
        """Raises BadMessage unless the sender signed it."""
        raw = memoryview(self.raw)
        sender.verify(raw[-SIGNATURE:], raw[:-SIGNATURE])


def signed_message(kind: Kind, terms: bytes, sender: int, to: int, body: bytes, signer: Signer) -> Outgoing:
    """A message with its signature."""
    data = HEADER.pack(MAGIC, VERSION, kind, terms, sender, to, len(body) + SIGNATURE) + body
    return Outgoing(to, data + signer.sign(data))


def read_message(raw: Buffer, limit: int) -> Message:
    """The header and the place of the body.

    Args:
        limit: bytes that a message of this round has at most.

    Raises:
        BadMessage: too long, too short, another version or kind, or a length that is not the message's.
    """
    if len(raw) > limit:
        raise BadMessage(f"a message of {len(raw):,} bytes where at most {limit:,} are due", "send it in chunks")
    if len(raw) < HEADER.size + BESIDE:
        raise BadMessage(f"a message of {len(raw)} bytes, shorter than any", "send it whole")
    magic, version, kind, terms, sender, to, length = HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise BadMessage("bytes that are no message of fedseal", "send what a role of this package made")
    if version != VERSION:
        raise BadMessage(f"a message of version {version}, and this is {VERSION}", "run one version at all parties")
    if kind not in Kind._value2member_map_:
        raise BadMessage(f"a message of an unknown kind {kind}", "run one version at all parties")
    if length != len(raw) - HEADER.size:
        raise BadMessage(f"a message that says {length:,} bytes and has {len(raw) - HEADER.size:,}", "send it whole")
    tail = 0 if kind == Kind.CHUNK else SIGNATURE
    if length < (tail or BESIDE):
        raise BadMessage(f"a message of {len(raw)} bytes, too short for its kind", "send it whole")
    body = memoryview(raw)[HEADER.size : len(raw) - tail]
    return Message(Kind(kind), terms, sender, to, body, raw)


class Reader:
    """Takes a body apart, strictly: every byte is asked for once, and none is left.

    >>> Reader(b"\\x05\\x00\\x00\\x00").number()
    5
    """

    def __init__(self, body: Buffer) -> None:
        self._body, self._at = memoryview(body), 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        part = self._body[self._at : self._at + count]
        if len(part) != count:
            raise BadMessage("a message that ends too early", "send it whole")
        self._at += count
        return bytes(part)

    def number(self) -> int:
        """The next number of 4 bytes."""
        return int(NUMBER.unpack(self.take(4))[0])

    def party(self) -> int:
        """The next party's number, 8 bytes."""
        return int.from_bytes(self.take(8), "little")

    def count(self, most: int) -> range:
        """A range as long as the next number says, which is at most `most`."""
        count = self.number()
        if count > most:
            raise BadMessage(f"a list of {count:,} where at most {most:,} are due", "send what belongs to this round")
        return range(count)

    def end(self) -> None:
        """Raises BadMessage if anything is left."""
        if self._at != len(self._body):
            raise BadMessage(f"a message with {len(self._body) - self._at} bytes too many", RESEND)


def wire_number(value: int) -> bytes:
    """4 bytes."""
    return NUMBER.pack(value)


def party(value: int) -> bytes:
    """8 bytes."""
    return value.to_bytes(8, "little")


def announcement(
    terms: bytes, sender: int, to: int, recipient: bytes, secret: bytes = b"", ephemeral: Agreement | None = None
) -> tuple[bytes, Sealer]:
    """What a signed message announces a stream's key by, and what seals the stream's chunks.

    Args:
        recipient: the X25519 key to seal for.
        secret: something short that goes beside the key.
        ephemeral: the fresh key to agree by, which may serve one stream to each of several recipients.
    """
    public, sealer = Sealer.towards(recipient, stream_context(terms, sender, to), ephemeral)
    return public + bytes(sealer.seal(secret, b"")), sealer


def announced(terms: bytes, sender: int, to: int, key: bytes, recipient: Agreement) -> tuple[bytes, Opener]:
    """The recipient's side of `announcement`: what is sealed beside the key, and what opens the chunks.

    Args:
        key: as announced, `KEY + TAG` bytes and as many as the secret.

    Raises:
        BadMessage: it was made for others.
    """
    opener = Opener.of(recipient, stream_context(terms, sender, to), key[:KEY])
    return bytes(opener.open(0, key[KEY:], b"")), opener


class ChunkWriter:
    """The sender's side of a vector, whose chunks go out in order.

    Args:
        sealer: whose next message has number 1.
        total: bytes of all chunks' messages, if known; memory for several is then asked for at once.
    """

    def __init__(self, terms: bytes, sender: int, to: int, sealer: Sealer, total: int = 0) -> None:
        self._terms, self._sender, self._to, self._next = terms, sender, to, 0
        self._arena, self._sealer = Arena(total), sealer

    def chunk(self, elements: Elements) -> Outgoing:
        """The next chunk, sealed in its place in the message."""
        data = memoryview(elements).cast("B")  # type: ignore[arg-type]
        header = HEADER.pack(MAGIC, VERSION, Kind.CHUNK, self._terms, self._sender, self._to, BESIDE + len(data))
        header += wire_number(self._next)
        self._next += 1
        message = self._arena.buffer(len(header) + len(data) + TAG)
        message[: len(header)] = header
        self._sealer.seal(data, header, message[len(header) :])
        return Outgoing(self._to, message)


def open_chunk(opener: Opener, message: Message, into: Elements) -> None:
    """Write the chunk's elements into a vector of its length; raises BadMessage if it was changed."""
    index, raw = number_of(message), memoryview(message.raw)
    if len(message.body) != BESIDE + into.nbytes:
        raise BadMessage(f"a chunk of {len(message.body) - BESIDE} bytes where {into.nbytes} are due", RESEND)
    head = HEADER.size + NUMBER.size
    opener.open(index + 1, raw[head:], bytes(raw[:head]), memoryview(into).cast("B"))  # type: ignore[arg-type]


def number_of(message: Message) -> int:
    """Which chunk of its vector a message is, as it says; opening it proves it."""
    return int(NUMBER.unpack_from(message.raw, HEADER.size)[0])


def stream_context(terms: bytes, sender: int, to: int) -> bytes:
    """What a sealed stream is bound to."""
    return b"fedseal stream 1" + terms + party(sender) + party(to)


def parties(values: Iterable[int]) -> bytes:
    """A list of parties: its length, and 8 bytes each."""
    values = list(values)
    return wire_number(len(values)) + b"".join(map(party, values))
