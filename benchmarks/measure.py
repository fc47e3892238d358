"""What all sections share: one attack on one fresh client, and figures with their intervals."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

import fedseal as fs
from fedseal.intervals import exact, of_median
from fedseal.metric.match import match
from fedseal.types import Attack, Progress


class Run(NamedTuple):
    """One attack: its score against the truth, and what the attacker saw."""

    psnr: float
    label_right: bool
    seconds: float
    seconds_to_30_db: float | None
    status: str
    residual: float | None


def client(
    model: nn.Module,
    batch: fs.Batch,
    *,
    threat: fs.ThreatModel | None = None,
    training: fs.LocalTraining | None = None,
    seed: int = 0,
) -> fs.Observation:
    """What an adversary observes of one update of this batch: the honest but curious server's, of FedSGD."""
    training = training or fs.LocalTraining.fedsgd()
    update = fs.local_update(model, batch, training=training, generator=torch.Generator().manual_seed(seed))
    shape = batch.inputs.shape[1:]
    threat = threat or fs.ThreatModel.honest_but_curious()
    return threat.observe(model, update, modality=fs.Image(shape=(shape[0], shape[1], shape[2])))


def attack(observation: fs.Observation, batch: fs.Batch, method: Attack, *, seed: int = 0) -> Run:
    """Run an attack and score it; the truth serves the score and the stopwatch only, after the fact."""
    seen: list[tuple[float, float]] = []
    started = time.perf_counter()

    def watch(progress: Progress) -> None:
        if progress.inputs is not None:
            seen.append((time.perf_counter() - started, psnr(observation, progress.inputs, batch)))

    found = method(observation, generator=torch.Generator().manual_seed(seed), progress=watch)
    passed = [at for at, value in seen if value > 30]
    return Run(
        psnr=psnr(observation, found.inputs, batch) if found.inputs is not None else -math.inf,
        label_right=found.labels is not None and torch.equal(found.labels.cpu(), batch.labels),
        seconds=found.outcome.seconds,
        seconds_to_30_db=passed[0] if passed else None,
        status=found.outcome.status,
        residual=found.outcome.residual,
    )


def psnr(observation: fs.Observation, inputs: torch.Tensor, batch: fs.Batch) -> float:
    """Peak signal-to-noise ratio in dB of decoded pictures in float64, at most 200."""
    decode = observation.modality.decode
    error = (decode(inputs.double()) - decode(batch.inputs.double())).square().mean()
    return float(-10 * torch.log10(error.clamp_min(1e-20)))


def share(hits: int, trials: int) -> str:
    """Such as "98 of 100 (95 % interval 93.0 to 99.8 %)", Clopper and Pearson's exact interval."""
    low, high = exact(hits, trials)
    return f"{hits} of {trials} (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median with the 95 % interval that order statistics give for it, whatever the distribution."""
    low, high = of_median(values) or (math.nan, math.nan)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def attacked(
    model: nn.Module, batch: fs.Batch, training: fs.LocalTraining, method: Attack, seed: int
) -> fs.Reconstruction:
    """One attack on the update of one client, by an honest but curious server."""
    observation = client(model, batch, training=training, seed=seed)
    return method(observation, generator=torch.Generator().manual_seed(seed))


def picture_psnr(batch: fs.Batch, inputs: Tensor | None) -> Sequence[float]:
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
