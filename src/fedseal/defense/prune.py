"""Dropping the smallest entries of the update."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedseal.defense.base import Hooks
from fedseal.errors import BadConfig
from fedseal.mechanism import Mechanism
from fedseal.types import Defense, Update


def prune(fraction: float) -> Defense:
    """Zero the given fraction of each tensor's entries, those smallest in magnitude.

    Zhu, Liu and Han (NeurIPS 2019, arXiv:1906.08935) find that more than 20 % stops their attack, which does not know
    of it.

    Raises:
        BadConfig: not above 0 and below 1.
    """
    if not 0 < fraction < 1:
        raise BadConfig(f"pruning a fraction of {fraction}", "give a number above 0 and below 1")

    def pruned(tensor: Tensor) -> Tensor:
        drop = int(fraction * tensor.numel())
        if drop == 0:
            return tensor.clone()
        kept = tensor.flatten().clone()
        kept[kept.abs().argsort(stable=True)[:drop]] = 0
        return kept.view_as(tensor)

    def on_update(update: Update, generator: torch.Generator) -> Update:
        return replace(update, tensors={name: pruned(tensor) for name, tensor in update.tensors.items()})

    return Hooks(f"prune:{fraction:g}", (Mechanism("prune", {"fraction": fraction}),), update=on_update)
