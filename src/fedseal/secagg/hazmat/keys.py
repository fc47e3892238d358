"""Who a party is (Ed25519), what only one party can read (X25519, HKDF-SHA-256, AES-256-GCM), and what two know to be
of each other (HMAC-SHA-512).

A sealed stream is HPKE's construction in its base mode, with a context that both sides must know alike: a fresh
ephemeral key, one AEAD key derived from it, nonces that count. Whoever sealed it is not proven by it; a signature over
the ephemeral key does that. Between two who have a channel, whose keys were signed, the AEAD key follows from that.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeAlias

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedseal.secagg.errors import BadMessage, OutOfPhase

KEY, SIGNATURE, TAG, NONCE = 32, 64, 16, 12
REMEMBERED = 1 << 16  # signatures at most
Buffer: TypeAlias = bytes | bytearray | memoryview
PRIME = 2**255 - 19
LOW_ORDER = frozenset(  # coordinates of the points of order 1, 2, 4 and 8 on the curve and its twist
    (
        0,
        1,
        PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
)


@dataclass(frozen=True)
class Agreement:
    """A secret X25519 key: agrees on 32 bytes with the holder of another."""

    secret: bytes = field(repr=False)

    @classmethod
    def fresh(cls) -> Agreement:
        """A new key pair, from the operating system's randomness."""
        return cls(secrets.token_bytes(KEY))

    @cached_property
    def _key(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.secret)

    @cached_property
    def public(self) -> bytes:
        """32 bytes to hand out."""
        return self._key.public_key().public_bytes_raw()

    def derive(self, peer: bytes, context: bytes) -> bytes:
        """32 bytes that only both sides can compute, for one purpose that the context names.

        Raises:
            BadMessage: the peer's key is of low order, which would make the secret known to everyone.
        """
        return hkdf(self.agreed(peer), context)

    def agreed(self, peer: bytes) -> bytes:
        """What both sides derive keys from; it is no key itself.

        Raises:
            BadMessage: the peer's key is of low order.
        """
        known = _known.get()
        there = None if known is None else known.taken(self.public, peer)
        if there is not None:
            return there
        try:
            agreed = self._key.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:
            raise BadMessage("a public key is of low order", "ask its owner for another") from None
        if known is not None:
            known.keep(self.public, peer, agreed)
        return agreed


def low_order(public: bytes) -> bool:
    """Whether an X25519 key is one with which every agreement is known to everyone (RFC 7748, section 6.1).

    >>> low_order(bytes(32)), low_order(Agreement.fresh().public)
    (True, False)
    """
    return int.from_bytes(public, "little") % (1 << 255) % PRIME in LOW_ORDER  # the highest bit is not read


def hkdf(secret: bytes, context: bytes) -> bytes:
    """32 bytes by HKDF-SHA-256 without salt (RFC 5869)."""
    return HKDF(SHA256(), KEY, salt=None, info=context).derive(secret)


@dataclass(frozen=True)
class Public:
    """What the others know of a party: an Ed25519 key that checks its signatures, an X25519 key to seal for it."""

    verifying: bytes
    sealing: bytes

    def __post_init__(self) -> None:
        if len(self.verifying) != KEY or len(self.sealing) != KEY:
            raise BadMessage("a public key is not 32 bytes", "hand in the identity's `public`")

    @cached_property
    def _key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.verifying)

    def verify(self, signature: Buffer, data: Buffer) -> None:
        """Raises BadMessage unless this party signed the data."""
        signature, data, known = bytes(signature), bytes(data), _known.get()
        if known is not None and known.has(self, signature, data):
            return
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            raise BadMessage("a signature does not belong to its sender and message", "send the original") from None
        if known is not None:
            known.add(self, signature, data)


class _Known:
    """Signatures that are known to be right, and what one of two has agreed on and the other will ask for."""

    def __init__(self) -> None:
        self._right: set[bytes] = set()
        self._agreed: dict[tuple[bytes, bytes], bytes] = {}

    def has(self, public: Public, signature: bytes, data: bytes) -> bool:
        """Whether this party signed the data with this very signature."""
        return self._digest(public, signature, data) in self._right

    def add(self, public: Public, signature: bytes, data: bytes) -> None:
        """It did."""
        if len(self._right) >= REMEMBERED:
            self._right.clear()
        self._right.add(self._digest(public, signature, data))

    def taken(self, own: bytes, peer: bytes) -> bytes | None:
        """What the peer has agreed on with the holder of this public key, who asks once: it is forgotten then."""
        return self._agreed.pop((peer, own), None)

    def keep(self, own: bytes, peer: bytes, agreed: bytes) -> None:
        """For the peer, if it is here."""
        if len(self._agreed) >= REMEMBERED:
            self._agreed.clear()
        self._agreed[own, peer] = agreed

    def _digest(self, public: Public, signature: bytes, data: bytes) -> bytes:
        lengths = b"%d %d " % (len(public.verifying), len(signature))
        return hashlib.sha256(lengths + public.verifying + signature + data).digest()


@contextmanager
def trusting_itself() -> Iterator[None]:
    """Within, a signature that was made here, or found right once, is not checked again, and what two parties agree on
    is worked out by one of them.

    For a process that plays several parties, of whom each checks what the others signed.
    """
    token = _known.set(_Known())
    try:
        yield
    finally:
        _known.reset(token)


_known: ContextVar[_Known | None] = ContextVar("what a process that plays several parties knows", default=None)


@dataclass(frozen=True)
class Identity:
    """A party's long-term secrets: an Ed25519 key to sign, an X25519 key to open what is sealed for it."""

    signing: bytes = field(repr=False)
    opening: Agreement = field(repr=False)

    @classmethod
    def fresh(cls) -> Identity:
        """A new identity, from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw(), Agreement.fresh())

    @classmethod
    def of(cls, signing: bytes, opening: bytes) -> Identity:
        """An identity from its two secrets, 32 bytes each, as a file keeps them."""
        return cls(signing, Agreement(opening))

    def copied(self) -> Identity:
        """The same, so far unused: a used one holds objects that cannot go to another process."""
        return Identity.of(self.signing, self.opening.secret)

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.signing)

    @cached_property
    def public(self) -> Public:
        """What the roster says of this party."""
        return Public(self._key.public_key().public_bytes_raw(), self.opening.public)

    def derived(self, context: bytes) -> bytes:
        """32 bytes that only this party can compute, for one purpose that the context names."""
        return hkdf(self.signing, b"fedseal own 1" + context)

    def sign(self, data: Buffer) -> bytes:
        """64 bytes."""
        data, known = bytes(data), _known.get()
        signature = self._key.sign(data)
        if known is not None:
            known.add(self.public, signature, data)
        return signature


class Signer(Protocol):
    """Whoever can end a message."""

    def sign(self, data: Buffer) -> bytes:
        """64 bytes."""


class Verifier(Protocol):
    """Whoever can tell how a message must end."""

    def verify(self, signature: Buffer, data: Buffer) -> None:
        """Raises BadMessage where it ends otherwise."""


@dataclass(frozen=True)
class Channel:
    """By which two parties know each other's messages, and what seals them, without another agreement.

    A message ends with an HMAC where a signature would be, at a hundredth of its cost. Both can make it, so that it
    proves nothing to anybody else: what others must check is signed.

    Args:
        key: what seals follow from; empty once the channel is closed.
        marking: the key of the marks.

    >>> here, there = Agreement.fresh(), Agreement.fresh()
    >>> mark = Channel.between(here, there.public, b"round 1").sign(b"text")
    >>> Channel.between(there, here.public, b"round 1").verify(mark, b"text")
    """

    key: bytes = field(repr=False)
    marking: bytes = field(repr=False)

    @classmethod
    def between(cls, own: Agreement, peer: bytes, context: bytes) -> Channel:
        """The channel of two parties for one purpose that the context names.

        Raises:
            BadMessage: the peer's key is of low order.
        """
        key = own.derive(peer, b"fedseal channel 2" + context)
        return cls(key, hkdf(key, b"fedseal marks 1"))

    def closed(self) -> Channel:
        """Of the marks alone: nothing that was sealed is opened by what is left."""
        return Channel(b"", self.marking)

    def sealing(self, context: bytes) -> bytes:
        """The key of a sealed stream, for one purpose that the context names, sender and recipient included.

        Raises:
            OutOfPhase: the channel is closed.
        """
        if not self.key:
            raise OutOfPhase("a channel that is closed seals nothing", "start another round")
        return hkdf(self.key, b"fedseal seal 1" + context)

    def sign(self, data: Buffer) -> bytes:
        """64 bytes."""
        return hmac.digest(self.marking, data, "sha512")

    def verify(self, signature: Buffer, data: Buffer) -> None:
        """Raises BadMessage unless one of the two made it of this data."""
        if not hmac.compare_digest(self.sign(data), signature):
            raise BadMessage("a message does not come from its sender as it is", "send the original")


def seal_once(key: bytes, message: bytes) -> bytes:
    """The message and a tag of 16 bytes, under a key that seals nothing else."""
    return AESGCM(key).encrypt(bytes(NONCE), message, None)


def open_once(key: bytes, sealed: bytes) -> bytes:
    """What `seal_once` was given; raises BadMessage if it was changed."""
    try:
        return AESGCM(key).decrypt(bytes(NONCE), sealed, None)
    except InvalidTag:
        raise BadMessage("a sealed message does not open", "send the original") from None


class Sealer:
    """Seals messages one after the other under a key that is used for nothing else.

    Args:
        number: of the first message.
    """

    def __init__(self, key: bytes, number: int = 0) -> None:
        self._key, self._next = AESGCM(key), number

    @classmethod
    def towards(cls, recipient: bytes, context: bytes, ephemeral: Agreement | None = None) -> tuple[bytes, Sealer]:
        """A fresh public key, which the recipient needs, and what seals for whoever holds the recipient's secret.

        Raises:
            BadMessage: the recipient's key is of low order.
        """
        ephemeral = ephemeral or Agreement.fresh()
        public = ephemeral.public
        return public, cls(ephemeral.derive(recipient, context + public + recipient))

    def seal(self, message: Buffer, associated: bytes, into: Buffer | None = None) -> Buffer:
        """The message and a tag of 16 bytes, written into a buffer of that size."""
        into = bytearray(len(message) + TAG) if into is None else into
        nonce = self._next.to_bytes(NONCE, "little")
        self._next += 1
        self._key.encrypt_into(nonce, message, associated, into)
        return into


class Opener:
    """The recipient's side of a `Sealer`."""

    def __init__(self, key: bytes) -> None:
        self._key = AESGCM(key)

    @classmethod
    def of(cls, recipient: Agreement, context: bytes, ephemeral: bytes) -> Opener:
        """Opens what was sealed towards the recipient under this public key.

        Raises:
            BadMessage: the key is of low order.
        """
        return cls(recipient.derive(ephemeral, context + ephemeral + recipient.public))

    def open(self, number: int, sealed: Buffer, associated: bytes, into: Buffer | None = None) -> Buffer:
        """The message of this number, written into a buffer of its size.

        Raises:
            BadMessage: it was changed, is another number's, or was sealed for other eyes.
        """
        into = bytearray(max(len(sealed) - TAG, 0)) if into is None else into
        try:
            self._key.decrypt_into(number.to_bytes(NONCE, "little"), sealed, associated, into)
        except InvalidTag:
            raise BadMessage("a sealed message does not open", "send the original") from None
        return into
