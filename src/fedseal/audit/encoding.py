"""How many bytes an update takes on the line, by what its defense makes of it; a lossless encoding, tensor by tensor.

What is public of the defense decides how values are written: noise needs float32 again, rounding to half precision 2
bytes, int8 and sign as many bits as they have levels, beside one float32 scale. Entries that pruning made zero are left
out: by a bitmap of all places, or by the places of those that stay, whichever is smaller; and not at all if neither is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedseal.mechanism import KINDS, Mechanism
from fedseal.types import Update

SCALE_BITS = 32
HALF_EPS = 2.0**-11  # float16's; bfloat16's is larger
# These act before there is an update to write, or scale it as a whole.
UNWRITTEN = tuple(kind for kind, facts in KINDS.items() if facts.stage != "update" or facts.effect == "clip")


@dataclass(frozen=True)
class _Form:
    """How a tensor's values are written: bits each, bits once, and whether zeros are left out."""

    bits: int
    once: int = 0
    sparse: bool = False


def encoded_bytes(update: Update, public: Sequence[Mechanism] = ()) -> int:
    """Bytes of an update after these steps, its buffers included; without names, shapes and framing.

    Noise, and any kind of rounding that this function does not know, make float32 of everything.

    >>> update = Update("gradient", {"w": torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])})
    >>> encoded_bytes(update), encoded_bytes(update, [Mechanism("prune", {"fraction": 0.8})])
    (32, 5)
    """
    buffers = update.buffers or {}
    sizes = [tensor_bytes(tensor, name, public) for name, tensor in update.tensors.items()]
    return sum(sizes) + sum(buffer.numel() * buffer.element_size() for buffer in buffers.values())


def tensor_bytes(tensor: Tensor, name: str, public: Sequence[Mechanism]) -> int:
    """Bytes that one tensor of an update takes on the wire."""
    plain = _Form(8 * tensor.element_size())
    form = plain
    for step in public:
        if step.touches(name):
            form = _after(step, form, plain)
    total = tensor.numel()
    bits = total * form.bits
    if form.sparse:
        kept = int(torch.count_nonzero(tensor))
        place = math.ceil(math.log2(total)) if total > 1 else 1
        number = math.ceil(math.log2(total + 1))  # how many follow, where places are listed
        bits = min(bits, total + kept * form.bits, number + kept * (place + form.bits))
    return math.ceil((bits + form.once) / 8)


def _after(step: Mechanism, form: _Form, plain: _Form) -> _Form:
    if step.kind in UNWRITTEN:
        return form
    if step.facts.effect == "mask":
        return replace(form, sparse=True)
    if step.kind == "float":
        return _Form(min(form.bits, 16), form.once, form.sparse)
    if step.kind == "levels":
        bits = math.ceil(math.log2(2 * step.figures["levels"] + 1))
        return _Form(min(form.bits, bits), SCALE_BITS, form.sparse)
    if step.kind == "sign":
        # A zero that pruning left has its place, and is no third sign.
        return _Form(1, SCALE_BITS, form.sparse)
    return plain
