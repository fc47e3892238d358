"""What an observation says before any attack: the gradient behind the update, its precision, the batch size, the label.

Every reading is a function of the observation alone, and says None where the threat model withholds what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedseal.attack.structure import Linear, Structure, structure_of
from fedseal.types import Observation

ROUNDING = 2.5  # units in the last place by which a sum of products in the client's dtype is off, as measured


@dataclass(frozen=True)
class Evidence:
    """An observation, read once."""

    observation: Observation

    @cached_property
    def structure(self) -> Structure:
        """The model's layers."""
        modality = self.observation.modality
        whole = not modality.forward(torch.zeros(1, *modality.shape)).is_floating_point()
        return structure_of(self.observation.model, modality.shape, whole=whole)

    @cached_property
    def eps(self) -> float:
        """Relative error of a number that the client computed; never below what float64 solvers can use."""
        return max(ROUNDING * torch.finfo(self.observation.like.dtype).eps, 1e-13)

    @cached_property
    def gradient_scale(self) -> float | None:
        """The factor from the update to a mean gradient; None where the update is not a multiple of one gradient."""
        training, update = self.observation.training, self.observation.update
        if update.kind == "gradient":
            return 1.0
        if training is None or training.lr is None or training.epochs != 1:
            return None
        if training.optimizer != "sgd" or training.weight_decay or not training.fresh_optimizer:
            return None
        whole = update.num_examples is not None and update.num_examples <= (training.batch_size or update.num_examples)
        return -1.0 / training.lr if whole else None

    def gradient(self, name: str) -> Tensor | None:
        """The mean gradient of one parameter in float64, None where the update is not a multiple of one gradient."""
        if self.gradient_scale is None:
            return None
        return self.observation.update.tensors[name].double() * self.gradient_scale

    def noise(self, name: str) -> Tensor:
        """Standard errors of `gradient(name)` by its first axis, `(rows,)` in float64, from the arithmetic alone."""
        observed = self.observation.update.tensors[name].double()
        size = observed.flatten(1).square().mean(1).sqrt() if observed.ndim > 1 else observed.abs()
        size = size + 1e-3 * observed.abs().max()
        if self.observation.update.kind == "difference" and self.observation.state is not None:
            size = (
                size + self.observation.state[name].double().abs().max()
            )  # a difference inherits the weights' rounding
        return (self.eps * abs(self.gradient_scale or 1.0) * size).clamp_min(1e-300)

    @cached_property
    def head_factors(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Singular value decomposition of the head's gradient `(classes, features)`."""
        head = self.structure.head
        if head is None or head.weight not in self.observation.update.tensors:
            return None
        gradient = self.observation.update.tensors[head.weight].double()
        left, values, right = torch.linalg.svd(gradient, full_matrices=False)
        return left, values, right

    @cached_property
    def batch_size(self) -> int | None:
        """The number of examples: as sent, else the rank of the head's gradient where that is below full."""
        update = self.observation.update
        if update.num_examples is not None:
            return update.num_examples
        if self.head_factors is None or update.kind != "gradient":
            return None
        values = self.head_factors[1]
        rank = int((values > values[0] * 30 * self.eps).sum())
        most = min(self.structure.num_classes - 1, len(values))  # the rows of a softmax head's gradient sum to zero
        return rank if rank < most else None

    @cached_property
    def label(self) -> int | None:
        """The label of a single example under cross-entropy (iDLG; Zhao et al. 2020, arXiv:2001.02610).

        The gradient by the logits, softmax minus one-hot, is negative at the label alone. The head's bias gradient is
        that vector; without a bias, its weight gradient is that vector times the features, so that one row opposes all
        others, whatever the features' signs.
        """
        head = self.structure.head
        if head is None or self.batch_size != 1 or self.observation.loss != "cross_entropy":
            return None
        sign = -1.0 if self.observation.update.kind == "difference" else 1.0  # a step goes against the gradient
        if head.bias is not None and head.bias in self.observation.update.tensors:
            return int((sign * self.observation.update.tensors[head.bias]).argmin())
        if self.head_factors is None or self.structure.num_classes == 2:  # two rows oppose, whichever is the label's
            return None
        left = self.head_factors[0][:, 0]
        positive = left > 0
        if int(positive.sum()) == 1 or int((~positive).sum()) == 1:
            return int((left * (1.0 if int(positive.sum()) == 1 else -1.0)).argmax())
        return None

    @cached_property
    def first_linear(self) -> Linear | None:
        """The first layer, if it is fully connected on the flattened input."""
        for layer in self.structure.layers:
            if isinstance(layer, Linear):
                return layer
            if type(layer).__name__ != "Reshape":
                return None
        return None
