"""Federated training with secure sums against plain FedAvg: accuracy, time and bytes of a round; engines alike."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

import fedseal as fs
from benchmarks.before import BEFORE, both, ratio, said
from benchmarks.measure import spread
from fedseal.client import state_of
from fedseal.federation import DataOwner, Federation, ModelOwner, Trained, local_steps

OWNERS = 10
PROTOCOLS = ("plain", "sharing", "masking")
SHORT = 14  # turns of the comparison with an earlier commit
SINCE = """
import time

from benchmarks import federation

train = vars(federation).get("trained_with") or federation._train
setting = federation.SETTINGS[0]._replace(rounds={rounds})


def measure(turn):
    found = {{}}
    for name in federation.PROTOCOLS:
        began = time.process_time()
        trained = train(name, setting, turn + 1)
        found[name + ", processor"] = (time.process_time() - began) / {rounds}
        found[name] = federation._seconds([trained])[0]
    return found
"""
WHOLE = "1000"  # more than an owner has: orders are drawn from its own key, which only it knows
TYPED = ("--owners", "3", "--rounds", "3", "--epochs", "1", "--batch-size", WHOLE)


class Setting(NamedTuple):
    """A model, how long its owners train in a round, and how often all is run."""

    name: str
    model: Callable[[int], nn.Module]
    epochs: int
    rounds: int
    seeds: int


def _perceptron(seed: int) -> nn.Module:
    return fs.zoo.mlp(widths=(200,), seed=seed)


def _net(seed: int) -> nn.Module:
    return fs.zoo.convnet(size=28, channels=1, width=16, seed=seed)


SETTINGS = (
    Setting("perceptron, 5 epochs", _perceptron, 5, 12, 5),
    Setting("conv net, 3 epochs", _net, 3, 8, 3),
    Setting("conv net, 10 epochs", _net, 10, 5, 2),
)


def run(scale: float = 1.0) -> dict[str, object]:
    """The bundled Fashion-MNIST, 10 owners of 40 pictures each; real owners have more to train on between two sums."""
    figures: dict[str, object] = {}
    for setting in SETTINGS:
        rounds, seeds = max(2, round(setting.rounds * scale)), max(2, round(setting.seeds * scale))
        figures |= _measured(setting._replace(rounds=rounds, seeds=seeds))
    short = SETTINGS[0]._replace(rounds=2)
    there = [trained_with(protocol, short, 0, engine="flower") for protocol in PROTOCOLS]
    here = [trained_with(protocol, short, 0) for protocol in PROTOCOLS]
    figures["weights that differ between this process and Flower's simulation"] = _differing(here, there)
    return figures | since(scale) | deployment()


def since(scale: float) -> dict[str, object]:
    """Short rounds now and at an earlier commit, turn by turn."""
    rounds, turns = max(3, round(SETTINGS[0].rounds * scale)), max(3, round(SHORT * scale))
    with tempfile.TemporaryDirectory() as folder:
        now, then = both(SINCE.format(rounds=rounds), turns, Path(folder))
    figures: dict[str, object] = {
        f"{SETTINGS[0].name}, {name}: seconds a round now; at {BEFORE}; ratio": said(now[name], then[name], 3)
        for name in now
    }
    for name in PROTOCOLS[1:]:
        figures[f"{SETTINGS[0].name}, {name}: a round against plain's in the same turns, now; at {BEFORE}"] = (
            f"{ratio(now, name, 'plain'):.3f}; {ratio(then, name, 'plain'):.3f} of the wall, "
            f"{ratio(now, f'{name}, processor', 'plain, processor'):.3f}; "
            f"{ratio(then, f'{name}, processor', 'plain, processor'):.3f} of the processor, set-up included"
        )
    return figures


def _measured(setting: Setting) -> dict[str, object]:
    """Protocols in turn, seed by seed, so that a busy machine is busy for all of them."""
    found: dict[str, list[Trained]] = {protocol: [] for protocol in PROTOCOLS}
    for seed in range(setting.seeds):
        for protocol in PROTOCOLS:
            found[protocol].append(trained_with(protocol, setting, seed))
    plain, name = found["plain"], setting.name
    figures: dict[str, object] = {
        f"{name}, plain: accuracy on 100 held-out pictures in % after {setting.rounds} rounds, median of seeds": spread(
            [_accuracy(t) for t in plain], 1
        ),
        f"{name}, plain: seconds a round, median of rounds": spread(_seconds(plain)),
    }
    for protocol in PROTOCOLS[1:]:
        secure = found[protocol]
        points = [_accuracy(one) - _accuracy(other) for one, other in zip(secure, plain, strict=True)]
        pairs = zip(_seconds(secure), _seconds(plain), strict=True)
        last = secure[0].history[-1]
        figures |= {
            f"{name}, {protocol}: accuracy minus plain's in points, largest magnitude": f"{max(map(abs, points)):.2f}",
            f"{name}, {protocol}: largest difference of a weight": f"{_gap(secure, plain):.1e}",
            f"{name}, {protocol}: seconds a round against plain, median of pairs": spread([a / b for a, b in pairs], 3),
            f"{name}, {protocol}: MB that an owner uploads a round": f"{last.uploaded / OWNERS / 1e6:.3f}",
        }
    differing = _differing(found["sharing"], found["masking"])
    return figures | {f"{name}: weights that differ between sharing and masking": differing}


def deployment() -> dict[str, object]:
    """Real processes on loopback: 3 owners, 3 aggregators, TLS and node keys, 3 rounds of `sharing`, one command."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        there = _command(Path(folder), "--deploy", "all", "--loopback", "--save", "there.st")
        seconds = time.perf_counter() - began
        _command(Path(folder), "--save", "here.st")
        one, other = (load_file(Path(folder) / name) for name in ("there.st", "here.st"))
    rounds = [report["seconds"] for report in there["rounds"]]
    differing = sum(int((one[name] != other[name]).sum()) for name in one)
    return {
        "deployment of 3 owners and 3 aggregators: seconds from the command to the model, 3 rounds": f"{seconds:.1f}",
        "deployment: seconds a round": ", ".join(f"{value:.1f}" for value in rounds),
        "deployment: weights that differ from this process's": f"{differing} of {sum(t.numel() for t in one.values())}",
    }


def _command(folder: Path, *options: str) -> dict[str, list[dict[str, float]]]:
    code = "import fedseal.cli; fedseal.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", *TYPED, *options, "--json"], cwd=folder, capture_output=True, check=True
    )
    found: dict[str, list[dict[str, float]]] = json.loads(done.stdout)
    return found


def trained_with(protocol: str, setting: Setting, seed: int, engine: str = "local") -> Trained:
    """One training of a setting."""
    data = fs.zoo.fashion_mnist()
    rule = local_steps(lr=0.1, epochs=setting.epochs, batch_size=10)
    owners = [DataOwner.holding(data[slice(first, 400, OWNERS)], rule) for first in range(OWNERS)]
    owner = ModelOwner(setting.model(seed), validation=data[400:])
    rounds = setting.rounds
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
