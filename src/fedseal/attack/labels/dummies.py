"""Made-up inputs run through the observation's own model: what softmax and features look like without any data.

The features are caught at the operator that uses the head's weight, so that it does not matter whether head and
activations are modules or functions, or how many axes the maps before it have.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedseal.attack.evidence.activations import activation
from fedseal.attack.evidence.structure import Linear
from fedseal.types import Observation, Tensors

CHUNK = 250  # inputs at a time


class Passed(NamedTuple):
    """Inputs seen from the head, in float64: features `(J, features)` and logits `(J, classes)`."""

    features: Tensor
    logits: Tensor

    @property
    def softmax(self) -> Tensor:
        """Probabilities `(J, classes)`."""
        return self.logits.softmax(-1)


def passed(model: nn.Module, state: Tensors, head: Linear, inputs: Tensor) -> Passed:
    """Features and logits of model inputs `(J, ...)`.

    Raises:
        UnfitModel: no matrix product with the head's weight was seen.
    """
    with torch.no_grad():
        chunks = torch.split(inputs, CHUNK)
        features = [activation(model, state, head.weight, "input", chunk).double() for chunk in chunks]
    found = torch.cat(features)
    weight = state[head.weight].double()
    scores = found @ weight.T
    if head.bias is not None:
        scores = scores + state[head.bias].double()
    return Passed(found, scores)


def normal_dummies(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Standard normal model inputs `(count, *shape)`, as Geng et al. (arXiv:2110.09074) feed them."""
    modality = observation.modality
    noise = torch.randn(count, *modality.shape, generator=generator)
    return _fed(observation, modality.start(noise))


def varied_dummies(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Valid model inputs `(count, *shape)` of many kinds: noise, smooth shapes, dark and bright ones, and mixtures.

    White noise is like no data; a spread of brightness and smoothness covers the statistics that data may have.
    """
    modality = observation.modality
    noise = torch.randn(count, *modality.shape, generator=generator)
    ones = (1,) * len(modality.shape)
    if len(modality.shape) == 3:
        channels, height, width = modality.shape
        coarse = torch.randn(count, channels, max(2, height // 7), max(2, width // 7), generator=generator)
        smooth = 2 * F.interpolate(coarse, size=(height, width), mode="bilinear")
        share = torch.rand(count, *ones, generator=generator)
        noise = (1 - share) * noise + share * smooth
    noise = noise + 0.5 * torch.randn(count, *ones, generator=generator)
    return _fed(observation, modality.project(modality.start(noise)))


def _fed(observation: Observation, candidate: Tensor) -> Tensor:
    """What the model is fed, where the update lies; token ids stay whole numbers."""
    inputs = observation.modality.forward(candidate).to(observation.like.device)
    return inputs.to(observation.like.dtype) if inputs.is_floating_point() else inputs
