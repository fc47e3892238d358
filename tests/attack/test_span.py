"""The span behind a linear product's gradient against numpy's QR and SVD: exact, noisy and rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedseal.attack.text.span import CLEAN, Span, complement, span_of

Matrix = NDArray[np.float64]
DRAWN = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def products(draw: st.DrawFn) -> tuple[Matrix, Matrix]:
    """Rows `(count, width)` that went into a product, and the signals by its outputs; fewer rows than either side."""
    width, outputs = draw(st.integers(4, 24)), draw(st.integers(4, 24))
    count = draw(st.integers(1, min(width, outputs) - 2))
    drawn = np.random.default_rng(draw(st.integers(0, 2**32)))
    return drawn.standard_normal((count, width)), drawn.standard_normal((count, outputs))


def projector(rows: Matrix) -> Matrix:
    """Onto the span of independent rows, by QR."""
    q, _ = np.linalg.qr(rows.T)
    return np.asarray(q @ q.T)


def onto(span: Span) -> Matrix:
    return np.asarray((span.basis.T @ span.basis).numpy())


def widest(rows: Matrix, span: Span) -> float:
    """Sine of the largest angle between a direction of the true span and the found one."""
    q, _ = np.linalg.qr(rows.T)
    return float(np.linalg.norm((np.eye(rows.shape[1]) - onto(span)) @ q, 2))


@DRAWN
@given(products())
def test_the_span_is_that_of_the_rows_whatever_the_signals(product: tuple[Matrix, Matrix]) -> None:
    rows, signals = product
    gradient = signals.T @ rows
    span = span_of(torch.from_numpy(gradient))
    assert span.rank == np.linalg.matrix_rank(gradient, rtol=1e-9) == len(rows)
    assert not span.full
    sharpest = np.linalg.cond(gradient @ np.linalg.pinv(rows))
    np.testing.assert_allclose(onto(span), projector(rows), rtol=0, atol=1e-12 * sharpest * np.linalg.cond(rows))
    assert span.tilt < 1e-9
    assert span.tolerance == 1e-5


@DRAWN
@given(products(), st.floats(1e-6, 1e6), st.integers(0, 2**31))
def test_neither_the_gradients_size_nor_the_order_or_a_turn_of_its_outputs_matters(
    product: tuple[Matrix, Matrix], size: float, seed: int
) -> None:
    rows, signals = product
    drawn = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(drawn.standard_normal((signals.shape[1],) * 2))
    one, other = (span_of(torch.from_numpy(g @ rows)) for g in (signals.T, size * turn @ signals.T))
    assert one.rank == other.rank
    np.testing.assert_allclose(onto(one), onto(other), rtol=0, atol=1e-7)


@DRAWN
@given(products(), st.integers(0, 2**31))
def test_the_distance_is_the_sine_of_the_angle_that_least_squares_leaves(
    product: tuple[Matrix, Matrix], seed: int
) -> None:
    rows, signals = product
    span = span_of(torch.from_numpy(signals.T @ rows))
    drawn = np.random.default_rng(seed)
    tried = drawn.standard_normal((3, 2, rows.shape[1]))
    tried[0] = drawn.standard_normal((2, len(rows))) @ rows  # these lie in the span
    flat = tried.reshape(-1, rows.shape[1])
    coefficients, *_ = np.linalg.lstsq(rows.T, flat.T, rcond=None)
    sines = np.linalg.norm(flat - (rows.T @ coefficients).T, axis=1) / np.linalg.norm(flat, axis=1)
    found = span.distance(torch.from_numpy(tried))
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found.numpy().ravel(), sines, rtol=0, atol=1e-7)
    assert bool((found[0] < span.tolerance).all())


@DRAWN
@given(products())
def test_span_and_complement_fill_the_space_together(product: tuple[Matrix, Matrix]) -> None:
    rows, signals = product
    span = span_of(torch.from_numpy(signals.T @ rows))
    width = rows.shape[1]
    whole = np.concatenate([span.basis.numpy(), span.complement.numpy()])
    np.testing.assert_allclose(whole @ whole.T, np.eye(width), rtol=0, atol=1e-12)
    beside = complement(torch.from_numpy(rows)).numpy()
    assert beside.shape == (width - len(rows), width)
    np.testing.assert_allclose(beside.T @ beside, np.eye(width) - projector(rows), rtol=0, atol=1e-9)


def _noisy(seed: int, count: int, noise: float, kind: Any = np.float64) -> tuple[Matrix, torch.Tensor]:
    drawn = np.random.default_rng(seed)
    rows, signals = drawn.standard_normal((count, 48)), drawn.standard_normal((count, 64))
    gradient = signals.T @ rows
    gradient = gradient + noise * drawn.standard_normal(gradient.shape)
    return rows, torch.from_numpy(gradient.astype(kind))


@pytest.mark.parametrize("noise", [1e-6, 1e-3, 0.1, 1.0])
@pytest.mark.parametrize("count", [1, 5, 12])
@pytest.mark.parametrize("seed", range(3))
def test_noise_adds_no_rows_and_turns_no_direction_by_more_than_twice_the_tilt(
    seed: int, count: int, noise: float
) -> None:
    """A tilt of s_(k+1) / s_k bounds the turn up to the difference of the noise's norm from s_(k+1) (Wedin, 1972)."""
    rows, gradient = _noisy(seed, count, noise)
    span = span_of(gradient)
    assert span.rank == count
    values = np.linalg.svd(gradient.numpy(), compute_uv=False)
    assert span.tilt == pytest.approx(values[count] / values[count - 1], rel=1e-6)
    assert widest(rows, span) < 2 * span.tilt


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("count", [1, 7, 20])
def test_rounding_adds_no_rows(count: int, kind: Any) -> None:
    rows, gradient = _noisy(count, count, 0.0, kind)
    span = span_of(gradient)
    assert span.basis.dtype == torch.float64
    assert span.rank == count
    assert widest(rows, span) < 2 * span.tilt


def test_no_direction_lies_below_the_rounding_of_the_gradients_format() -> None:
    sizes = 0.3 ** np.arange(24)
    span = span_of(torch.from_numpy(np.diag(sizes).astype(np.float32)))
    assert 1 <= span.rank <= int((sizes > np.finfo(np.float32).eps).sum())
    assert span_of(torch.from_numpy(np.diag(sizes))).rank > span.rank


def test_several_products_of_one_input_span_it_together() -> None:
    drawn = np.random.default_rng(0)
    rows = drawn.standard_normal((6, 16))
    blind = drawn.standard_normal((6, 10))
    blind[3:] = 0  # one product has no signal by half of the rows
    stacked = np.concatenate([blind.T @ rows, drawn.standard_normal((10, 6)) @ rows])
    assert span_of(torch.from_numpy(blind.T @ rows)).rank == 3
    span = span_of(torch.from_numpy(stacked))
    np.testing.assert_allclose(onto(span), projector(rows), rtol=0, atol=1e-12)


def test_a_single_row_or_column_has_a_span_of_one() -> None:
    row = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert span_of(row).rank == 1
    assert float(span_of(row).distance(torch.tensor([3.0, 4.0], dtype=torch.float64))) < 1e-12
    assert span_of(row.T).full


@pytest.mark.parametrize("fall", [0.9, 0.4, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_where_the_rows_fill_the_space_no_direction_is_called_clean(seed: int, fall: float) -> None:
    """The last size alone looks like noise by any law; what is left out then tilts the span by its own size."""
    drawn = np.random.default_rng(seed)
    (left, _), (right, _) = (np.linalg.qr(drawn.standard_normal((size, 8))) for size in (24, 8))
    span = span_of(torch.from_numpy(left @ np.diag(fall ** np.arange(8)) @ right.T))
    assert span.full or span.tilt > CLEAN
