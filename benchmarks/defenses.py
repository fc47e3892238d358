"""Defenses of the update against attackers who know them and attackers who do not: DLG's LeNet, natural 32x32
pictures, batch 1, FedSGD. Stronger strengths, and where each of DLG's thresholds stands, are in `defenses_sweep`.

No constant of an attack was chosen on these pictures: prior weights were tried on crops of the two photographs that
scikit-learn brings along, with weight seeds from 1000 on.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap

import fedseal as fs
from benchmarks.measure import psnr, share, spread
from fedseal.attack.evidence.belief import belief
from fedseal.metric.baseline import baselines
from fedseal.types import Attack

TRIALS, COMPARED = 20, 5  # where a share of trials is the claim, and where the claim is a comparison
RIVAL_TRIALS = (3, 1)  # of attackers to compare with, where that is the claim, and elsewhere: `dlg` takes its time

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


class Trial(NamedTuple):
    """PSNR in dB of one attacker on one defended update, and its seconds."""

    psnr: float
    seconds: float


def run(scale: float = 1.0) -> dict[str, object]:
    """Every strength: the adaptive `auto`, the unaware one, `dlg`, and the blind guess on the same pictures."""
    figures: dict[str, object] = {}
    for specification, asked in CLAIMS.items():
        compared = asked is None
        trials = scaled(COMPARED if compared else TRIALS, scale)
        found = measured(specification, trials, min(trials, scaled(RIVAL_TRIALS[0 if compared else 1], scale)))
        figures |= {**found.figures, **_claim(specification, found)}
    return figures


class Measured(NamedTuple):
    """One strength: what the attackers got, blind guesses, and the figures."""

    knows: list[Trial]
    unaware: list[Trial]
    dlg: list[Trial]
    guesses: list[float]
    figures: dict[str, object]


def measured(specification: str, trials: int, rivals: int) -> Measured:
    """The adaptive attacker on so many pictures, the others on the first of them."""
    aware, blind = fs.ThreatModel.honest_but_curious(), fs.ThreatModel.unaware()
    knows = [attacked(specification, k, fs.attack.auto(), aware) for k in range(trials)]
    unaware = [attacked(specification, k, fs.attack.auto(), blind) for k in range(rivals)]
    dlg = [attacked(specification, k, fs.attack.dlg(), blind) for k in range(rivals)]
    guesses = [_blind(k) for k in range(trials)]
    figures: dict[str, object] = {
        f"{specification}: auto that knows it, PSNR in dB, median": spread([t.psnr for t in knows], 1),
        f"{specification}: auto that does not": spread([t.psnr for t in unaware], 1),
        f"{specification}: dlg": spread([t.psnr for t in dlg], 1),
        f"{specification}: blind guess": spread(guesses, 1),
        f"{specification}: seconds of auto that knows it, median": spread([t.seconds for t in knows], 1),
    }
    return Measured(knows, unaware, dlg, guesses, figures)


def attacked(specification: str, index: int, method: Attack, threat: fs.ThreatModel) -> Trial:
    """One attack on one defended update of the picture and weight seed of this number."""
    batch, model = fs.zoo.photos(size=32)[index : index + 1], fs.zoo.lenet(seed=index)
    guard, draws = fs.defense.parse(specification), torch.Generator().manual_seed(index)
    update = fs.local_update(model, batch, training=fs.LocalTraining.fedsgd(), defense=guard, generator=draws)
    observation = threat.observe(model, update, modality=fs.Image(shape=(3, 32, 32)), defense=guard)
    found = method(observation, generator=torch.Generator().manual_seed(index))
    value = 0.0 if found.inputs is None else psnr(observation, found.inputs, batch)
    return Trial(value, found.outcome.seconds)


def scaled(trials: int, scale: float) -> int:
    """Fewer trials below full scale, at least two."""
    return max(2, round(trials * scale))


def _blind(index: int) -> float:
    """The better of grey and the mean of pictures that share nothing with this one; both see no update."""
    truth = fs.zoo.photos(size=32)[index : index + 1].inputs
    gallery = fs.zoo.gallery((3, 32, 32), exclude=truth, count=100)
    values = [guess.value for guess in baselines("psnr", truth[0], gallery)[:2]]
    return max(value for value in values if value is not None)


def _claim(specification: str, found: Measured) -> dict[str, object]:
    asked, own = CLAIMS[specification], [trial.psnr for trial in found.knows]
    if asked is not None:
        return {f"{specification}: at {asked:g} dB or better": share(sum(value >= asked for value in own), len(own))}
    figures: dict[str, object] = {
        f"{specification}: dB gained over {who}, pair by pair, median": spread(
            [one - other.psnr for one, other in zip(own, others, strict=False)], 1
        )
        for who, others in (("auto that does not know it", found.unaware), ("dlg", found.dlg))
    }
    scale = float(specification.partition(":")[2])
    left = [_ceiling(k, scale) for k in range(len(found.unaware))]
    return figures | {f"{specification}: PSNR in dB that noise leaves to a reading by the spectrum": spread(left, 1)}


def _ceiling(index: int, scale: float) -> float:
    """PSNR in dB of the posterior mean under noise, linearized at the truth, the prior normal: no attack, a yardstick.

    The Fisher information of an entry is `scale ** -2` for normal noise of that deviation, and for Laplacian noise of
    that scale. Only a prior that says more than the spectrum, such as that edges are few, can lead beyond.
    """
    normal, ways = _information(index)
    precision = normal / scale**2
    precision.diagonal().add_(1.0)
    variance = (torch.linalg.solve(precision, ways) * ways).sum() / len(ways)
    return -10 * math.log10(float(variance))


@functools.cache
def _information(index: int) -> tuple[Tensor, Tensor]:
    """Squared slopes of the gradient along unit coordinates of the prior, and these as pictures; both square."""
    batch, model = fs.zoo.photos(size=32)[index : index + 1], fs.zoo.lenet(seed=index).double()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    prior, picture = belief(fs.Image(shape=(3, 32, 32))), batch.inputs.double()

    def loss(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(functional_call(model, weights, (inputs,)), batch.labels)

    def gradient(inputs: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in grad(loss)(weights, inputs).values()])

    def moved(way: Tensor) -> Tensor:
        derivative: Tensor = jvp(gradient, (picture,), (way.reshape(picture.shape),))[1]
        return derivative

    ways = torch.stack([prior.spread(unit) for unit in torch.eye(picture.numel(), dtype=torch.float64)])
    slopes = torch.cat([vmap(moved)(part) for part in torch.split(ways, 256)])
    return slopes @ slopes.T, ways
