"""What simple defenses make of an observation, written from their definition and not from the library's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fedseal import Observation
from fedseal.mechanism import Mechanism

Change = Callable[[Tensor], Tensor]


def released(observation: Observation, change: Change, *steps: Mechanism) -> Observation:
    """The observation with every tensor changed, and the steps known."""
    first = observation.rounds[0]
    tensors = {name: change(tensor) for name, tensor in first.update.tensors.items()}
    changed = replace(first, update=replace(first.update, tensors=tensors))
    return replace(observation, rounds=(changed,), defense=steps)


def pruned(observation: Observation, fraction: float) -> Observation:
    def change(tensor: Tensor) -> Tensor:
        flat = tensor.flatten().clone()
        flat[flat.abs().argsort()[: int(fraction * flat.numel())]] = 0
        return flat.view_as(tensor)

    return released(observation, change, Mechanism("prune", {"fraction": fraction}))


def masked(observation: Observation, fraction: float, seed: int) -> Observation:
    draws = torch.Generator().manual_seed(seed)

    def change(tensor: Tensor) -> Tensor:
        return tensor * (torch.rand(tensor.shape, generator=draws) >= fraction)

    return released(observation, change, Mechanism("random_mask", {"fraction": fraction}))


def noisy(observation: Observation, sigma: float) -> Observation:
    draws = torch.Generator().manual_seed(9)

    def change(tensor: Tensor) -> Tensor:
        return tensor + sigma * torch.randn(tensor.shape, generator=draws, dtype=tensor.dtype)

    return released(observation, change, Mechanism("gaussian", {"sigma": sigma}))


def halved(observation: Observation) -> Observation:
    step = Mechanism("float", {"eps": 2.0**-11, "tiny": 2.0**-25})
    return released(observation, lambda tensor: tensor.half().to(tensor.dtype), step)


def clipped(observation: Observation, share: float) -> Observation:
    norm = share * sum(float(tensor.square().sum()) for tensor in observation.update.tensors.values()) ** 0.5
    return released(observation, lambda tensor: share * tensor, Mechanism("clip", {"norm": norm}))
