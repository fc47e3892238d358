"""SPEAR: whole batches read off a ReLU perceptron on Fashion-MNIST, float32, labels drawn with repeats.

Each trial is another batch and another seed of the weights, PSNR that of the worst picture of the batch.
"""

from __future__ import annotations

import statistics

import torch

import fedseal as fs
from benchmarks.measure import client, psnr, share, spread
from fedseal.attack.batch.spear import Spear
from fedseal.metric.match import match

WIDTHS, BATCHES, TRIALS = (200, 400, 1000), (2, 4, 8, 16), 16
EXACT_DB = 80.0


def run(scale: float = 1.0) -> dict[str, object]:
    """Two hidden layers for every width and batch; the harder single hidden layer for the largest batch."""
    figures: dict[str, object] = {}
    for width in WIDTHS:
        for count in BATCHES:
            figures |= _cell(f"width {width}, batch {count}", (width, 100), count, scale)
    for width in WIDTHS:
        figures |= _cell(f"one hidden layer of {width}, batch 16", (width,), 16, scale / 2)
    figures |= _cell("without the weights: width 400, batch 8", (400, 100), 8, scale, fs.ThreatModel.eavesdropper())
    return figures


def _cell(
    name: str, widths: tuple[int, ...], count: int, scale: float, threat: fs.ThreatModel | None = None
) -> dict[str, object]:
    worst, seconds, labels, certified = [], [], 0, 0
    trials = max(2, round(TRIALS * scale))
    pictures = fs.zoo.fashion_mnist()
    for seed in range(trials):
        drawn = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))[:count]
        batch = fs.Batch(pictures.inputs[drawn], pictures.labels[drawn])
        observation = client(fs.zoo.mlp(widths=widths, seed=seed), batch, threat=threat)
        found = Spear()(observation, generator=torch.Generator().manual_seed(seed))
        seconds.append(found.outcome.seconds)
        certified += found.outcome.status == "exact"
        if found.inputs is None or len(found.inputs) != count:
            worst.append(float("-inf"))
            continue
        order = [place for place in match(batch.inputs, found.inputs) if place is not None]
        pairs = [(found.inputs[k : k + 1], batch[i : i + 1]) for i, k in enumerate(order)]
        worst.append(min(psnr(observation, guess, truth) for guess, truth in pairs))
        labels += found.labels is not None and torch.equal(found.labels[order], batch.labels)
    exact = sum(value > EXACT_DB for value in worst)
    text = f"{share(exact, trials)}; certified {certified}, labels right {labels}; "
    text += f"median worst picture {statistics.median(worst):.0f} dB, seconds {spread(seconds)}"
    return {f"{name}: every picture above {EXACT_DB:.0f} dB": text}
