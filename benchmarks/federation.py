"""Federated training with secure sums against plain FedAvg: accuracy, time and bytes of a round; engines alike."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

import fedseal as fs
from benchmarks.measure import spread
from fedseal.client import state_of
from fedseal.federation import DataOwner, Federation, ModelOwner, Trained, local_steps

OWNERS, ROUNDS, SEEDS = 10, 12, 5
PROTOCOLS = ("plain", "sharing", "masking")


def run(scale: float = 1.0) -> dict[str, object]:
    """The bundled Fashion-MNIST, 10 owners of 40 pictures, a convolutional net, 3 local epochs."""
    rounds, seeds = max(2, round(ROUNDS * scale)), max(2, round(SEEDS * scale))
    found = {protocol: [_train(protocol, seed, rounds) for seed in range(seeds)] for protocol in PROTOCOLS}
    plain = found["plain"]
    figures: dict[str, object] = {
        "plain: accuracy on 100 held-out pictures in %, median of seeds": spread([_accuracy(t) for t in plain], 1),
        "plain: seconds a round, median of rounds": spread(_seconds(plain)),
    }
    for protocol in PROTOCOLS[1:]:
        secure = found[protocol]
        points = [_accuracy(one) - _accuracy(other) for one, other in zip(secure, plain, strict=True)]
        pairs = zip(_seconds(secure), _seconds(plain), strict=True)
        last = secure[0].history[-1]
        figures |= {
            f"{protocol}: accuracy minus plain's in points, largest magnitude": f"{max(map(abs, points)):.2f}",
            f"{protocol}: largest difference of a weight after {rounds} rounds": f"{_gap(secure, plain):.1e}",
            f"{protocol}: seconds a round, median of rounds": spread(_seconds(secure)),
            f"{protocol}: seconds a round against plain, median of pairs": spread([a / b for a, b in pairs], 3),
            f"{protocol}: MB that an owner uploads a round": f"{last.uploaded / OWNERS / 1e6:.3f}",
        }
    figures["weights that differ between sharing and masking"] = _differing(found["sharing"], found["masking"])
    there = [_train(protocol, 0, 2, engine="flower") for protocol in PROTOCOLS]
    here = [_train(protocol, 0, 2) for protocol in PROTOCOLS]
    figures["weights that differ between this process and Flower's simulation"] = _differing(here, there)
    return figures


def _train(protocol: str, seed: int, rounds: int, engine: str = "local") -> Trained:
    data = fs.zoo.fashion_mnist()
    rule = local_steps(lr=0.1, epochs=3, batch_size=10)
    owners = [DataOwner.holding(data[slice(first, 400, OWNERS)], rule) for first in range(OWNERS)]
    owner = ModelOwner(fs.zoo.convnet(size=28, channels=1, width=16, seed=seed), validation=data[400:])
    return Federation(owner, owners, protocol, seed=seed).fit(rounds, evaluate_every=rounds, engine=engine)


def _accuracy(trained: Trained) -> float:
    return 100 * trained.history[-1].validation["accuracy"]


def _seconds(runs: Sequence[Trained]) -> list[float]:
    """Of every round but those that were evaluated; a run's median where machines hiccup."""
    return [statistics.median(report.seconds for report in trained.history[:-1]) for trained in runs]


def _flat(trained: Trained) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in state_of(trained.model).values()])


def _gap(one: Sequence[Trained], other: Sequence[Trained]) -> float:
    return max(float((_flat(a) - _flat(b)).abs().max()) for a, b in zip(one, other, strict=True))


def _differing(one: Sequence[Trained], other: Sequence[Trained]) -> str:
    count = sum(int((_flat(a) != _flat(b)).sum()) for a, b in zip(one, other, strict=True))
    return f"{count} of {sum(_flat(trained).numel() for trained in one)}"
