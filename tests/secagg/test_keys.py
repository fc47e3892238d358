"""Signatures and marks are checked; where one process plays several parties, each right signature once."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedseal.secagg import Identity, Public, trusting_itself
from fedseal.secagg.errors import BadMessage
from fedseal.secagg.hazmat import keys
from fedseal.secagg.hazmat.keys import Agreement, Channel


class Counting:
    """A key that counts how often it is asked."""

    def __init__(self, key: Any) -> None:
        self.key, self.count = key, 0

    def verify(self, signature: bytes, data: bytes) -> None:
        self.count += 1
        self.key.verify(signature, data)


def counting(public: Public) -> Counting:
    found = Counting(public._key)
    vars(public)["_key"] = found
    return found


@pytest.mark.parametrize("once", [False, True])
def test_what_was_not_signed_is_refused_every_time(once: bool) -> None:
    who, other = Identity.fresh(), Identity.fresh()
    signature = who.sign(b"text")
    with trusting_itself() if once else contextlib.nullcontext():
        for _ in range(2):
            who.public.verify(signature, b"text")
            for public, wrong, data in (
                (other.public, signature, b"text"),
                (who.public, other.sign(b"text"), b"text"),
                (who.public, signature, b"texT"),
                (who.public, signature[:-1], b"text"),
                (who.public, signature, b""),
            ):
                with pytest.raises(BadMessage, match="signature"):
                    public.verify(wrong, data)


def test_a_signature_is_checked_every_time_but_where_one_process_plays_all() -> None:
    who = Identity.fresh()
    one, twin = who.public, who.copied().public
    checks = [counting(one), counting(twin)]
    signature = who.sign(b"text")  # outside: it is not known to be right

    def asked() -> int:
        for public in (one, twin, one):
            public.verify(bytearray(signature), memoryview(b"text"))
        return sum(check.count for check in checks)

    assert asked() == 3
    with trusting_itself():
        assert asked() == 4
        with trusting_itself():
            assert asked() == 5
        assert asked() == 5
    assert asked() == 8
    with trusting_itself():
        signature = who.sign(b"text")  # the same bytes, made here
        assert asked() == 8


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "REMEMBERED", 3)
    who = Identity.fresh()
    with trusting_itself():
        for number in range(20):
            who.public.verify(who.sign(bytes([number])), bytes([number]))
            Agreement.fresh().agreed(who.public.sealing)
            known = keys._known.get()
            assert known is not None
            assert 1 <= len(known._right) <= 3
            assert 1 <= len(known._agreed) <= 3


def test_where_one_process_plays_all_an_agreement_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(Agreement.fresh(), Agreement.fresh()) for _ in range(4)]
    alone = [here.agreed(there.public) for here, there in pairs]
    asked = []
    read = X25519PublicKey.from_public_bytes

    class Counting:
        @staticmethod
        def from_public_bytes(data: bytes) -> X25519PublicKey:
            asked.append(data)
            return read(data)

    monkeypatch.setattr(keys, "X25519PublicKey", Counting)
    with trusting_itself():
        for (here, there), agreed in zip(pairs, alone, strict=True):
            assert here.agreed(there.public) == there.agreed(here.public) == agreed
        assert len(asked) == len(pairs)
        known = keys._known.get()
        assert known is not None
        assert not known._agreed  # what both asked for is not kept
        (here, there), (other, _) = pairs[:2]
        assert here.agreed(there.public) == here.agreed(there.public) != here.agreed(other.public)
        with pytest.raises(BadMessage, match="low order"):
            here.agreed(bytes(32))
    asked.clear()
    assert here.agreed(there.public) == there.agreed(here.public) == alone[0]
    assert len(asked) == 2


def test_a_channel_is_of_two_for_one_purpose() -> None:
    here, there, other = Agreement.fresh(), Agreement.fresh(), Agreement.fresh()
    channel = Channel.between(here, there.public, b"round 1")
    mark = channel.sign(b"text")
    assert len(mark) == 64
    Channel.between(there, here.public, b"round 1").verify(bytearray(mark), memoryview(b"text"))
    strangers = (
        Channel.between(here, there.public, b"round 2"),
        Channel.between(here, other.public, b"round 1"),
        Channel.between(other, there.public, b"round 1"),
    )
    for stranger in strangers:
        with pytest.raises(BadMessage, match="does not come from its sender"):
            stranger.verify(mark, b"text")
    for wrong, data in ((mark[:-1], b"text"), (b"", b"text"), (mark, b"texT"), (mark, b""), (mark[::-1], b"text")):
        with pytest.raises(BadMessage, match="does not come from its sender"):
            channel.verify(wrong, data)


def test_a_channel_s_keys_are_what_hkdf_gives() -> None:
    """Written down once more, with the library's own classes: three keys, of which none serves two purposes."""

    def derived(secret: bytes, context: bytes) -> bytes:
        return HKDF(SHA256(), 32, salt=None, info=context).derive(secret)

    here, there = Agreement.fresh(), Agreement.fresh()
    key = derived(here.agreed(there.public), b"fedseal channel 2text")
    oracle = HMAC(derived(key, b"fedseal marks 1"), SHA512())
    oracle.update(b"data")
    channel = Channel.between(there, here.public, b"text")
    assert channel.sign(b"data") == oracle.finalize()
    assert channel.sealing(b"one") == derived(key, b"fedseal seal 1one")
    assert channel.sealing(b"one") != channel.sealing(b"other")
