"""Cocktail Party on perceptrons, float32: Fashion-MNIST and natural 32x32 photos, beside SPEAR and a blind guess.

PSNR in dB, each the mean over a batch after matching; the blind guess is the mean of all bundled pictures of the kind.
"""

from __future__ import annotations

import statistics

import torch

import fedseal as fs
from benchmarks.measure import client, psnr, spread
from fedseal.attack.batch.cocktail_party import CocktailParty
from fedseal.attack.batch.spear import Spear
from fedseal.metric.match import match

BATCHES, TRIALS = {"Fashion-MNIST": (2, 8, 16, 32), "photos": (8, 16)}, 3


def run(scale: float = 1.0) -> dict[str, object]:
    """ReLU perceptron of 1000 and 100 units for both kinds; and tanh, where SPEAR has nothing to read."""
    figures: dict[str, object] = {}
    for kind, counts in BATCHES.items():
        for count in counts:
            figures |= _cell(kind, count, "relu", scale)
    return figures | _cell("Fashion-MNIST", 8, "tanh", scale)


def _cell(kind: str, count: int, activation: str, scale: float) -> dict[str, object]:
    pictures = fs.zoo.fashion_mnist() if kind == "Fashion-MNIST" else fs.zoo.photos(size=32, num_classes=10)
    cocktail, spear, blind, seconds, shares = [], [], [], [], []
    for seed in range(max(1, round(TRIALS * scale))):
        drawn = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))[:count]
        batch = fs.Batch(pictures.inputs[drawn], pictures.labels[drawn])
        inputs = pictures.inputs[0].numel()
        model = fs.zoo.mlp(inputs=inputs, widths=(1000, 100), activation=activation, seed=seed)
        observation = client(model, batch)
        found = CocktailParty()(observation, generator=torch.Generator().manual_seed(seed))
        values = _values(observation, found.inputs, batch)
        cocktail.append(statistics.mean(values))
        shares.append(sum(value > 20 for value in values) / count)
        seconds.append(found.outcome.seconds)
        blind.append(statistics.mean(_values(observation, pictures.inputs.mean(0).expand_as(batch.inputs), batch)))
        if count <= 16:
            exact = Spear()(observation, generator=torch.Generator().manual_seed(seed))
            if exact.inputs is not None:
                spear.append(statistics.mean(_values(observation, exact.inputs, batch)))
    text = f"{spread(cocktail, 1)}, share above 20 dB {statistics.mean(shares):.2f}, seconds {spread(seconds, 1)}; "
    text += f"SPEAR {spread(spear, 1) if spear else 'not applicable' if count <= 16 else 'not run'}; "
    return {f"{kind}, {activation}, batch {count}": text + f"blind {spread(blind, 1)}"}


def _values(observation: fs.Observation, inputs: torch.Tensor | None, batch: fs.Batch) -> list[float]:
    """PSNR of every picture of the batch, matched."""
    assert inputs is not None
    order = match(batch.inputs, inputs)
    return [psnr(observation, inputs[k : k + 1], batch[i : i + 1]) for i, k in enumerate(order) if k is not None]
