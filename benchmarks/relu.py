"""ReLU networks, batch 1: no exact route; `auto` at half the steps of `inverting_gradients`, untrained and trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import fedseal as fs
from benchmarks.measure import attack, client, share, spread

STEPS, PAIRS = 4800, 6  # steps of inverting_gradients, as published; auto takes half


def run(scale: float = 1.0) -> dict[str, object]:
    """Both attacks on the same updates."""
    photos, fashion = fs.zoo.photos(size=32, num_classes=10), fs.zoo.fashion_mnist()
    results: dict[str, object] = {}
    for name, data, trained in (
        ("untrained, photographs 32x32", photos, False),
        ("trained on Fashion-MNIST 28x28", fashion, True),
    ):
        auto, published = [], []
        for index in range(max(2, round(PAIRS * scale))):
            batch = data[index : index + 1]
            model = _trained(fashion, index) if trained else fs.zoo.convnet(seed=index)
            observation = client(model, batch)
            auto.append(attack(observation, batch, fs.attack.auto(steps=STEPS // 2)))
            published.append(attack(observation, batch, fs.attack.inverting_gradients(steps=STEPS)))
        results |= {
            f"{name}: auto ({STEPS // 2} steps), PSNR in dB, median": spread([r.psnr for r in auto], 1),
            f"{name}: inverting_gradients ({STEPS} steps), PSNR in dB, median": spread([r.psnr for r in published], 1),
            f"{name}: auto is at least as good in": share(
                sum(a.psnr >= p.psnr for a, p in zip(auto, published, strict=True)), len(auto)
            ),
            f"{name}: seconds, auto; inverting_gradients": (
                f"{spread([r.seconds for r in auto])}; {spread([r.seconds for r in published])}"
            ),
        }
    return results


def _trained(data: fs.Batch, seed: int) -> nn.Module:
    """A conv net trained for ten epochs on the pictures that are not attacked."""
    model = fs.zoo.convnet(channels=1, size=28, seed=seed)
    rest = data[100:]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(10):
        for rows in torch.randperm(len(rest), generator=generator).view(-1, 40):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(rest.inputs[rows]), rest.labels[rows])
            torch.autograd.backward(loss)
            optimizer.step()
    return model
