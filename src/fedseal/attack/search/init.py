"""Where an optimization starts: functions from modality and generator to candidate inputs `(N, *shape)`.

Numbers are drawn on the CPU and moved once, so that one seed gives one start on every device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fedseal.types import Modality

Init = Callable[[Modality, int, torch.Generator], Tensor]
TILE = 4  # pixels a side of a pattern, and cells a side of a smooth start


def normal(modality: Modality, count: int, generator: torch.Generator) -> Tensor:
    """Standard normal model inputs, as published attacks start."""
    return modality.start(torch.randn(count, *modality.shape, generator=generator))


def grey(modality: Modality, count: int, generator: torch.Generator) -> Tensor:
    """The middle of the valid range with a hundredth of normal noise to break ties."""
    wide = torch.full((count, *modality.shape), 1e6)
    low, high = modality.project(-wide), modality.project(wide)
    noise = torch.randn(count, *modality.shape, generator=generator)
    return modality.project(0.5 * (low + high) + 0.01 * (high - low) * noise)


def uniform(modality: Modality, count: int, generator: torch.Generator) -> Tensor:
    """Uniform over the valid range."""
    low, high = _range(modality)
    return low + (high - low) * torch.rand(count, *modality.shape, generator=generator)


def black(modality: Modality, count: int, generator: torch.Generator) -> Tensor:
    """The bottom of the valid range with a hundredth of normal noise to break ties."""
    return _constant(modality, count, generator, (0.0,))


def white(modality: Modality, count: int, generator: torch.Generator) -> Tensor:
    """The top of the valid range with a hundredth of normal noise to break ties."""
    return _constant(modality, count, generator, (1.0,))


def red(modality: Modality, count: int, generator: torch.Generator) -> Tensor:
    """Pure red, grey in a single channel, with a hundredth of normal noise to break ties."""
    return _constant(modality, count, generator, (1.0, 0.0, 0.0))


def green(modality: Modality, count: int, generator: torch.Generator) -> Tensor:
    """Pure green, grey in a single channel, with a hundredth of normal noise to break ties."""
    return _constant(modality, count, generator, (0.0, 1.0, 0.0))


def blue(modality: Modality, count: int, generator: torch.Generator) -> Tensor:
    """Pure blue, grey in a single channel, with a hundredth of normal noise to break ties."""
    return _constant(modality, count, generator, (0.0, 0.0, 1.0))


def patterned(modality: Modality, count: int, generator: torch.Generator) -> Tensor:
    """A 4x4 tile of uniform noise, repeated over the picture: the pattern of wide strides in a start of no content."""
    channels, height, width = modality.shape
    tile = torch.rand(count, channels, TILE, TILE, generator=generator)
    low, high = _range(modality)
    across = tile.repeat(1, 1, -(-height // TILE), -(-width // TILE))[..., :height, :width]
    return low + (high - low) * across


def smooth(modality: Modality, count: int, generator: torch.Generator) -> Tensor:
    """Low frequencies only: 4x4 uniform noise enlarged bicubically."""
    channels, height, width = modality.shape
    coarse = torch.rand(count, channels, TILE, TILE, generator=generator)
    fine = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False).clamp(0, 1)
    low, high = _range(modality)
    return low + (high - low) * fine


# Image initialization is a family of its own in Geng et al. (arXiv:2110.09074).
INITS: dict[str, Init] = {
    init.__name__: init for init in (normal, uniform, grey, black, white, red, green, blue, patterned, smooth)
}


def _constant(modality: Modality, count: int, generator: torch.Generator, color: tuple[float, ...]) -> Tensor:
    low, high = _range(modality)
    if len(color) > 1:
        parts = color if len(color) == modality.shape[0] else (0.5,) * modality.shape[0]
        level = torch.tensor(parts).view(-1, *[1] * (len(modality.shape) - 1))
    else:
        level = torch.tensor(color[0])
    noise = torch.randn(count, *modality.shape, generator=generator)
    return modality.project(low + (level + 0.01 * noise) * (high - low))


def _range(modality: Modality) -> tuple[Tensor, Tensor]:
    """The least and the largest valid input, `(1, *shape)` each."""
    wide = torch.full((1, *modality.shape), 1e6)
    return modality.project(-wide), modality.project(wide)
