"""Property inference: does a batch of 8 hold sandals, told by its update alone; parity of class is the task."""

from __future__ import annotations

import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedseal as fs
from benchmarks.measure import share
from fedseal.attack.inference.property import PropertyInference

CLIENTS, BATCH, UPDATES, STATES = 100, 8, 600, 3


def run(scale: float = 1.0) -> dict[str, object]:
    """The attacker's, the clients' and the model's pictures are three; every other client holds sandals."""
    results: dict[str, object] = {"chance": "accuracy .5, AUC .5"}
    for trained in (False, True):
        for number in (1, 2, 4):
            name = f"{'trained' if trained else 'untrained'} perceptron, {number} of {BATCH} are sandals"
            results |= _figures(name, number, trained, scale)
    return results | _figures("control: shirts called sandals on both sides", 4, False, scale, control=True)


def _figures(name: str, number: int, trained: bool, scale: float, *, control: bool = False) -> dict[str, object]:
    hits, trials, areas, own, seconds = 0, 0, [], [], []
    for seed in range(max(1, round(STATES * scale))):
        probabilities, truth, accuracy, took = _clients(seed, number, trained, max(20, round(CLIENTS * scale)), control)
        hits += int(((probabilities > 0.5) == truth).sum())
        trials += len(truth)
        areas.append(_area(probabilities, truth))
        own.append(accuracy)
        seconds.append(took)
    return {
        f"{name}: right on clients": share(hits, trials),
        f"{name}: AUC, mean of {len(areas)} states; accuracy that the attacker expects; seconds to train": (
            f"{statistics.mean(areas):.3f}; {statistics.mean(own):.2f}; {statistics.mean(seconds):.1f}"
        ),
    }


def _clients(seed: int, number: int, trained: bool, count: int, control: bool) -> tuple[Tensor, Tensor, float, float]:
    """Probabilities and the truth for clients of one state of the model; the classifier is trained once."""
    data, generator = fs.zoo.fashion_mnist(), torch.Generator().manual_seed(seed)
    wanted = (data.labels == 6) if control else (data.labels == 5)
    side = torch.arange(len(data))[torch.randperm(len(data), generator=generator)] % 3
    batch = fs.Batch(data.inputs, data.labels % 2)
    pools = [_pool(batch, (side == part) & kind) for part in (0, 1) for kind in (wanted, ~wanted)]
    if control:
        pools[0], pools[2] = pools[1], pools[3]
    model = _model(_pool(batch, side == 2), trained, seed)
    attack, detector = PropertyInference(pools[0], pools[1], number=number, updates=UPDATES), None
    probabilities, truth, took = [], torch.arange(count) % 2 == 1, 0.0
    for has in truth.tolist():
        observation = _client(model, pools[2], pools[3], number * has, generator)
        if detector is None:
            started = time.perf_counter()
            detector = attack.fit(observation, generator=torch.Generator().manual_seed(seed))
            took = time.perf_counter() - started
        probabilities.append(detector(observation).probability)
    assert detector is not None
    return torch.tensor(probabilities), truth, detector.accuracy, took


def _client(
    model: nn.Module, having: fs.Batch, lacking: fs.Batch, number: int, generator: torch.Generator
) -> fs.Observation:
    one = torch.randperm(len(having), generator=generator)[:number]
    two = torch.randperm(len(lacking), generator=generator)[: BATCH - number]
    inputs = torch.cat([having.inputs[one], lacking.inputs[two]])
    batch = fs.Batch(inputs, torch.cat([having.labels[one], lacking.labels[two]]))
    update = fs.local_update(model, batch, training=fs.LocalTraining.fedsgd())
    return fs.ThreatModel.honest_but_curious().observe(model, update, modality=fs.Image(shape=(1, 28, 28)))


def _model(public: fs.Batch, trained: bool, seed: int) -> nn.Module:
    """A perceptron for the parity of the class; trained on pictures that neither attacker nor client holds."""
    model = fs.zoo.mlp(widths=(100,), num_classes=2, seed=seed)
    if not trained:
        return model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(public.inputs), public.labels))
        optimizer.step()
    return model


def _pool(batch: fs.Batch, rows: Tensor) -> fs.Batch:
    return fs.Batch(batch.inputs[rows], batch.labels[rows])


def _area(probabilities: Tensor, truth: Tensor) -> float:
    """The area under the receiver operating characteristic."""
    one, two = probabilities[truth][:, None], probabilities[~truth][None, :]
    return float(((one > two).double() + 0.5 * (one == two)).mean())
