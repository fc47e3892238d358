"""Ring, fixed point, mask generator, shares: what holds for all inputs, and what is refused."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedseal.errors import BadConfig
from fedseal.secagg.errors import CohortTooSmall, InsecureRandomness
from fedseal.secagg.hazmat import prg, shamir
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


def test_shares_of_one_secret_are_drawn_anew() -> None:
    assert shamir.split_secret(bytes(32), 2, 2) != shamir.split_secret(bytes(32), 2, 2)
