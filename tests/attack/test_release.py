"""What a known defense leaves of every entry."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attack.cases import initialized, observed, pictures
from attack.releases import clipped, halved, noisy, pruned, released
from fedseal import Observation
from fedseal.attack.base import agreement, precision, residual
from fedseal.attack.evidence.release import Release
from fedseal.mechanism import Mechanism
from fedseal.types import Candidate

BATCH = pictures(shape=(1, 6, 6))


def _observation() -> Observation:
    return observed(initialized(nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 5))), BATCH)


def test_pruning_tells_what_was_sent_and_bounds_the_rest() -> None:
    plain = _observation()
    release = Release(pruned(plain, 0.5))
    for name, truth in plain.update.tensors.items():
        sent, bound = release.sent(name), release.bound(name)
        assert sent is not None
        assert bound is not None
        assert int((~sent).sum()) == truth.numel() // 2
        assert float(truth[~sent].abs().max()) <= bound <= float(truth[sent].abs().min())


def test_noise_after_pruning_hides_what_was_sent() -> None:
    steps = (Mechanism("prune", {"fraction": 0.5}), Mechanism("gaussian", {"sigma": 1e-3}))
    assert Release(released(_observation(), lambda tensor: tensor, *steps)).sent("1.weight") is None
    assert Release(released(_observation(), lambda tensor: tensor, *steps[::-1])).sent("1.weight") is not None


def test_the_stated_spread_is_that_of_the_errors() -> None:
    plain = _observation()
    for defended in (noisy(plain, 1e-2), halved(plain)):
        release = Release(defended)
        errors = torch.cat(
            [
                ((defended.update.tensors[name] - truth) / release.spread(name)).flatten()
                for name, truth in plain.update.tensors.items()
            ]
        )
        assert 0.6 < float(errors.square().mean().sqrt()) < 1.3


def test_random_rounding_is_off_by_a_sixth_of_the_squared_step() -> None:
    plain, draws = _observation(), torch.Generator().manual_seed(0)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        step = tensor.abs().max() / 16
        return (tensor / step + torch.rand(tensor.shape, generator=draws)).floor() * step

    defended = released(plain, change, Mechanism("levels", {"levels": 16}))
    truth = plain.update.tensors["1.weight"]
    error = (defended.update.tensors["1.weight"] - truth).square().mean().sqrt()
    assert 0.8 < float(error / Release(defended).spread("1.weight")) < 1.2


def test_only_a_clipped_update_has_lost_its_length() -> None:
    assert Release(clipped(_observation(), 0.3)).only_direction
    step = Mechanism("clip", {"norm": 1e3})
    assert not Release(released(_observation(), lambda tensor: tensor, step)).only_direction


@pytest.mark.parametrize("defended", [pruned(_observation(), 0.5), clipped(_observation(), 0.3)], ids=["prune", "clip"])
def test_the_truth_is_certified_through_pruning_and_clipping(defended: Observation) -> None:
    value = residual(defended, Candidate(BATCH.inputs, BATCH.labels))
    assert value is not None
    assert value < precision(defended)
    wrong = residual(defended, Candidate(1 - BATCH.inputs, BATCH.labels))
    assert wrong is not None
    assert wrong > 1e-2


def test_the_truth_agrees_with_a_rounded_update_to_its_rounding_and_is_not_called_precise() -> None:
    defended = halved(_observation())
    value = residual(defended, Candidate(BATCH.inputs, BATCH.labels))
    assert value is not None
    assert precision(defended) < value < agreement(defended) < 1e-3
    assert agreement(noisy(_observation(), 1e-2)) == precision(defended)
