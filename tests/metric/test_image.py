"""PSNR, SSIM and mean squared error against closed forms and a second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d
from torch import Tensor

from fedseal.metric.image import mse, psnr, ssim


def pictures(count: int, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(values: list[float] | None) -> float:
    assert values is not None
    (only,) = values
    return only


def ssim_by_scipy(one: Tensor, other: Tensor, window: int) -> float:
    """The published formula with separable filters, written independently of torch."""
    places = np.arange(window) - window // 2
    kernel = np.exp(-((places / (1.5 * window / 11)) ** 2) / 2)
    kernel /= kernel.sum()

    def smooth(
        x: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.asarray(correlate1d(correlate1d(x, kernel, axis=-1, mode="mirror"), kernel, axis=-2, mode="mirror"))

    x, y = one.numpy(), other.numpy()
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y, cov = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2, smooth(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return float((luminance * (2 * cov + 0.03**2) / (var_x + var_y + 0.03**2)).mean())


@given(st.floats(1e-9, 1))
def test_psnr_of_a_constant_error_is_its_level_in_decibels(error: float) -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.float64)
    # torchmetrics rounds the factor from nepers to decibels to float32.
    assert value(psnr(truth[None] + error, truth)) == pytest.approx(-20 * math.log10(error), rel=1e-7, abs=1e-9)


def test_psnr_of_no_error_is_the_documented_cap() -> None:
    (truth,) = pictures(1)
    assert value(psnr(truth[None], truth)) == 200.0
    assert value(psnr(truth[None] + 1e-12, truth)) == 200.0


def test_mse_is_the_mean_of_squares() -> None:
    one, other = pictures(2)
    assert value(mse(one[None], other)) == pytest.approx(np.square(one.numpy() - other.numpy()).mean(), rel=1e-12)


@pytest.mark.parametrize(("size", "window"), [(32, 11), (11, 11), (10, 9), (8, 7), (5, 5), (3, 3)])
def test_ssim_is_the_published_formula(size: int, window: int) -> None:
    one, other = pictures(2, size)
    mixed = 0.7 * one + 0.3 * other
    assert value(ssim(mixed[None], one)) == pytest.approx(ssim_by_scipy(mixed, one, window), abs=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 20), st.integers(3, 20), st.integers(0, 99))
def test_ssim_of_equal_pictures_is_one(height: int, width: int, seed: int) -> None:
    truth = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert value(ssim(truth[None], truth)) == pytest.approx(1.0, abs=1e-12)


def test_ssim_is_none_where_no_window_fits() -> None:
    (truth,) = pictures(1, size=2)
    assert ssim(truth[None], truth) is None


def test_many_guesses_score_as_each_does_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedseal.metric.image.CHUNK", 2 * 3 * 16 * 16)  # several chunks, the last one short
    truth, guesses = pictures(1)[0], pictures(5, seed=1)
    for metric in (psnr, ssim, mse):
        assert metric(guesses, truth) == pytest.approx([value(metric(guess[None], truth)) for guess in guesses])
