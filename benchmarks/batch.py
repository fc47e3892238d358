"""Batches and local training: FedAvg in the shape of FEMNIST, 1 and 16 local epochs, GradInversion, DLG in turns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import fedseal as fs
from benchmarks.measure import share, spread
from fedseal.metric.match import match
from fedseal.types import Attack

CLIENTS, FEW = 3, 2
FRESH = 2  # seeds below served to choose learning rates and weights
PICTURES, CLASSES = 50, 62


def run(scale: float = 1.0) -> dict[str, object]:
    """All four settings; below full scale fewer clients and steps."""
    return {**femnist(scale), **epochs(scale), **gradinversion(scale), **in_turns(scale)}


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
    """10 epochs of 10 shuffled batches of 5 pictures, learning rate .004; labels inferred."""
    training = fs.LocalTraining.fedavg(lr=0.004, epochs=10, batch_size=5, shuffle=True)
    steps, clients = max(3, round(200 * scale)), max(1, round(CLIENTS * scale))
    attacks = {
        "coarse": (fs.attack.coarse(steps=steps, labels="dimitrov"), clients),
        "sme": (fs.attack.sme(steps=2 * steps, labels="dimitrov"), clients),
        "mean gradient (geng)": (fs.attack.geng(steps=2 * steps, labels="dimitrov"), clients),
        "dimitrov": (fs.attack.dimitrov(steps=steps // 2, labels="dimitrov"), 1),
    }
    figures: dict[str, object] = {}
    for name, (attack, count) in attacks.items():
        scores: list[float] = []
        seconds: list[float] = []
        for seed in range(FRESH, FRESH + count):
            batch = clothes(seed, PICTURES)
            found = _attacked(cnn(seed), batch, training, attack, seed)
            scores += _psnr(batch, found.inputs)
            seconds.append(found.outcome.seconds)
        where = f"FEMNIST's shape, {count} clients of {PICTURES} pictures, {name}"
        figures[f"{where}: above 20 dB"] = share(sum(value > 20 for value in scores), len(scores))
        figures[f"{where}: mean PSNR in dB"] = f"{statistics.mean(scores):.1f}"
        figures[f"{where}: seconds a client"] = f"{statistics.median(seconds):.0f}"
    return figures


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
                scores += _psnr(batch, _attacked(cnn(seed), batch, training, attack, seed).inputs)
            figures[f"{local} local epochs on one batch of 8, {name}: PSNR in dB, median"] = spread(scores, 1)
    return figures


def gradinversion(scale: float) -> dict[str, object]:
    """Four photos of different labels, a ResNet with BatchNorm in train mode; the batch's statistics, a group."""
    figures: dict[str, object] = {}
    steps = max(3, round(200 * scale))
    for name, options in {
        "without statistics": "seeds=1,bn=0",
        "statistics of the weights": "seeds=1,statistics=public",
        "statistics that the client sent": "seeds=1,statistics=sent",
        "sent, a group of 3": "seeds=3,statistics=sent",
    }.items():
        attack = fs.attack.parse(f"gradinversion:steps={steps},labels=gradinversion,{options}")
        scores: list[float] = []
        for seed in range(max(1, round(FEW * scale))):
            generator = torch.Generator().manual_seed(seed)
            labels = torch.randperm(10, generator=generator)[:4]
            batch = fs.Batch(fs.zoo.photos(size=32).inputs[4 * seed : 4 * seed + 4], labels)
            model = fs.zoo.resnet(width=8, blocks=(1, 1), seed=seed)
            scores += _psnr(batch, _attacked(model, batch, fs.LocalTraining.fedsgd(), attack, seed).inputs)
        figures[f"GradInversion, 4 photos of 32x32, {name}: mean PSNR in dB"] = f"{statistics.mean(scores):.1f}"
    return figures


def in_turns(scale: float) -> dict[str, object]:
    """Batches of 2 photos, sigmoid LeNet, soft labels searched: all examples at once, and one at a time."""
    figures: dict[str, object] = {}
    steps = max(3, round(300 * scale))
    for name, attack in {
        "all at once": fs.attack.dlg(steps=steps),
        "one at a time": fs.attack.dlg_batch(steps=steps),
    }.items():
        scores: list[float] = []
        residuals: list[float] = []
        for seed in range(max(1, round(FEW * scale))):
            batch = fs.zoo.photos(size=TURNS)[2 * seed : 2 * seed + 2]
            model = fs.zoo.lenet(size=TURNS, seed=seed)
            found = _attacked(model, batch, fs.LocalTraining.fedsgd(), attack, seed)
            scores += _psnr(batch, found.inputs)
            residuals.append(math.inf if found.outcome.residual is None else found.outcome.residual)
        where = f"DLG, batches of 2 at {TURNS}x{TURNS}, {steps} L-BFGS steps, {name}"
        figures[f"{where}: mean PSNR in dB"] = f"{statistics.mean(scores):.1f}"
        figures[f"{where}: residual, median"] = f"{statistics.median(residuals):.1e}"
    return figures


TURNS = 16  # pixels a side, so that a step takes milliseconds


def _attacked(
    model: nn.Module, batch: fs.Batch, training: fs.LocalTraining, attack: Attack, seed: int
) -> fs.Reconstruction:
    channels, height, width = batch.inputs.shape[1:]
    update = fs.local_update(model, batch, training=training, generator=torch.Generator().manual_seed(seed))
    threat = fs.ThreatModel.honest_but_curious()
    observation = threat.observe(model, update, modality=fs.Image(shape=(channels, height, width)))
    return attack(observation, generator=torch.Generator().manual_seed(seed))


def _psnr(batch: fs.Batch, inputs: Tensor | None) -> Sequence[float]:
    """Of every picture in dB, matched; 0 where there is none."""
    if inputs is None:
        return [0.0] * len(batch)
    pairs = match(batch.inputs, inputs)
    values = []
    for truth, place in zip(batch.inputs, pairs, strict=True):
        assert place is not None
        error = (inputs[place].clamp(0, 1) - truth).square().mean().item()
        values.append(-10 * math.log10(max(error, 1e-20)))
    return values
