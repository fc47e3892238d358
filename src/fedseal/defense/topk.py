"""Sending the largest entries only, and the rest later."""

from __future__ import annotations

from dataclasses import replace

import torch

from fedseal.defense import base
from fedseal.defense.base import Hooks, figure
from fedseal.defense.prune import without_smallest
from fedseal.mechanism import Mechanism
from fedseal.types import Defense, Update


def topk(fraction: float, *, feedback: bool = True) -> Defense:
    """Send the given fraction of the whole update's entries, the largest in magnitude, at least one.

    Stich, Cordonnier and Jaggi (NeurIPS 2018, arXiv:1809.07599) with error feedback: what one update left out is added
    to the client's next. Lin et al. (ICLR 2018, arXiv:1712.01887) send 0.1 % and lose no accuracy. It promises
    nothing: it prunes, and what is held back is only late. It costs memory for what is held back; it saves bytes.

    Args:
        feedback: whether what was left out is added to the client's next update.

    Raises:
        BadConfig: not above 0 and below 1.
    """
    base.fraction("keeping a fraction of", fraction)

    def on_update(update: Update, generator: torch.Generator) -> Update:
        total = sum(tensor.numel() for tensor in update.tensors.values())
        keep = max(1, round(fraction * total))
        return replace(update, tensors=without_smallest(update.tensors, total - keep))

    name = f"topk:{figure(fraction)}" + ("" if feedback else ",feedback=false")
    return Hooks(name, (Mechanism("prune", {"fraction": 1 - fraction}),), update=on_update, feedback=feedback)
