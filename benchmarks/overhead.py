"""What one step of the matching loop costs beside the bare computation, and whether its memory grows."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedseal as fs
from benchmarks.measure import client
from fedseal.attack.labels import Inferred
from fedseal.attack.labels.sign import Sign
from fedseal.attack.search.matching import Adam, GradientMatching, Search
from fedseal.attack.search.objective import squared_distance

Advance = Callable[[int], None]  # computes that many steps
STEPS = 20_000  # a search of this length looks at its objective every hundredth step


def run(scale: float = 1.0) -> dict[str, object]:
    """A few steps in the loop and as many bare, in turn, often: a clock that swings meets both alike."""
    photo = fs.zoo.photos(size=32, num_classes=10)[:1]
    results: dict[str, object] = {}
    for name, model, steps, pairs in (
        ("ResNet-18 at 32x32", fs.zoo.resnet(), 1, 40),
        ("convnet at 32x32", fs.zoo.convnet(), 2, 150),
        ("LeNet at 32x32", fs.zoo.lenet(), 10, 300),
    ):
        times = _alternate(_loop(model, photo), _bare(model, photo), steps, max(4, round(pairs * scale)))
        ratios = [loop / bare for loop, bare in times]
        low, middle, high = statistics.quantiles(ratios, n=4)
        results[f"{name}: one step of the loop to bare forward, backward and double backward"] = (
            f"{middle:.3f} (quartiles {low:.3f} to {high:.3f}, {len(ratios)} pairs)"
        )
        results[f"{name}: milliseconds a step, loop; bare"] = "; ".join(
            f"{1000 * statistics.median(t[k] for t in times) / steps:.2f}" for k in (0, 1)
        )
    few, many = _peak(photo, 50), _peak(photo, 1000)
    results["LeNet: growth of peak memory from 50 to 1000 steps, MB"] = f"{max(0.0, many - few):.1f}"
    return results


def _alternate(loop: Advance, bare: Advance, steps: int, pairs: int) -> list[tuple[float, float]]:
    """Seconds of each pair; who goes first changes from pair to pair."""
    for go in (loop, bare):
        go(3 * steps)
    times = []
    for pair in range(pairs):
        if pair % 2:
            second = _seconds(bare, steps)
            times.append((_seconds(loop, steps), second))
        else:
            times.append((_seconds(loop, steps), _seconds(bare, steps)))
    return times


def _loop(model: nn.Module, batch: fs.Batch) -> Advance:
    """The loop as attacks run it, its looks at the objective included."""
    attack = GradientMatching(
        "loop",
        labels=Inferred(Sign()),
        objective=squared_distance,
        optimizer=Adam(signed=True),
        steps=STEPS,
        box=True,
    )
    return Search(attack, client(model, batch), torch.Generator().manual_seed(0)).advance


def _bare(model: nn.Module, batch: fs.Batch) -> Advance:
    """The least that gradient matching computes."""
    parameters = list(model.parameters())
    observed = [g.detach() for g in torch.autograd.grad(F.cross_entropy(model(batch.inputs), batch.labels), parameters)]
    inputs = torch.randn(batch.inputs.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([inputs], lr=0.1)

    def go(steps: int) -> None:
        for _ in range(steps):
            loss = F.cross_entropy(model(inputs), batch.labels)
            grads = torch.autograd.grad(loss, parameters, create_graph=True)
            distance: Tensor = torch.stack([(g - o).square().sum() for g, o in zip(grads, observed, strict=True)]).sum()
            inputs.grad = torch.autograd.grad(distance, inputs)[0].sign()
            optimizer.step()

    return go


def _seconds(go: Advance, steps: int) -> float:
    started = time.perf_counter()
    go(steps)
    return time.perf_counter() - started


def _peak(batch: fs.Batch, steps: int) -> float:
    _loop(fs.zoo.lenet(), batch)(steps)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
