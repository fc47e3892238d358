"""Noise on the finished update."""

from __future__ import annotations

from dataclasses import replace

import torch

from fedseal.defense.base import Hooks
from fedseal.errors import BadConfig
from fedseal.mechanism import Mechanism
from fedseal.types import Defense, Update


def gaussian(sigma: float) -> Defense:
    """Add independent normal noise of standard deviation `sigma` to every entry of the update.

    Zhu, Liu and Han (NeurIPS 2019, arXiv:1906.08935) find that 1e-2 stops their attack; no privacy guarantee, since the
    update's norm is not bounded.

    Raises:
        BadConfig: not a positive finite number.
    """
    if not 0 < sigma < float("inf"):
        raise BadConfig(f"Gaussian noise of standard deviation {sigma}", "give a positive number")

    def on_update(update: Update, generator: torch.Generator) -> Update:
        noisy = {
            name: tensor
            + (sigma * torch.randn(tensor.shape, generator=generator, dtype=torch.float32)).to(
                tensor.device, tensor.dtype
            )
            for name, tensor in update.tensors.items()
        }
        return replace(update, tensors=noisy)

    return Hooks(f"gaussian:{sigma:g}", (Mechanism("gaussian", {"sigma": sigma}),), update=on_update)
