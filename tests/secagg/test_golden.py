"""Every primitive against vectors of a second implementation, and against published ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from fedseal.secagg.errors import BadMessage
from fedseal.secagg.hazmat import shamir
from fedseal.secagg.hazmat.keys import Agreement, Identity, Opener, Public, Sealer, hkdf, open_once, seal_once
from fedseal.secagg.hazmat.prg import Masks, Stream
from vectors import second

GOLDEN = json.loads(second.GOLDEN.read_text())


def _(text: str) -> bytes:
    return bytes.fromhex(text)


def test_the_second_implementation_still_makes_the_vectors() -> None:
    assert json.loads(json.dumps(second.made())) == GOLDEN


@pytest.mark.parametrize("row", GOLDEN["stream"])
def test_the_stream_is_aes_256_of_the_block_numbers(row: Mapping[str, Any]) -> None:
    assert Stream(_(row["seed"])).read(row["count"], offset=row["offset"]).hex() == row["out"]


@pytest.mark.parametrize("bits", [32, 64])
def test_a_mask_is_the_stream_as_little_endian_numbers_over_several_tiles(bits: int) -> None:
    seed, count = bytes(range(32)), 150_000
    vector = np.zeros(count, f"<u{bits // 8}")
    Masks(added=[seed]).add_to(vector, offset=16)
    wanted = np.frombuffer(second.stream(seed, 160, 16 * bits // 8), vector.dtype)
    assert np.array_equal(vector[: wanted.size], wanted)
    last = 16 * bits // 8 + vector.nbytes - 32
    assert np.array_equal(vector[-32 // (bits // 8) :], np.frombuffer(second.stream(seed, 32, last), vector.dtype))


@pytest.mark.parametrize("row", GOLDEN["hkdf"])
def test_hkdf(row: Mapping[str, Any]) -> None:
    assert hkdf(_(row["secret"]), _(row["context"])).hex() == row["out"]


def test_hkdf_of_rfc_5869_test_case_3() -> None:
    wanted = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert hkdf(b"\x0b" * 22, b"").hex() == wanted


@pytest.mark.parametrize("row", GOLDEN["x25519"])
def test_an_agreement_is_x25519_and_hkdf(row: Mapping[str, Any]) -> None:
    ours = Agreement(_(row["secret"]))
    assert ours.public.hex() == row["public"]
    assert ours.derive(_(row["peer"]), _(row["context"])).hex() == row["out"]


def test_x25519_of_rfc_7748_section_5_2() -> None:
    scalar = _("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = _("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    shared = _("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    assert Agreement(scalar).derive(point, b"x") == second.hkdf(shared, b"x")


def test_a_public_key_of_low_order_is_refused() -> None:
    with pytest.raises(BadMessage, match="low order"):
        Agreement.fresh().derive(bytes(32), b"")


@pytest.mark.parametrize("row", GOLDEN["signed"])
def test_signatures_are_ed25519(row: Mapping[str, Any]) -> None:
    identity = Identity(_(row["secret"]), Agreement(bytes(32)))
    assert identity.sign(_(row["message"])).hex() == row["out"]
    Public(_(row["public"]), bytes(32)).verify(_(row["out"]), _(row["message"]))
    assert identity.public.verifying.hex() == row["public"]


def test_ed25519_of_rfc_8032_test_1() -> None:
    secret = _("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    wanted = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )
    assert Identity(secret, Agreement(bytes(32))).sign(b"").hex() == wanted


@pytest.mark.parametrize("row", GOLDEN["sealed"])
def test_a_sealed_stream_is_aes_256_gcm_under_the_derived_key(row: Mapping[str, Any]) -> None:
    ephemeral, recipient, context = Agreement(_(row["key"])), Agreement(bytes(31) + b"\x01"), b"for a test"
    public, sealer = Sealer.towards(recipient.public, context, ephemeral)
    assert public == ephemeral.public
    message, associated = _(row["message"]), _(row["associated"])
    for _number in range(row["number"]):
        sealer.seal(b"", b"")
    found = bytes(sealer.seal(message, associated))
    shared = second.exchanged(recipient.secret, ephemeral.public)
    key = second.hkdf(shared, context + ephemeral.public + recipient.public)
    assert found == second.sealed(key, row["number"], message, associated)
    opener = Opener.of(recipient, context, ephemeral.public)
    assert bytes(opener.open(row["number"], found, associated)) == message
    for number, other in ((row["number"] + 1, associated), (row["number"], associated + b"x")):
        with pytest.raises(BadMessage):
            opener.open(number, found, other)


def test_sealing_once_is_test_case_14_of_gcm() -> None:
    sealed = seal_once(bytes(32), bytes(16))
    assert sealed.hex() == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    assert open_once(bytes(32), sealed) == bytes(16)
    with pytest.raises(BadMessage):
        open_once(bytes(31) + b"\x01", sealed)


@pytest.mark.parametrize("row", GOLDEN["shamir"])
def test_shares_of_the_second_implementation_are_combined(row: Mapping[str, Any]) -> None:
    shares = {int(holder): _(share) for holder, share in row["shares"].items()}
    for chosen in list(combinations(shares, row["threshold"]))[:12]:
        assert shamir.combine({x: shares[x] for x in chosen}, row["threshold"]).hex() == row["secret"]


def test_our_shares_lie_on_a_polynomial_of_the_second_implementation() -> None:
    secret = bytes(range(32))
    shares = shamir.split_secret(secret, 3, 5)
    for half in (slice(16), slice(16, None)):
        points = {x: int.from_bytes(share[half], "big") for x, share in enumerate(shares, 1)}
        for chosen in ((1, 2, 3), (1, 3, 5), (2, 4, 5)):
            assert second.interpolated({x: points[x] for x in chosen}) == int.from_bytes(secret[half], "big")
        assert second.interpolated({x: points[x] for x in (1, 2)}) != int.from_bytes(secret[half], "big")


def test_golden_vectors_were_not_made_by_the_package() -> None:
    assert "fedseal" not in (second.GOLDEN.parent / "second.py").read_text().replace("fedseal vector", "")
