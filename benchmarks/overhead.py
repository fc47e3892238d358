"""What one step of the matching loop costs beside the bare computation, and whether its memory grows."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedseal as fs
from benchmarks.measure import client
from fedseal.attack.matching import Adam, GradientMatching
from fedseal.attack.objective import squared_distance


def run(scale: float = 1.0) -> dict[str, object]:
    """The same steps, bare and in the loop, in turn; the ratio of medians."""
    pairs = max(2, round(7 * scale))
    photo = fs.zoo.photos(size=32, num_classes=10)[:1]
    results: dict[str, object] = {}
    for name, model, steps in (
        ("ResNet-18 at 32x32", fs.zoo.resnet(), 4),
        ("convnet at 32x32", fs.zoo.convnet(), 20),
        ("LeNet at 32x32", fs.zoo.lenet(), 100),
    ):
        makers = (_loop, _bare)
        short, long = [[make(model, photo, n) for make in makers] for n in (steps, 3 * steps)]
        for go in (*short, *long):
            go()
        # the difference of a long and a short run is free of set-up and certificate, and of the first steps' warming
        times = [[(_seconds(long[k]) - _seconds(short[k])) / (2 * steps) for k in (0, 1)] for _ in range(pairs)]
        ratio = statistics.median(t[0] for t in times) / statistics.median(t[1] for t in times)
        results[f"{name}: one step of the loop to bare forward, backward and double backward"] = f"{ratio:.3f}"
        results[f"{name}: milliseconds a step, loop; bare"] = "; ".join(
            f"{1000 * statistics.median(t[k] for t in times):.2f}" for k in (0, 1)
        )
    few, many = _peak(photo, 50), _peak(photo, 1000)
    results["LeNet: growth of peak memory from 50 to 1000 steps, MB"] = f"{max(0.0, many - few):.1f}"
    return results


def _loop(model: nn.Module, batch: fs.Batch, steps: int) -> Callable[[], None]:
    observation = client(model, batch)
    attack = GradientMatching(
        "loop", labels="sign", objective=squared_distance, optimizer=Adam(signed=True), steps=steps, box=True
    )
    return lambda: (attack(observation, generator=torch.Generator().manual_seed(0)), None)[1]


def _bare(model: nn.Module, batch: fs.Batch, steps: int) -> Callable[[], None]:
    """The least that gradient matching computes."""
    parameters = list(model.parameters())
    observed = [g.detach() for g in torch.autograd.grad(F.cross_entropy(model(batch.inputs), batch.labels), parameters)]

    def go() -> None:
        inputs = torch.randn(batch.inputs.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        optimizer = torch.optim.Adam([inputs], lr=0.1)
        for _ in range(steps):
            loss = F.cross_entropy(model(inputs), batch.labels)
            grads = torch.autograd.grad(loss, parameters, create_graph=True)
            distance: Tensor = torch.stack([(g - o).square().sum() for g, o in zip(grads, observed, strict=True)]).sum()
            inputs.grad = torch.autograd.grad(distance, inputs)[0].sign()
            optimizer.step()

    return go


def _seconds(function: Callable[[], None]) -> float:
    gc.collect()
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _peak(batch: fs.Batch, steps: int) -> float:
    _loop(fs.zoo.lenet(), batch, steps)()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
