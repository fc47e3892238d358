"""Cocktail party: the gradient of any wide linear layer is a mixture of the batch's inputs, which can be unmixed.

dL/dW = G^T X has rows that are mixtures of the inputs, like microphones at a party. The row space is whitened to as
many components as there are examples, and the unmixing directions are those whose pictures are least Gaussian and
smoothest while the directions stay apart: independent component analysis with pictures in mind.

Kariyappa et al., "Cocktail Party Attack", ICML 2023, arXiv:2209.05578. It asks nothing of the activation, the loss or
the number of local steps, and it is no closed form: pictures come out blurred by one another.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.base import refused
from fedseal.attack.equations.factor import entered_range
from fedseal.attack.equations.targets import targets_by_signal
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.proof.certificate import certify
from fedseal.attack.route import Route
from fedseal.attack.search.prior import total_variation
from fedseal.types import Outcome, Progress, ProgressCallback, Reconstruction

GAUSSIAN = 0.37456720749  # mean of log cosh of a standard normal number
REPORTS, BULK = 50, 50  # progress reports; values from which on a few are outliers
FLAT = 1e-6  # spread of mixtures, as a share of their size, below which they are one number
BLUR = 1e-2  # of a row's largest value, up to which unmixing leaves a value of another row


class Unmixed(NamedTuple):
    """Inputs `(b, n)` up to what the unmixing leaves blurred, gradients by the layer's outputs `(b, m)`, objective."""

    inputs: Tensor
    deltas: Tensor
    objective: float


@dataclass(frozen=True)
class Contrast:
    """What makes an unmixed signal a good one; each term per signal.

    Args:
        gaussian: weight of the squared negentropy by log cosh, to be large.
        tv: weight of the total variation of pictures of unit variance, to be small.
        apart: weight of exp(sharpness * (|cosine| - 1)) between directions, to be small: real pictures are correlated,
            so that only directions about to coincide may repel each other.
    """

    gaussian: float = 5.0
    tv: float = 1.0
    apart: float = 0.3
    sharpness: float = 10.0

    def __call__(self, directions: Tensor, signals: Tensor, shape: tuple[int, ...] | None) -> Tensor:
        """To be made small: `directions` `(b, b)` of unit length, `signals` `(b, n)` of unit variance."""
        count = len(directions)
        log_cosh = signals.abs() + torch.nn.functional.softplus(-2 * signals.abs()) - math.log(2)
        loss = -self.gaussian * (log_cosh.mean(1) - GAUSSIAN).square().mean()
        if shape is not None:
            loss = loss + self.tv * total_variation(signals.view(count, *shape))
        if count > 1:
            cosines = (directions @ directions.T).abs() - torch.eye(count).to(directions)
            loss = loss + self.apart * (self.sharpness * (cosines - 1)).exp().sum() / count
        return loss


def unmix(
    weight_gradient: Tensor,
    bias_gradient: Tensor | None,
    *,
    count: int,
    generator: torch.Generator,
    shape: tuple[int, ...] | None = None,
    order: Tensor | None = None,
    steps: int = 1000,
    lr: float = 0.1,
    contrast: Contrast = Contrast(),
    progress: ProgressCallback | None = None,
) -> Unmixed:
    """The inputs of any linear layer, pictures or features, from its gradient (after arXiv:2209.05578).

    Args:
        weight_gradient: `(m, n)`, in any unit, also a difference after local steps.
        bias_gradient: `(m,)` in the same unit, for sign and scale; None leaves each input of unit variance.
        count: the batch size b, at most min(m, n).
        shape: `(C, H, W)` of the inputs if they are pictures, for the total variation; None for features.
        order: where the picture's values stand among the inputs, `(C * H * W,)`; None if in order.

    >>> seeded = torch.Generator().manual_seed(0)
    >>> inputs, deltas = torch.rand(2, 2000, generator=seeded) ** 6, torch.randn(2, 20, generator=seeded)
    >>> found = unmix(deltas.T @ inputs, deltas.sum(0), count=2, generator=seeded, steps=400).inputs
    >>> bool((torch.corrcoef(torch.cat([inputs, found.float()]))[:2, 2:].abs().amax(1) > 0.95).all())
    True
    """
    weight = weight_gradient.detach().double().cpu()
    basis = torch.linalg.svd(weight, full_matrices=False)[2][:count]
    centered = basis - basis.mean(1, keepdim=True)
    values, axes = torch.linalg.eigh(centered @ centered.T / centered.shape[1])
    whiten = (axes / values.clamp_min(1e-12 * values[-1]).sqrt()).T
    white = (whiten @ centered).float()
    if order is not None:
        white = white[:, order.cpu()]
    free = torch.randn(count, count, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    objective = math.inf
    for step in range(steps):
        directions = free / free.norm(dim=1, keepdim=True)
        loss = contrast(directions, directions @ white, shape)
        free.grad = torch.autograd.grad(loss, free)[0]
        optimizer.step()
        schedule.step()
        if progress is not None and (step % max(1, steps // REPORTS) == 0 or step == steps - 1):
            progress(Progress("cocktail_party", step + 1, steps, float(loss.detach()), None))
        objective = float(loss.detach())
    mixing = free.detach().double()
    mixing = mixing / mixing.norm(dim=1, keepdim=True) @ whiten
    inputs, deltas = mixing @ basis, (weight @ basis.T) @ torch.linalg.pinv(mixing)
    if bias_gradient is not None:
        scales = torch.linalg.pinv(deltas) @ bias_gradient.detach().double().cpu()
        scales = torch.where(scales.abs() < 1e-9 * scales.abs().max(), scales.abs().max().clamp_min(1e-30), scales)
        inputs, deltas = inputs / scales[:, None], deltas * scales
    return Unmixed(inputs, deltas.T, objective)


def box_filled(inputs: Tensor, low: float, high: float) -> Tensor:
    """Inputs `(b, n)` of which those that leave the box far are given the sign and size by which they fill it.

    A picture that fits, but for a few outliers, is left as it is: only where the bias gradient misled is scale unsure.

    >>> box_filled(torch.tensor([[0.2, 0.9], [-8.0, -2.0]]), 0.0, 1.0)
    tensor([[0.2000, 0.9000],
            [1.0000, 0.2500]])
    """
    bulk = torch.tensor([0.01, 0.99], dtype=inputs.dtype) if inputs.shape[1] > BULK else inputs.new_tensor([0.0, 1.0])
    room = 0.1 * (high - low)

    def factor(values: Tensor) -> Tensor:
        """The largest factor for each row by which its bulk still fits, with some room."""
        least, most = values.quantile(bulk, dim=1)
        up = torch.where(most > 0, high / most, torch.inf)
        down = torch.where(least < 0, (low - room) / least, torch.inf)
        return torch.minimum(up, down)

    least, most = inputs.quantile(bulk, dim=1)
    fits = (least > low - room) & (most < high + room)
    plus, minus = factor(inputs), factor(-inputs)
    scales = torch.where(fits, 1.0, torch.where(plus >= minus, plus, -minus))
    return scales[:, None] * inputs


@dataclass(frozen=True)
class CocktailParty(Route):
    """Unmix the pictures of a batch from the gradient of a linear first layer.

    Kariyappa et al., ICML 2023, arXiv:2209.05578. Needs neither weights nor ReLU nor the local training; the batch
    size is the rank where it is not sent.

    >>> import fedseal as fs
    >>> CocktailParty(steps=10).name
    'cocktail_party'
    """

    steps: int = 1000
    lr: float = 0.1
    contrast: Contrast = Contrast()
    name: str = "cocktail_party"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this attack does not apply, None if it does."""
        layer, update, reason = evidence.first_linear, evidence.observation.update, evidence.no_first_linear
        if reason is not None or layer is None:
            return reason
        if update.num_examples is not None and update.num_examples >= min(update.tensors[layer.weight].shape):
            return (
                f"a batch of {update.num_examples} fills the first layer's gradient of shape "
                f"{tuple(update.tensors[layer.weight].shape)}: there are more examples than mixtures"
            )
        if _count(evidence) == 0:
            return "the gradient of the first layer's weight is zero: it holds no mixtures"
        if _count(evidence) is None:
            return "the batch size is withheld, and the first layer's gradient has full rank"
        if _flat(update.tensors[layer.weight].double()):
            return "every example feeds one and the same number to the whole first layer: no statistics tell them apart"
        return None

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Unmix; labels and certificate where the weights are known."""
        started = time.perf_counter()
        observation, reason = evidence.observation, self.obstacle(evidence)
        layer, count = evidence.first_linear, _count(evidence)
        if reason is not None or layer is None or count is None:
            return refused(self.name, reason or "", started)
        tensors, modality = observation.update.tensors, observation.modality
        bias = tensors.get(layer.bias) if layer.bias is not None else None
        bias = bias if bias is not None and bool(bias.any()) else None
        before = evidence.preprocessing
        found = unmix(
            tensors[layer.weight],
            bias,
            count=count,
            generator=generator,
            shape=modality.shape if len(modality.shape) == 3 else None,
            order=None if before is None else before.plain.places(math.prod(modality.shape))[0],
            steps=self.steps,
            lr=self.lr,
            contrast=self.contrast,
            progress=progress,
        )
        rows = found.inputs
        if before is None or before.groups is None:
            low, high = entered_range(evidence)
            rows = box_filled(rows, float(low.min()), float(high.max()))
        undone = evidence.undo(rows, tolerance=None if count == 1 else BLUR)
        inputs = modality.project(undone.inputs).to(observation.like)
        labels = None
        known = observation.state is not None and observation.training is not None
        if known and bias is not None and evidence.gradient_scale is not None:
            labels = targets_by_signal(evidence, inputs, found.deltas * evidence.gradient_scale)
        note = "pictures are unmixed by their statistics: what two of them have in common may stay in both"
        note = "; ".join(filter(None, [note, undone.note]))
        ended = certify(
            observation, Reconstruction(inputs, labels, Outcome("budget", self.name, None, self.steps, 0.0, note))
        )
        return replace(ended, outcome=replace(ended.outcome, seconds=time.perf_counter() - started))


def _flat(weight_gradient: Tensor) -> bool:
    """Whether all mixtures are constant, as those of black pictures are."""
    spread = weight_gradient - weight_gradient.mean(1, keepdim=True)
    return float(spread.norm()) <= FLAT * float(weight_gradient.norm())


def _count(evidence: Evidence) -> int | None:
    """How many pictures there are to unmix: the rank of the first layer's gradient, at most the number sent; None where
    neither tells.
    """
    layer, told = evidence.first_linear, evidence.observation.update.num_examples
    if evidence.no_first_linear is not None or layer is None:
        return None
    values = torch.linalg.svdvals(evidence.observation.update.tensors[layer.weight].double())
    rank = int((values > values[0] * 30 * evidence.eps).sum())
    if told is not None:
        return min(told, rank)
    return rank if rank < len(values) else None
