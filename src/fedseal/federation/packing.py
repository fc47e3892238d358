"""A model's step as one flat vector and back: trainable parameters first, then the changes of buffers."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedseal.errors import UnfitUpdate
from fedseal.types import Tensors, Update

Vector = NDArray[np.float32]


def state_digest(state: Tensors) -> bytes:
    """SHA-256 of a model's tensors: names, formats, shapes and every bit, in the order of the names.

    >>> one, other = torch.zeros(2), torch.tensor([0.0, -0.0])
    >>> state_digest({"a": one}) == state_digest({"a": one.clone()}) != state_digest({"a": other})
    True
    """
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        content = tensor.detach().cpu().contiguous()
        found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        found.update(content.reshape(-1).view(torch.uint8).numpy().data)
    return found.digest()


@dataclass(frozen=True)
class Packing:
    """Names and shapes, in the order in which they stand in the vector.

    >>> Packing.of(nn.Linear(3, 2)).size
    8
    """

    weights: tuple[tuple[str, tuple[int, ...]], ...]
    buffers: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, model: nn.Module) -> Packing:
        """The packing of a model's trainable parameters and its buffers."""
        return cls(
            tuple((name, tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad),
            tuple((name, tuple(buffer.shape)) for name, buffer in model.named_buffers()),
        )

    @property
    def size(self) -> int:
        """Entries of the vector."""
        return sum(math.prod(shape) for _, shape in (*self.weights, *self.buffers))

    def pack(self, update: Update, state: Tensors) -> Vector:
        """`(size,)`: the way the model should go, so minus a gradient; of buffers, how they changed.

        Raises:
            UnfitUpdate: of another model.
        """
        sign = -1.0 if update.kind == "gradient" else 1.0
        vector = np.empty(self.size, np.float32)
        start = self._write(vector, 0, self.weights, update.tensors, sign)
        if update.buffers is None:
            vector[start:] = 0
            return vector
        moved = {name: update.buffers[name].double() - state[name].double() for name in update.buffers}
        self._write(vector, start, self.buffers, moved, 1.0)
        return vector

    def unpack(self, vector: NDArray[Any]) -> dict[str, Tensor]:
        """Tensors by name, in the vector's dtype and memory."""
        start, found, whole = 0, {}, torch.from_numpy(vector)
        for name, shape in (*self.weights, *self.buffers):
            end = start + math.prod(shape)
            found[name] = whole[start:end].view(shape)
            start = end
        return found

    def _write(
        self, vector: Vector, start: int, parts: tuple[tuple[str, tuple[int, ...]], ...], tensors: Tensors, sign: float
    ) -> int:
        for name, shape in parts:
            tensor = tensors.get(name)
            if tensor is None or tuple(tensor.shape) != shape:
                there = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
                raise UnfitUpdate(f"'{name}' is {there}, and the model's has {shape}", "train the model that was sent")
            end = start + math.prod(shape)
            own = tensor.detach().cpu()
            own = own.float() if own.dtype == torch.bfloat16 else own  # which numpy does not know
            np.multiply(own.numpy().ravel(), sign, out=vector[start:end], casting="same_kind")
            start = end
        return start
