"""What the certificate costs: beside the attack that it checks, and in gradients of a model of 10 million weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import fedseal as fs
from benchmarks.measure import client
from fedseal.attack.proof.certificate import certify


def figures(scale: float = 1.0) -> dict[str, object]:
    """The two bars: a quarter of the attack's own time at LeNet size, and 20 gradients on a large model."""
    found: dict[str, object] = {}
    for specification in ("auto", "dlg"):
        shares = [_share(specification, picture) for picture in range(max(1, round(5 * scale)))]
        low, middle, high = min(shares), statistics.median(shares), max(shares)
        label = f"LeNet 32x32, {specification}: time of the certificate to the attack's own"
        found[label] = f"{100 * middle:.0f} % (of {len(shares)} pictures {100 * low:.0f} to {100 * high:.0f} %)"
    for name, model in (("ResNet-18", fs.zoo.resnet()), ("MLP 3072-2048-2048-10", _mlp())):
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        label = f"{name} ({millions:.1f} million parameters), one picture: "
        calls, seconds, gradient = _evaluations(model)
        found[f"{label}backward passes of the certificate"] = calls
        found[f"{label}its time in gradients"] = f"{seconds / gradient:.1f}"
    return found


def _share(specification: str, picture: int) -> float:
    """Seconds of one certificate by the seconds of the attack without those that it makes itself."""
    batch = fs.zoo.photos(size=32, num_classes=10)[picture : picture + 1]
    observation = client(fs.zoo.lenet(), batch)
    attack = fs.attack.parse(specification)
    started = time.perf_counter()
    found = attack(observation, generator=torch.Generator().manual_seed(picture))
    whole = time.perf_counter() - started
    check = _seconds(lambda: certify(observation, found))
    return check / max(whole - check, 1e-9)


def _evaluations(model: nn.Module) -> tuple[int, float, float]:
    """Backward passes of a certificate of the true picture, its seconds, and those of one gradient."""
    batch = fs.zoo.photos(size=32, num_classes=10)[:1]
    observation = client(model, batch)
    truth = fs.Reconstruction(batch.inputs, batch.labels, fs.Outcome("budget", "truth", None, 0, 0.0))
    training = fs.LocalTraining.fedsgd()
    gradient = _seconds(lambda: fs.local_update(model, batch, training=training))
    with counted() as calls:
        certify(observation, truth)
    return len(calls), _seconds(lambda: certify(observation, truth)), gradient


@contextmanager
def counted() -> Iterator[list[None]]:
    """Count the backward passes that run meanwhile, by a list that grows.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> with counted() as calls:
    ...     _ = torch.autograd.grad(weight.sum(), weight)
    >>> len(calls)
    1
    """
    calls: list[None] = []
    run = torch.autograd.graph._engine_run_backward

    def counting(*given: Any, **named: Any) -> Any:
        calls.append(None)
        return run(*given, **named)

    places = [torch.autograd.graph, torch.autograd]
    try:
        for place in places:
            place._engine_run_backward = counting  # type: ignore[attr-defined]
        yield calls
    finally:
        for place in places:
            place._engine_run_backward = run  # type: ignore[attr-defined]


def _seconds(run: Callable[[], object]) -> float:
    run()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _mlp() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(3072, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10)
        )
