"""Whether a model computes otherwise in training than in evaluation: by its modules' word, and by trying."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fedseal.client import RandomLayer, forward
from fedseal.types import Observation

SAME = 1e-5  # relative difference of outputs that are alike


def without_modes(observation: Observation) -> bool:
    """Whether no module declares to compute otherwise in training, as BatchNorm and dropout do."""
    modules = observation.model.modules()
    return not observation.secrets and not any(isinstance(module, (_BatchNorm, RandomLayer)) for module in modules)


def modes_differ(observation: Observation) -> bool:
    """Run the architecture twice in each mode on weights and inputs of our own; BatchNorm and dropout modules are
    still, since `Observation.secrets` and the layers' structure tell of them.

    Nothing is known of the client's weights here, so that whoever sees the message alone can ask.
    """
    drawn, model = torch.Generator().manual_seed(0), observation.model
    state = {name: _some(tensor, drawn) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    shape = (2, *observation.modality.shape)
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    inputs = observation.modality.project(torch.rand(shape, generator=drawn)).to(dtype)
    outputs = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for seed, training in enumerate((True, True, False)):
            torch.manual_seed(seed)
            outputs.append(forward(in_mode(model, training), state, observation.modality.forward(inputs)).double())
    return any(_unlike(outputs[0], other) for other in outputs[1:])


def in_mode(model: nn.Module, training: bool) -> nn.Module:
    """A copy of an architecture in this mode, with BatchNorm and dropout modules still."""
    model = copy.deepcopy(model).train(training)
    for module in model.modules():
        if isinstance(module, (_BatchNorm, _DropoutNd)):
            module.eval()
    return model


def _some(tensor: Tensor, drawn: torch.Generator) -> Tensor:
    """Values that do for a weight, a mean or a variance."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return (0.1 + 0.1 * torch.rand(tensor.shape, generator=drawn)).to(tensor.dtype)


def _unlike(one: Tensor, other: Tensor) -> bool:
    size = one.abs().max().clamp_min(1e-30)
    return not bool((one - other).abs().max() <= SAME * size)
