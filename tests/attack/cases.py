"""Small models and what an adversary sees of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedseal import Batch, Image, LocalTraining, Observation, Reconstruction, ThreatModel, local_update

FEDSGD = LocalTraining.fedsgd()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def initialized(model: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The same architecture with torch's default scale of weights, drawn from a seed."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
            parameter.uniform_(-(fan**-0.5), fan**-0.5, generator=generator)
    return model.to(dtype)


def pictures(
    count: int = 1,
    shape: tuple[int, int, int] = (3, 8, 8),
    *,
    classes: int = 5,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    generator = seeded(seed)
    inputs = torch.rand(count, *shape, generator=generator, dtype=dtype)
    return Batch(inputs, torch.randint(classes, (count,), generator=generator))


def observed(
    model: nn.Module,
    batch: Batch,
    *,
    training: LocalTraining = FEDSGD,
    threat: ThreatModel | None = None,
) -> Observation:
    update = local_update(model, batch, training=training)
    channels, height, width = batch.inputs.shape[1:]
    threat = threat or ThreatModel.honest_but_curious()
    return threat.observe(model, update, modality=Image(shape=(channels, height, width)), labels=batch.labels)


def psnr(found: Reconstruction, batch: Batch) -> float:
    """Peak signal-to-noise ratio in dB of a single picture at a peak of 1; minus infinity where nothing was found."""
    if found.inputs is None:
        return -torch.inf
    error: Tensor = (found.inputs.double() - batch.inputs.double()).square().mean()
    return float(-10 * torch.log10(error.clamp_min(1e-40)))
