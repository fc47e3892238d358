"""Defenses of one update against attackers who know them: DLG's LeNet, natural 32x32 pictures, batch 1.

Adaptive: `auto` of a server that knows the defense. Unaware: the same of one that does not. Pictures and weights are
other pairs than those that constants were chosen on. Recovered: at least 3 dB above the best blind guess, which is the
best of grey, the mean picture and 99 unrelated pictures.
"""

from __future__ import annotations

import statistics
from typing import NamedTuple

import torch

import fedseal as fs
from benchmarks.measure import share, spread
from fedseal.types import Attack

FIRST = 20  # pairs below were looked at
MANY, SOME, FEW = 20, 8, 4  # pairs
BARS = {"prune:0.2": 40.0, "prune:0.5": 25.0, "prune:0.7": 20.0, "float16": 25.0}  # dB, in 95 % of trials
NOISES = ("gaussian:1e-4", "gaussian:1e-3", "laplace:1e-4", "laplace:1e-3")
SWEEP = {
    "pruning": ("prune:0.2", "prune:0.5", "prune:0.7", "prune:0.9", "prune:0.99", "prune:0.999"),
    "Gaussian noise": ("gaussian:1e-4", "gaussian:1e-3", "gaussian:1e-2", "gaussian:1e-1"),
    "Laplacian noise": ("laplace:1e-4", "laplace:1e-3", "laplace:1e-2", "laplace:1e-1"),
    "precision": ("float16", "bfloat16", "int8", "sign"),
}
OTHERS = ("soteria:0.5", "clip:0.1", "random_mask:0.5", "topk:0.1")
RECOVERED = 3.0  # dB above the best blind guess


class Trial(NamedTuple):
    """One attack on one defended update: PSNR, that of the best blind guess, seconds."""

    psnr: float
    blind: float
    seconds: float

    @property
    def recovered(self) -> bool:
        """Whether the picture counts as recovered."""
        return self.psnr >= self.blind + RECOVERED


def run(scale: float = 1.0) -> dict[str, object]:
    """The bars, the sweeps, what DLG's thresholds are worth, and four further defenses."""
    many, some, few = (max(2, round(count * scale)) for count in (MANY, SOME, FEW))
    known: dict[str, list[Trial]] = {}
    figures: dict[str, object] = {}
    for name, bar in BARS.items():
        known[name] = trials(name, many)
        reached = sum(trial.psnr >= bar for trial in known[name])
        figures[f"{name}, adaptive: at {bar:g} dB or better"] = share(reached, many)
        figures[f"{name}, adaptive: PSNR in dB, median; worst"] = _values(known[name])
        figures |= _beside(name, known[name][:few], few)
    for name in NOISES:
        known[name] = trials(name, some)
        figures[f"{name}, adaptive: PSNR in dB, median; worst"] = _values(known[name])
        figures |= _beside(name, known[name], some)
    for family, names in SWEEP.items():
        for name in names:
            if name not in known:
                known[name] = trials(name, few)
                figures[f"{name}, adaptive: PSNR in dB, median; worst"] = _values(known[name])
        figures[f"{family}: mean gain over the blind guess in dB, by strength"] = ", ".join(
            f"{name} {statistics.mean(t.psnr - t.blind for t in known[name]):.1f}" for name in names
        )
        figures[f"{family}: the strongest at which any picture is recovered"] = next(
            (name for name in reversed(names) if any(trial.recovered for trial in known[name])), "none"
        )
    for name in OTHERS:
        figures[f"{name}, adaptive: PSNR in dB, median; worst"] = _values(trials(name, few))
    return figures | _thresholds(known)


def trials(name: str, count: int, *, attack: Attack | None = None, threat: fs.ThreatModel | None = None) -> list[Trial]:
    """One attack on `count` fresh pairs of picture and weights under one defense."""
    photos, defense = fs.zoo.photos(size=32), fs.defense.parse(name)
    gallery = photos.inputs[-100:]
    found: list[Trial] = []
    for index in range(FIRST, FIRST + count):
        model, batch = fs.zoo.lenet(seed=index), photos[index : index + 1]
        defended = fs.local_update(
            model,
            batch,
            training=fs.LocalTraining.fedsgd(),
            defense=defense,
            generator=torch.Generator().manual_seed(index),
        )
        observation = (threat or fs.ThreatModel.honest_but_curious()).observe(
            model, defended, modality=fs.Image(shape=(3, 32, 32)), defense=defense
        )
        read = (attack or fs.attack.auto())(observation, generator=torch.Generator().manual_seed(index))
        scored = fs.metric.score(read, batch, modality=observation.modality, gallery=gallery).samples[0].psnr
        blind = scored.best_baseline
        assert blind is not None
        assert blind.value is not None
        # an attacker who found nothing is left with a blind guess of his own: grey
        value = scored.baselines[0].value if scored.value is None else scored.value
        assert value is not None
        found.append(Trial(value, blind.value, read.outcome.seconds))
    return found


def _beside(name: str, adaptive: list[Trial], count: int) -> dict[str, object]:
    """The same pairs read by an attacker who does not know the defense, and by DLG."""
    rows: dict[str, object] = {f"{name}, adaptive: seconds": spread([trial.seconds for trial in adaptive], 1)}
    for who, others in {
        "unaware": trials(name, count, threat=fs.ThreatModel.unaware()),
        "dlg": trials(name, count, attack=fs.attack.dlg()),
    }.items():
        rows[f"{name}, {who}: PSNR in dB, median; worst"] = _values(others)
        gains = [mine.psnr - theirs.psnr for mine, theirs in zip(adaptive, others, strict=True)]
        rows[f"{name}, adaptive above {who} in dB: mean, median"] = (
            f"{statistics.mean(gains):.1f}, {spread(gains, 1)} of {count}"
        )
    return rows


def _thresholds(known: dict[str, list[Trial]]) -> dict[str, object]:
    """What DLG says defends, against an attacker who knows it."""
    claims = {
        "DLG: noise of 1e-2 defends (Gaussian)": "gaussian:1e-2",
        "DLG: noise of 1e-2 defends (Laplacian)": "laplace:1e-2",
        "DLG: noise of 1e-3 does not (Gaussian)": "gaussian:1e-3",
        "DLG: half precision does not": "float16",
        "DLG: pruning of 20 % defends": "prune:0.2",
    }
    said: dict[str, object] = {}
    for claim, name in claims.items():
        hits = sum(trial.recovered for trial in known[name])
        holds = hits > 0 if "does not" in claim else hits == 0
        said[claim] = f"{'holds' if holds else 'does not hold'}: {share(hits, len(known[name]))} recovered"
    return said


def _values(found: list[Trial]) -> str:
    values = [trial.psnr for trial in found]
    return f"{spread(values, 1)}; {min(values):.1f}; blind guess {statistics.median(t.blind for t in found):.1f}"
