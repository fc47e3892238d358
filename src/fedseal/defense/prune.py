"""Dropping entries of the update: the smallest, or some at random."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fedseal.defense import base
from fedseal.defense.base import Hooks, figure
from fedseal.errors import BadConfig
from fedseal.mechanism import Mechanism
from fedseal.types import Defense, Tensors, Update


def prune(fraction: float, *, scope: Literal["tensor", "global"] = "tensor") -> Defense:
    """Zero the given fraction of each tensor's entries, or of the whole update's, those smallest in magnitude.

    Zhu, Liu and Han (NeurIPS 2019, arXiv:1906.08935) find that more than 20 % stops their attack, which does not know
    of it. It promises nothing: what is sent is sent as it was, and zeros tell an attacker which entries to leave out
    and how small they were. It costs little accuracy up to strong pruning, and saves bytes. Over the whole update,
    layers with small gradients lose nearly all.

    Raises:
        BadConfig: not above 0 and below 1, or a scope that does not exist.
    """
    base.fraction("pruning a fraction of", fraction)
    if scope not in ("tensor", "global"):
        raise BadConfig(f"the scope of pruning is '{scope}'", "write scope=tensor or scope=global")

    def on_update(update: Update, generator: torch.Generator) -> Update:
        if scope == "global":
            total = sum(tensor.numel() for tensor in update.tensors.values())
            return replace(update, tensors=without_smallest(update.tensors, count_of(fraction, total)))
        sent = {n: _without_smallest(t, count_of(fraction, t.numel())) for n, t in update.tensors.items()}
        return replace(update, tensors=sent)

    name = f"prune:{figure(fraction)}" + (f",scope={scope}" if scope != "tensor" else "")
    return Hooks(name, (Mechanism("prune", {"fraction": fraction}),), update=on_update)


def random_mask(fraction: float) -> Defense:
    """Zero the given fraction of each tensor's entries, drawn anew for every update; the others stay as they were.

    Konecny et al. (2016, arXiv:1610.05492) send updates under a random mask to save bytes. It promises nothing: the
    equations that are left are exact, and several updates of one batch fill each other's gaps. It costs more accuracy
    than `prune` at the same fraction, since large entries go too.

    Raises:
        BadConfig: not above 0 and below 1.
    """
    base.fraction("masking a fraction of", fraction)

    def masked(tensor: Tensor, generator: torch.Generator) -> Tensor:
        dropped = torch.randperm(tensor.numel(), generator=generator)[: count_of(fraction, tensor.numel())]
        kept = tensor.flatten().clone()
        kept[dropped.to(tensor.device)] = 0
        return kept.view_as(tensor)

    def on_update(update: Update, generator: torch.Generator) -> Update:
        return replace(update, tensors={n: masked(t, generator) for n, t in update.tensors.items()})

    name = f"random_mask:{figure(fraction)}"
    return Hooks(name, (Mechanism("random_mask", {"fraction": fraction}),), update=on_update)


def count_of(fraction: float, total: int) -> int:
    """How many of `total` entries a fraction is, rounded down; 0.29 of 100 are 29, whatever float64 makes of it."""
    return int(fraction * total + 1e-9)


def without_smallest(tensors: Tensors, drop: int) -> dict[str, Tensor]:
    """The tensors without the `drop` entries that are smallest among them all."""
    flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
    parts = torch.split(_without_smallest(flat, drop), [tensor.numel() for tensor in tensors.values()])
    return {n: part.view_as(t).clone() for (n, t), part in zip(tensors.items(), parts, strict=True)}


def _without_smallest(tensor: Tensor, drop: int) -> Tensor:
    kept = tensor.flatten().clone()
    if drop:
        kept[kept.abs().argsort(stable=True)[:drop]] = 0
    return kept.view_as(tensor)
