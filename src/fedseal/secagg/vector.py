"""An update, its weight and its metrics as one ring vector in chunks, and back from the sum.

Every chunk ends with an element to which each client adds one. If the masks of a chunk do not cancel, that element is
anything instead of the size of the cohort, and the sum is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fedseal.errors import BadConfig, UnfitUpdate
from fedseal.secagg.errors import OutOfPhase, WrongSum
from fedseal.secagg.hazmat import memory
from fedseal.secagg.hazmat.gaussian import DiscreteGaussian
from fedseal.secagg.hazmat.ring import Elements, Reals
from fedseal.secagg.terms import Terms
from fedseal.secagg.wire import BESIDE, HEADER

AT_A_TIME = 1 << 13  # numbers in float64 that stay in the processor's nearest cache


def element_of(data: NDArray[Any], chunk: int) -> NDArray[Any]:
    """Where data elements stand in a vector of which every chunk ends with a check.

    >>> element_of(np.arange(9), 4).tolist()
    [0, 1, 2, 4, 5, 6, 8, 9, 10]
    """
    places: NDArray[Any] = data + data // (chunk - 1)
    return places


class Layout:
    """Where things stand in the vector of a round: entries, weight, metrics; a check at the end of each chunk."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.data = terms.size + 1 + len(terms.metrics)
        self.step = terms.chunk - 1  # data elements a chunk
        self.chunks = -(-self.data // self.step)
        self.elements = self.data + self.chunks

    @property
    def sent(self) -> int:
        """Bytes of all messages that carry the vector."""
        return self.elements * self.terms.codec.ring.width + self.chunks * (HEADER.size + BESIDE)

    def span(self, chunk: int) -> tuple[int, int]:
        """First element of a chunk and the one after its last, the check included."""
        start = chunk * self.terms.chunk
        return start, min(start + self.terms.chunk, self.elements)

    def entries(self, chunk: int) -> tuple[int, int]:
        """First entry of the update in a chunk, and the one after its last."""
        start = chunk * self.step
        return min(start, self.terms.size), min(start + self.step, self.terms.size)


class Contribution:
    """What one client puts into the sum.

    Args:
        values: `(size,)` float32 or float64; it is read while the chunks are made and not copied.
        weight: how much the update counts, such as its number of examples.
        metrics: the numbers that the terms name; they are averaged with the same weight.

    Raises:
        UnfitUpdate: another shape, NaN, infinity, an entry, weight or metric out of the declared range.
    """

    def __init__(self, terms: Terms, values: Reals, weight: int, metrics: Mapping[str, float]) -> None:
        largest = _largest(terms, values)
        self._layout, self._values, self._weight = Layout(terms), values, _weight(terms, weight)
        self._factor = 1.0 if terms.clip is None else _shrinking(values, terms.clip, largest)
        if largest * self._factor > terms.bound:
            place = int(np.abs(values).argmax())
            raise UnfitUpdate(
                f"entry {place} is {values[place]:g}, and the round takes magnitudes up to {terms.bound:g}",
                "declare a larger bound for all clients, set a clip, or look why the update is so large",
            )
        self._metrics = _metrics(terms, metrics)

    def chunks(self) -> Iterator[Elements]:
        """Ring vectors; the memory is the caller's until the next one is asked for."""
        layout, terms = self._layout, self._layout.terms
        codec, size = terms.codec, terms.size
        buffer, scratch = np.empty(min(terms.chunk, layout.elements), codec.ring.dtype), np.empty(AT_A_TIME)
        noise = DiscreteGaussian(terms.deviation, codec.tail) if terms.noise else None
        tail = codec.ring.zeros(1 + len(terms.metrics))
        tail[0] = self._weight
        scaled = np.array([self._metrics[name] * terms.bound / most for name, most in terms.metrics.items()])
        codec.encode(scaled, self._weight, tail[1:], scratch)
        if noise:
            noise.add_to(tail[1:])
        for chunk in range(layout.chunks):
            first, last = layout.entries(chunk)
            start, end = layout.span(chunk)
            out = buffer[: end - start]
            count = last - first
            codec.encode(self._values[first:last], self._factor * self._weight, out[:count], scratch)
            if noise:
                noise.add_to(out[:count])
            rest = chunk * layout.step + count - size  # of the tail, what earlier chunks hold
            out[count:-1] = tail[max(rest, 0) : max(rest, 0) + out.size - 1 - count]
            out[-1] = 1
            yield out


def _largest(terms: Terms, values: Reals) -> float:
    """The largest magnitude of an update that fits."""
    if not isinstance(values, np.ndarray) or values.dtype not in (np.float32, np.float64):
        raise UnfitUpdate("the update is no float32 or float64 array", "hand in a numpy array of one of them")
    if values.shape != (terms.size,):
        raise UnfitUpdate(
            f"the update has the shape {values.shape}, and the round adds ({terms.size},)",
            "flatten the update of the model that the round trains",
        )
    low, high = float(values.min()), float(values.max())  # NaN passes through both
    if not (math.isfinite(low) and math.isfinite(high)):
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UnfitUpdate(f"entry {place} is {values[place]}", "look why the training diverged; lower the step length")
    return max(-low, high)


def _weight(terms: Terms, weight: int) -> int:
    if isinstance(weight, bool) or not isinstance(weight, int | np.integer) or not 1 <= weight <= terms.max_weight:
        raise UnfitUpdate(
            f"the weight {weight} is no whole number from 1 to {terms.max_weight}", "declare a larger max_weight"
        )
    return int(weight)


def _metrics(terms: Terms, metrics: Mapping[str, float]) -> dict[str, float]:
    if set(metrics) != set(terms.metrics):
        raise UnfitUpdate(
            f"the metrics are {sorted(metrics)}, and the round adds {sorted(terms.metrics)}", "hand in exactly those"
        )
    for name, value in metrics.items():
        if not abs(value) <= terms.metrics[name]:
            raise UnfitUpdate(
                f"the metric '{name}' is {value}, and the round takes up to {terms.metrics[name]:g}",
                "declare a larger bound for it, or cap it at the client",
            )
    return {name: float(value) for name, value in metrics.items()}


def _shrinking(values: Reals, clip: float, largest: float) -> float:
    """By what an update is scaled down to a norm; no entry is above it then, to which the quotient alone may round."""
    norm = max(_norm(values), largest)
    if norm <= clip:
        return 1.0
    factor = clip / norm
    while largest * factor > clip:
        factor = math.nextafter(factor, 0.0)
    return factor


def _norm(values: Reals, step: int = 1 << 18) -> float:
    """Euclidean, in float64, without a copy of all."""
    parts = (values[start : start + step].astype(np.float64) for start in range(0, values.size, step))
    return math.sqrt(sum(float(np.dot(part, part)) for part in parts))


class Opened:
    """The sum of a cohort: the only thing that anybody learns.

    Args:
        elements: the ring vector with its checks, `(Layout.elements,)`.
        cohort: whose contributions are in it.

    Raises:
        WrongSum: the checks are not the size of the cohort, or the weight is impossible.
    """

    def __init__(self, terms: Terms, elements: Elements, cohort: tuple[int, ...]) -> None:
        self.terms, self.cohort, self._elements, self._layout = terms, cohort, elements, Layout(terms)
        ends = np.array([self._layout.span(chunk)[1] - 1 for chunk in range(self._layout.chunks)])
        if not np.array_equal(elements[ends], np.full(ends.size, len(cohort), elements.dtype)):
            raise WrongSum("the masks did not cancel", "start another round; a party sent something else than it said")
        tail = self._tail()
        self.weight = int(terms.codec.ring.signed(tail[:1])[0])
        if not len(cohort) <= self.weight <= len(cohort) * terms.max_weight:
            raise WrongSum(
                f"the weights of {len(cohort)} clients add up to {self.weight}", "a client sent a wrong one: ask who"
            )
        scaled = np.empty(len(terms.metrics))
        terms.codec.decode(tail[1:], scaled)
        self.metrics = {
            name: float(value) / self.weight * most / terms.bound
            for value, (name, most) in zip(scaled, terms.metrics.items(), strict=True)
        }

    @property
    def noise(self) -> float:
        """Standard deviation of the noise in every entry of the sum, in the update's unit: of all who are in it."""
        return self.terms.codec.deviation * math.sqrt(len(self.cohort))

    def total(self, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """`(size,)`: the sum of the updates, each times its weight."""
        return self._decoded(1.0, dtype)

    def mean(self, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """`(size,)`: the total divided by the weights' sum."""
        return self._decoded(float(self.weight), dtype)

    def taken(self, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """As `mean`, written over the sum itself, which is gone then: a long vector is held once. Once.

        Raises:
            OutOfPhase: it was taken already.
            BadConfig: numbers that are wider than the sum's.
        """
        if np.dtype(dtype).itemsize > self._elements.itemsize:
            raise BadConfig(f"a sum of {self._elements.itemsize} bytes an entry cannot hold {dtype}", "use mean()")
        self._left()
        own = self._elements.view(dtype)[: self.terms.size]
        # An entry's place is never behind its element's, and numpy reads a chunk before it writes what overlaps it.
        self._decoded(float(self.weight), dtype, own)
        self._elements = self._elements[:0]
        return own

    def _left(self) -> None:
        if not self._elements.size:
            raise OutOfPhase("the sum was taken", "ask for it once")

    def _decoded(self, divisor: float, dtype: DTypeLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        self._left()
        out, codec = memory.empty(self.terms.size, dtype) if out is None else out, self.terms.codec
        for chunk in range(self._layout.chunks):
            (first, last), (start, _) = self._layout.entries(chunk), self._layout.span(chunk)
            codec.decode(self._elements[start : start + last - first], out[first:last], divisor)
        return out

    def _tail(self) -> Elements:
        data = np.arange(self.terms.size, self._layout.data)
        found: Elements = self._elements[element_of(data, self.terms.chunk)]
        return found
