"""What pictures look like before any update is seen; each takes candidate inputs and gives a scalar to keep small.

A `Prior` is a function of the inputs alone. A `Bindable` is one in the making: it looks at the scene first, at the
modality's range, the labels, the number of copies of each example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fedseal.types import Observation

Prior = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scene:
    """What a prior may look at before the search starts.

    Args:
        labels: `(N,)`, None where they are searched for.
        copies: how many copies of each example the inputs hold, `(copies * N, ...)`.
        to: an empty tensor of the dtype and device of the search.
    """

    observation: Observation
    labels: Tensor | None
    copies: int
    to: Tensor
    generator: torch.Generator


class Bindable(ABC):
    """A prior that looks at the scene first."""

    @abstractmethod
    def bind(self, scene: Scene) -> Prior:
        """The prior for this scene."""


def total_variation(inputs: Tensor) -> Tensor:
    """Mean absolute difference of neighbors, vertical plus horizontal, of `(N, C, H, W)` (Rudin, Osher and Fatemi
    1992).

    >>> import torch
    >>> total_variation(torch.zeros(1, 3, 8, 8)).item()
    0.0
    """
    vertical = (inputs[..., 1:, :] - inputs[..., :-1, :]).abs()
    horizontal = (inputs[..., :, 1:] - inputs[..., :, :-1]).abs()
    return vertical.sum() / max(vertical.numel(), 1) + horizontal.sum() / max(horizontal.numel(), 1)


def color_variation(inputs: Tensor) -> Tensor:
    """Mean length of the gradient of `(N, C, H, W)` over all channels together: edges of all colors fall together.

    Blomgren and Chan, IEEE Transactions on Image Processing 1998. Rounded at 0.01 so that flat parts have a slope.

    >>> import torch
    >>> round(color_variation(torch.zeros(1, 3, 8, 8)).item(), 6)
    0.01
    """
    vertical = F.pad(inputs[..., 1:, :] - inputs[..., :-1, :], (0, 0, 0, 1))
    horizontal = F.pad(inputs[..., :, 1:] - inputs[..., :, :-1], (0, 1))
    return (vertical.square() + horizontal.square()).sum(-3).add(1e-4).sqrt().mean()


def mean_square(inputs: Tensor) -> Tensor:
    """Mean squared value of `(N, ...)` (the l2 prior of Yin et al., CVPR 2021, arXiv:2104.07586).

    >>> mean_square(torch.tensor([[1.0, 3.0]])).item()
    5.0
    """
    return inputs.square().mean()


@dataclass(frozen=True)
class OutOfRange(Bindable):
    """Sum over pixels, mean over examples, of the squared way to the nearest valid input: a soft box.

    The clipping penalty of Geng et al. (arXiv:2110.09074) and Dimitrov et al. (TMLR 2022, arXiv:2206.12395).
    """

    def bind(self, scene: Scene) -> Prior:
        """The prior in the modality's range."""
        project = scene.observation.modality.project
        return lambda inputs: (inputs - project(inputs).detach()).square().sum() / len(inputs)


@dataclass(frozen=True)
class EpochOrder(Bindable):
    """Every epoch saw the same examples: the copies of each epoch must agree in what does not depend on their order.

    Mean over pairs of epochs of the mean squared difference of g, where g(epoch) is the mean over its examples of
    their pixels, or the mean or the largest of random convolution features (Dimitrov et al., TMLR 2022,
    arXiv:2206.12395). 0 where there are no copies.

    Args:
        features: "pixels"; "conv" for `width` random 3x3 convolutions with ReLU, drawn by the attack's generator.
        pool: "mean" or "max" over the examples of an epoch.
    """

    features: Literal["pixels", "conv"] = "pixels"
    pool: Literal["mean", "max"] = "mean"
    width: int = 32

    def bind(self, scene: Scene) -> Prior:
        """The prior for these copies."""
        copies, kernels = scene.copies, None
        if self.features == "conv":
            channels = scene.observation.modality.shape[0]
            drawn = torch.randn(self.width, channels, 3, 3, generator=scene.generator) / (9 * channels) ** 0.5
            kernels = drawn.to(scene.to)

        def prior(inputs: Tensor) -> Tensor:
            if copies == 1:
                return inputs.new_zeros(())
            seen = inputs if kernels is None else F.conv2d(inputs, kernels, padding=1).relu()
            epochs = seen.view(copies, -1, *seen.shape[1:])
            pooled = epochs.mean(1) if self.pool == "mean" else epochs.amax(1)
            # over pairs of distinct epochs the mean squared difference is twice the unbiased variance
            return 2 * pooled.var(0).mean()

        return prior
