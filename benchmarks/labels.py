"""Label inference: every method on every setting, each given only what it needs; share of labels right.

A batch's share is the overlap of the two multisets. The 95 % interval is over batches (bootstrap); where every label is
right it is exact over labels. 300 random inputs wherever a method takes some.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedseal as fs
from benchmarks.measure import share
from fedseal.attack.labels import METHODS, LabelMethod, Labels
from fedseal.attack.labels.dimitrov import Dimitrov
from fedseal.attack.labels.geng import Geng
from fedseal.attack.labels.ilrg import ILRG
from fedseal.errors import FedsealError

Client = tuple[nn.Module, fs.Batch]
INPUTS = 300
FEW = 6  # batches
CHEAP: dict[str, LabelMethod] = {
    "geng": Geng(dummies=INPUTS),
    "geng_bias": Geng(bias=True, dummies=INPUTS, name="geng_bias"),
    "ilrg": ILRG(dummies=INPUTS),
    "dimitrov": Dimitrov(dummies=INPUTS),
}
COUNTING = ("gradinversion", "llg", "geng", "geng_bias", "ilrg", "moments", "best")
LOCAL = ("llg", "geng", "geng_bias", "ilrg", "dimitrov", "rlu", "moments", "best")
FEDSGD = fs.LocalTraining.fedsgd()
HELD_OUT = 250  # rows of Fashion-MNIST from here on belong to attacked clients only


def run(scale: float = 1.0) -> dict[str, object]:
    """All settings; the models of the trained ones are trained here, in seconds."""
    figures: dict[str, object] = {}

    def add(setting: str, clients: Iterator[Client], count: int, methods: Sequence[str], **options: object) -> None:
        taken = list(itertools.islice(clients, max(2, round(count * scale))))
        figures.update(_measured(setting, taken, methods, **options))  # type: ignore[arg-type]

    add("one example, 10 classes, untrained MLP", _perceptrons(1), 40, ("sign", "soft", "moments"))
    for classes in (100, 1000):
        name = f"{classes} classes, batch 16, up to 8 repeats, untrained ReLU conv net"
        add(name, _photographs(16, classes, repeats=8), 60, COUNTING, of_best=FEW)
    for size in (16, 64):
        add(f"10 classes, batch {size}, untrained ReLU conv net", _photographs(size, 10), 16, COUNTING)
    for size in (32, 64, 128):
        add(f"Fashion-MNIST, batch {size}, untrained 3-layer MLP", _perceptrons(size), 40, COUNTING)
    add("the same, batch 64, a head without bias", _perceptrons(64, bias=False), 40, COUNTING)
    for name, clients in _trained(max(1, round(3 * scale))).items():
        add(f"batch 8, {name}", clients, 36, COUNTING)
    for lr in (0.01, 0.05):
        training = fs.LocalTraining.fedavg(lr=lr, epochs=16, batch_size=16, shuffle=True)
        name = f"FedAvg, 16 epochs of 4 batches of 16, lr {lr}, untrained"
        add(f"{name} MLP", _perceptrons(64), 16, LOCAL, training=training)
        if lr == 0.01:
            add(f"{name} conv net", _small_convnets(64), 4, LOCAL, training=training)
    return {**figures, **_soft(max(4, round(40 * scale)))}


def _measured(
    setting: str,
    clients: Sequence[Client],
    methods: Sequence[str],
    training: fs.LocalTraining = FEDSGD,
    of_best: int | None = None,
) -> dict[str, object]:
    """`of_best`: how many of the clients "best" is run on, where taking the batch apart takes it most of a minute."""
    updates = [
        fs.local_update(model, batch, training=training, generator=torch.Generator().manual_seed(seed))
        for seed, (model, batch) in enumerate(clients)
    ]
    taken = {name: of_best if name == "best" else None for name in methods}
    return {f"{setting}: {name}": _row(name, clients[:n], updates[:n]) for name, n in taken.items()}


def _row(name: str, clients: Sequence[Client], updates: Sequence[fs.Update]) -> str:
    """One method on all clients, and each update redacted to what the method says it needs."""
    needs = {*METHODS[name].needs, "single_updates", "num_examples"}
    if name == "best":  # it takes what there is
        needs.add("state")
    if updates[0].kind == "difference":
        needs.add("training")  # without it nobody knows what a weight difference is a multiple of
    threat = fs.ThreatModel("least", frozenset(needs))
    method = CHEAP.get(name, METHODS[name].infer)
    shares: list[float] = []
    sure: list[float] = []
    for seed, ((model, batch), update) in enumerate(zip(clients, updates, strict=True)):
        channels, height, width = batch.inputs.shape[1:]
        observation = threat.observe(model, update, modality=fs.Image(shape=(channels, height, width)))
        try:
            found = method(observation, generator=torch.Generator().manual_seed(seed))
        except FedsealError as error:
            return f"refuses: {error.fact}"
        shares.append(_overlap(found, batch))
        if found.confidence is not None:
            sure.append(found.confidence)
    expected = f"; itself expects {100 * statistics.mean(sure):.1f} %" if sure else ""
    whole = f"{sum(one == 1 for one in shares)} of {len(shares)} batches"
    return f"{_interval(shares, len(clients[0][1]))}, {whole} right in full{expected}"


def _overlap(found: Labels, batch: fs.Batch) -> float:
    true = torch.bincount(batch.labels, minlength=len(found.counts))
    return float(torch.minimum(found.counts, true).sum()) / len(batch)


def _interval(shares: Sequence[float], size: int) -> str:
    if min(shares) == 1:
        return share(size * len(shares), size * len(shares))
    values = torch.tensor(shares, dtype=torch.float64)
    drawn = torch.randint(len(values), (2000, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = values[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return f"{100 * statistics.mean(shares):.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"


# ---- clients


def _photographs(size: int, classes: int, repeats: int | None = None) -> Iterator[Client]:
    """Natural 32x32 pictures with random labels; with `repeats`, each label 1 to `repeats` times."""
    pool = fs.zoo.photos(size=32)
    for seed in itertools.count():
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(pool), generator=generator)[:size]
        if repeats is None:
            labels = torch.randint(classes, (size,), generator=generator)
        else:
            times = torch.randint(1, repeats + 1, (size,), generator=generator)
            labels = torch.randperm(classes, generator=generator)[:size].repeat_interleave(times)[:size]
        model = fs.zoo.convnet(num_classes=classes, width=16, seed=seed)
        yield model, fs.Batch(pool.inputs[rows], labels)


def _rows(size: int, seed: int, first: int = 0) -> fs.Batch:
    pool = fs.zoo.fashion_mnist()
    rows = first + torch.randperm(len(pool) - first, generator=torch.Generator().manual_seed(seed))[:size]
    return fs.Batch(pool.inputs[rows], pool.labels[rows])


def _perceptrons(size: int, *, bias: bool = True) -> Iterator[Client]:
    for seed in itertools.count():
        model = fs.zoo.mlp(seed=seed)
        if not bias:
            model[-1].bias = None  # type: ignore[assignment]
        yield model, _rows(size, seed)


def _small_convnet(seed: int) -> nn.Module:
    return fs.zoo.convnet(channels=1, size=28, width=8, seed=seed)


def _small_convnets(size: int) -> Iterator[Client]:
    for seed in itertools.count():
        yield _small_convnet(seed), _rows(size, seed)


# ---- partly trained models


def _trained(models: int) -> dict[str, Iterator[Client]]:
    """Models on their way, by how right they are on the attacked rows; each attacked in turn.

    250 pictures do not bring a model to 90 % on others, so there the attacked rows are among those trained on, as in
    a federation that has seen this client before.
    """
    settings: dict[str, Iterator[Client]] = {}
    builds: tuple[tuple[str, Callable[[int], nn.Module]], ...] = (
        ("MLP", lambda seed: fs.zoo.mlp(seed=seed)),
        ("conv net", _small_convnet),
    )
    for kind, build in builds:
        for goal, rows, where in ((0.5, HELD_OUT, "on new rows"), (0.9, 500, "on rows it was trained on")):
            taught = [_teach(build(seed), rows, goal, seed) for seed in range(models)]
            right = statistics.mean(_accuracy(model) for model in taught)
            settings[f"{kind} at {100 * right:.0f} % {where}"] = _attacked(taught)
    return settings


def _attacked(models: Sequence[nn.Module]) -> Iterator[Client]:
    for seed in itertools.count():
        yield models[seed % len(models)], _rows(8, seed, HELD_OUT)


def _teach(model: nn.Module, rows: int, goal: float, seed: int) -> nn.Module:
    """Adam on the first rows of Fashion-MNIST until that share of the attacked rows is right."""
    pool, generator = fs.zoo.fashion_mnist(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(1500):
        if step % 5 == 0 and _accuracy(model) >= goal:
            break
        chosen = torch.randint(rows, (32,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(pool.inputs[chosen]), pool.labels[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


def _accuracy(model: nn.Module) -> float:
    pool = fs.zoo.fashion_mnist()[HELD_OUT:]
    with torch.no_grad():
        return float((model(pool.inputs).argmax(1) == pool.labels).double().mean())


# ---- soft labels


def _soft(count: int) -> dict[str, object]:
    """One example with a smoothed or mixed target, head with and without bias, float32."""
    figures: dict[str, object] = {}
    for bias, kind in itertools.product((True, False), ("smoothed", "mixed")):
        right = 0
        for model, batch in itertools.islice(_perceptrons(1, bias=bias), count):
            target = _target(kind, int(batch.labels), len(model.get_parameter("5.weight")))
            update = fs.local_update(model, replace(batch, labels=target), training=FEDSGD)
            threat = fs.ThreatModel("least", frozenset({*METHODS["soft"].needs, "single_updates", "num_examples"}))
            observation = threat.observe(model, update, modality=fs.Image(shape=(1, 28, 28)))
            found = METHODS["soft"].infer(observation, generator=torch.Generator())
            right += found.soft is not None and bool((found.soft - target).abs().max() < 1e-3)
        head = "" if bias else ", head without bias"
        figures[f"one {kind} target{head}, within 1e-3: soft"] = share(right, count)
    return figures


def _target(kind: str, label: int, classes: int) -> Tensor:
    target = torch.zeros(1, classes)
    target[0, label] = 0.9 if kind == "smoothed" else 0.7
    if kind == "mixed":
        target[0, (label + 3) % classes] = 0.3
        return target
    return target + 0.1 / classes
