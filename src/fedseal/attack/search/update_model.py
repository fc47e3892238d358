"""Models of the update: what the attacker holds the client to have computed from its examples.

`Simulate` differentiates through the client's own arithmetic. Where that is withheld, unknown or too large,
`MeanGradient` takes the update for one gradient at the start, and `Surrogate` for one on the way from start to end.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fedseal.attack.base import order_is_secret
from fedseal.attack.search.optimizer import Leaf
from fedseal.client import local_training, simulation_bytes, step_indices
from fedseal.errors import BadConfig
from fedseal.types import Candidate, LocalTraining, Observation, Round, Tensors


@dataclass(frozen=True)
class Prediction:
    """An update model at work on one observation.

    Args:
        targets: what to match, for each round one tensor for every trainable parameter.
        predict: round, model inputs `(copies * N, ...)` and labels -> the same tensors for these examples.
        leaves: further unknowns of the model, which the search moves along.
        copies: how many copies of every example the inputs hold, one after another.
        settle: brings the leaves back into their range, after every step.
    """

    targets: Sequence[list[Tensor]]
    predict: Callable[[int, Tensor, Tensor], list[Tensor]]
    leaves: tuple[Leaf, ...] = ()
    copies: int = 1
    settle: Callable[[], None] = field(default=lambda: None)


class UpdateModel(Protocol):
    """How a candidate's update is predicted."""

    def bind(
        self, observation: Observation, who: str, count: int, to: Tensor, generator: torch.Generator
    ) -> Prediction:
        """Get to work.

        Args:
            who: the attack's name, for errors.
            count: number of examples N.
            to: an empty tensor of the dtype and device to compute in.
        """


@dataclass(frozen=True)
class Simulate:
    """Run the client's local training on the candidate and differentiate through it.

    The order of a client that shuffles is its secret: the attacker draws one of its own.

    Args:
        coarse: run this many steps of the whole batch instead, each as much longer; None for the client's own steps.
            Nothing is then assumed of the order, and the graph is shorter. Own form, see `coarser`.
        copies: where the client's order is secret, give every epoch its own copy of the examples, so that an example
            need not stand in the same place of every epoch (Dimitrov et al., TMLR 2022, arXiv:2206.12395).
        memory: bytes that the graph may take; None for half of what is free.
    """

    copies: bool = False
    memory: int | None = None
    coarse: int | None = None

    def bind(
        self, observation: Observation, who: str, count: int, to: Tensor, generator: torch.Generator
    ) -> Prediction:
        """Get to work.

        Raises:
            UnknownToAdversary: the local training is withheld.
            BadConfig: the graph would outgrow the memory.
        """
        training = observation.require_training(who)
        if self.coarse is not None:
            training = coarser(training, count, self.coarse)
        if training.epochs > 0:
            self._check_memory(observation, training, who, count)
        copies = self.copies and training.epochs > 1 and order_is_secret(training, count)
        rounds = observation.rounds
        states = [cast(round.state or {}, to) for round in rounds]
        orders: list[list[Tensor] | None] = [
            step_indices(training, count, generator=generator, copies=copies) if training.shuffle else None
            for _ in rounds
        ]
        names, model = list(observation.update.tensors), observation.model

        def predict(k: int, inputs: Tensor, labels: Tensor) -> list[Tensor]:
            guess = local_training(
                model, states[k], inputs, labels, training, rows=orders[k], differentiable=True
            ).tensors
            return [guess[name] for name in names]

        targets = [list(cast(round.update.tensors, to).values()) for round in rounds]
        return Prediction(targets, predict, copies=training.epochs if copies else 1)

    def _check_memory(self, observation: Observation, training: LocalTraining, who: str, count: int) -> None:
        limit = free_bytes(observation.like.device) // 2 if self.memory is None else self.memory
        shape = observation.modality.shape
        needed = simulation_bytes(observation.model, observation.state or {}, shape, training, count)
        if needed > limit:
            raise BadConfig(
                f"{who} keeps the graph of {number_of_steps(training, count)} local steps, about "
                f"{needed / 2**20:,.0f} MB, and {limit / 2**20:,.0f} MB may be used",
                "use the recipe 'sme', which keeps one step, or allow more memory",
            )


@dataclass(frozen=True)
class Nothing:
    """Leave the update alone: the search is led by its priors, such as what is known of a layer."""

    def bind(
        self, observation: Observation, who: str, count: int, to: Tensor, generator: torch.Generator
    ) -> Prediction:
        """There is nothing to match."""
        return Prediction((), lambda number, inputs, labels: [])


@dataclass(frozen=True)
class MeanGradient:
    """Take the update for one gradient at the round's start: (W0 - WT) / (lr steps), exact after one SGD step.

    Geng et al. 2021, arXiv:2110.09074. Where the local training is withheld, or is not plain SGD, the scale is
    unknown and left at one: match by a cosine, which needs none.
    """

    def bind(
        self, observation: Observation, who: str, count: int, to: Tensor, generator: torch.Generator
    ) -> Prediction:
        """Get to work; nothing is drawn."""
        states, single = [cast(round.state or {}, to) for round in observation.rounds], one_gradient(observation)
        targets = [_as_gradient(round, observation.training, count, to) for round in observation.rounds]
        names, model = list(observation.update.tensors), observation.model

        def predict(k: int, inputs: Tensor, labels: Tensor) -> list[Tensor]:
            guess = local_training(model, states[k], inputs, labels, single, differentiable=True).tensors
            return [guess[name] for name in names]

        return Prediction(targets, predict)


@dataclass(frozen=True)
class Surrogate:
    """Take the update for one gradient at a point (1 - a) W0 + a WT on the way; `a` is learned by sign steps.

    Zhu, Yao and Blaschko, "Surrogate model extension (SME)", ICML 2023, arXiv:2306.00127. Only directions are
    compared: use a cosine. An update that is a gradient has no way, and `a` stays 0.

    Args:
        start: the first `a`, in [0, 1].
        lr: the step of `a`.
    """

    start: float = 0.5
    lr: float = 1e-3

    def bind(
        self, observation: Observation, who: str, count: int, to: Tensor, generator: torch.Generator
    ) -> Prediction:
        """Get to work; nothing is drawn."""
        if observation.update.kind == "gradient":
            return MeanGradient().bind(observation, who, count, to, generator)
        states, single = [cast(round.state or {}, to) for round in observation.rounds], one_gradient(observation)
        ways = [cast(round.update.tensors, to) for round in observation.rounds]
        names, model = list(observation.update.tensors), observation.model
        places = to.new_full((len(ways),), self.start).requires_grad_()  # each round has a way of its own

        def predict(k: int, inputs: Tensor, labels: Tensor) -> list[Tensor]:
            point = {**states[k], **{name: states[k][name] + places[k] * ways[k][name] for name in names}}
            guess = local_training(model, point, inputs, labels, single, differentiable=True).tensors
            return [guess[name] for name in names]

        def settle() -> None:
            with torch.no_grad():
                places.clamp_(0, 1)

        targets = [[-way[name] for name in names] for way in ways]
        return Prediction(targets, predict, (Leaf(places, lr=self.lr),), settle=settle)


def number_of_steps(training: LocalTraining, count: int) -> int:
    """Local steps over a batch of `count`."""
    return training.epochs * math.ceil(count / (training.batch_size or count))


def coarser(training: LocalTraining, count: int, steps: int) -> LocalTraining:
    """Fewer, longer steps of the whole batch that end near where the client's own end; own form.

    The sum of learning rates stays. Steps over parts of a batch end near those over the whole, whatever their order, to
    first order in the learning rate. Momentum is folded into the rate, since few steps do not build it up.

    >>> fine = LocalTraining.fedavg(lr=0.01, epochs=10, batch_size=5, shuffle=True)
    >>> one = coarser(fine, 50, 10)
    >>> one.epochs, one.batch_size, one.shuffle, round(one.lr or 0, 3)
    (10, None, False, 0.1)
    """
    taken = number_of_steps(training, count)
    if training.lr is None or taken <= steps:
        return training
    lr = training.lr * taken / steps / (1 - training.momentum)
    return replace(training, lr=lr, epochs=steps, batch_size=None, momentum=0.0, shuffle=False)


def one_gradient(observation: Observation) -> LocalTraining:
    """FedSGD with the client's loss and mode, as far as they are known."""
    training = observation.training
    return LocalTraining.fedsgd(mode="as_is" if training is None else training.mode, loss=observation.loss)


def cast(tensors: Tensors, to: Tensor) -> dict[str, Tensor]:
    """The tensors on `to`'s device, those of floating point in its dtype."""
    return {name: t.to(to) if t.is_floating_point() else t.to(to.device) for name, t in tensors.items()}


def _as_gradient(round: Round, training: LocalTraining | None, count: int, to: Tensor) -> list[Tensor]:
    scale = 1.0
    if round.update.kind == "difference":
        plain = training is not None and training.optimizer == "sgd" and training.momentum == 0
        scale = -1.0
        if plain and training is not None and training.lr is not None:
            scale /= training.lr * number_of_steps(training, count)
    return [scale * tensor for tensor in cast(round.update.tensors, to).values()]


def assign(reference: Candidate, other: Candidate) -> Tensor:
    """Which example of `other` stands for each of the reference, `(N,)`: the least sum of squared errors among equal
    labels (Kuhn, 1955).
    """
    from scipy.optimize import linear_sum_assignment  # imported late: it takes longer than fedseal's own modules

    classes = _classes(reference.labels, other.labels)
    one, two = (c.inputs.detach().double().flatten(1) for c in (reference, other))
    costs = torch.cdist(one, two).square()
    costs = costs + 1e6 * (1 + costs.max()) * (classes[0][:, None] != classes[1][None, :])
    return torch.as_tensor(linear_sum_assignment(costs.cpu().numpy())[1], device=reference.inputs.device)


def _classes(*labels: Tensor) -> list[Tensor]:
    """Labels `(N,)` that are equal where examples may stand for each other: classes, the likeliest of soft ones, or
    numbers of rows that are alike.
    """
    if labels[0].ndim == 1:
        return list(labels)
    rows = torch.cat(labels)
    if rows.shape[1] > 1 and bool(((rows.sum(1) - 1).abs() < 1e-3).all()) and bool((rows >= 0).all()):
        return [one.argmax(-1) for one in labels]
    first = (rows[:, None] == rows[None]).all(-1).int().argmax(1)  # the first row that is alike
    return list(torch.split(first, [len(one) for one in labels]))


def merged(inputs: Tensor, labels: Tensor, copies: int) -> Tensor:
    """One input of each example from its copies: every copy matched to the first among equal labels, then the mean;
    once more against that mean.

    Args:
        inputs: `(copies * N, ...)`, the copies one after another.
        labels: `(N,)` or `(N, C)`, the same for every copy.

    Returns:
        `(N, ...)`.

    >>> two = torch.tensor([[0.0], [1.0], [1.5], [0.5]])
    >>> merged(two, torch.tensor([3, 3]), 2).flatten().tolist()
    [0.25, 1.25]
    """
    if copies == 1 or not bool(torch.isfinite(inputs).all()):
        return inputs[: len(labels)]
    stacked = [Candidate(copy, labels) for copy in inputs.detach().chunk(copies)]
    reference = stacked[0]
    for _ in range(2):
        matched = [copy.inputs[assign(reference, copy)] for copy in stacked]
        reference = Candidate(torch.stack(matched).mean(0), labels)
    return reference.inputs


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device; for the CPU what the system would give without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
