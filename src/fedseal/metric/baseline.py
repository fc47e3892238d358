"""What somebody scores on the same truth who never saw the update."""

from __future__ import annotations

import torch
from torch import Tensor

from fedseal.metric.image import METRICS
from fedseal.metric.scores import Baseline


def baselines(metric: str, truth: Tensor, gallery: Tensor | None) -> tuple[Baseline, ...]:
    """Blind guesses, scored by the metric itself, weakest idea first.

    "grey" is 0.5 everywhere; "mean picture" is the gallery's mean; "best of G unrelated pictures" is the gallery's best
    by this very metric: a guesser with G tries and a judge who tells the best of them.

    Computed in float32: convolutions in float64 take many times as long, and blind guesses have few digits that count.

    Args:
        metric: a key of `METRICS`.
        truth: `(C, H, W)` in [0, 1].
        gallery: unrelated pictures `(G, C, H, W)` in [0, 1]; None leaves the baselines that need it without a value.

    >>> black_and_white = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    >>> [baseline.value for baseline in baselines("mse", torch.ones(1, 8, 8), black_and_white)]
    [0.25, 0.25, 0.0]
    """
    function, _, higher = METRICS[metric]
    pick = max if higher else min
    truth = truth.float()

    def best(guesses: Tensor) -> float | None:
        values = function(guesses.float(), truth)
        return None if values is None else pick(values)

    grey = Baseline("grey", best(torch.full_like(truth, 0.5)[None]))
    if gallery is None:
        return (grey, Baseline("mean picture", None), Baseline("best of unrelated pictures", None))
    mean = Baseline("mean picture", best(gallery.mean(0, keepdim=True)))
    return (grey, mean, Baseline(f"best of {len(gallery)} unrelated pictures", best(gallery)))
