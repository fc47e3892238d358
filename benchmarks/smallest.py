"""The smallest inputs for which a claim was false or a leak unseen, each with what comes out now."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedseal as fs
from benchmarks.measure import psnr
from fedseal.attack.proof.certificate import certify
from fedseal.modality.tabular import Continuous, Tabular
from fedseal.types import Modality

FEDSGD = fs.LocalTraining.fedsgd()
Server, Listener = fs.ThreatModel.honest_but_curious, fs.ThreatModel.eavesdropper


def run(scale: float = 1.0) -> dict[str, object]:
    """Every row once; the seeds are fixed."""
    rows = [*_certificates(max(4, round(96 * scale))), *_leaks()]
    return dict(rows)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _made(build: Callable[[], Any], seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _seen(
    model: nn.Module,
    batch: fs.Batch,
    *,
    threat: fs.ThreatModel | None = None,
    training: fs.LocalTraining = FEDSGD,
    modality: Modality | None = None,
    told: bool = True,
) -> fs.Observation:
    update = fs.local_update(model, batch, training=training, generator=_seeded(1))
    update = update if told else replace(update, num_examples=None)
    shape = batch.inputs.shape[1:]
    known = modality or fs.Image(shape=(shape[0], shape[1], shape[2]))
    return (threat or Server()).observe(model, update, modality=known, labels=batch.labels)


def _attacked(observation: fs.Observation, specification: str = "auto") -> fs.Reconstruction:
    return certify(observation, fs.attack.parse(specification)(observation, generator=_seeded()))


def _rms(found: fs.Reconstruction, batch: fs.Batch) -> float:
    """The largest error of an example, root mean square, of the nearest reconstruction."""
    if found.inputs is None:
        return math.inf
    flat, truth = found.inputs.double().flatten(1), batch.inputs.double().flatten(1)
    return max(float((flat - one).square().mean(1).sqrt().min()) for one in truth)


def _certain(found: fs.Reconstruction) -> str:
    return f"{int(found.certain.sum())} certain ({found.outcome.status} by {found.outcome.route})"


def _perceptron(width: int = 64, act: type[nn.Module] = nn.ReLU, outputs: int = 10, inputs: int = 784) -> Any:
    return _made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), act(), nn.Linear(width, outputs)))


def _certificates(draws: int) -> Iterator[tuple[str, str]]:
    fashion, photos = fs.zoo.fashion_mnist(), fs.zoo.photos(size=32)
    eight = fs.Batch(fashion.inputs[:8], torch.tensor([0, 1] * 4))
    softmax = _made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 2)))
    for threat in (Server(), Listener()):
        for told in (True, False):
            found = _attacked(_seen(softmax, eight, threat=threat, told=told), "auto:steps=100")
            word = "told" if told else "not told"
            yield f"C1: 8 pictures, softmax regression of 2 classes, {threat.name}, number {word}", _certain(found)
    half = _perceptron(inputs=784).bfloat16()
    four = fs.Batch(fashion.inputs[:4].bfloat16(), fashion.labels[:4])
    yield "C2: bfloat16, batch of 4, two steps of dlg", _certain(_attacked(_seen(half, four), "dlg:steps=2"))
    dead = _perceptron()
    nn.init.constant_(dead[1].bias, -100.0)
    yield "C3: dead ReLU first layer", _certain(_attacked(_seen(dead, fashion[:1]), "auto:steps=100"))

    small = fs.Batch(fashion.inputs[:1, :, 10:18, 10:18], fashion.labels[:1])
    net = _made(lambda: nn.Sequential(nn.Conv2d(1, 8, 1, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(128, 10)))
    yield "C3: 1x1 convolution of stride 2, dlg", _certain(_attacked(_seen(net, small), "dlg:steps=100"))
    gray = fs.zoo.lenet(seed=3)
    with torch.no_grad():
        first = next(p for p in gray.parameters() if p.ndim == 4)
        first.copy_(first.mean(1, keepdim=True).expand_as(first).clone())
    yield "C3: colors averaged in the first layer, dlg", _certain(_attacked(_seen(gray, photos[:1]), "dlg"))
    yield "C4: labels of one example, 2 classes, no bias", _labels(draws)
    net = _made(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)))
    for number, picture in enumerate(fs.zoo.photos(size=28).inputs[:3].mean(1, keepdim=True)):
        batch = fs.Batch(picture[None], torch.tensor([3]))
        observation = _seen(net, batch)
        found = _attacked(observation)
        assert found.inputs is not None
        right = float(((found.inputs - batch.inputs).abs() < 1e-3).double().mean())
        value = f"{psnr(observation, found.inputs, batch):.1f} dB, {100 * right:.0f} % of the values right"
        yield f"C5: dropout of 0.2 before the first layer, photo {number + 1}", f"{value}; {_certain(found)}"
    observation = _seen(_perceptron(), fashion[:1])
    claim = fs.Outcome("exact", "a claim", 0.0, 0, 0.0)
    lie = certify(observation, fs.Reconstruction(torch.zeros_like(fashion.inputs[:1]), fashion.labels[:1], claim))
    yield "C6: zeros called exact with residual 0", f"{_certain(lie)}, residual {lie.outcome.residual:.2g}"


def _labels(draws: int) -> str:
    right = wrong = silent = 0
    for seed in range(draws):
        net = _made(
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Sigmoid(), nn.Linear(12, 2, bias=False)), seed
        )
        batch = fs.Batch(torch.rand(1, 1, 6, 6, generator=_seeded(seed)), torch.tensor([seed % 2]))
        found = fs.attack.labels.best(_seen(net, batch), generator=_seeded())
        same = found.labels.tolist() == batch.labels.tolist()
        right, wrong = right + (found.certified and same), wrong + (found.certified and not same)
        silent += not found.certified
    return f"of {draws}: {right} certified and right, {wrong} certified and wrong, {silent} not certified"


def _leaks() -> Iterator[tuple[str, str]]:
    fashion = fs.zoo.fashion_mnist()
    lenet, photos = fs.zoo.lenet(size=16), fs.zoo.photos(size=16)
    weights = torch.rand(100, generator=_seeded()) + 0.5
    losses: dict[str, Any] = {
        "by name": "cross_entropy",
        "function": F.cross_entropy,
        "module": nn.CrossEntropyLoss(),
        "sum": nn.CrossEntropyLoss(reduction="sum"),
        "weights": nn.CrossEntropyLoss(weight=weights),
        "smoothing": nn.CrossEntropyLoss(label_smoothing=0.1),
    }
    for name, loss in losses.items():
        values = []
        for batch in (photos[:1], photos[:4]):
            found = _attacked(_seen(lenet, batch, training=fs.LocalTraining.fedsgd(loss=loss)))
            values.append(f"{-20 * math.log10(max(_rms(found, batch), 1e-10)):.1f} dB, {_certain(found)}")
        yield f"R1: sigmoid LeNet 16x16, cross-entropy {name}: one picture; worst of 4", "; ".join(values)
    table = Tabular(columns=tuple(Continuous(f"c{n}", -8, 8) for n in range(13)))
    inputs = torch.randn(4, 13, generator=_seeded(2))
    batch = fs.Batch(inputs, torch.randn(4, 1, generator=_seeded(3)))
    net = _perceptron(100, outputs=1, inputs=13)
    found = _attacked(_seen(net, batch, training=fs.LocalTraining.fedsgd(loss=F.mse_loss), modality=table))
    yield "R2: 4 rows of 13 numbers, squared error, server", f"{_rms(found, batch):.1e} rms, {_certain(found)}"
    findings = torch.randint(2, (1, 14), generator=_seeded(4)).float()
    sigmoid = fs.zoo.lenet(size=16, num_classes=14)
    bce = fs.LocalTraining.fedsgd(loss=F.binary_cross_entropy_with_logits)
    batch = fs.Batch(photos.inputs[:1], findings)
    for name in ("auto", "dlg"):
        found = _attacked(_seen(sigmoid, batch, training=bce), name)
        same = found.labels is not None and int((found.labels.round() == findings).sum())
        yield f"R2: one photo with 14 findings, {name}", f"{_rms(found, batch):.1e} rms, {same} findings right"
    yield from _operators(fashion)
    yield from _dimensions()
    yield from _missing(fashion)
    black = fs.Batch(torch.zeros(3, 3, 16, 16), torch.tensor([1, 2, 3]))
    found = _attacked(_seen(lenet, black), "separation:steps=20")
    yield "R7: equal black pictures, separation", f"{found.outcome.status}, no exception"


def _operators(fashion: fs.Batch) -> Iterator[tuple[str, str]]:
    class Before(nn.Module):
        def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.change, self.rest = change, _perceptron()

        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = self.rest(self.change(inputs))
            return scores

    norm = _made(lambda: nn.BatchNorm2d(1)).eval()
    norm.running_mean.fill_(0.3)
    norm.running_var.fill_(0.1)
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "(x - m) / s": lambda x: (x - 0.2860) / 0.3530,
        "2x - 1": lambda x: 2 * x - 1,
    }
    for name, change in changes.items():
        for threat in (Server(), Listener()):
            found = _attacked(_seen(Before(change), fashion[:1], threat=threat))
            yield (
                f"R3: {name} before a perceptron, {threat.name}",
                f"{_rms(found, fashion[:1]):.1e} rms, {_certain(found)}",
            )
    net = nn.Sequential(norm, _perceptron())
    found = _attacked(_seen(net, fashion[:1], training=fs.LocalTraining.fedsgd(mode="eval")))
    yield (
        "R3: BatchNorm in evaluation before a perceptron, server",
        f"{_rms(found, fashion[:1]):.1e} rms, {_certain(found)}",
    )


def _dimensions() -> Iterator[tuple[str, str]]:
    signal = fs.Batch(torch.rand(1, 1, 1, 64, generator=_seeded(5)), torch.tensor([3]))

    class Lines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv1d(1, 8, 5, padding=2), nn.Linear(8 * 64, 10)

        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = self.head(self.conv(inputs[:, 0]).sigmoid().flatten(1))
            return scores

    found = _attacked(_seen(_made(Lines), signal))
    yield "R4: convolution over one side, sigmoid, 64 values", f"{_rms(found, signal):.1e} rms, {_certain(found)}"


def _missing(fashion: fs.Batch) -> Iterator[tuple[str, str]]:
    for name in ("weight", "bias"):
        net = _perceptron()
        getattr(net[1], name).requires_grad_(False)
        for recipe in ("auto:steps=100", "linear", "cocktail_party:steps=20"):
            observation = _seen(net, fashion[:1])
            found = _attacked(observation, recipe)
            error = "" if found.inputs is None else f"{_rms(found, fashion[:1]):.1e} rms, "
            yield f"R5: frozen first {name}, {recipe.split(':')[0]}", f"{error}{_certain(found)}"
