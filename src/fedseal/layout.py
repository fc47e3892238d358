"""The memory order of tensors: row by row, as torch makes them by default.

A file's or a picture's own order, such as height, width, channel, changes no value but which of torch's kernels run on
it, and with them the rounding; in torch 2.13's build for processors with AVX2 some of these kernels write past their
memory. So every tensor that comes in from outside is put into the one order.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

from torch import Tensor, contiguous_format


def canonical_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """How many entries apart neighbors along each dimension lie, where the last dimension varies fastest.

    >>> canonical_strides((2, 3, 4))
    (12, 4, 1)
    """
    behind = accumulate(reversed(shape[1:]), lambda stride, size: stride * max(1, size), initial=1)
    return tuple(behind)[::-1] if shape else ()


def canonical(tensor: Tensor) -> Tensor:
    """The tensor itself where its memory is in order, else a copy that is; gradients pass.

    `Tensor.contiguous` leaves the strides of dimensions of size 1 as they are, and torch takes kernels by them: a grey
    picture or a batch of one may still count as ordered by channel.

    >>> import torch
    >>> canonical(torch.zeros(1, 4, 4, 3).permute(0, 3, 1, 2)).stride()
    (48, 16, 4, 1)
    """
    if tensor.stride() == canonical_strides(tuple(tensor.shape)):
        return tensor
    return tensor.clone(memory_format=contiguous_format)


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In order, on the CPU, and each in memory of its own, as a file holds them.

    Tied weights stand in a state dict under several names, and slices of one vector share its memory.

    >>> import torch
    >>> one = torch.zeros(4)
    >>> len({t.untyped_storage().data_ptr() for t in unshared({"a": one, "b": one, "c": one[:2]}).values()})
    3
    """
    flat = {name: canonical(tensor.detach().cpu()) for name, tensor in tensors.items()}
    owner = {tensor.untyped_storage().data_ptr(): name for name, tensor in flat.items()}
    return {n: t if owner[t.untyped_storage().data_ptr()] == n else t.clone() for n, t in flat.items()}
