"""The transformations of pictures that ATS composes: AutoAugment's, on tensors.

Each takes one picture `(C, H, W)` with pixels from 0 to 1, a magnitude from 0 to 1 and a sign, and gives a new one.
Cubuk et al. (CVPR 2019, arXiv:1805.09501) define them; a magnitude of 1 stands for the largest the ATS authors use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

Transformation = Callable[[Tensor, float, float], Tensor]

MOST = 0.5  # how far color, contrast, brightness and sharpness go from 1
SHEAR = 0.3
SHIFT = 150 / 331  # of the side
DEGREES = 30.0
LEVELS = 256


def _blend(plain: Tensor, picture: Tensor, magnitude: float, sign: float) -> Tensor:
    """From the plain picture (factor 0) to the given one (factor 1) and beyond."""
    return plain + (1 + sign * MOST * magnitude) * (picture - plain)


def _gray(picture: Tensor) -> Tensor:
    """Luma of ITU-R 601, `(1, H, W)`."""
    if picture.shape[0] == 1:
        return picture
    luma: Tensor = (picture * picture.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    return luma


def _color(picture: Tensor, magnitude: float, sign: float) -> Tensor:
    return _blend(_gray(picture).expand_as(picture), picture, magnitude, sign)


def _contrast(picture: Tensor, magnitude: float, sign: float) -> Tensor:
    return _blend(_gray(picture).mean().expand_as(picture), picture, magnitude, sign)


def _brightness(picture: Tensor, magnitude: float, sign: float) -> Tensor:
    return _blend(torch.zeros_like(picture), picture, magnitude, sign)


def _sharpness(picture: Tensor, magnitude: float, sign: float) -> Tensor:
    smooth = picture.clone()
    if min(picture.shape[1:]) >= 3:  # the border stays
        kernel = picture.new_ones(1, 1, 3, 3)
        kernel[0, 0, 1, 1] = 5
        smooth[:, 1:-1, 1:-1] = F.conv2d(picture[:, None], kernel / kernel.sum())[:, 0]
    return _blend(smooth, picture, magnitude, sign)


def _invert(picture: Tensor, magnitude: float, sign: float) -> Tensor:
    return 1 - picture


def _solarize(picture: Tensor, magnitude: float, sign: float) -> Tensor:
    """Invert what is as bright as the threshold, which falls from beyond white to black."""
    return torch.where(picture >= (1 - magnitude) * LEVELS / (LEVELS - 1), 1 - picture, picture)


def _posterize(picture: Tensor, magnitude: float, sign: float) -> Tensor:
    """Keep the 8 to 4 upper bits."""
    step = float(2 ** round(4 * magnitude))
    return (picture * (LEVELS - 1)).round().div(step, rounding_mode="floor") * step / (LEVELS - 1)


def _autocontrast(picture: Tensor, magnitude: float, sign: float) -> Tensor:
    """Stretch each channel over the whole range; one of a single value stays."""
    low, high = picture.amin((1, 2), keepdim=True), picture.amax((1, 2), keepdim=True)
    return torch.where(high > low, (picture - low) / (high - low).clamp_min(1e-12), picture)


def _equalize(picture: Tensor, magnitude: float, sign: float) -> Tensor:
    """Give each channel as even a histogram of 256 levels as a monotone map can."""
    levels = (picture * (LEVELS - 1)).round().long().clamp(0, LEVELS - 1)
    channels = []
    for channel, level in zip(picture, levels, strict=True):
        below = torch.bincount(level.flatten(), minlength=LEVELS).cumsum(0) - 1
        first = below[level.min()]
        span = below[-1] - first
        flat = ((below - first).clamp_min(0).to(picture.dtype) / span.clamp_min(1))[level]
        channels.append(flat if int(span) > 0 else channel)
    return torch.stack(channels)


def _moved(picture: Tensor, matrix: list[list[float]], fill: float) -> Tensor:
    """Look every pixel up where the affine matrix sends it, in shares of half the side; beyond the border: fill."""
    grid = F.affine_grid(picture.new_tensor(matrix)[None], [1, *picture.shape], align_corners=False)
    moved: Tensor = F.grid_sample(picture[None] - fill, grid, mode="nearest", align_corners=False)[0] + fill
    return moved


def _rotate(picture: Tensor, magnitude: float, sign: float) -> Tensor:
    """Counterclockwise, whatever the sign, on grey."""
    angle = math.radians(DEGREES * magnitude)
    cos, sin, aspect = math.cos(angle), math.sin(angle), picture.shape[1] / picture.shape[2]
    return _moved(picture, [[cos, -sin * aspect, 0], [sin / aspect, cos, 0]], 0.5)


def _shear_y(picture: Tensor, magnitude: float, sign: float) -> Tensor:
    """About the center, on black."""
    aspect = picture.shape[1] / picture.shape[2]
    return _moved(picture, [[1, 0, 0], [sign * SHEAR * magnitude / aspect, 1, 0]], 0.0)


TRANSFORMATIONS: Mapping[str, Transformation] = MappingProxyType(
    {
        "color": _color,
        "contrast": _contrast,
        "brightness": _brightness,
        "sharpness": _sharpness,
        "invert": _invert,
        "solarize": _solarize,
        "posterize": _posterize,
        "autocontrast": _autocontrast,
        "equalize": _equalize,
        "rotate": _rotate,
        "shear_y": _shear_y,
        "translate_x": lambda picture, size, sign: _moved(picture, [[1, 0, 2 * sign * SHIFT * size], [0, 1, 0]], 0.0),
        "translate_y": lambda picture, size, sign: _moved(picture, [[1, 0, 0], [0, 1, 2 * sign * SHIFT * size]], 0.0),
    }
)
