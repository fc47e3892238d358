"""The judge of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from fedseal.errors import BadConfig
from fedseal.metric.baseline import baselines
from fedseal.metric.identify import GALLERY, identify
from fedseal.metric.image import METRICS
from fedseal.metric.match import match
from fedseal.metric.scores import Baseline, Identification, Score
from fedseal.types import Modality


class PictureJudge:
    """Compares pictures `(C, H, W)` in [0, 1], decoded by the modality, in float64.

    Args:
        gallery: unrelated pictures `(G, C, H, W)` in [0, 1]. All serve the baselines, the first 99 identification.

    Raises:
        BadConfig: the gallery is not of the modality's shape, or empty.
    """

    def __init__(self, modality: Modality, gallery: Tensor | None) -> None:
        shape = tuple(modality.shape)
        if gallery is not None and (tuple(gallery.shape[1:]) != shape or len(gallery) == 0):
            raise BadConfig(f"the gallery has shape {tuple(gallery.shape)}", f"give (G, {', '.join(map(str, shape))})")
        self._modality, self._gallery = modality, gallery
        self.shape = shape

    def read(self, inputs: Tensor) -> tuple[list[int], Sequence[Tensor]]:
        """The finite examples, decoded, and their places."""
        finite = torch.isfinite(inputs).flatten(1).all(1)
        return finite.nonzero().flatten().tolist(), list(self._modality.decode(inputs[finite].detach().cpu().double()))

    def match(self, truths: Sequence[Tensor], guesses: Sequence[Tensor]) -> tuple[int | None, ...]:
        """Pairs of least squared error."""
        shape = tuple(self._modality.shape)
        return match(torch.stack(list(truths)), torch.stack(list(guesses)) if guesses else torch.empty(0, *shape))

    def blind(self, truth: Tensor) -> Mapping[str, tuple[Baseline, ...]]:
        """What blind guesses score."""
        return {name: baselines(name, truth, self._unrelated) for name in METRICS}

    def scores(
        self, truth: Tensor, guess: Tensor | None, blind: Mapping[str, tuple[Baseline, ...]]
    ) -> tuple[Score, ...]:
        """PSNR first, SSIM, and mean squared error."""
        scores = []
        for name, (function, unit, higher) in METRICS.items():
            values = None if guess is None else function(guess[None], truth)
            scores.append(Score(name, unit, None if values is None else values[0], higher, blind[name]))
        return tuple(scores)

    def identify(self, truth: Tensor, guess: Tensor) -> Identification | None:
        """Among the gallery's first 99; None without a gallery."""
        return None if self._unrelated is None else identify(guess, truth, self._unrelated[: GALLERY - 1])

    @cached_property
    def _unrelated(self) -> Tensor | None:
        return None if self._gallery is None else self._gallery.detach().cpu().double()
