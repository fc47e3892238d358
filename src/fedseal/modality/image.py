"""Pictures as model inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedseal.errors import BadConfig


@dataclass(frozen=True)
class Image:
    """Pictures of one shape, fed to the model as `(pixels - mean) / std` with pixels in [0, 1].

    Args:
        shape: `(C, H, W)` with 1 or 3 channels.
        mean, std: the client's public normalization, one value a channel.

    Raises:
        BadConfig: another shape, or a normalization of another length.

    >>> image = Image(shape=(1, 28, 28), mean=(0.5,), std=(0.5,))
    >>> image.decode(torch.full((1, 1, 28, 28), -1.0)).max().item()
    0.0
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or self.shape[0] not in (1, 3) or min(self.shape) < 1:
            raise BadConfig(f"a picture's shape is {self.shape}", "give (channels, height, width) with 1 or 3 channels")
        for values in (self.mean, self.std):
            if values is not None and len(values) != self.shape[0]:
                raise BadConfig(
                    f"{len(values)} normalization values for {self.shape[0]} channels", "give one a channel"
                )
        if self.std is not None and min(self.std) <= 0:
            raise BadConfig(f"the standard deviation is {self.std}", "give positive numbers")

    @property
    def kind(self) -> str:
        """What attacks, metrics and reports treat it as."""
        return "image"

    def start(self, noise: Tensor) -> Tensor:
        """The noise itself: published attacks start from standard normal model inputs."""
        return noise

    def forward(self, candidate: Tensor) -> Tensor:
        """Candidates are model inputs already, `(N, C, H, W)`."""
        return candidate

    def project(self, candidate: Tensor) -> Tensor:
        """Clamp model inputs `(N, C, H, W)` to those that pixels in [0, 1] give."""
        if self.mean is None and self.std is None:
            return candidate.clamp(0, 1)  # no constants to build in the innermost loop
        mean, std = self._normalization(candidate)
        return torch.minimum(torch.maximum(candidate, (0 - mean) / std), (1 - mean) / std)

    def decode(self, inputs: Tensor) -> Tensor:
        """Model inputs `(N, C, H, W)` as pixels in [0, 1]."""
        mean, std = self._normalization(inputs)
        return (inputs * std + mean).clamp(0, 1)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1], `(N, C, H, W)`, as model inputs."""
        mean, std = self._normalization(pixels)
        return (pixels - mean) / std

    def describe(self) -> dict[str, object]:
        """All fields as plain values, for records."""
        return {
            "kind": self.kind,
            "shape": list(self.shape),
            "mean": self.mean and list(self.mean),
            "std": self.std and list(self.std),
        }

    def _normalization(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean = like.new_tensor(self.mean or (0.0,) * self.shape[0]).view(-1, 1, 1)
        std = like.new_tensor(self.std or (1.0,) * self.shape[0]).view(-1, 1, 1)
        return mean, std
