"""Blind guesses: each against its definition."""

from __future__ import annotations

import math

import pytest
import torch

from fedseal.metric.baseline import baselines
from fedseal.metric.image import METRICS

GENERATOR = torch.Generator().manual_seed(0)
TRUTH = torch.rand(3, 16, 16, generator=GENERATOR, dtype=torch.float64)
GALLERY = torch.rand(20, 3, 16, 16, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("metric", METRICS)
def test_best_of_many_is_no_worse_than_any_picture_of_the_gallery(metric: str) -> None:
    function, _, higher = METRICS[metric]
    *_, best = baselines(metric, TRUTH, GALLERY)
    alone = function(GALLERY, TRUTH)
    assert alone is not None
    assert best.name == "best of 20 unrelated pictures"
    assert best.value == pytest.approx(max(alone) if higher else min(alone), abs=1e-5)


def test_grey_and_mean_are_what_their_names_say() -> None:
    grey, mean, _ = baselines("psnr", TRUTH, GALLERY)
    assert (grey.name, mean.name) == ("grey", "mean picture")
    for baseline, guess in ((grey, 0.5), (mean, GALLERY.mean(0))):
        expected = -10 * math.log10(float((TRUTH - guess).square().mean()))
        assert baseline.value == pytest.approx(expected, abs=1e-4)


def test_more_unrelated_pictures_make_a_stronger_guesser() -> None:
    few, many = baselines("psnr", TRUTH, GALLERY[:5])[-1], baselines("psnr", TRUTH, GALLERY)[-1]
    assert few.value is not None
    assert many.value is not None
    assert many.value >= few.value


@pytest.mark.parametrize("metric", METRICS)
def test_without_a_gallery_only_grey_is_measured(metric: str) -> None:
    grey, *others = baselines(metric, TRUTH, None)
    assert grey.value is not None
    assert [baseline.value for baseline in others] == [None, None]
