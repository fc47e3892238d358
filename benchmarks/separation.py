"""Batches taken apart: repeated labels do not fuse; beside the joint cosine recipe, which is given the true labels."""

from __future__ import annotations

import statistics
from typing import NamedTuple

import torch
from torch import Tensor, nn

import fedseal as fs
from benchmarks.measure import share, spread
from fedseal.attack.batch.separate import Separation
from fedseal.metric.match import match
from fedseal.types import Attack

COUNT, CLIENTS, STEPS = 8, 6, 600  # pictures a batch, batches a setting, steps of the joint recipe


class Result(NamedTuple):
    """One attack on one batch: mean PSNR in dB, seconds, whether the labels are right, and how it ended."""

    psnr: float
    seconds: float
    labels: bool
    status: str


def run(scale: float = 1.0) -> dict[str, object]:
    """Sigmoid and ReLU nets with labels distinct, half equal and all equal; then a batch that is determined."""
    clients = max(2, round(CLIENTS * scale))
    figures: dict[str, object] = {}
    means: dict[str, float] = {}
    for name, repeated in (("labels distinct", 0), ("four labels equal", 4), ("all labels equal", COUNT)):
        figures |= _beside(f"sigmoid LeNet, batch {COUNT}, {name}", repeated, False, clients, means)
    for name, repeated in (("labels distinct", 0), ("four labels equal", 4)):
        figures |= _beside(f"ReLU conv net, batch {COUNT}, {name}", repeated, True, clients, means)
    distinct, equal = (means[f"sigmoid LeNet, batch {COUNT}, {n}"] for n in ("labels distinct", "all labels equal"))
    figures[f"sigmoid LeNet, batch {COUNT}: mean PSNR with labels distinct less that with all equal, dB"] = (
        f"{distinct - equal:.2f}"
    )
    return figures | _determined(max(2, round(4 * scale)))


def _beside(name: str, repeated: int, relu: bool, clients: int, means: dict[str, float]) -> dict[str, object]:
    ours, joint = [], []
    photos = fs.zoo.photos(size=32)
    for seed in range(clients):
        rows = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed))[:COUNT]
        labels = torch.arange(COUNT)
        labels[COUNT - repeated :] = COUNT - 1
        batch = fs.Batch(photos.inputs[rows], labels)
        model = fs.zoo.convnet(seed=seed) if relu else fs.zoo.lenet(seed=seed)
        ours.append(_attack(model, batch, Separation()))
        joint.append(_attack(model, batch, fs.attack.inverting_gradients(steps=STEPS, labels="oracle"), oracle=True))
    means[name] = statistics.mean(r.psnr for r in ours)
    return {
        f"{name}: separation, mean PSNR in dB": _of(ours),
        f"{name}: joint cosine recipe with true labels ({STEPS} steps), mean PSNR in dB": _of(joint),
        f"{name}: gain in dB": spread([a.psnr - b.psnr for a, b in zip(ours, joint, strict=True)], 1),
        f"{name}: separation's labels all right": share(sum(r.labels for r in ours), clients),
        f"{name}: seconds, separation; joint": (
            f"{spread([r.seconds for r in ours], 1)}; {spread([r.seconds for r in joint], 1)}"
        ),
    }


def _determined(clients: int) -> dict[str, object]:
    name = "leaky ReLU, width 32, 5x5, batch 2 (29696 equations for 16384 unknowns in layer 2)"
    photos, results = fs.zoo.photos(size=32), []
    for seed in range(clients):
        model = fs.zoo.lenet(activation="leaky_relu", width=32, seed=seed)
        results.append(_attack(model, photos[2 * seed : 2 * seed + 2], Separation()))
    exact = [r for r in results if r.psnr > 60 and r.labels]
    return {
        f"{name}: at 60 dB or better with the right labels": share(len(exact), clients),
        f"{name}: mean PSNR in dB": _of(results),
        f"{name}: certified exact": share(sum(r.status == "exact" for r in results), clients),
        f"{name}: seconds": spread([r.seconds for r in results], 1),
    }


def _attack(model: nn.Module, batch: fs.Batch, attack: Attack, *, oracle: bool = False) -> Result:
    update = fs.local_update(model, batch, training=fs.LocalTraining.fedsgd())
    threat = fs.ThreatModel.oracle() if oracle else fs.ThreatModel.honest_but_curious()
    observation = threat.observe(model, update, modality=fs.Image(shape=(3, 32, 32)), labels=batch.labels)
    found = attack(observation, generator=torch.Generator().manual_seed(0))
    assert found.inputs is not None
    assert found.labels is not None
    right = torch.equal(found.labels.cpu().sort().values, batch.labels.sort().values)
    return Result(_psnr(batch.inputs, found.inputs), found.outcome.seconds, right, found.outcome.status)


def _psnr(truth: Tensor, found: Tensor) -> float:
    """Mean over the matched pictures, both clipped to the valid range, as a report shows them."""
    places = match(truth, found)
    found = found.clamp(0, 1).double()
    values = []
    for index, place in enumerate(places):
        assert place is not None
        error = (truth[index].double() - found[place]).square().mean().clamp_min(1e-20)
        values.append(float(-10 * torch.log10(error)))
    return statistics.mean(values)


def _of(results: list[Result]) -> str:
    return spread([result.psnr for result in results], 1)
