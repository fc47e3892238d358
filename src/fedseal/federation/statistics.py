"""Buffers of a model: statistics that travel or stay, counters that count rounds, and the rest, which is fixed.

A statistic is the running mean or variance of a normalization layer, torch's own or one derived from it. A counter is
that layer's number of batches: it says how many local steps an owner took, so that it is never sent; the model owner's
counts rounds. Whatever else a model keeps, such as a mask, a table of positions or a normalization of its inputs, stays
as the model owner has it: clip and noise would spoil it. A training that changes one of fractions is refused.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fedseal.types import Tensors

CHUNK = 500  # examples that statistics are estimated from at a time


def settled_buffers(model: nn.Module, found: Tensors) -> dict[str, Tensor]:
    """A model's new tensors: every counter one up, and a variance that noise would drive below zero as it was.

    Args:
        model: before the round.
        found: what the round's sum gives, by name.
    """
    settled = dict(found)
    for place, module in norms(model):
        if module.num_batches_tracked is not None:
            settled[f"{place}num_batches_tracked"] = module.num_batches_tracked + 1
        name, before = f"{place}running_var", module.running_var
        if name in settled and before is not None:
            settled[name] = torch.where(settled[name] < 0, before, settled[name])
    return settled


def estimated(model: nn.Module, inputs: Tensor) -> nn.Module:
    """A copy of a model whose running statistics are those of these examples, as of a site of its own.

    For models of which every site keeps its own statistics (Andreux et al., Siloed federated learning for multi-centric
    histopathology datasets, 2020, arXiv:2008.07424): nobody trained those that the model came with.

    Args:
        inputs: `(N, ...)`; labels are not looked at.

    >>> site = estimated(nn.BatchNorm1d(1), torch.tensor([[1.0], [3.0]]))
    >>> site.running_mean.tolist(), site.running_var.tolist(), site.training
    ([2.0], [2.0], True)
    """
    model = copy.deepcopy(model)
    layers, modes = [module for _, module in norms(model)], [(module, module.training) for module in model.modules()]
    averages = [(module, module.momentum) for module in layers]
    model.eval()
    for module in layers:
        module.reset_running_stats()
        module.momentum = None  # the mean over all that comes
        module.train()
    with torch.no_grad():
        for first in range(0, len(inputs), CHUNK):
            model(inputs[first : first + CHUNK])
    for module, momentum in averages:
        module.momentum = momentum
    for part, training in modes:
        part.training = training
    return model


def norms(model: nn.Module) -> list[tuple[str, _NormBase]]:
    """Layers with running statistics, with the beginning of their buffers' names."""
    named = [(f"{name}." if name else "", module) for name, module in model.named_modules()]
    return [
        (place, module) for place, module in named if isinstance(module, _NormBase) and module.running_mean is not None
    ]
