"""What a layer sees of candidate inputs, caught at the operator that uses its weight, and a prior that holds it there.

An attacker who knows what stood at some layer, example by example, need not match gradients: the inputs whose
activations agree are found by a forward and a backward pass, and examples with one label cannot fuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedseal.attack.prior import Bindable, Prior, Scene
from fedseal.client import explained, forward
from fedseal.errors import UnfitModel
from fedseal.types import Tensors

Side = Literal["input", "output"]


class _Catch(TorchFunctionMode):
    """Keeps what goes into, or comes out of, the product with one weight, whichever function is called for it."""

    def __init__(self, weight: Tensor, side: Side) -> None:
        super().__init__()
        self.weight, self.side = weight, side
        self.caught: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator, and look at what it multiplies."""
        out = func(*args, **(kwargs or {}))
        operands = [a for a in (*args, *(kwargs or {}).values()) if isinstance(a, Tensor)]
        product = isinstance(out, Tensor) and len(operands) > 1
        if product and any(self._is_weight(operand) for operand in operands):
            if self.side == "output":
                self.caught = out
            else:
                others = [a for a in operands if not self._is_weight(a)]
                self.caught = max(others, key=lambda tensor: tensor.ndim)  # the bias has one axis
        return out

    def _is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor is the weight or a transposed view of it."""
        same = tensor.numel() == self.weight.numel() and {*tensor.shape} == {*self.weight.shape}
        return same and tensor.data_ptr() == self.weight.data_ptr()


def activation(model: nn.Module, state: Tensors, weight: str, side: Side, inputs: Tensor) -> Tensor:
    """What goes into, or comes out of, the layer with this weight, for model inputs `(N, ...)`; differentiable.

    Raises:
        UnfitModel: no product with that weight was seen.
    """
    tensors = {name: tensor.detach() for name, tensor in state.items()}
    for name, _ in model.named_buffers():
        tensors[name] = tensors[name].clone()  # BatchNorm in train mode writes to its statistics
    catch = _Catch(tensors[weight], side)
    with catch:
        forward(model, tensors, inputs)
    if catch.caught is None:
        raise UnfitModel(
            f"no product with the weight '{weight}' was seen in the forward pass",
            "let the layer be nn.Linear, F.linear or a convolution",
        )
    return catch.caught


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
