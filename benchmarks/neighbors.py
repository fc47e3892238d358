"""Without a server: what a neighbor reads of an owner's picture, in a ring and by gossip."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import fedseal as fs
from benchmarks.measure import Run, attack, share, spread
from fedseal.audit.recording import adversary, at
from fedseal.federation import DataOwner, Federation, ModelOwner
from fedseal.federation.gossip import Gossip
from fedseal.federation.owners import gradient_step
from fedseal.federation.view import Entry, View
from fedseal.setup.manifest import Known

READ = 20.0  # dB of a picture that is recognized
RULE, RATE = gradient_step(1), 0.1
OWNERS, EXAMPLES = 6, 40
ROUNDS = (1, 5, 20)


def run(scale: float = 1.0) -> dict[str, object]:
    """A perceptron on Fashion-MNIST; every owner takes the gradient of one picture of its own each round."""
    figures: dict[str, object] = {}
    for protocol, name in (("ring", "plain ring"), ("masked_ring", "masked ring")):
        runs = [one for seed in range(max(1, round(4 * scale))) for one in _ring(protocol, seed)]
        figures |= _figures(f"{name} of 3, first hop", runs)
    for reach, name in ((1, "2 neighbors each"), (OWNERS // 2, "all are neighbors")):
        found: dict[int, list[Run]] = {number: [] for number in ROUNDS}
        for seed in range(max(1, round(2 * scale))):
            for number, one in _gossip(reach, seed):
                found[number].append(one)
        for number, runs in found.items():
            figures |= _figures(f"gossip of {OWNERS}, {name}, round {number}", runs)
    return figures


def _figures(what: str, runs: list[Run]) -> dict[str, object]:
    return {
        f"{what}: pictures read ({READ:g} dB or better)": share(sum(one.psnr >= READ for one in runs), len(runs)),
        f"{what}: PSNR in dB, median": spread([one.psnr for one in runs], 1),
    }


def _net(seed: int) -> nn.Module:
    return fs.zoo.mlp(widths=(64,), num_classes=10, seed=seed)


def _owners(count: int, seed: int) -> list[DataOwner]:
    data = fs.zoo.fashion_mnist()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[: count * EXAMPLES]
    parts = [fs.Batch(data.inputs[rows], data.labels[rows]) for rows in torch.split(order, EXAMPLES)]
    return [DataOwner.holding(part, RULE) for part in parts]


def _ring(protocol: str, seed: int) -> Iterator[Run]:
    model, owners = _net(seed), _owners(3, seed)
    with tempfile.TemporaryDirectory() as folder:
        Federation(ModelOwner(model, learning_rate=RATE), owners, protocol, seed=seed).fit(1, record=folder)
        view, known = View.load(folder), Known(model, tuple(owners), seed)
        for entry in view.entries:
            if entry.kind in ("part", "masked part"):
                yield _read(view, entry, known)


def _gossip(reach: int, seed: int) -> Iterator[tuple[int, Run]]:
    """By round, what every owner's next one reads."""
    model, owners = _net(seed), _owners(OWNERS, seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Gossip(ModelOwner(model, learning_rate=RATE), owners, reach=reach, seed=seed)
        whole.fit(max(ROUNDS), record=folder)
        view, known = View.load(Path(folder)), Known(model, tuple(owners), seed)
        for number in ROUNDS:
            for entry in view.of(number - 1, "mixed weights"):
                if entry.party == f"client {(int(entry.sender) + 1) % OWNERS}":
                    yield number, _read(view, entry, known)


def _read(view: View, entry: Entry, known: Known) -> Run:
    update = replace(view.update(entry), num_examples=1)
    observation = adversary(entry).observe(at(known.model, view.start(entry)), update, modality=fs.Image((1, 28, 28)))
    return attack(observation, known.truth(entry.round, int(entry.sender)), fs.attack.auto(steps=150))
