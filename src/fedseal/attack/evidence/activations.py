"""What a layer sees of inputs, caught at the operator that uses its weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedseal.client import forward
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
