from __future__ import annotations

import pytest

from fedseal.errors import BadConfig, UnknownName
from fedseal.setup.gate import MEASURES, Threshold, thresholds


def test_thresholds_may_be_repeated_or_listed() -> None:
    both = (Threshold("identification", 0.05), Threshold("psnr", 20.0))
    assert thresholds(["identification=0.05,psnr=20"]) == both
    assert thresholds(["identification=0.05", "psnr=20"]) == both
    assert thresholds([]) == ()


@pytest.mark.parametrize("text", ["psnr", "psnr=", "psnr=high", "psnr=nan", "psnr=inf"])
def test_threshold_without_a_finite_number_is_refused(text: str) -> None:
    with pytest.raises(BadConfig, match="no number"):
        thresholds([text])


def test_unknown_measure_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'psnr'"):
        thresholds(["pnsr=20"])


def test_measures_are_those_that_the_help_names() -> None:
    assert set(MEASURES) == {"identification", "psnr", "rouge1", "columns", "labels"}
