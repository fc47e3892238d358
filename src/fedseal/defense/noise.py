"""Noise on the finished update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fedseal.defense.base import Hooks, figure, positive
from fedseal.mechanism import Mechanism
from fedseal.types import Defense, Update


def gaussian(sigma: float) -> Defense:
    """Add independent normal noise of standard deviation `sigma` to every entry of the update.

    Zhu, Liu and Han (NeurIPS 2019, arXiv:1906.08935) find that 1e-2 stops their attack. It promises nothing: the
    update's norm is not bounded, so that no noise is large enough for a guarantee; behind a `clip` it is. It costs
    accuracy as soon as `sigma` times the root of the number of parameters nears the update's norm.

    Raises:
        BadConfig: not a positive number up to 1e10.
    """
    positive("Gaussian noise of standard deviation", sigma)

    def on_update(update: Update, generator: torch.Generator) -> Update:
        return add_normal(update, sigma, generator)

    return Hooks(f"gaussian:{figure(sigma)}", (Mechanism("gaussian", {"sigma": sigma}),), update=on_update)


def laplace(scale: float) -> Defense:
    """Add independent Laplacian noise of this scale to every entry; its standard deviation is `sqrt(2) * scale`.

    Zhu, Liu and Han (NeurIPS 2019, arXiv:1906.08935) find that 1e-2 stops their attack. It promises nothing: Laplacian
    noise is private for an update whose entries' absolute sum is bounded (Dwork et al., TCC 2006), and this one's is
    not. It costs what Gaussian noise of the same standard deviation costs.

    Raises:
        BadConfig: not a positive number up to 1e10.
    """
    positive("Laplacian noise of scale", scale)

    def draw(tensor: Tensor, generator: torch.Generator) -> Tensor:
        # The difference of two exponential variables; in float64, whose uniform numbers reach far into the tail.
        first, second = (
            -torch.log1p(-torch.rand(tensor.shape, generator=generator, dtype=torch.float64)) for _ in range(2)
        )
        return scale * (first - second)

    def on_update(update: Update, generator: torch.Generator) -> Update:
        return _add(update, draw, generator)

    return Hooks(f"laplace:{figure(scale)}", (Mechanism("laplace", {"scale": scale}),), update=on_update)


def add_normal(update: Update, sigma: float, generator: torch.Generator) -> Update:
    """The update with normal noise of standard deviation `sigma` on every entry."""
    return _add(
        update,
        lambda tensor, source: sigma * torch.randn(tensor.shape, generator=source, dtype=torch.float32),
        generator,
    )


def _add(update: Update, draw: Callable[[Tensor, torch.Generator], Tensor], generator: torch.Generator) -> Update:
    """Draws on the CPU, so that every device gives the same noise."""
    noisy = {n: t + draw(t, generator).to(t.device, t.dtype) for n, t in update.tensors.items()}
    return replace(update, tensors=noisy)
