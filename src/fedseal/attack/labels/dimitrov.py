"""Dimitrov's counts after local training: softmax and features between the weights before and after."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedseal.attack.labels.base import Labels, from_counts, to_counts
from fedseal.attack.labels.dummies import normal_dummies, passed
from fedseal.attack.labels.geng import logit_gradient
from fedseal.attack.labels.head import bias_residual, read_head
from fedseal.types import Observation, Round, Tensors


@dataclass(frozen=True)
class Dimitrov:
    """Geng's counts with p and O interpolated over the local steps (Dimitrov et al., TMLR 2022, arXiv:2206.12395).

    Both are measured at the weights before and after the local training, taken as linear in between, and the counts
    averaged over the steps. Where the head has a bias, its gradient is read in place of g / O.

    Args:
        dummies: how many random inputs.
        weight_form: divide by the features even where the head has a bias, as published.
    """

    dummies: int = 1000
    weight_form: bool = False
    name: str = "dimitrov"

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer; for a gradient, which has no after, it is Geng's.

        Raises:
            UnknownToAdversary: weights, local training or number of examples are withheld.
        """
        state = observation.require_state(self.name)
        head = read_head(observation, self.name)
        inputs = normal_dummies(observation, self.dummies, generator)
        before = passed(observation.model, state, head.layer, inputs)
        after = passed(observation.model, state_after(observation.rounds[0]), head.layer, inputs)
        bias = head.bias_gradient is not None and not self.weight_form
        sums = torch.zeros_like(head.row_sums)
        estimate = torch.zeros_like(head.row_sums)
        for step in range(head.steps):
            part = step / head.steps
            softmax = (1 - part) * before.softmax.mean(0) + part * after.softmax.mean(0)
            features = (1 - part) * before.features + part * after.features
            sums += head.count / head.steps * softmax
            estimate += head.counts(softmax, logit_gradient(head, features, bias)) / head.steps
        counts = to_counts(estimate, head.count)
        return from_counts(counts, residual=bias_residual(head, sums, counts))


def state_after(round: Round) -> Tensors:
    """The weights after the local training, and the buffers that were sent; for a gradient those before."""
    assert round.state is not None
    if round.update.kind == "gradient":
        return round.state
    moved = {name: tensor + round.state[name] for name, tensor in round.update.tensors.items()}
    return {**round.state, **(round.update.buffers or {}), **moved}
