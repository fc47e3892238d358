"""Who takes part: a model owner with a model and a rule to move it, and data owners with examples and a rule to train.

What a data owner's rule returns is seen by nobody but that owner. The model owner's rule is handed the opened sum of a
whole cohort; nothing in this package hands it anything else.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from fedseal.client import explained, local_update, state_of
from fedseal.criterion import loss_function
from fedseal.errors import BadConfig
from fedseal.federation.local import check_targets, drawn_examples, sample_rate
from fedseal.federation.statistics import estimated, settled_buffers
from fedseal.types import Batch, Defense, LocalTraining, Tensors, Update

ModelFunction = Callable[[nn.Module, Batch, torch.Generator], Update]
Aggregator = Callable[[Tensors, int, nn.Module], Tensors]
Evaluator = Callable[[nn.Module, Batch], Mapping[str, float]]

CHUNK = 500  # examples that a model is evaluated on at a time
SINGLE = {
    "krum": "compares clients' updates with each other",
    "median": "takes the middle one of the clients' values",
    "trimmed_mean": "leaves out the clients' largest and smallest values",
}


@dataclass(frozen=True)
class Local:
    """A rule to train: draw examples, and answer with `client.local_update` of them.

    Args:
        training: what is done with the examples.
        draw: how many are drawn for a round, without repetition; None for all.
        defense: what the client does about what its update says.

    Raises:
        BadConfig: none is to be drawn, or a defense that carries something over to the next round.
    """

    training: LocalTraining
    draw: int | None = None
    defense: Defense | None = None

    def __post_init__(self) -> None:
        if self.draw is not None and self.draw < 1:
            raise BadConfig(f"{self.draw} examples are to be drawn", "draw at least 1")
        if self.defense is not None and self.defense.feedback:
            raise BadConfig(
                f"the defense '{self.defense.name}' carries a memory from round to round, which no checkpoint holds",
                "leave out its feedback",
            )
        if self.defense is not None and sample_rate(self.defense) is not None:
            raise BadConfig(
                f"the account of '{self.defense.name}' is of Poisson samples, and owners draw a fixed number",
                "leave out its sample_rate, or train with federation.train",
            )

    def __call__(self, model: nn.Module, data: Batch, generator: torch.Generator) -> Update:
        """The update of one round."""
        chosen = self.drawn(data, generator)
        return local_update(model, chosen, training=self.training, defense=self.defense, generator=generator)

    def draws_anew(self, count: int) -> bool:
        """Whether other examples of so many may be drawn in another round; another order of the same is not enough."""
        return self.draw is not None and self.draw < count

    def drawn(self, data: Batch, generator: torch.Generator) -> Batch:
        """The examples of one round."""
        return drawn_examples(data, self.draw, generator)


def common_training(rules: Sequence[ModelFunction]) -> LocalTraining | None:
    """What all of these rules do with their examples; None where they do different things, or where it is not known.

    >>> common_training([gradient_step(1), gradient_step(9)]).kind
    'gradient'
    >>> common_training([gradient_step(), local_steps(lr=0.1)])
    """
    known = [rule.training for rule in rules if isinstance(rule, Local)]
    alike = len(known) == len(rules) and all(training == known[0] for training in known)
    return known[0] if known and alike else None


def common_defense(rules: Sequence[ModelFunction]) -> str:
    """The specification of the defense of all of these rules, which the attacks on a record are told; "none" if none.

    Raises:
        BadConfig: they differ, and a record holds one.

    >>> common_defense([gradient_step(1), gradient_step(9)])
    'none'
    """
    shields = [rule.defense for rule in rules if isinstance(rule, Local)]
    named = dict.fromkeys("none" if defense is None else defense.name for defense in shields)
    if len(named) > 1:
        raise BadConfig(
            f"data owners have different defenses, {' and '.join(map(repr, named))}, and a record holds one",
            "record owners of one defense",
        )
    return next(iter(named), "none")


def gradient_step(batch_size: int | None = None, *, defense: Defense | None = None) -> Local:
    """One gradient, which is one step of plain descent (McMahan et al., AISTATS 2017, arXiv:1602.05629).

    >>> gradient_step(100).training.kind
    'gradient'
    """
    return Local(LocalTraining.fedsgd(), batch_size, defense)


def local_steps(*, lr: float, epochs: int = 1, batch_size: int | None = None, defense: Defense | None = None) -> Local:
    """Steps of SGD over all of the owner's examples, shuffled anew each epoch (FedAvg, arXiv:1602.05629).

    Raises:
        BadConfig: a rate or a number that is not positive.
    """
    return Local(LocalTraining.fedavg(lr=lr, epochs=epochs, batch_size=batch_size, shuffle=True), None, defense)


def reptile(*, lr: float, batch_size: int, iterations: int = 3, defense: Defense | None = None) -> Local:
    """A few steps of SGD, each on examples drawn anew; the model then moves toward the mean of where they led.

    Nichol, Achiam and Schulman, On first-order meta-learning algorithms, arXiv:1803.02999.

    >>> reptile(lr=0.1, batch_size=20).draw
    60

    Raises:
        BadConfig: a rate or a number that is not positive.
    """
    if batch_size < 1 or iterations < 1:
        raise BadConfig(f"{iterations} steps on {batch_size} examples each", "give at least 1 of both")
    return Local(LocalTraining.fedavg(lr=lr, batch_size=batch_size), iterations * batch_size, defense)


def evaluate(model: nn.Module, data: Batch) -> dict[str, float]:
    """Mean cross-entropy and, for labels that are class indices of examples, the share of them that is right."""
    model = copy.deepcopy(model).eval()
    loss, right = 0.0, 0.0
    with torch.no_grad(), explained(model, data.inputs, data.labels):
        for first in range(0, len(data), CHUNK):
            part = data[first : first + CHUNK]
            outputs = model(part.inputs)
            loss += float(loss_function("cross_entropy")(outputs, part.labels)) * len(part)
            if part.labels.ndim == 1:
                right += float((outputs.argmax(1) == part.labels).sum())
    found = {"loss": loss / len(data)}
    return found | ({"accuracy": right / len(data)} if data.labels.ndim == 1 else {})


def move(total: Tensors, weight: int, model: nn.Module, *, lr: float = 1.0) -> dict[str, Tensor]:
    """The model's tensors, moved by the mean of the cohort's steps times a rate; statistics become their mean.

    >>> one = nn.Linear(1, 1, bias=False)
    >>> new = move({"weight": torch.tensor([[4.0]])}, 2, one, lr=0.5)
    >>> bool(torch.allclose(new["weight"], one.weight + 1.0))
    True
    """
    rates = {name: lr for name, _ in model.named_parameters()}
    return {
        name: _moved(tensor, total[name] / weight * rates.get(name, 1.0)) if name in total else tensor
        for name, tensor in state_of(model).items()
    }


def _moved(tensor: Tensor, by: Tensor) -> Tensor:
    moved = tensor.double() + by.to(tensor.device)
    return (moved if tensor.is_floating_point() else moved.round()).to(tensor.dtype)


@dataclass(frozen=True)
class DataOwner:
    """A party with examples that stay where they are.

    Args:
        build_data: loads them, once, where the owner is.
        model_fn: `(model, data, generator) -> Update`, run where the owner is: `gradient_step`, `local_steps`,
            `reptile`, or a function of your own.
        metrics_fn: `(model, data) -> {name: number}` of the model that came and the owner's first 500 examples.
        bounds: which metrics are averaged inside the sum, and the largest magnitude of each; a larger one is capped
            at the owner.

    >>> import fedseal as fs
    >>> owner = DataOwner.holding(fs.zoo.fashion_mnist()[:20], gradient_step())
    >>> len(owner.build_data())
    20
    """

    build_data: Callable[[], Batch]
    model_fn: ModelFunction = field(default_factory=gradient_step)
    metrics_fn: Evaluator = evaluate
    bounds: Mapping[str, float] = field(default_factory=lambda: {"loss": 16.0})

    @classmethod
    def holding(cls, data: Batch, model_fn: ModelFunction | None = None, **facts: object) -> DataOwner:
        """An owner of examples that are in memory already.

        Raises:
            UnfitBatch: targets that the rule's loss does not take.
        """
        own = Batch(data.inputs.clone(), data.labels.clone())  # a slice would carry all of its storage along
        owner = replace(cls(partial(_itself, own), model_fn or gradient_step()), **facts)  # type: ignore[arg-type]
        owner.examples()
        return owner

    def examples(self, model: nn.Module | None = None, *, where: str = "") -> Batch:
        """The examples, of which the rule's loss takes the targets; of a rule of one's own nobody knows the loss.

        Args:
            model: that is trained on them; None where it is elsewhere.
            where: they are, after a space, for the error.

        Raises:
            UnfitBatch: targets that it does not take.
        """
        data = self.build_data()
        if isinstance(self.model_fn, Local):
            check_targets(data, self.model_fn.training.loss, model, where=where)
        return data

    def metrics(self, model: nn.Module, data: Batch, wanted: Mapping[str, float]) -> dict[str, float]:
        """The named metrics of a model, each within its bound.

        Raises:
            BadConfig: the owner measures other ones.
        """
        if not wanted:
            return {}
        found = self.metrics_fn(model, data[:CHUNK])
        if missing := sorted(set(wanted) - set(found)):
            raise BadConfig(f"the owner does not measure '{missing[0]}'", "return it from metrics_fn, or ask for none")
        return {name: _capped(float(found[name]), most) for name, most in wanted.items()}


def _capped(value: float, most: float) -> float:
    return most if math.isnan(value) else max(-most, min(most, value))


def _itself(data: Batch) -> Batch:
    return data


@dataclass(frozen=True)
class ModelOwner:
    """The party whose model is trained, and who alone opens the sum.

    Args:
        model: where training starts; it is not changed.
        aggregator_fn: `(total, weight, model) -> tensors`: from the opened sum of `weight * step` by name, in float64,
            and the sum of the weights, the model's new tensors. A step is a weight difference or minus a gradient; of
            a statistic, its change; counters are not in it. The name "mean" stands for `move` with the learning rate.
        evaluator_fn: `(model, data) -> {name: number}`.
        validation: what it is called with; None for no evaluation.
        learning_rate: how far to go along the mean step.

    Raises:
        BadConfig: a rate that is not positive, or an aggregator that needs single updates, which nobody has.
        UnfitBatch: validation data of which `evaluate` cannot work out the cross-entropy.

    >>> ModelOwner(nn.Linear(2, 2), aggregator_fn="krum")
    Traceback (most recent call last):
        ...
    fedseal.errors.BadConfig: 'krum' compares clients' updates with each other, and nobody sees a client's update; \
use "mean", and bound what one client can do by a clip
    """

    model: nn.Module
    aggregator_fn: str | Aggregator = "mean"
    evaluator_fn: Evaluator = evaluate
    validation: Batch | None = None
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise BadConfig(f"the learning rate is {self.learning_rate}", "give a positive number")
        _check(self.aggregator_fn)
        if self.validation is not None and self.evaluator_fn is evaluate:
            check_targets(self.validation, "cross_entropy", self.model, where=" of the validation data")

    def aggregate(self, total: Tensors, weight: int, model: nn.Module) -> Tensors:
        """The model's new tensors; counters count rounds, and no variance is below zero."""
        if callable(self.aggregator_fn):
            found = self.aggregator_fn(total, weight, model)
        else:
            found = move(total, weight, model, lr=self.learning_rate)
        return settled_buffers(model, found)

    def usable(self, model: nn.Module, statistics: str) -> nn.Module:
        """The model as this owner can use it: with statistics of its own data, where each site's stay there.

        They are sent to nobody.
        """
        if statistics != "local" or self.validation is None:
            return model
        return estimated(model, self.validation.inputs)


def _check(aggregator: str | Aggregator) -> None:
    name = aggregator if isinstance(aggregator, str) else getattr(aggregator, "__name__", "")
    if name in SINGLE:
        raise BadConfig(
            f"'{name}' {SINGLE[name]}, and nobody sees a client's update",
            'use "mean", and bound what one client can do by a clip',
        )
    if isinstance(aggregator, str):
        if aggregator != "mean":
            raise BadConfig(f"there is no aggregator '{aggregator}'", 'use "mean" or a function (total, weight, model)')
        return
    try:
        inspect.signature(aggregator).bind({}, 1, None)
    except TypeError:
        raise BadConfig(
            f"the aggregator '{name}' does not take (total, weight, model)",
            "write it for the opened sum: single updates are seen by nobody",
        ) from None
    except ValueError:
        return  # a builtin without a signature
