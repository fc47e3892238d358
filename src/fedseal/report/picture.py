"""Pictures as text: PNG data for pages that load nothing, within a fixed budget of bytes."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

STILLS_BUDGET = 1_300_000  # characters of base64 for all originals and reconstructions, if they hold only noise
FRAMES_BUDGET = 3_000_000  # the same for all iterations
FEWEST_FRAMES = 8
PANELS = (8, 4, 2, 1)  # examples of one cell that are shown: the first of these numbers that the stills' budget affords
TWICE = 4  # examples that are shown a second time at the top


class Numbers(Protocol):
    """An array of NumPy or a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """How many numbers along each axis."""

    def __getitem__(self, index: int) -> Any:
        """The part at a place of the first axis."""


class ReportPictures(Protocol):
    """What `audit.store` gives: `(N, C, H, W)`, and frames `(F, N, C, H, W)`, in [0, 1] and in the truth's order."""

    @property
    def truth(self) -> Numbers:
        """The private examples."""

    @property
    def reconstruction(self) -> Numbers | None:
        """What the attack read out; None if nothing."""

    @property
    def frames(self) -> Numbers | None:
        """The iterations; None if there are none."""


@dataclass(frozen=True)
class Budget:
    """How much of the pictures fits a page.

    Args:
        still_side: longest side in pixels of originals and reconstructions.
        frame_side: longest side in pixels of iterations.
        frames: iterations kept of a cell.
        panels: for each cell how many of its examples are shown.
        illustrated: for each cell whether they are shown with pictures.
        animated: for each cell whether its iterations are kept at all.
    """

    still_side: int
    frame_side: int
    frames: int
    panels: tuple[int, ...]
    illustrated: tuple[bool, ...]
    animated: tuple[bool, ...]


def budget(shapes: Sequence[tuple[int, int, int]], side: int = 256) -> Budget:
    """What a page affords: smaller pictures, fewer iterations of each cell, and for the later cells none of them.

    Args:
        shapes: for each cell, the leakiest first: examples, channels, and stored iterations.
        side: longest side of the pictures as they are stored.

    >>> budget([(1, 3, 24)] * 4).frames, budget([(1, 3, 24)] * 40).frames
    (24, 19)
    >>> large = budget([(64, 3, 24)] * 400)
    >>> large.panels[0], large.panels[-1], sum(large.illustrated), large.frames, sum(large.animated)
    (1, 1, 35, 19, 35)
    """
    channels = max((c for _, c, _ in shapes), default=0)
    for most in PANELS:
        panels = tuple(min(n, most) for n, _, _ in shapes)
        pictures = 2 * (sum(panels) + TWICE)
        still_side = max(64, min(256, int(math.sqrt(STILLS_BUDGET / max(pictures * channels * 4 / 3, 1)))))
        one = _characters(min(still_side, side), channels)
        if pictures * one <= STILLS_BUDGET:
            break
    illustrated = tuple(2 * (shown + TWICE) * one <= STILLS_BUDGET for shown in accumulate(panels))
    moving = [(n, c, f if shown else 0) for n, (_, c, f), shown in zip(panels, shapes, illustrated, strict=True)]
    frame_side, frames, animated = _iterations(moving)
    return Budget(still_side, frame_side, frames, panels, illustrated, animated)


def _iterations(shapes: Sequence[tuple[int, int, int]]) -> tuple[int, int, tuple[bool, ...]]:
    """Longest side of iterations, how many are kept of a cell, and of which cells."""
    most = max((frames for _, _, frames in shapes), default=0)
    one = sum(n * _characters(32, channels) for n, channels, frames in shapes if frames)
    kept = min(most, max(FRAMES_BUDGET // one, FEWEST_FRAMES)) if one else 0
    spent, animated = 0, []
    for n, channels, frames in shapes:
        spent += n * min(frames, kept) * _characters(32, channels)
        animated.append(frames > 1 and spent <= FRAMES_BUDGET)
    pixels = sum(n * c * min(f, kept) for (n, c, f), moves in zip(shapes, animated, strict=True) if moves)
    frame_side = int(math.sqrt(FRAMES_BUDGET / max(pixels * 4 / 3, 1)))
    return max(32, min(64, frame_side)), kept, tuple(animated)


def thinned(frames: int, keep: int) -> list[int]:
    """Indices of the frames kept, evenly spread, the first and the last among them.

    >>> thinned(10, 4), thinned(3, 8), thinned(5, 1)
    ([0, 3, 6, 9], [0, 1, 2], [])
    """
    if frames <= keep:
        return list(range(frames))
    return [round(i * (frames - 1) / (keep - 1)) for i in range(keep)] if keep > 1 else []


def png(picture: ArrayLike, side: int) -> str:
    """A picture `(C, H, W)` in [0, 1] as base64 PNG, reduced to at most `side` pixels; entries not finite are black.

    >>> png(np.zeros((3, 4, 4)), 64)[:16]
    'iVBORw0KGgoAAAAN'
    """
    values = np.nan_to_num(np.asarray(picture, dtype=np.float32), nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    pixels = np.rint(values * np.float32(255)).astype(np.uint8)
    array = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    image = Image.fromarray(array)
    if max(image.size) > side:
        scale = side / max(image.size)
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX
        )
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=9)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _characters(side: int, channels: int) -> int:
    """Upper bound of the base64 of a square PNG of pure noise."""
    return math.ceil((side * (side * channels + 1) + 120) * 4 / 3)
