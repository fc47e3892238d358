"""Bounding the length of the update."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedseal.defense.base import Hooks, figure, positive
from fedseal.mechanism import Mechanism
from fedseal.norm import length
from fedseal.types import Defense, Tensors, Update


def clip(norm: float) -> Defense:
    """Shrink the whole update to this Euclidean norm if it is longer, and leave it alone if not.

    McMahan, Ramage, Talwar and Zhang (ICLR 2018, arXiv:1710.06963) clip so before they add noise. Alone it promises
    nothing: the direction stays, and with it all that attacks by cosine, or with one unknown factor, need. It costs
    speed where updates are longer, and fairness: large updates, of rare examples, shrink most.

    Raises:
        BadConfig: not a positive number up to 1e10.
    """
    positive("a clip to the norm", norm)

    def on_update(update: Update, generator: torch.Generator) -> Update:
        return replace(update, tensors=shortened(update.tensors, norm))

    return Hooks(f"clip:{figure(norm)}", (Mechanism("clip", {"norm": norm}),), update=on_update)


def shortened(tensors: Tensors, norm: float) -> dict[str, Tensor]:
    """The tensors, together no longer than `norm` but for rounding; copies."""
    scale = min(1.0, norm / max(length(tensors.values()), 1e-300))
    return {name: (tensor.double() * scale).to(tensor.dtype) for name, tensor in tensors.items()}
