"""Pruning, and noise on the entries with the most Fisher information, as strong as a layer's weights are spread."""

from __future__ import annotations

import torch
from torch import Tensor

from fedseal.defense.base import Hooks, figure
from fedseal.errors import BadConfig
from fedseal.mechanism import Mechanism
from fedseal.types import Defense, LocalStep, Tensors


def outpost(phi: float = 0.4, *, noise: float = 0.8, prune: float = 0.8, beta: float = 0.125) -> Defense:
    """Prune each tensor's gradient and add noise where the Fisher information is largest, less often at later steps.

    Wang, Hugh and Li, "More than enough is too much" (IEEE INFOCOM 2023). At local step t the gradient is perturbed
    with probability `1 / (1 + beta t)`: the fraction `prune` of every tensor's smallest entries is zeroed, then entries
    among the fraction `phi` with the most Fisher information over all tensors get normal noise of standard deviation
    `noise * min(1, variance of the tensor's weights)`. It promises protection where the risk is (early steps, widely
    spread weights) at little cost in accuracy and time, and no guarantee. What it leaves open: after the first steps
    most gradients are clean; weights that start narrow get hardly any noise; and the server knows the weights, thus
    the noise's size, at the round's start.

    Assumed where the paper is vague: the Fisher information of an entry is the square of the step's mean gradient; it
    is taken before pruning, so that noise falls on pruned entries too; the risk is that of each parameter tensor at
    the step; t counts steps from 0 in each round. The defaults are those of the authors' released experiments.

    Raises:
        BadConfig: phi, or the pruned fraction, not from 0 (phi: above 0) to 1; the noise not positive; beta negative.

    >>> outpost(0.4).name
    'outpost:0.4'
    """
    if not 0 < phi <= 1:
        raise BadConfig(f"OUTPOST perturbs a fraction of {phi}", "give a number above 0 and at most 1")
    if not 0 <= prune < 1:
        raise BadConfig(f"OUTPOST prunes a fraction of {prune}", "give a number from 0 to below 1")
    if not 0 < noise < float("inf"):
        raise BadConfig(f"OUTPOST's noise is {noise}", "give a positive number")
    if not 0 <= beta < float("inf"):
        raise BadConfig(f"OUTPOST's decay beta is {beta}", "give 0 or a positive number")

    def on_gradient(grads: Tensors, step: LocalStep, generator: torch.Generator) -> Tensors:
        if float(torch.rand((), generator=generator, dtype=torch.float64)) >= 1 / (1 + beta * step.number):
            return grads
        threshold = _largest(torch.cat([grad.detach().flatten().abs() for grad in grads.values()]), phi)
        perturbed: dict[str, Tensor] = {}
        for name, grad in grads.items():
            sigma = noise * min(1.0, float(step.state[name].detach().double().var(correction=0)))
            drawn = sigma * torch.randn(grad.shape, generator=generator)
            where = (grad.abs() >= threshold).to(grad.dtype)
            perturbed[name] = _pruned(grad, prune) + where * drawn.to(grad.device, grad.dtype)
        return perturbed

    options = {"noise": (noise, 0.8), "prune": (prune, 0.8), "beta": (beta, 0.125)}
    named = "".join(f",{key}={figure(value)}" for key, (value, default) in options.items() if value != default)
    public = (*([Mechanism("prune", {"fraction": prune})] if prune else []), Mechanism("unknown_noise"))
    return Hooks(f"outpost:{figure(phi)}{named}", public, gradient=on_gradient)


def _largest(sizes: Tensor, fraction: float) -> Tensor:
    """The size from which on an entry is among the largest fraction, at least one entry."""
    count = max(1, int(fraction * sizes.numel()))
    return sizes.kthvalue(sizes.numel() - count + 1).values


def _pruned(tensor: Tensor, fraction: float) -> Tensor:
    """A copy with the smallest entries at zero."""
    kept = tensor.detach().flatten().clone()
    kept[kept.abs().argsort(stable=True)[: int(fraction * kept.numel())]] = 0
    return kept.view_as(tensor)
