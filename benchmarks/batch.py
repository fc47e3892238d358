"""Batches: GradInversion with BatchNorm statistics and a group, DLG in turns."""

from __future__ import annotations

import math
import statistics

import torch

import fedseal as fs
from benchmarks.measure import attacked, picture_psnr

FEW = 4
TURNS = 16  # pixels a side, so that a step takes milliseconds


def run(scale: float = 1.0) -> dict[str, object]:
    """Both settings; below full scale fewer clients and steps."""
    return {**gradinversion(scale), **in_turns(scale)}


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
            scores += picture_psnr(batch, attacked(model, batch, fs.LocalTraining.fedsgd(), attack, seed).inputs)
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
            found = attacked(model, batch, fs.LocalTraining.fedsgd(), attack, seed)
            scores += picture_psnr(batch, found.inputs)
            residuals.append(math.inf if found.outcome.residual is None else found.outcome.residual)
        where = f"DLG, batches of 2 at {TURNS}x{TURNS}, {steps} L-BFGS steps, {name}"
        figures[f"{where}: mean PSNR in dB"] = f"{statistics.mean(scores):.1f}"
        figures[f"{where}: residual, median"] = f"{statistics.median(residuals):.1e}"
    return figures
