"""Identification: certain for the truth, at chance for a blind guess, and never by a tie."""

from __future__ import annotations

import torch

from fedseal.metric.identify import identify


def test_a_blind_guess_hits_at_chance() -> None:
    """2000 random guesses hit one in a hundred: 20 expected, 4.4 the standard deviation; ranks average to 50.5."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2000):
        pictures = torch.rand(101, 1, 3, 3, generator=generator)
        found.append(identify(pictures[0], pictures[1], pictures[2:]))
    assert all(one.gallery == 100 and one.chance == 0.01 for one in found)
    assert 7 <= sum(one.hit for one in found) <= 33
    assert abs(sum(one.rank for one in found) / 2000 - 50.5) < 4 * 28.9 / 2000**0.5


def test_the_truth_itself_is_identified_also_through_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(100, 3, 8, 8, generator=generator)
    noisy = pictures[0] + 0.1 * torch.randn(3, 8, 8, generator=generator)
    assert identify(noisy, pictures[0], pictures[1:]).hit


def test_ties_count_against() -> None:
    picture = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    one = identify(picture, picture, picture.expand(99, 1, 4, 4))
    assert (one.hit, one.rank) == (False, 100)


def test_the_rank_counts_the_pictures_that_are_more_alike() -> None:
    across = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 2, 2)
    down = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 2, 2)
    seen = 0.5 + 0.01 * (down + 0.8 * across)
    others = torch.stack([down + 0.5 * across, down, across, 1 - across])
    assert identify(seen, down + 0.4 * across, others).rank == 2


def test_noise_does_not_find_the_flattest_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(100, 3, 8, 8, generator=generator)
    pictures[0] = 0.5 + 0.1 * (pictures[0] - 0.5)
    guesses = torch.rand(300, 3, 8, 8, generator=generator)
    assert sum(identify(guess, pictures[0], pictures[1:]).hit for guess in guesses) <= 10


def test_contrast_and_brightness_do_not_matter() -> None:
    pictures = torch.rand(100, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert identify(0.4 + 0.05 * pictures[0], pictures[0], pictures[1:]).hit
    assert not identify(1 - pictures[0], pictures[0], pictures[1:]).hit


def test_a_flat_picture_is_found_by_a_flat_one_alone() -> None:
    pictures = torch.rand(100, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures[0] = 0.3
    assert identify(torch.full((3, 8, 8), 0.3), pictures[0], pictures[1:]).hit
    assert not identify(torch.full((3, 8, 8), 0.3), pictures[1], pictures[2:]).hit
