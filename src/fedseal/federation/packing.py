"""A model's step as one flat vector and back: trainable parameters first, then the changes of statistics.

Statistics stand in the vector in a unit of their own, so that their largest change is the weights' largest one, and are
clipped for themselves: they move by other amounts than weights do, and must not take the weights' norm.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedseal.errors import UnfitUpdate
from fedseal.federation.secure import READABLE, Secure
from fedseal.federation.statistics import norms
from fedseal.layout import canonical
from fedseal.types import Tensors, Update

Vector = NDArray[np.float32]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
LOCAL = ", or keep statistics at their owners: --statistics local"
ROUNDING = 1e-6  # of float32, by which what was clipped to a bound may pass it


def state_digest(state: Tensors) -> bytes:
    """SHA-256 of a model's tensors: names, formats, shapes and every bit, in the order of the names.

    >>> one, other = torch.zeros(2), torch.tensor([0.0, -0.0])
    >>> state_digest({"a": one}) == state_digest({"a": one.clone()}) != state_digest({"a": other})
    True
    """
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        content = canonical(tensor.detach().cpu())
        found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        found.update(content.reshape(-1).view(torch.uint8).numpy().data)
    return found.digest()


def architecture_digest(model: nn.Module) -> str:
    """16 digits that stand for a model's layers, names, shapes and formats; not for its weights, nor for code.

    >>> one, again, other = (architecture_digest(nn.Linear(2, outputs)) for outputs in (3, 3, 4))
    >>> one == again != other
    True
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    facts = [(name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors]
    layers = [(name, type(module).__qualname__, module.extra_repr()) for name, module in model.named_modules()]
    return hashlib.sha256(repr((layers, facts)).encode()).hexdigest()[:16]


def statistics_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's statistics by name: running means and variances of its normalization layers, and no other buffer.

    >>> list(statistics_of(nn.BatchNorm1d(2)))
    ['running_mean', 'running_var']
    """
    own = {f"{place}{kind}" for place, _ in norms(model) for kind in ("running_mean", "running_var")}
    return {name: buffer for name, buffer in model.named_buffers() if name in own}


class ModelState(dict[str, Tensor]):
    """A model's tensors on their way to clients, which nobody changes any more: their digest is worked out once.

    >>> ModelState({"a": torch.zeros(2)}).digest == state_digest({"a": torch.zeros(2)})
    True
    """

    @cached_property
    def digest(self) -> bytes:
        """As `state_digest`."""
        return state_digest(self)


def digest_of(state: Tensors) -> bytes:
    """The digest of a state, worked out unless this very object's was."""
    return state.digest if isinstance(state, ModelState) else state_digest(state)


def trained_arrays(tensors: Iterable[Tensor]) -> Iterator[NDArray[np.float32]]:
    """Entries of those tensors that are trained, flat, as a ledger makes sketches of them."""
    for tensor in tensors:
        if tensor.requires_grad and tensor.is_floating_point():
            yield tensor.detach().cpu().reshape(-1).float().numpy()


@dataclass(frozen=True)
class Packing:
    """Names and shapes, in the order in which they stand in the vector.

    Args:
        buffers: the statistics that travel; counters and fixed buffers never do.
        unit: how much of a statistic is 1 in the vector.

    >>> Packing.of(nn.Linear(3, 2)).size, Packing.of(nn.BatchNorm1d(3)).size
    (8, 12)
    """

    weights: Shapes
    buffers: Shapes
    unit: float = field(default=1.0, repr=False)

    @classmethod
    def of(cls, model: nn.Module, secure: Secure | None = None) -> Packing:
        """The packing of a model's trainable parameters, and of its statistics unless these stay at their owners."""
        shared = secure is None or secure.statistics == "shared"
        return cls(
            tuple((name, tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad),
            tuple((name, tuple(buffer.shape)) for name, buffer in statistics_of(model).items()) if shared else (),
            1.0 if secure is None else secure.statistics_unit,
        )

    @property
    def size(self) -> int:
        """Entries of the vector."""
        return self._weights + sum(math.prod(shape) for _, shape in self.buffers)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that a round moves."""
        return tuple(name for name, _ in (*self.weights, *self.buffers))

    @property
    def _weights(self) -> int:
        return sum(math.prod(shape) for _, shape in self.weights)

    def pack(self, update: Update, state: Tensors) -> Vector:
        """`(size,)`: the way the model should go, so minus a gradient; of statistics, how they changed, in their unit.

        Raises:
            UnfitUpdate: of another model.
        """
        sign = -1.0 if update.kind == "gradient" else 1.0
        vector = np.empty(self.size, np.float32)
        start = self._write(vector, 0, self.weights, update.tensors, sign)
        if update.buffers is None:
            vector[start:] = 0
            return vector
        sent = {name: update.buffers[name] for name, _ in self.buffers if name in update.buffers}
        moved = {name: after.double() - state[name].double() for name, after in sent.items()}
        self._write(vector, start, self.buffers, moved, 1 / self.unit)
        return vector

    def limit(self, vector: Vector, secure: Secure) -> None:
        """Clip weights and statistics in place, each to its own norm and no entry beyond it.

        Raises:
            UnfitUpdate: a statistic that moves further than agreed, or, in the clear, any entry that does.
        """
        if secure.protocol in READABLE:
            self._check_entries(vector, secure.largest_entry)
            return  # a secure sum looks at the weights as it encodes them
        weights, statistics = vector[: self._weights], vector[self._weights :]
        if not statistics.size:
            return  # and clips them there, where they are all
        if secure.clip is not None and secure.statistics_clip is not None:
            _scale_down(weights, secure.clip)
            _scale_down(statistics, secure.statistics_clip / self.unit)
        place, most = int(np.abs(statistics).argmax()), secure.statistics_bound / self.unit
        if abs(statistics[place]) > most * (1 + ROUNDING):
            raise self._too_far(self._weights + place, vector, secure.statistics_bound, LOCAL)
        _cap(statistics, most)

    def _check_entries(self, vector: Vector, most: float) -> None:
        place = int(np.abs(vector).argmax())
        if not abs(vector[place]) > most:  # nor where it is no number, which the protocol refuses
            return
        if place >= self._weights:
            raise self._too_far(place, vector, most, "")
        raise UnfitUpdate(
            f"an entry of '{self._name(place)}' is {float(vector[place]):g}, and the round takes up to {most:g}",
            "lower the step length, or declare a larger --bound",
        )

    def _too_far(self, place: int, vector: Vector, most: float, more: str) -> UnfitUpdate:
        moved = float(vector[place]) * self.unit
        return UnfitUpdate(
            f"the statistic '{self._name(place)}' moves by {moved:g}, and the round takes up to {most:g}",
            f"bring inputs to a common scale, or declare a larger --statistics-bound{more}",
        )

    def _name(self, place: int) -> str:
        for name, shape in (*self.weights, *self.buffers):
            if place < math.prod(shape):
                return name
            place -= math.prod(shape)
        raise IndexError(place)

    def unpack(self, vector: NDArray[Any]) -> dict[str, Tensor]:
        """Tensors by name, in the vector's dtype; weights in its memory."""
        start, found, whole = 0, {}, torch.from_numpy(vector)
        for name, shape in (*self.weights, *self.buffers):
            end = start + math.prod(shape)
            found[name] = whole[start:end].view(shape)
            start = end
        return found | {name: found[name] * self.unit for name, _ in self.buffers}

    def _write(self, vector: Vector, start: int, parts: Shapes, tensors: Tensors, factor: float) -> int:
        for name, shape in parts:
            tensor = tensors.get(name)
            if tensor is None or tuple(tensor.shape) != shape:
                there = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
                raise UnfitUpdate(f"'{name}' is {there}, and the model's has {shape}", "train the model that was sent")
            end = start + math.prod(shape)
            own = tensor.detach().cpu()
            own = own.float() if own.dtype == torch.bfloat16 else own  # which numpy does not know
            np.multiply(own.numpy().ravel(), factor, out=vector[start:end], casting="same_kind")
            start = end
        return start


def _scale_down(part: Vector, most: float) -> None:
    """To a norm, above which no entry is then left by rounding: a sum takes none that is."""
    norm = float(np.linalg.norm(part.astype(np.float64)))
    if norm > most:
        part *= np.float32(most / norm)
        _cap(part, most)


def _cap(part: Vector, most: float) -> None:
    """Entries that rounding left a little beyond a bound, to the largest number of their format within it."""
    with np.errstate(over="ignore"):
        near = np.float32(most)
    near = near if float(near) <= most else np.nextafter(near, np.float32(0))
    np.clip(part, -near, near, out=part)
