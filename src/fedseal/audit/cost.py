"""What a defense costs: accuracy of the same model trained federatedly under it, bytes and seconds of an update.

Every defense trains from the same weights, on the same split and the same draws as the undefended model, so that the
points of accuracy it loses are differences of pairs.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import torch
from torch import Tensor, nn

from fedseal import defense as defenses_module
from fedseal import federation
from fedseal.audit.case import Case, loss_digest, stream
from fedseal.audit.cost_record import Cost, costs_of, write_cost
from fedseal.audit.encoding import encoded_bytes
from fedseal.client import explained
from fedseal.criterion import Link, settle_loss
from fedseal.errors import BadConfig, UnfitUpdate
from fedseal.intervals import Interval, of_mean
from fedseal.metric.labels import binary, targets_of
from fedseal.types import Batch, Defense, LocalTraining, LossFunction, Update

__all__ = ["Cost", "CostPlan", "accuracy", "costs_of", "measure", "measure_case", "measured", "write_cost"]

LINKS: tuple[Link, ...] = ((), ("sigmoid",))  # of outputs that are logits, and of probabilities
CHUNK = 500  # examples that the accuracy is measured on at a time


@dataclass(frozen=True)
class CostPlan:
    """How costs are measured.

    Args:
        rounds: of federated training.
        clients: that the training examples are dealt out to; all answer every round.
        lr: of the server; None for 0.1 under FedSGD, and 1 under FedAvg.
        batch_size: examples that a client draws for a round; None for all it has.
        seeds: of weights, if they are made anew, and of split and draws: everything is repeated for each.
        test_share: of the examples, held out to measure accuracy where no test examples are given.

    Raises:
        BadConfig: a number out of range, or a seed that is there twice.
    """

    rounds: int = 20
    clients: int = 10
    lr: float | None = None
    batch_size: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    test_share: float = 0.2

    def __post_init__(self) -> None:
        sizes = (self.rounds, self.clients, 1 if self.batch_size is None else self.batch_size)
        if min(sizes) < 1 or (self.lr is not None and not 0 < self.lr < math.inf):
            raise BadConfig(
                f"costs of {self.rounds} rounds, {self.clients} clients, batches of {self.batch_size}, lr {self.lr}",
                "give whole numbers of 1 or more, and a positive learning rate",
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise BadConfig(f"the costs' seeds are {list(self.seeds)}", "give one or more, each once")
        if not 0 < self.test_share < 1:
            raise BadConfig(f"a test share of {self.test_share}", "give a number above 0 and below 1, such as 0.2")


@dataclass(frozen=True)
class _Run:
    """One training: its accuracy, and what its clients' updates cost."""

    accuracy: float
    diverged: bool
    bytes: tuple[int, ...]
    seconds: tuple[float, ...]


def measure(
    model: nn.Module | Callable[[int], nn.Module],
    train: Batch,
    test: Batch | None = None,
    *,
    defenses: Sequence[str | Defense],
    training: LocalTraining,
    plan: CostPlan | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> tuple[Cost, ...]:
    """Train with every defense and without, and compare. The cost of "none" comes first, asked for or not.

    Args:
        model: the first round's weights, or a function of the seed that makes them.
        train: the clients' examples together.
        test: others; None to hold out a share of `train`, another one for each seed.
        training: of each client.
        on_progress: called with defense and seed when a training begins.

    Raises:
        BadConfig: too few examples for the clients, or labels that no prediction can be compared with.
        UnfitBatch: the model does not take the examples.

    >>> import fedseal as fs
    >>> net = lambda seed: fs.zoo.mlp(widths=(20,), seed=seed)
    >>> none, noisy = measure(net, fs.zoo.fashion_mnist()[:100], defenses=["gaussian:1"],
    ...                       training=fs.LocalTraining.fedsgd(), plan=CostPlan(rounds=2, clients=2, seeds=(0,)))
    >>> none.points_lost, noisy.defense, noisy.bytes_per_update == none.bytes_per_update
    (0.0, 'gaussian:1', True)
    """
    return tuple(measured(model, train, test, defenses=defenses, training=training, plan=plan, on_progress=on_progress))


def measured(
    model: nn.Module | Callable[[int], nn.Module],
    train: Batch,
    test: Batch | None = None,
    *,
    defenses: Sequence[str | Defense],
    training: LocalTraining,
    plan: CostPlan | None = None,
    without: Cost | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> Iterator[Cost]:
    """The same one by one, each when it is known.

    Args:
        without: the cost of "none" of an earlier call with all else equal, which then is neither measured nor given.
    """
    plan = plan or CostPlan()
    first = model if isinstance(model, nn.Module) else model(plan.seeds[0])
    for batch in (train, *(() if test is None else (test,))):
        check_accuracy(first, batch, training)
    shields = [defenses_module.parse(one) if isinstance(one, str) else one for one in defenses]
    by_name = {shield.name: shield for shield in (*((defenses_module.none(),) if without is None else ()), *shields)}
    parts = {seed: _parts(train, test, plan, seed) for seed in plan.seeds}
    setting = _setting(first, train, test, training, plan)
    chance = fmean(_chance(held, _outputs(first, held), training.loss) for _, held in parts.values())
    for name, shield in by_name.items():
        runs = []
        for seed, (own, held) in parts.items():
            if on_progress is not None:
                on_progress(name, seed)
            start = model if isinstance(model, nn.Module) else model(seed)
            runs.append(_trained(start, own, held, shield, training, plan, seed))
        found = _cost(name, runs, without, plan, list(parts.values()), setting, chance)
        without = without or found
        yield found


def measure_case(
    case: Case,
    folder: str | Path,
    *,
    defenses: Sequence[str | Defense],
    plan: CostPlan | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> tuple[Cost, ...]:
    """The costs of a case's own model, data and training, kept in its run folder; those that are there stay.

    Raises:
        BadConfig: see `measure`.
        UnfitUpdate: a defense that the very first update does not fit; the costs before it are kept.
        StorageFailure: a file cannot be read or written.
    """
    plan = plan or CostPlan()
    setting = _setting(case.model, case.batch, None, case.training, plan)
    names = [(defenses_module.parse(one) if isinstance(one, str) else one).name for one in defenses]
    known = {cost.defense: cost for cost in costs_of(folder) if cost.setting == setting}
    missing = [one for name, one in zip(names, defenses, strict=True) if name not in known]
    for cost in measured(
        case.model,
        case.batch,
        defenses=missing,
        training=case.training,
        plan=plan,
        without=known.get("none"),
        on_progress=on_progress,
    ):
        write_cost(folder, cost)
        known[cost.defense] = cost
    return tuple(known[name] for name in dict.fromkeys(["none", *names]) if name in known)


def _trained(
    start: nn.Module, own: Batch, held: Batch, shield: Defense, training: LocalTraining, plan: CostPlan, seed: int
) -> _Run:
    sizes: list[int] = []
    seconds: list[float] = []

    def meter(update: Update, took: float) -> None:
        sizes.append(encoded_bytes(update, shield.public))
        seconds.append(took)

    rounds = federation.train(
        start,
        federation.split(own, plan.clients),
        training=training,
        rounds=plan.rounds,
        generator=stream("cost", seed),
        defense=shield,
        lr=plan.lr if plan.lr is not None else 0.1 if training.kind == "gradient" else 1.0,
        batch_size=plan.batch_size,
        meter=meter,
    )
    model, finite = start, True
    try:
        for model in rounds:
            finite = all(bool(torch.isfinite(p).all()) for p in model.parameters())
            if not finite:
                break
    except UnfitUpdate:
        if not sizes:  # else an update that has grown beyond what the defense can write
            raise
        finite = False
    return _Run(accuracy(model, held, loss=training.loss) if finite else 0.0, not finite, tuple(sizes), tuple(seconds))


def accuracy(model: nn.Module, batch: Batch, *, loss: str | LossFunction | None = None) -> float:
    """Share of labels that the model, in evaluation, gets right.

    Of classes the largest output counts, of positions where they have labels. Of one output, and of several findings
    for each example, every output counts by itself: it says yes above 0, or above 0.5 where the loss takes
    probabilities.

    Args:
        loss: that the model was trained on, which tells findings with one yes each from classes; None for outputs that
            are logits, and for classes where every example has one.

    Raises:
        BadConfig: outputs that hold no answer for each label, or labels that are numbers.
    """
    was = model.training
    model.eval()
    hits = counted = 0
    with torch.no_grad():
        for first in range(0, len(batch), CHUNK):
            part = batch[first : first + CHUNK]
            outputs = model(part.inputs)
            right, known = _judged(outputs, part.labels, _line(outputs, batch.labels, loss))
            hits, counted = hits + int((right & known).sum()), counted + int(known.sum())
    model.train(was)
    return hits / max(counted, 1)


def _judged(outputs: object, labels: Tensor, line: float | None) -> tuple[Tensor, Tensor]:
    """Which labels are right, and which there are, in one shape; `line`: see `_line`."""
    if isinstance(outputs, Tensor) and line is not None:
        told = labels.reshape(len(labels), -1)
        right = ((outputs > line) == (told > 0.5)) & torch.isfinite(outputs)
        return right, torch.ones_like(right)
    classes = _indices(labels)
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs[:, 0].shape != classes.shape:
        raise BadConfig(
            "the model's outputs hold no class for each label, so it has no accuracy", "leave the costs out"
        )
    return (outputs.argmax(1) == classes) & torch.isfinite(outputs).all(1), classes >= 0


def _line(outputs: object, labels: Tensor, loss: str | LossFunction | None) -> float | None:
    """Above which value an output says yes; None where the largest of several outputs is the answer.

    Args:
        labels: of all examples: a part of them may look like others.

    Raises:
        BadConfig: labels that are numbers, so that none is right or wrong.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        return None
    count = outputs.shape[1]
    return _threshold(loss, count) if _yes_or_no(labels, count, loss) else None


def _yes_or_no(labels: Tensor, outputs: int, loss: str | LossFunction | None) -> bool:
    """Whether each output is an answer of its own.

    Raises:
        BadConfig: labels that are numbers, so that none is right or wrong.
    """
    whole = labels.reshape(len(labels), -1)
    own = whole.shape[1] == outputs and binary(labels)
    kind = targets_of(labels)
    if kind == "numbers" or (kind in ("classes", "positions") and outputs == 1 and not own):
        raise BadConfig(
            "the labels are numbers, of which no prediction is right or wrong, so there is no accuracy",
            "leave the costs out",
        )
    if not own or (kind == "classes" and outputs > 1):
        return False
    if outputs > 1 and kind == "soft":  # one yes for each example: a class, unless the loss says otherwise
        return loss is not None and any(settle_loss(loss, outputs, link=link).kind == "bce" for link in LINKS)
    return True


def _threshold(loss: str | LossFunction | None, outputs: int) -> float:
    """Above which an output says yes: of logits 0, of probabilities and under the squared error a half."""
    if loss is None or settle_loss(loss, outputs).kind == "bce":
        return 0.0
    half = settle_loss(loss, outputs).kind == "mse" or settle_loss(loss, outputs, link=("sigmoid",)).kind == "bce"
    return 0.5 if half else 0.0


def check_accuracy(model: nn.Module, batch: Batch, training: LocalTraining) -> None:
    """Refuse at the door what has no accuracy; one example is looked at.

    Raises:
        BadConfig: see `accuracy`.
        UnfitBatch: the model does not take the examples.
    """
    model = copy.deepcopy(model).eval()
    with torch.no_grad(), explained(model, batch.inputs, batch.labels):
        outputs = model(batch.inputs[:1])
    _judged(outputs, batch.labels[:1], _line(outputs, batch.labels, training.loss))


def _parts(train: Batch, test: Batch | None, plan: CostPlan, seed: int) -> tuple[Batch, Batch]:
    """The clients' examples, and those that accuracy is measured on."""
    count = len(train)
    tested = 0 if test is not None else max(1, round(plan.test_share * count))
    if count - tested < plan.clients:
        raise BadConfig(
            f"{count - tested} training examples for {plan.clients} clients", "name fewer clients, or give more data"
        )
    order = torch.randperm(count, generator=stream("split", seed)).to(train.inputs.device)
    own, held = order[tested:], order[:tested]
    return Batch(train.inputs[own], train.labels[own]), (
        Batch(train.inputs[held], train.labels[held]) if test is None else test
    )


def _indices(labels: Tensor) -> Tensor:
    return labels.argmax(1) if labels.is_floating_point() else labels


def _chance(batch: Batch, outputs: int | None, loss: str | LossFunction | None) -> float:
    """What the best guess that ignores the inputs gets right."""
    if outputs is not None and _yes_or_no(batch.labels, outputs, loss):
        there = (batch.labels.reshape(len(batch), -1) > 0.5).double().mean(0)
        return float(there.maximum(1 - there).mean())
    labels = _indices(batch.labels)
    counts = torch.bincount(labels[labels >= 0])
    return float(counts.max() / counts.sum()) if len(counts) else 0.0


def _cost(
    name: str,
    runs: Sequence[_Run],
    without: Cost | None,
    plan: CostPlan,
    parts: Sequence[tuple[Batch, Batch]],
    setting: str,
    chance: float,
) -> Cost:
    accuracies = tuple(run.accuracy for run in runs)
    base = without.accuracies if without is not None else accuracies
    lost = [100 * (before - after) for before, after in zip(base, accuracies, strict=True)]
    size = fmean(size for run in runs for size in run.bytes)
    seconds = median(second for run in runs for second in run.seconds)
    own, held = parts[0]
    return Cost(
        defense=name,
        accuracy=fmean(accuracies),
        accuracy_interval=_bounds(of_mean(accuracies), 0.0, 1.0),
        accuracy_without=fmean(base),
        accuracy_without_interval=_bounds(of_mean(base), 0.0, 1.0),
        chance=chance,
        points_lost=fmean(lost),
        points_lost_interval=_bounds(of_mean(lost), -100.0, 100.0),
        accuracies=accuracies,
        diverged=tuple(seed for seed, run in zip(plan.seeds, runs, strict=True) if run.diverged),
        bytes_per_update=size,
        bytes_without=without.bytes_without if without is not None else size,
        seconds_per_update=seconds,
        seconds_without=without.seconds_without if without is not None else seconds,
        rounds=plan.rounds,
        clients=plan.clients,
        examples=len(own),
        tested=len(held),
        seeds=plan.seeds,
        setting=setting,
    )


def _bounds(interval: Interval | None, low: float, high: float) -> Interval | None:
    return None if interval is None else (max(low, interval[0]), min(high, interval[1]))


def _outputs(model: nn.Module, batch: Batch) -> int | None:
    """How many numbers the model gives for an example; None if that is no row."""
    with torch.no_grad():
        outputs = copy.deepcopy(model).eval()(batch.inputs[:1])
    return int(outputs.shape[1]) if isinstance(outputs, Tensor) and outputs.ndim == 2 else None


def _setting(model: nn.Module, train: Batch, test: Batch | None, training: LocalTraining, plan: CostPlan) -> str:
    told = {**training.describe(), "loss": loss_digest(model, train, training)}
    digest = hashlib.sha256(json.dumps([told, asdict(plan)]).encode())
    held: Mapping[str, Tensor] = {} if test is None else {"inputs": test.inputs, "labels": test.labels}
    for name, tensor in [*model.state_dict().items(), ("train", train.inputs), ("of", train.labels), *held.items()]:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
