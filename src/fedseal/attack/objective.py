"""How far a candidate's update is from the observed one; each takes two lists of tensors and gives a scalar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Objective = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


def squared_distance(guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """Sum of squared differences (Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935).

    >>> squared_distance([torch.tensor([1.0, 2.0])], [torch.tensor([0.0, 0.0])]).item()
    5.0
    """
    return torch.stack([(g - o).square().sum() for g, o in zip(guess, observed, strict=True)]).sum()


def cosine_distance(guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """One minus the cosine of the angle between the updates (Geiping et al., NeurIPS 2020, arXiv:2003.14053).

    >>> round(cosine_distance([torch.tensor([3.0, 0.0])], [torch.tensor([0.0, 2.0])]).item(), 6)
    1.0
    """
    product = torch.stack([(g * o).sum() for g, o in zip(guess, observed, strict=True)]).sum()
    guess_norm = torch.stack([g.square().sum() for g in guess]).sum().sqrt()
    observed_norm = torch.stack([o.square().sum() for o in observed]).sum().sqrt()
    return 1 - product / (guess_norm * observed_norm).clamp_min(torch.finfo(product.dtype).tiny)


def balanced_distance(guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """Squared distance relative to the size of each tensor, mean over the tensors: small layers count as much as
    large ones.

    >>> balanced_distance([torch.tensor([2.0, 0.0])], [torch.tensor([1.0, 0.0])]).item()
    1.0
    """
    terms = [
        (g - o).square().sum() / o.square().sum().clamp_min(torch.finfo(o.dtype).tiny)
        for g, o in zip(guess, observed, strict=True)
    ]
    return torch.stack(terms).mean()


@dataclass(frozen=True)
class CosineWithLayers:
    """Cosine distance of the whole updates plus the mean cosine distance of single tensors.

    For one example a linear layer's gradient is an outer product, so that its own cosine compares the layer's input,
    free of the error signal's size: it pulls the features into place where convolutions' gradients outweigh them.

    Args:
        layers: the places of those tensors in the update.

    >>> distance = CosineWithLayers((1,))
    >>> one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> round(distance([one, other], [one, one]).item(), 5)
    1.5
    """

    layers: tuple[int, ...]

    def __call__(self, guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        """The distance, a scalar."""
        whole = cosine_distance(guess, observed)
        if not self.layers:
            return whole
        single = [cosine_distance([guess[k]], [observed[k]]) for k in self.layers]
        return whole + torch.stack(single).mean()
