"""Made-up inputs run through the observation's own model: what softmax and features look like without any data.

The features are caught at the operator that uses the head's weight, so that it does not matter whether head and
activations are modules or functions, or how many axes the maps before it have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedseal.attack.structure import Linear
from fedseal.client import forward
from fedseal.errors import UnfitModel
from fedseal.types import Observation, Tensors

aten = torch.ops.aten
CHUNK = 250  # inputs at a time


class Passed(NamedTuple):
    """Inputs seen from the head, in float64: features `(J, features)` and logits `(J, classes)`."""

    features: Tensor
    logits: Tensor

    @property
    def softmax(self) -> Tensor:
        """Probabilities `(J, classes)`."""
        return self.logits.softmax(-1)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the other operand of every matrix product with one weight, whichever function was called for it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weight = weight
        self.seen: Tensor | None = None

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator, and look at what it multiplies."""
        operands = {
            aten.addmm.default: args[1:3],
            aten.mm.default: args[:2],
            aten.linear.default: args[:2],
        }.get(func)
        if operands is not None:
            inputs, weight = operands
            if self._is_head(weight):
                self.seen = inputs
            elif self._is_head(inputs):
                self.seen = weight.t()
        return func(*args, **(kwargs or {}))

    def _is_head(self, tensor: Tensor) -> bool:
        """Whether a tensor is the weight or a transposed view of it."""
        return (
            tensor.numel() == self.weight.numel()
            and tensor.data_ptr() == self.weight.data_ptr()
            and {*tensor.shape} == {*self.weight.shape}
        )


def passed(model: nn.Module, state: Tensors, head: Linear, inputs: Tensor) -> Passed:
    """Features and logits of model inputs `(J, ...)`.

    Raises:
        UnfitModel: no matrix product with the head's weight was seen.
    """
    tensors = {name: tensor.detach().clone() for name, tensor in state.items()}
    features = []
    with torch.no_grad():
        for chunk in inputs.split(CHUNK):  # type: ignore[no-untyped-call]
            watch = _Watch(tensors[head.weight])
            with watch:
                forward(model, tensors, chunk)
            if watch.seen is None:
                raise UnfitModel(
                    f"no matrix product with the head's weight '{head.weight}' was seen in the forward pass",
                    "let the head be nn.Linear or F.linear",
                )
            features.append(watch.seen.double())
    found = torch.cat(features)
    weight = tensors[head.weight].double()
    scores = found @ weight.T
    if head.bias is not None:
        scores = scores + tensors[head.bias].double()
    return Passed(found, scores)


def normal_dummies(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Standard normal model inputs `(count, *shape)`, as Geng et al. (arXiv:2110.09074) feed them."""
    modality = observation.modality
    noise = torch.randn(count, *modality.shape, generator=generator)
    return modality.forward(modality.start(noise)).to(observation.like)


def varied_dummies(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Valid model inputs `(count, *shape)` of many kinds: noise, smooth shapes, dark and bright ones, and mixtures.

    White noise is like no data; a spread of brightness and smoothness covers the statistics that data may have.
    """
    modality = observation.modality
    noise = torch.randn(count, *modality.shape, generator=generator)
    ones = (1,) * len(modality.shape)
    if len(modality.shape) == 3:
        channels, height, width = modality.shape
        coarse = torch.randn(count, channels, max(2, height // 7), max(2, width // 7), generator=generator)
        smooth = 2 * F.interpolate(coarse, size=(height, width), mode="bilinear")
        share = torch.rand(count, *ones, generator=generator)
        noise = (1 - share) * noise + share * smooth
    noise = noise + 0.5 * torch.randn(count, *ones, generator=generator)
    return modality.forward(modality.project(modality.start(noise))).to(observation.like)
