"""How far a candidate's update is from the observed one; each takes two lists of tensors and gives a scalar."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedseal.types import Observation

Objective = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


class Measured(ABC):
    """An objective that looks at the observation first, such as at what is known of the client's defense."""

    @abstractmethod
    def bind(self, observation: Observation, number: int, observed: Sequence[Tensor], values: int) -> Objective:
        """The objective of one round.

        Args:
            number: the round.
            observed: what the search matches, as the objective will be given it.
            values: how many numbers the candidate's inputs hold.
        """


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
    guess_square = torch.stack([g.square().sum() for g in guess]).sum()
    observed_square = torch.stack([o.square().sum() for o in observed]).sum()
    # a guess of zeros has no direction: below this length the norm is held constant, and so is its slope finite
    floor = (1e-24 * observed_square).clamp_min(torch.finfo(product.dtype).tiny)
    lengths = torch.maximum(guess_square, floor).sqrt() * observed_square.sqrt()
    return 1 - product / lengths.clamp_min(torch.finfo(product.dtype).tiny)


def layerwise_cosine(guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """Cosine distance of each tensor, mean over the tensors (Dimitrov et al., TMLR 2022, arXiv:2206.12395).

    A tensor of which nothing was observed but zeros has no direction and counts as matched.

    >>> one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    >>> round(layerwise_cosine([one, one], [one, other]).item(), 6)
    0.5
    """
    pairs = list(zip(guess, observed, strict=True))
    return torch.stack([cosine_distance([g], [o]) * o.any() for g, o in pairs]).mean()


def cosine_with_matrices(guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """Cosine distance of the whole updates plus the mean cosine distance of the matrices in them; own form.

    Of a batch, a fully connected layer's gradient is a sum of as many outer products as there are examples: it says
    more about each of them than a convolution's, which sums over places too.

    >>> one, other = torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> round(cosine_with_matrices([one, one[0]], [other, one[0]]).item(), 5)
    1.66667
    """
    whole = cosine_distance(guess, observed)
    single = [cosine_distance([g], [o]) for g, o in zip(guess, observed, strict=True) if o.ndim == 2]
    return whole + torch.stack(single).mean() if single else whole


def layerwise_distance(guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """Sum over the tensors of the Euclidean distances (GradInversion; Yin et al., CVPR 2021, arXiv:2104.07586).

    >>> layerwise_distance([torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 0.0])]).item()
    5.0
    """
    squares = [(g - o).square().sum() for g, o in zip(guess, observed, strict=True)]
    return torch.stack([s.clamp_min(torch.finfo(s.dtype).tiny).sqrt() for s in squares]).sum()


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
