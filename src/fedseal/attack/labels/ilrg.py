"""iLRG: class-wise softmax from class-wise embeddings, then linear equations for the counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedseal.attack.labels.base import Labels, from_counts, to_counts
from fedseal.attack.labels.geng import Geng
from fedseal.attack.labels.head import Head, bias_residual, needs_bias, needs_hard, read_head
from fedseal.errors import BadConfig
from fedseal.types import Observation, Tensors

TINY = 1e-3  # of the largest entry: a bias gradient below says nothing about its class's embedding
TRUSTED = 0.25  # residual of the equations above which the embeddings contradict each other


@dataclass(frozen=True)
class ILRG:
    """Instance-wise labels by counts (Ma et al., "Instance-wise Batch Label Restoration via Gradients", ICLR 2023).

    A class's mean embedding is taken as e_n = dV_n / db_n and its softmax as softmax(a (V e_n + b)); the counts then
    solve sum_n p_ni c_n - c_i = K db_i and sum_n c_n = K by least squares. A class with db_n near zero takes the mean
    embedding of all. Where the equations do not hold, the bias form of Geng's counts is given in their place.

    Args:
        temperature: the factor a.
        dummies: how many random inputs the bias form takes.
    """

    temperature: float = 1.0
    dummies: int = 1000
    name: str = "ilrg"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise BadConfig(f"iLRG's temperature is {self.temperature}", "give a positive number")

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer; draws only where it falls back.

        Raises:
            UnknownToAdversary: weights or number of examples are withheld.
            UnfitUpdate: the head has no bias.
        """
        state = observation.require_state(self.name)
        head = read_head(observation, self.name)
        needs_hard(head, self.name)
        softmax = class_softmax(head, needs_bias(head, self.name), state, self.temperature)
        estimate, misfit = solve_counts(head, softmax)
        if misfit <= TRUSTED:
            counts = to_counts(estimate, head.count)
            return from_counts(counts, residual=bias_residual(head, softmax.T @ counts.double(), counts))
        found = Geng(bias=True, dummies=self.dummies)(observation, generator=generator)
        note = f"iLRG's equations leave {misfit:.0%}; counts by the bias form"
        return from_counts(found.counts, residual=found.residual, note=note)


def class_softmax(head: Head, bias_gradient: Tensor, state: Tensors, temperature: float) -> Tensor:
    """The softmax `(classes, classes)` of each class's mean embedding; a row a class."""
    weight = state[head.layer.weight].double()
    bias = state[head.layer.bias].double() if head.layer.bias else weight.new_zeros(head.classes)
    mean = head.gradient.T @ bias_gradient / (bias_gradient @ bias_gradient)
    told = bias_gradient.abs() > TINY * bias_gradient.abs().max()
    embedding = torch.where(told[:, None], head.gradient / torch.where(told, bias_gradient, 1.0)[:, None], mean)
    return (temperature * (embedding @ weight.T + bias)).softmax(-1)


def solve_counts(head: Head, softmax: Tensor) -> tuple[Tensor, float]:
    """Counts `(classes,)` by least squares, and the share of K db that counts without negatives leave unexplained."""
    assert head.bias_gradient is not None
    observed = head.count * head.bias_gradient
    equations = softmax.T - torch.eye(head.classes, dtype=softmax.dtype, device=softmax.device)
    stacked = torch.cat([equations, equations.new_ones(1, head.classes)])
    right = torch.cat([observed, observed.new_full((1,), float(head.count))])
    estimate = torch.linalg.pinv(stacked) @ right
    possible = estimate.clamp_min(0)
    possible = possible * (head.count / possible.sum().clamp_min(1e-300))
    return estimate, float((equations @ possible - observed).norm() / observed.norm().clamp_min(1e-300))
