"""Defenses of the update against attackers who know them and attackers who do not: DLG's LeNet, natural 32x32
pictures, batch 1, FedSGD; and where each of DLG's thresholds stands.

No constant of an attack was chosen on these pictures: prior weights were tried on crops of the two photographs that
scikit-learn brings along, with weight seeds from 1000 on.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch

import fedseal as fs
from benchmarks.measure import psnr, share, spread
from fedseal.metric.baseline import baselines
from fedseal.types import Attack

TRIALS = 20
SWEEP_TRIALS = 5  # of strengths that carry no claim
RIVAL_TRIALS = 6  # of attackers to compare with: `dlg` takes its time
BLIND_MARGIN = 1.0  # dB above the blind guess below which an attack shows nothing
SEEN = 20.0  # dB from which a picture of 32x32 is plain to see

CLAIMS = {  # strength -> decibels that 95 % of the adaptive trials are to reach; None: compared with other attackers
    "prune:0.2": 40.0,
    "prune:0.5": 25.0,
    "prune:0.7": 20.0,
    "float16": 25.0,
    "gaussian:0.0001": None,
    "gaussian:0.001": None,
    "laplace:0.0001": None,
    "laplace:0.001": None,
}
SWEEP = ("prune:0.9", "prune:0.99", "gaussian:0.01", "gaussian:0.1", "laplace:0.01", "laplace:0.1")
COARSE = ("bfloat16", "int8", "sign")
THRESHOLDS = {  # as Zhu, Liu and Han (NeurIPS 2019) close
    "gaussian:0.01": "Gaussian noise of 1e-2 defends",
    "laplace:0.01": "Laplacian noise of 1e-2 defends",
    "float16": "half precision does not defend",
    "prune:0.2": "pruning of 20 % and more defends",
}


class Trial(NamedTuple):
    """PSNR in dB of one attacker on one defended update, and its seconds."""

    psnr: float
    seconds: float


def run(scale: float = 1.0) -> dict[str, object]:
    """Every strength: the adaptive `auto`, the unaware one, `dlg`, and the blind guess on the same pictures."""
    figures: dict[str, object] = {}
    adaptive: dict[str, list[float]] = {}
    blind: dict[str, float] = {}
    for specification in (*CLAIMS, *SWEEP, *COARSE):
        trials = _scaled(TRIALS if specification in CLAIMS else SWEEP_TRIALS, scale)
        rivals = min(trials, _scaled(RIVAL_TRIALS if specification in CLAIMS else SWEEP_TRIALS, scale))
        aware = fs.ThreatModel.honest_but_curious()
        knows = [attacked(specification, k, fs.attack.auto(), aware) for k in range(trials)]
        unaware = [attacked(specification, k, fs.attack.auto(), fs.ThreatModel.unaware()) for k in range(rivals)]
        dlg = [attacked(specification, k, fs.attack.dlg(), fs.ThreatModel.unaware()) for k in range(rivals)]
        guesses = [_blind(k) for k in range(trials)]
        adaptive[specification] = [trial.psnr for trial in knows]
        blind[specification] = statistics.median(guesses)
        figures |= {
            f"{specification}: auto that knows it, PSNR in dB, median": spread(adaptive[specification], 1),
            f"{specification}: auto that does not": spread([t.psnr for t in unaware], 1),
            f"{specification}: dlg": spread([t.psnr for t in dlg], 1),
            f"{specification}: blind guess": spread(guesses, 1),
            f"{specification}: seconds of auto that knows it, median": spread([t.seconds for t in knows], 1),
        }
        figures |= _claim(specification, knows, unaware, dlg)
    return figures | _falls(adaptive, blind) | _verdicts(adaptive, blind)


def attacked(specification: str, index: int, method: Attack, threat: fs.ThreatModel) -> Trial:
    """One attack on one defended update of the picture and weight seed of this number."""
    batch, model = fs.zoo.photos(size=32)[index : index + 1], fs.zoo.lenet(seed=index)
    guard, draws = fs.defense.parse(specification), torch.Generator().manual_seed(index)
    update = fs.local_update(model, batch, training=fs.LocalTraining.fedsgd(), defense=guard, generator=draws)
    observation = threat.observe(model, update, modality=fs.Image(shape=(3, 32, 32)), defense=guard)
    found = method(observation, generator=torch.Generator().manual_seed(index))
    value = 0.0 if found.inputs is None else psnr(observation, found.inputs, batch)
    return Trial(value, found.outcome.seconds)


def _scaled(trials: int, scale: float) -> int:
    return max(2, round(trials * scale))


def _blind(index: int) -> float:
    """The better of grey and the mean of pictures that share nothing with this one; both see no update."""
    truth = fs.zoo.photos(size=32)[index : index + 1].inputs
    gallery = fs.zoo.gallery((3, 32, 32), exclude=truth, count=100)
    values = [guess.value for guess in baselines("psnr", truth[0], gallery)[:2]]
    return max(value for value in values if value is not None)


def _claim(
    specification: str, knows: Sequence[Trial], unaware: Sequence[Trial], dlg: Sequence[Trial]
) -> dict[str, object]:
    if specification not in CLAIMS:
        return {}
    asked = CLAIMS[specification]
    if asked is not None:
        hits = sum(trial.psnr >= asked for trial in knows)
        return {f"{specification}: at {asked:g} dB or better": share(hits, len(knows))}
    own = [trial.psnr for trial in knows]
    return {
        f"{specification}: dB gained over {who}, pair by pair, median": spread(
            [one - other.psnr for one, other in zip(own, others, strict=False)], 1
        )
        for who, others in (("auto that does not know it", unaware), ("dlg", dlg))
    }


def _falls(adaptive: dict[str, list[float]], blind: dict[str, float]) -> dict[str, object]:
    """For each kind the least strength at which the best attacker shows no more than a blind guess."""
    said: dict[str, object] = {}
    for kind in ("prune", "gaussian", "laplace"):
        rows = sorted((float(name.partition(":")[2]), name) for name in adaptive if name.startswith(f"{kind}:"))
        fallen = [s for s, name in rows if statistics.median(adaptive[name]) < blind[name] + BLIND_MARGIN]
        figure = f"{fallen[0]:g}" if fallen else f"not up to {rows[-1][0]:g}"
        said[f"{kind}: strength at which auto that knows it is within {BLIND_MARGIN:g} dB of the blind guess"] = figure
    return said


def _verdicts(adaptive: dict[str, list[float]], blind: dict[str, float]) -> dict[str, object]:
    """Each of DLG's thresholds as a sentence."""
    said: dict[str, object] = {}
    for name, claim in THRESHOLDS.items():
        values = adaptive[name]
        seen = share(sum(value >= SEEN for value in values), len(values))
        shown = statistics.median(values) >= SEEN
        holds = shown == ("does not" in claim)
        said[f"DLG's threshold: {claim}"] = (
            f"{'holds' if holds else 'does not hold'} against who knows it: {SEEN:g} dB or better in {seen}, "
            f"median {statistics.median(values):.1f} dB, blind guess {blind[name]:.1f} dB"
        )
    return said
