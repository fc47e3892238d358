"""Geng's zero-shot counts: what softmax and features are without data, by random inputs through the model itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedseal.attack.labels.base import Labels, from_counts, to_counts
from fedseal.attack.labels.dummies import normal_dummies, passed
from fedseal.attack.labels.head import Head, bias_residual, needs_bias, read_head
from fedseal.errors import UnfitModel
from fedseal.types import Observation


@dataclass(frozen=True)
class Geng:
    """c = K p - K g / O, with g the row sums of the head's gradient (Geng et al. 2021, arXiv:2110.09074).

    p and O are the mean softmax and the mean sum of the features over standard normal inputs. Over several updates of
    one batch the estimates are averaged; over local steps the mean gradient takes the place of the gradient.

    Args:
        bias: read the bias gradient in place of g / O, which is exact up to p.
        dummies: how many random inputs.
    """

    bias: bool = False
    dummies: int = 1000
    name: str = "geng"

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        """Infer.

        Raises:
            UnknownToAdversary: weights or number of examples are withheld.
            UnfitUpdate: the bias form, and the head has no bias.
        """
        observation.require_state(self.name)
        inputs = normal_dummies(observation, self.dummies, generator)
        estimates: list[Tensor] = []
        sums: list[Tensor] = []
        for round in observation.rounds:
            head = read_head(observation, self.name, round=round)
            if self.bias:
                needs_bias(head, self.name)
            assert round.state is not None
            seen = passed(observation.model, round.state, head.layer, inputs)
            softmax = seen.softmax.mean(0)
            sums.append(head.count * softmax)
            estimates.append(head.counts(softmax, logit_gradient(head, seen.features, self.bias)))
        estimate = torch.stack(estimates).mean(0)
        counts = to_counts(estimate, head.count)
        return from_counts(counts, residual=bias_residual(head, sums[-1], counts))


def logit_gradient(head: Head, features: Tensor, bias: bool) -> Tensor:
    """The mean gradient by the logits `(classes,)`: the bias's, or the weight's row sums by the features' mean sum.

    Raises:
        UnfitModel: the features of the random inputs sum to zero, so that nothing can be divided by them.
    """
    if bias:
        assert head.bias_gradient is not None
        return head.bias_gradient
    mean_sum = features.sum(1).mean()
    if float(mean_sum.abs()) <= 1e-6 * float(features.abs().sum(1).mean()):
        raise UnfitModel(
            "the weight form divides by the features' mean sum, and random inputs give features that sum to zero",
            "use the bias form geng_bias, or moments",
        )
    return head.row_sums / mean_sum
