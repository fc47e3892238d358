"""Distances between pictures `(..., C, H, W)` with pixels in [0, 1], through torchmetrics.

Each takes guesses `(N, C, H, W)` and one truth `(C, H, W)` and gives one value a guess.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PSNR_CAP = 200.0  # dB; stands for "no error", which has no finite ratio; an error of 1e-10 a pixel
SSIM_WINDOW = 11  # pixels; the Gaussian window of the published index, at a standard deviation of 1.5
CHUNK = 2_000_000  # pixels that are compared at once, so that large galleries fit into memory


def mse(guesses: Tensor, truth: Tensor) -> list[float] | None:
    """Mean squared error a guess.

    >>> mse(torch.full((1, 3, 8, 8), 0.5), torch.zeros(3, 8, 8))
    [0.25]
    """
    return [float((guess - truth).square().mean()) for guess in guesses]


def psnr(guesses: Tensor, truth: Tensor) -> list[float] | None:
    """Peak signal-to-noise ratio a guess in dB, at a peak of 1; at most 200 dB, which also stands for no error.

    >>> [round(value, 4) for value in psnr(torch.full((1, 3, 8, 8), 0.1), torch.zeros(3, 8, 8))]
    [20.0]
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio  # late: it takes a second

    return [min(PSNR_CAP, float(peak_signal_noise_ratio(guess, truth, data_range=1.0))) for guess in guesses]


def ssim(guesses: Tensor, truth: Tensor) -> list[float] | None:
    """Structural similarity a guess, 1 for equal pictures (Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 13(4), 2004).

    Pictures narrower than the index's window of 11 pixels are compared through a smaller one of the same form; their
    values compare with each other only. Below 3 pixels there is no structure: None.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # late: it takes a second

    side = min(truth.shape[-2:])
    if side < 3:
        return None
    window = min(SSIM_WINDOW, side - 1 + side % 2)  # the largest odd number that fits
    values = []
    grey_truth = truth[:, None]  # each channel as a picture of its own: the same mean, and a much faster convolution
    for part in torch.split(guesses, max(1, CHUNK // truth.numel())):
        similarity = structural_similarity_index_measure(
            part.flatten(0, 1)[:, None],
            grey_truth.repeat(len(part), 1, 1, 1),
            sigma=1.5 * window / SSIM_WINDOW,
            data_range=1.0,
            reduction="none",
        )
        assert isinstance(similarity, Tensor)
        values += similarity.view(len(part), -1).mean(1).tolist()
    return values


Metric = Callable[[Tensor, Tensor], list[float] | None]

# name -> (function, unit, whether a higher value means a larger leak)
METRICS: dict[str, tuple[Metric, str, bool]] = {
    "psnr": (psnr, "dB", True),
    "ssim": (ssim, "", True),
    "mse": (mse, "", False),
}
