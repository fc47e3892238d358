"""Local training: published attacks on FedAvg in the shape of FEMNIST (ours are the section `femnist`), and one batch
trained on for 1 and for 16 epochs; labels inferred.
"""

from __future__ import annotations

import statistics

import torch
from torch import nn

import fedseal as fs
from benchmarks.measure import attacked, picture_psnr, share, spread
from fedseal.types import Attack

CLIENTS, FEW = 3, 2
FRESH = 2  # seeds below served to choose learning rates and weights
PICTURES, CLASSES = 50, 62


def run(scale: float = 1.0) -> dict[str, object]:
    """Both settings; below full scale fewer clients and steps."""
    return {**femnist(scale), **epochs(scale)}


def cnn(seed: int, *, width: int = 8, features: int = 1024) -> nn.Module:
    """LEAF's net for FEMNIST at a quarter of its width and half of its features, with mean pooling.

    Weights as LeCun draws them and biases of zero: the defaults of the framework of the published attack.
    """
    model = nn.Sequential(
        *(nn.Conv2d(1, width, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(2 * width * 49, features), nn.ReLU(), nn.Linear(features, CLASSES)),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.zero_()
    return model


def clothes(seed: int, count: int) -> fs.Batch:
    """Fashion-MNIST pictures under 62 pseudo-random labels, FEMNIST's number; to untrained nets it is all one."""
    data, generator = fs.zoo.fashion_mnist(), torch.Generator().manual_seed(100 + seed)
    chosen = torch.randperm(len(data), generator=generator)[:count]
    return fs.Batch(data.inputs[chosen], torch.randint(CLASSES, (count,), generator=generator))


def femnist(scale: float) -> dict[str, object]:
    """The published attacks, each given as much time as helps it."""
    steps, clients = max(8, round(400 * scale)), max(1, round(CLIENTS * scale))
    return {
        **on_clients("sme", fs.attack.sme(steps=steps, labels="dimitrov"), clients),
        **on_clients("mean gradient (geng)", fs.attack.geng(steps=steps, labels="dimitrov"), clients),
        **on_clients("dimitrov", fs.attack.dimitrov(steps=steps // 4, labels="dimitrov"), 1),  # of 100 local steps each
    }


def on_clients(name: str, attack: Attack, clients: int) -> dict[str, object]:
    """One attack on clients of 10 epochs of 10 shuffled batches of 5 pictures, learning rate .004; labels inferred."""
    training = fs.LocalTraining.fedavg(lr=0.004, epochs=10, batch_size=5, shuffle=True)
    scores: list[float] = []
    seconds: list[float] = []
    for seed in range(FRESH, FRESH + clients):
        batch = clothes(seed, PICTURES)
        found = attacked(cnn(seed), batch, training, attack, seed)
        scores += picture_psnr(batch, found.inputs)
        seconds.append(found.outcome.seconds)
    where = f"FEMNIST's shape, {clients} clients of {PICTURES} pictures, {name}"
    return {
        f"{where}: above 20 dB": share(sum(value > 20 for value in scores), len(scores)),
        f"{where}: mean PSNR in dB": f"{statistics.mean(scores):.1f}",
        f"{where}: seconds a client": f"{statistics.median(seconds):.0f}",
    }


def epochs(scale: float) -> dict[str, object]:
    """One batch of 8, trained on whole, for 1 and for 16 epochs."""
    figures: dict[str, object] = {}
    steps, clients = max(3, round(200 * scale)), max(1, round(FEW * scale))
    for local in (1, 16):
        training = fs.LocalTraining.fedavg(lr=0.01, epochs=local)
        for name, attack in {
            "simulation (coarse with every step)": fs.attack.coarse(steps=steps, local=local),
            "sme": fs.attack.sme(steps=steps),
            "mean gradient (geng)": fs.attack.geng(steps=steps),
        }.items():
            scores: list[float] = []
            for seed in range(clients):
                batch = clothes(seed, 8)
                scores += picture_psnr(batch, attacked(cnn(seed), batch, training, attack, seed).inputs)
            figures[f"{local} local epochs on one batch of 8, {name}: PSNR in dB, median"] = spread(scores, 1)
    return figures
