"""A training whose model or loss is no number any more ends with an error, and its checkpoint is a good one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from federation.small import data, federation, net, owners
from fedseal.errors import Diverged
from fedseal.federation.checkpoint import load_checkpoint
from fedseal.federation.federation import Federation, Trained
from fedseal.federation.gossip import Gossip
from fedseal.federation.owners import ModelOwner
from fedseal.types import Tensors


class _Breaks:
    """A model owner's rule that gives no number in one round."""

    def __init__(self, round: int) -> None:
        self.round, self.called = round, 0

    def __call__(self, total: Tensors, weight: int, model: nn.Module) -> Tensors:
        self.called += 1
        return {"1.bias": torch.full((5,), float("nan") if self.called == self.round else 0.5 * self.called)}


def _trained(breaks: int, **arguments: Any) -> Trained:
    return Federation(ModelOwner(net(), _Breaks(breaks)), owners(), "sharing").fit(4, **arguments)


def test_the_last_good_checkpoint_is_kept_and_named(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    with pytest.raises(Diverged, match=r"round 3: '1.bias' of the model is no number.*kept\.saf.* holds .*round 2,"):
        _trained(3, checkpoint=path)
    state, history = load_checkpoint(path, *federation()._marks())
    assert len(history) == 2
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    with pytest.raises(Diverged, match="no round before it was good"):
        _trained(1, checkpoint=tmp_path / "none.safetensors")
    with pytest.raises(Diverged, match="no checkpoint was kept"):
        _trained(2)


def test_a_loss_that_is_no_number_ends_a_training_of_a_sound_model() -> None:
    broken = ModelOwner(net(), evaluator_fn=lambda model, data: {"loss": float("nan"), "auc": 0.5}, validation=data())
    with pytest.raises(Diverged, match="round 1: the loss is nan"):
        Federation(broken, owners()).fit(2)
    odd = ModelOwner(net(), evaluator_fn=lambda model, data: {"auc": float("nan")}, validation=data())
    assert len(Federation(odd, owners()).fit(2).history) == 2, "a figure may be undefined where a loss may not"


def test_owners_who_gossip_end_as_well_when_a_loss_is_no_number() -> None:
    broken = ModelOwner(net(), evaluator_fn=lambda model, data: {"loss": float("nan")}, validation=data())
    with pytest.raises(Diverged, match="round 1: the loss is nan"):
        Gossip(broken, owners()).fit(2)
    with pytest.raises(Diverged, match="of the model is no number"):
        Gossip(ModelOwner(net(), learning_rate=1e39), owners()).fit(3)
