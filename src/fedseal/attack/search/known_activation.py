"""A prior that holds what a layer sees of candidate inputs where it is known.

An attacker who knows what stood at some layer, example by example, need not match gradients: the inputs whose
activations agree are found by a forward and a backward pass, and examples with one label cannot fuse.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedseal.attack.evidence.activations import Side, activation
from fedseal.attack.search.prior import Bindable, Prior, Scene
from fedseal.client import explained
from fedseal.types import Tensors


@dataclass(frozen=True)
class KnownActivation(Bindable):
    """Squared distance between what a layer sees of the inputs and what it is known to have seen, relative to its size.

    Args:
        weight, side: the layer, and whether its input or its output is known.
        value: `(N, ...)`; error: standard errors like it, those of no knowledge at all infinite.
        floor: what a known value may be off, relative to the root mean square of all, without being pulled harder.
    """

    weight: str
    side: Side
    value: Tensor
    error: Tensor
    floor: float = 0.03

    def bind(self, scene: Scene) -> Prior:
        """The prior at this observation's weights."""
        observation = scene.observation
        assert observation.state is not None
        to = scene.to
        state, fed = _formats(observation.state, to, observation.like)
        known = torch.isfinite(self.error)
        size = self.value[known].square().mean().sqrt()
        trust = self.floor * size / (self.floor * size + self.error)  # 1 where the error is small, 0 where infinite
        trust = (trust / trust[known].square().mean().sqrt() / size).to(to)
        value, model = self.value.to(to), observation.model

        def prior(inputs: Tensor) -> Tensor:
            taken = observation.modality.forward(inputs).to(fed)
            with explained(model, taken, self.value):
                seen = activation(model, state, self.weight, self.side, taken)
            return ((seen.reshape(value.shape) - value) * trust).square().mean()

        return prior


def _formats(state: Tensors, to: Tensor, like: Tensor) -> tuple[Tensors, torch.dtype]:
    """The weights in the search's format, and the format of inputs; in their own where the layers differ in theirs, as
    such a model converts what passes between them by itself.
    """
    mixed = len({tensor.dtype for tensor in state.values() if tensor.is_floating_point()}) > 1
    dtype = like.dtype if mixed else to.dtype
    if mixed:
        return {name: tensor.to(to.device) for name, tensor in state.items()}, dtype
    return {name: t.to(to) if t.is_floating_point() else t.to(to.device) for name, t in state.items()}, dtype
