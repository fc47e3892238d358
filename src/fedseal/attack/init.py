"""Where an optimization starts: functions from modality and generator to candidate inputs `(N, *shape)`.

Numbers are drawn on the CPU and moved once, so that one seed gives one start on every device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedseal.types import Modality

Init = Callable[[Modality, int, torch.Generator], Tensor]


def normal(modality: Modality, count: int, generator: torch.Generator) -> Tensor:
    """Standard normal model inputs, as published attacks start."""
    return modality.start(torch.randn(count, *modality.shape, generator=generator))


def grey(modality: Modality, count: int, generator: torch.Generator) -> Tensor:
    """The middle of the valid range with a hundredth of normal noise to break ties."""
    wide = torch.full((count, *modality.shape), 1e6)
    low, high = modality.project(-wide), modality.project(wide)
    noise = torch.randn(count, *modality.shape, generator=generator)
    return modality.project(0.5 * (low + high) + 0.01 * (high - low) * noise)
