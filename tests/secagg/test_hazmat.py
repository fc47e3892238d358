"""Ring, fixed point, mask generator, shares: what holds for all inputs, and what is refused."""

from __future__ import annotations

import math
import mmap
import secrets
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from Crypto.Protocol import SecretSharing
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from fedseal.errors import BadConfig
from fedseal.secagg.errors import CohortTooSmall, InsecureRandomness
from fedseal.secagg.hazmat import memory, prg, shamir
from fedseal.secagg.hazmat.prg import Masks, Stream, fresh_seed
from fedseal.secagg.hazmat.ring import FixedPoint, Ring

COMMON = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize("bits", [0, 16, 31, 128])
def test_there_are_two_rings(bits: int) -> None:
    with pytest.raises(BadConfig):
        Ring(bits)


@COMMON
@given(
    bits=st.sampled_from([32, 64]),
    bound=st.floats(1e-6, 1e6),
    summands=st.integers(1, 2000),
    deviation=st.floats(0, 10),
)
def test_the_largest_sum_fits_and_is_read_back(bits: int, bound: float, summands: int, deviation: float) -> None:
    codec = FixedPoint(Ring(bits), bound, summands, deviation * bound)
    values, out = np.array([bound, -bound]), Ring(bits).zeros(2)
    codec.encode(values, 1.0, out, np.empty(2))
    encoded = [int(value) for value in Ring(bits).signed(out)]
    worst = summands * (abs(encoded[0]) + codec.tail)
    assert worst <= Ring(bits).largest
    total = np.array([summands * value % 2**bits for value in encoded], Ring(bits).dtype)
    back = np.empty(2)
    codec.decode(total, back)
    assert np.all(np.abs(back - summands * values) <= codec.error * (1 + 1e-9) + summands * bound * 2**-50)


@COMMON
@given(bits=st.sampled_from([32, 64]), bound=st.floats(1e-3, 1e3), summands=st.integers(1, 100))
def test_one_more_bit_after_the_point_would_not_fit(bits: int, bound: float, summands: int) -> None:
    codec = FixedPoint(Ring(bits), bound, summands)
    finer = math.ldexp(bound, codec.fraction + 1)
    assert summands * (math.ceil(finer) + 2) > Ring(bits).largest or finer > 2**53


@pytest.mark.parametrize(
    ("bound", "summands"), [(math.inf, 2), (math.nan, 2), (0.0, 2), (-1.0, 2), (1.0, 0), (1e300, 2)]
)
def test_a_bound_without_a_scale_is_refused(bound: float, summands: int) -> None:
    with pytest.raises(BadConfig):
        FixedPoint(Ring(32), bound, summands)


def test_flipping_any_bit_of_the_seed_changes_the_mask() -> None:
    """Flower's generator folds the seed to 32 bits (its issue 7522): two flips at distance 32 would cancel there."""
    seed = bytes(range(32))

    def mask(of: bytes) -> bytes:
        vector = np.zeros(8, "<u4")
        Masks(added=[of]).add_to(vector, offset=0)
        return vector.tobytes()

    masks = {mask(seed)}
    for bit in range(256):
        flipped = (int.from_bytes(seed, "little") ^ 1 << bit).to_bytes(32, "little")
        masks.add(mask(flipped))
    pairs = 0
    for bit in range(0, 224, 7):
        folded = (int.from_bytes(seed, "little") ^ 1 << bit ^ 1 << bit + 32).to_bytes(32, "little")
        masks.add(mask(folded))
        pairs += 1
    assert len(masks) == 257 + pairs


@pytest.mark.parametrize("seed", [b"", bytes(4), bytes(16), bytes(31), bytes(33)])
def test_a_seed_that_is_not_256_bits_is_refused(seed: bytes) -> None:
    with pytest.raises(InsecureRandomness, match="seed"):
        Masks(added=[seed])


def test_a_text_or_array_is_no_seed() -> None:
    with pytest.raises(InsecureRandomness):
        Stream(bytearray(32))  # type: ignore[arg-type]


def test_fresh_seeds_differ() -> None:
    assert len({fresh_seed() for _ in range(100)}) == 100


@COMMON
@given(
    bits=st.sampled_from([32, 64]),
    cuts=st.lists(st.integers(0, 300), max_size=4),
    tile=st.sampled_from([64, 256, 1 << 18]),
)
def test_a_mask_in_pieces_is_the_mask(bits: int, cuts: list[int], tile: int) -> None:
    seeds, size = [bytes(32), bytes([7] * 32)], 1300
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prg, "TILE", tile)
        whole, parts = Ring(bits).zeros(size), Ring(bits).zeros(size)
        Masks(seeds[:1], seeds[1:]).add_to(whole, offset=0)
        edges = sorted({0, size, *(4 * cut for cut in cuts)})
        for start, end in pairwise(edges):
            Masks(seeds[:1], seeds[1:]).add_to(parts[start:end], offset=start)
        assert np.array_equal(whole, parts)
        Masks(seeds[1:], seeds[:1]).add_to(parts, offset=0)
        assert not parts.any()


def counted(seed: bytes, first: int, count: int) -> bytes:
    """Blocks of a stream by the definition of the counter mode: every block number is encrypted for itself."""
    numbers = b"".join(number.to_bytes(16, "big") for number in range(first, first + count))
    return Cipher(algorithms.AES(seed), modes.ECB()).encryptor().update(numbers)


@COMMON
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    first=st.sampled_from([0, 0, 1, 2, 3, 50]),
    end=st.sampled_from([3, 4, 10, 1 << 32]),
    tile=st.sampled_from([16, 48, 1 << 17]),
    pays=st.booleans(),
)
def test_streams_are_counter_mode_whichever_way_they_are_computed(
    sizes: list[int], first: int, end: int, tile: int, pays: bool
) -> None:
    seed, at = bytes(range(32)), first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prg, "TILE", tile)
        patch.setattr(prg, "GCM_END", 16 * end)
        patch.setattr(prg, "gcm_pays", lambda: pays)
        masks = Masks([seed])
        for size in sizes:  # in blocks
            vector = np.zeros(4 * size, "<u4")
            masks.add_to(vector, offset=4 * at)
            assert vector.tobytes() == counted(seed, at, size)
            at += size


def test_streams_are_counter_mode_beyond_what_one_nonce_is_good_for() -> None:
    """2^36 bytes take a minute to draw; that the counter has more than 32 bits shows where that is passed."""
    seed, blocks = bytes(range(32)), prg.GCM_END // 16
    assert blocks == 1 << 32
    vector = np.zeros(32, "<u4")
    Masks([seed]).add_to(vector, offset=4 * (blocks - 4))
    assert vector.tobytes() == counted(seed, blocks - 4, 8)


@pytest.mark.parametrize("pays", [True, False])
def test_the_faster_way_is_taken(pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prg, "gcm_pays", lambda: pays)
    stream = Stream(bytes(32))
    assert [stream.onward(offset)[1] for offset in (0, 16, 32)] == (
        [32, 16, prg.GCM_END - 32] if pays else [1 << 62] * 3
    )


def test_going_on_elsewhere_begins_anew() -> None:
    masks, seed = Masks([bytes(32)]), bytes(32)
    for first, size in ((0, 4), (4, 8), (2, 3), (5, 1), (0, 9)):
        vector = np.zeros(4 * size, "<u4")
        masks.add_to(vector, offset=4 * first)
        assert vector.tobytes() == counted(seed, first, size)
    odd = np.zeros(3, "<u4")  # ends inside a block
    masks.add_to(odd, offset=0)
    assert odd.tobytes() == counted(seed, 0, 1)[:12]
    vector = np.zeros(4, "<u4")
    masks.add_to(vector, offset=4)
    assert vector.tobytes() == counted(seed, 1, 1)


@pytest.mark.parametrize("large", [True, False])
def test_memory_for_long_vectors_is_zeros_of_its_own(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not large:
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    edge = (memory.PAGE - memory.SPARE) // 4
    for size in (0, 1, edge - 1, edge, memory.PAGE // 4, memory.PAGE // 4 + 1, 1 << 20):
        one, other = memory.zeros(size, "<u4"), memory.zeros(size, "<u4")
        assert one.shape == (size,)
        assert not one.any()
        one += 1
        assert not other.any()


@pytest.mark.parametrize("total", [0, 100, 10_000_000])
def test_buffers_of_an_arena_do_not_overlap(total: int) -> None:
    arena = memory.Arena(total)
    sizes = [1, 50, 3_000_000, 7, 2_000_000, 60]
    buffers = [arena.buffer(size) for size in sizes]
    for number, (size, buffer) in enumerate(zip(sizes, buffers, strict=True), 1):
        assert len(buffer) == size
        buffer[:] = bytes([number]) * size
    assert all(bytes(buffer) == bytes([number]) * len(buffer) for number, buffer in enumerate(buffers, 1))


def test_an_offset_inside_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="inside a block"):
        Masks([bytes(32)]).add_to(np.zeros(4, "<u4"), offset=3)


@pytest.mark.parametrize("threshold", [0, 1, 4])
def test_a_threshold_below_two_or_above_the_holders_is_refused(threshold: int) -> None:
    with pytest.raises(BadConfig):
        shamir.split_secret(bytes(32), threshold, 3)


def test_fewer_shares_than_the_threshold_are_refused() -> None:
    shares = shamir.split_secret(bytes(32), 3, 4)
    with pytest.raises(CohortTooSmall):
        shamir.combine({1: shares[0], 2: shares[1]}, 3)


@pytest.mark.parametrize(("threshold", "holders"), [(2, 2), (2, 3), (7, 10), (29, 43), (3, 300), (40, 600)])
def test_shares_are_those_of_pycryptodome_for_the_same_polynomial(
    threshold: int, holders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, drawn = fresh_seed(), [fresh_seed() for _ in range(threshold - 1)]
    monkeypatch.setattr(secrets, "token_bytes", partial(_next, iter(drawn)))
    shares = shamir.split_secret(secret, threshold, holders)
    for half in (slice(16), slice(16, None)):
        monkeypatch.setattr(SecretSharing, "rng", partial(_next, iter([part[half] for part in drawn])))
        expected = SecretSharing.Shamir.split(threshold, holders, secret[half], False)
        assert [(place, share[half]) for place, share in enumerate(shares, 1)] == expected


def _next(drawn: Iterator[bytes], count: int) -> bytes:
    part = next(drawn)
    assert len(part) == count
    return part


@COMMON
@given(secret=st.binary(min_size=32, max_size=32), threshold=st.integers(2, 6), more=st.integers(0, 30), draw=st.data())
def test_any_shares_give_the_secret(secret: bytes, threshold: int, more: int, draw: st.DataObject) -> None:
    shares = dict(enumerate(shamir.split_secret(secret, threshold, threshold + more), 1))
    chosen = draw.draw(st.permutations(sorted(shares)))[:threshold]
    assert shamir.combine({place: shares[place] for place in chosen}, threshold) == secret


def test_shares_of_one_secret_are_drawn_anew() -> None:
    assert shamir.split_secret(bytes(32), 2, 2) != shamir.split_secret(bytes(32), 2, 2)
