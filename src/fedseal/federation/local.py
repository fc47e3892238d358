"""Federated training in this process with a plain mean and with defenses that keep a memory or draw Poisson samples,
which `Federation` refuses: no checkpoint holds the one, and its owners tell how many examples they drew.

A round: the server hands its weights to every client, each answers with what `client.local_update` makes of its
examples under its defense, and the server takes the mean of the answers as its step. A plain `Federation` of clients
of one size goes the same way; a test holds them together.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedseal.client import local_update
from fedseal.criterion import settle_loss
from fedseal.defense.base import Hooks, hooks_of
from fedseal.errors import BadConfig, UnfitBatch
from fedseal.types import Batch, Defense, LocalTraining, LossFunction, Tensors, Update

Meter = Callable[[Update, float], None]

SURE = 1e-3  # by which probabilities may miss 1


def train(
    model: nn.Module,
    clients: Sequence[Batch],
    *,
    training: LocalTraining,
    rounds: int,
    generator: torch.Generator,
    defense: Defense | None = None,
    lr: float = 1.0,
    batch_size: int | None = None,
    meter: Meter | None = None,
) -> Iterator[nn.Module]:
    """The server's model after every round, the same object each time; the given model is not changed.

    Every client draws from a generator of its own, anew each round and seeded by `generator` alone: what one client
    or its defense draws moves nobody else's draws.

    Args:
        model: the first round's; clients train what `defense.on_model` makes of it.
        clients: the examples of each, `(N, ...)`; all answer every round, and count alike.
        training: of each client. FedSGD's mean gradient is one step of plain gradient descent (McMahan et al., AISTATS
            2017, arXiv:1602.05629).
        defense: run by every client, each with a memory of its own where it has `feedback`.
        lr: of the server: how far it goes along the mean; 1 for FedAvg.
        batch_size: how many of its examples a client draws for a round; None for all. A defense whose promise rests on
            Poisson sampling draws at its own rate instead.
        meter: called at the client with every update that it sends, and the seconds it took.

    Raises:
        BadConfig: no client, no round, a rate or a size that is not positive, or what `local_update` refuses.
        UnfitBatch: the model does not take the examples, or the loss the targets.

    >>> import fedseal as fs
    >>> data, model = fs.zoo.fashion_mnist()[:40], fs.zoo.mlp(widths=(20,))
    >>> rounds = train(model, split(data, 4), training=LocalTraining.fedavg(lr=0.1), rounds=3,
    ...                generator=torch.Generator().manual_seed(0))
    >>> len(list(rounds))
    3
    """
    if not clients or rounds < 1 or not lr > 0 or (batch_size is not None and batch_size < 1):
        raise BadConfig(
            f"{rounds} rounds of {len(clients)} clients, a server's rate of {lr} and batches of {batch_size}",
            "give at least one client, one round and one example, and a positive rate",
        )
    model = copy.deepcopy(model if defense is None else defense.on_model(model))
    for place, batch in enumerate(clients):
        check_targets(batch, training.loss, model, where=f" of client {place}")
    memories: list[dict[str, Tensor]] = [{} for _ in clients]
    for _ in range(rounds):
        seeds = torch.randint(2**62, (len(clients),), generator=generator).tolist()
        updates = []
        for batch, held, seed in zip(clients, memories, seeds, strict=True):
            own, started = torch.Generator().manual_seed(seed), time.perf_counter()
            if defense is None:
                drawn = drawn_examples(batch, batch_size, own)
                updates.append(local_update(model, drawn, training=training, generator=own))
            else:
                updates.append(_defended(model, batch, batch_size, training, defense, held, own))
            if meter is not None:
                meter(updates[-1], time.perf_counter() - started)
        _step(model, mean(updates), lr)
        yield model


def mean(updates: Sequence[Update]) -> Update:
    """The mean of updates of one kind, each counting alike; statistics that are no fractions are the first client's.

    Raises:
        BadConfig: none, or of different kinds.
    """
    if not updates or len({update.kind for update in updates}) > 1:
        raise BadConfig(f"{len(updates)} updates have no mean", "give one or more of one kind")
    counts = [update.num_examples for update in updates]
    known = [count for count in counts if count is not None]
    buffers = [update.buffers for update in updates if update.buffers is not None]
    return Update(
        kind=updates[0].kind,
        tensors=_mean([update.tensors for update in updates]),
        buffers=_mean(buffers) if len(buffers) == len(updates) else None,
        num_examples=sum(known) if len(known) == len(counts) else None,
        num_clients=sum(update.num_clients for update in updates),
        training=updates[0].training,
    )


def split(batch: Batch, clients: int) -> list[Batch]:
    """The examples dealt out in turn, as to players of a card game.

    Raises:
        BadConfig: fewer examples than clients, or no client.

    >>> [part.labels.tolist() for part in split(Batch(torch.zeros(5, 1), torch.arange(5)), 2)]
    [[0, 2, 4], [1, 3]]
    """
    if not 1 <= clients <= len(batch):
        raise BadConfig(f"{len(batch)} examples for {clients} clients", "give every client at least one")
    return [batch[slice(first, None, clients)] for first in range(clients)]


def check_targets(batch: Batch, loss: str | LossFunction, model: nn.Module | None = None, *, where: str = "") -> None:
    """Refuse targets that are none for cross-entropy, where it is the loss: torch trains on nonsense without a word.

    Args:
        loss: what is no cross-entropy takes the targets that it takes.
        model: whose outputs targets must go with; None where it is elsewhere.
        where: the data is, after a space, for the error: " in 'a.npz'".

    Raises:
        UnfitBatch: a class below 0 or beyond the model's outputs, one output, or a row of numbers that are no
            probabilities.

    >>> check_targets(Batch(torch.zeros(2, 3), torch.tensor([[0.5, 0.5], [0.0, 1.0]])), "cross_entropy")
    """
    labels = batch.labels
    outputs = None if model is None else _outputs(model, batch)
    width = labels.shape[1] if labels.ndim == 2 and labels.is_floating_point() else 2
    if loss != "cross_entropy" and settle_loss(loss, max(2, outputs or width)).kind != "cross_entropy":
        return
    other = "give class numbers from 0, or probabilities that add up to 1 for each example"
    if labels.ndim == 1 or labels.shape[1:] == (1,):
        if labels.is_floating_point():
            raise UnfitBatch(f"the targets{where} are one number each, which cross-entropy learns nothing from", other)
        if outputs == 1:
            raise UnfitBatch(
                f"the model has one output for the examples{where}, by which cross-entropy is 0 whatever it says",
                "give the model an output for each class, or train it by binary cross-entropy or the squared error",
            )
    if not labels.is_floating_point():
        _check_classes(labels, outputs, where)
        return
    wrong = ~(((labels >= 0).all(-1)) & ((labels.sum(-1) - 1).abs() < SURE))
    if bool(wrong.any()):
        row = int(wrong.reshape(len(labels), -1).any(1).nonzero()[0])
        shown = ", ".join(f"{value:g}" for value in labels[row].flatten().tolist()[:4])
        raise UnfitBatch(f"the targets of example {row}{where} ({shown}) are no probabilities", other)


def _check_classes(labels: Tensor, outputs: int | None, where: str) -> None:
    if labels.ndim != 1 or not len(labels):
        return
    least, most = int(labels.min()), int(labels.max())
    if least < 0:
        raise UnfitBatch(f"example {int(labels.argmin())}{where} has the class {least}", "number classes from 0")
    if outputs is not None and most >= outputs:
        raise UnfitBatch(
            f"example {int(labels.argmax())}{where} has the class {most}, and the model those of 0 to {outputs - 1}",
            "give the model an output for each class, or correct the example",
        )


def _outputs(model: nn.Module, batch: Batch) -> int | None:
    """How many numbers the model gives for an example; None where there is no telling."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            found = copy.deepcopy(model).eval()(batch.inputs[:1])
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
            return None  # training says what is wrong
    if not isinstance(found, Tensor) or found.ndim > 2:
        return None
    return found.shape[1] if found.ndim == 2 else 1


def drawn_examples(batch: Batch, size: int | None, generator: torch.Generator) -> Batch:
    """So many examples, without repetition; all where there are no more, or where none is named."""
    if size is None or size >= len(batch):
        return batch
    rows = torch.randperm(len(batch), generator=generator)[:size].to(batch.inputs.device)
    return Batch(batch.inputs[rows], batch.labels[rows])


def _defended(
    model: nn.Module,
    batch: Batch,
    size: int | None,
    training: LocalTraining,
    defense: Defense,
    held: dict[str, Tensor],
    generator: torch.Generator,
) -> Update:
    """What a client sends that draws as its defense's promise asks, and holds back what its feedback says."""
    rate = sample_rate(defense)
    drawn = drawn_examples(batch, size, generator) if rate is None else poisson(batch, rate, generator)
    fitted = defense.fit(model)
    early = Hooks(
        fitted.name,
        fitted.public,
        fitted.on_batch,
        fitted.on_example_grads if fitted.per_example else None,
        gradient=fitted.on_gradient if fitted.per_step else None,
    )
    if drawn is None:
        update = _nothing(model, training)
    else:
        update = local_update(model, drawn, training=training, defense=early, generator=generator)
    if rate is not None:
        update = _over(update, 0 if drawn is None else len(drawn), max(1, round(rate * len(batch))))
    if not defense.feedback:
        return fitted.on_update(update, generator)
    whole = {name: tensor + held.get(name, 0.0) for name, tensor in update.tensors.items()}
    sent = fitted.on_update(replace(update, tensors=whole), generator)
    held.update({name: whole[name] - sent.tensors[name] for name in whole})
    return sent


def sample_rate(defense: Defense) -> float | None:
    """At which each example must be drawn for itself, so that the defense keeps what it promises; None for no matter.

    >>> from fedseal import defense
    >>> [sample_rate(defense.parse(name)) for name in ("dpsgd:1,sample_rate=0.1+prune:0.5", "dpsgd:1", "prune:0.5")]
    [0.1, None, None]
    """
    promise = hooks_of(defense).guarantee
    if promise is None or promise.unit != "example" or promise.sample_rate >= 1:
        return None
    return promise.sample_rate


def poisson(batch: Batch, rate: float, generator: torch.Generator) -> Batch | None:
    """Each example with that probability, whatever becomes of the others; None where it is none."""
    rows = (torch.rand(len(batch), generator=generator) < rate).nonzero().flatten().to(batch.inputs.device)
    return Batch(batch.inputs[rows], batch.labels[rows]) if len(rows) else None


def _over(update: Update, count: int, expected: int) -> Update:
    """The mean over `count` examples as their sum over the expected number: what is sent must not tell the count."""
    scaled = {name: tensor * (count / expected) for name, tensor in update.tensors.items()}
    return replace(update, tensors=scaled, num_examples=expected)


def _nothing(model: nn.Module, training: LocalTraining) -> Update:
    """An update of zeros, for a round in which no example was drawn; noise is added later."""
    zeros = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    return Update(training.kind, zeros, buffers, num_examples=0, training=training)


def _mean(values: Sequence[Tensors]) -> dict[str, Tensor]:
    return {
        name: first
        if not first.is_floating_point() or all(torch.equal(first, value[name]) for value in values[1:])
        else torch.stack([value[name] for value in values]).mean(0)
        for name, first in values[0].items()
    }


def _step(model: nn.Module, update: Update, lr: float) -> None:
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    sign = -lr if update.kind == "gradient" else lr
    with torch.no_grad():
        for name, tensor in update.tensors.items():
            parameters[name].add_(tensor, alpha=sign)
        for name, tensor in (update.buffers or {}).items():
            buffers[name].copy_(tensor)
