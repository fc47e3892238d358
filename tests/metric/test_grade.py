"""Grading whole reconstructions: what must not matter does not, and what was not measured is None."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedseal.errors import BadConfig, UnfitBatch
from fedseal.metric import Scores, score
from fedseal.modality import Image
from fedseal.types import Batch, Certificate, Outcome, Reconstruction

IMAGE = Image(shape=(3, 12, 12))
OUTCOME = Outcome("converged", "test", None, 1, 0.0)


def made(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


BATCH = Batch(made(4, 0), torch.tensor([5, 6, 7, 8]))
GALLERY = made(120, 1)
NOISY = Reconstruction(BATCH.inputs + 0.05 * (made(4, 2) - 0.5), torch.tensor([5, 6, 0, 8]), OUTCOME)


def without_places(scores: Scores) -> Scores:
    return Scores(tuple(replace(sample, matched=None) for sample in scores.samples))


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(4)))
def test_the_order_of_the_reconstruction_does_not_matter(order: list[int]) -> None:
    assert NOISY.inputs is not None
    assert NOISY.labels is not None
    shuffled = Reconstruction(NOISY.inputs[order], NOISY.labels[order], OUTCOME)
    expected = score(NOISY, BATCH, modality=IMAGE, gallery=GALLERY)
    found = score(shuffled, BATCH, modality=IMAGE, gallery=GALLERY)
    assert without_places(found) == without_places(expected)
    assert [order[s.matched] for s in found.samples if s.matched is not None] == [0, 1, 2, 3]


def test_labels_are_compared_within_matched_pairs() -> None:
    assert [sample.label_correct for sample in score(NOISY, BATCH, modality=IMAGE).samples] == [True, True, False, True]


def test_soft_labels_count_by_their_likeliest_class() -> None:
    soft = Batch(BATCH.inputs, torch.nn.functional.one_hot(BATCH.labels, 10) * 0.9 + 0.01)
    assert [s.label_correct for s in score(NOISY, soft, modality=IMAGE).samples] == [True, True, False, True]


def test_normalized_inputs_score_as_their_pixels_do() -> None:
    normal = Image(shape=(3, 12, 12), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    assert NOISY.inputs is not None
    pixels = score(replace(NOISY, inputs=NOISY.inputs.clamp(0, 1)), BATCH, modality=IMAGE)
    encoded = replace(NOISY, inputs=normal.encode(NOISY.inputs.double()))
    found = score(encoded, Batch(normal.encode(BATCH.inputs.double()), BATCH.labels), modality=normal)
    assert found.psnr == pytest.approx(pixels.psnr, abs=1e-9)


def test_values_are_those_of_the_decoded_pictures_in_float64() -> None:
    reconstruction = Reconstruction(BATCH.inputs[:1].double() + 1e-7, None, OUTCOME)
    (sample,) = score(reconstruction, BATCH[:1], modality=IMAGE).samples
    assert sample.psnr.value == pytest.approx(140.0, abs=1e-3)
    assert sample.label_correct is None


def test_a_reconstruction_without_inputs_has_no_value_but_keeps_its_baselines() -> None:
    for sample in score(Reconstruction(None, BATCH.labels, OUTCOME), BATCH, modality=IMAGE, gallery=GALLERY).samples:
        assert sample.matched is None
        assert sample.label_correct is None
        assert sample.identification is None
        for one in (sample.psnr, sample.ssim, sample.mse):
            assert one.value is None
            assert all(baseline.value is not None for baseline in one.baselines)


def test_an_input_that_is_not_finite_is_matched_to_nothing() -> None:
    inputs = BATCH.inputs.clone()
    inputs[1, 0, 0, 0] = math.nan
    samples = score(Reconstruction(inputs, BATCH.labels, OUTCOME), BATCH, modality=IMAGE).samples
    assert [sample.matched for sample in samples] == [0, None, 2, 3]
    assert samples[1].psnr.value is None
    assert samples[2].label_correct


@pytest.mark.parametrize("count", [2, 6])
def test_reconstructions_may_be_fewer_or_more_than_the_truths(count: int) -> None:
    inputs = torch.cat([BATCH.inputs, made(2, 3)])[-count:] if count == 6 else BATCH.inputs[:2]
    samples = score(Reconstruction(inputs, None, OUTCOME), BATCH, modality=IMAGE).samples
    assert [sample.matched is not None for sample in samples] == [True, True, count == 6, count == 6]


def test_identification_uses_99_others_and_the_baselines_all() -> None:
    sample = score(NOISY, BATCH, modality=IMAGE, gallery=GALLERY).samples[0]
    assert sample.identification is not None
    assert sample.identification.gallery == 100
    assert sample.identification.hit
    assert sample.psnr.baselines[-1].name == "best of 120 unrelated pictures"
    assert sample.psnr.best_baseline is not None


def test_without_a_gallery_there_is_no_identification() -> None:
    assert all(s.identification is None for s in score(NOISY, BATCH, modality=IMAGE).samples)


def test_an_unrelated_reconstruction_does_not_beat_the_blind_guesses() -> None:
    blind = Reconstruction(made(4, 9), None, OUTCOME)
    for sample in score(blind, BATCH, modality=IMAGE, gallery=GALLERY).samples:
        for one in (sample.psnr, sample.mse):
            assert one.value is not None
            best = one.best_baseline
            assert best is not None
            assert best.value is not None
            assert one.value < best.value if one.higher_is_leakier else one.value > best.value


def test_scoring_changes_nothing() -> None:
    assert NOISY.inputs is not None
    before = NOISY.inputs.clone(), BATCH.inputs.clone(), GALLERY.clone()
    score(NOISY, BATCH, modality=IMAGE, gallery=GALLERY)
    assert torch.equal(NOISY.inputs, before[0])
    assert torch.equal(BATCH.inputs, before[1])
    assert torch.equal(GALLERY, before[2])


def test_shapes_that_do_not_fit_are_refused() -> None:
    other = Batch(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0]))
    with pytest.raises(UnfitBatch, match="the batch's inputs"):
        score(NOISY, other, modality=IMAGE)
    with pytest.raises(UnfitBatch, match="the reconstruction's inputs"):
        score(replace(NOISY, inputs=other.inputs), BATCH, modality=IMAGE)
    for gallery in (other.inputs, GALLERY[:0]):
        with pytest.raises(BadConfig, match="gallery"):
            score(NOISY, BATCH, modality=IMAGE, gallery=gallery)


def test_certainty_goes_with_the_example_that_it_is_of() -> None:
    proof = Certificate("replay", 0.0, 1e-6, (1.0, 0.0, 1.0), (True, False, True), "that it is so")
    assert NOISY.inputs is not None
    three = Reconstruction(NOISY.inputs[[3, 1, 0]], None, OUTCOME, certificate=proof)
    assert [sample.certain for sample in score(three, BATCH, modality=IMAGE).samples] == [True, False, False, True]
    assert [sample.certain for sample in score(NOISY, BATCH, modality=IMAGE).samples] == [False] * 4
