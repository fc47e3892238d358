"""RLU: counts after local training, by a simulated client whose softmax drifts as the real one's does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedseal.attack.labels.base import Labels, from_counts, to_counts
from fedseal.attack.labels.dummies import passed, varied_dummies
from fedseal.attack.labels.head import Head, bias_residual, needs_bias, needs_hard, read_head
from fedseal.attack.labels.ilrg import solve_counts
from fedseal.client import local_training, step_indices
from fedseal.types import LocalTraining, Observation, Tensors


@dataclass(frozen=True)
class RLU:
    """Label counts under local training (Chen et al., ICML 2024, arXiv:2405.00955), written from the abstract.

    A client on made-up inputs with the present guess of the labels is simulated; it gives the mean softmax of an
    example of class j over the local steps (its erroneous confidence). Counts solve sum_j c_j (e_j - 1_j) = K db by
    least squares; guess and simulation are repeated.

    Args:
        rounds: how often to simulate.
    """

    rounds: int = 3
    name: str = "rlu"

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer.

        Raises:
            UnknownToAdversary: weights, local training or number of examples are withheld.
            UnfitUpdate: the head has no bias.
        """
        state = observation.require_state(self.name)
        training = observation.require_training(self.name)
        head = read_head(observation, self.name)
        needs_hard(head, self.name)
        bias_gradient = needs_bias(head, self.name)
        inputs = varied_dummies(observation, head.count, generator)
        counts = to_counts(head.count * (1 / head.classes - bias_gradient), head.count)
        sums = torch.zeros_like(bias_gradient)
        for _ in range(self.rounds):
            labels = from_counts(counts).labels[torch.randperm(head.count, generator=generator).to(counts.device)]
            softmax = drift(observation, state, training, head, inputs, labels, generator)
            estimate, _ = solve_counts(head, by_class(softmax, labels, head.classes))
            counts, sums = to_counts(estimate, head.count), softmax.sum(0)
        return from_counts(counts, residual=bias_residual(head, sums, counts))


def drift(
    observation: Observation,
    state: Tensors,
    training: LocalTraining,
    head: Head,
    inputs: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The softmax `(N, classes)` of each example as it enters its local steps, averaged over them.

    The simulated client takes plain steps, of the size that its momentum comes to in the long run.
    """
    if training.kind == "gradient":
        return passed(observation.model, state, head.layer, inputs).softmax
    assert training.lr is not None
    single = LocalTraining.fedavg(
        lr=training.lr / (1 - training.momentum), mode=training.mode, loss=training.loss, weight_decay=0.0
    )
    total = torch.zeros(len(inputs), head.classes, dtype=torch.float64, device=inputs.device)
    for rows in step_indices(training, len(inputs), generator=generator):
        rows = rows.to(inputs.device)
        total[rows] += passed(observation.model, state, head.layer, inputs[rows]).softmax
        step = local_training(observation.model, state, inputs[rows], labels[rows], single)
        moved = {name: state[name].detach() + tensor.detach() for name, tensor in step.tensors.items()}
        state = {**state, **step.buffers, **moved}
    return total / training.epochs


def by_class(softmax: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The mean softmax `(classes, classes)` of each class's examples; of all examples where a class has none."""
    members = torch.nn.functional.one_hot(labels, classes).to(softmax)
    sizes = members.sum(0)
    means = members.T @ softmax / sizes.clamp_min(1)[:, None]
    return torch.where(sizes[:, None] > 0, means, softmax.mean(0))
