"""Training on mixtures of the batch's own examples."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fedseal.defense.base import Hooks, figure
from fedseal.errors import BadConfig, UnfitBatch, UnfitModel
from fedseal.mechanism import Mechanism
from fedseal.types import Batch, Defense


def mixup(alpha: float, *, classes: int | None = None) -> Defense:
    """Mix every example `(N, ...)` and its label with another one, by one weight from Beta(alpha, alpha) for the batch.

    Zhang, Cisse, Dauphin and Lopez-Paz (ICLR 2018, arXiv:1710.09412). It was made for generalization and promises no
    privacy; Huang et al. (NeurIPS 2021, arXiv:2112.00059) measure it as a defense. It costs little, and may even help
    accuracy. What breaks it: the mixtures leak like any pictures, and a weight near 0 or 1, which small alphas draw
    often, leaves one example nearly bare. Taken otherwise than in the paper: partners come from a random cycle instead
    of a permutation, so that no example is its own partner, and the batch is mixed once a round.

    Args:
        alpha: of the Beta distribution, above 0; 1 is uniform, large is near one half.
        classes: how many there are; None for as many as the model that is trained has outputs.

    Raises:
        BadConfig: alpha is not a positive finite number, or there is no class; on a batch: nobody said how many.
        UnfitBatch: on a batch of fewer than two examples, of whole numbers such as tokens, or with foreign labels.

    >>> batch = Batch(torch.eye(2), torch.tensor([0, 2]))
    >>> mixed = mixup(1.0, classes=3).on_batch(batch, torch.Generator().manual_seed(0))
    >>> torch.equal(mixed.inputs, mixed.labels[:, [0, 2]])
    True
    """
    if not 0 < alpha < float("inf"):
        raise BadConfig(f"MixUp with the alpha {alpha}", "give a positive number; 1 draws the weight uniformly")
    name = f"mixup:{figure(alpha)}{named_classes(classes)}"

    def fitted(model: nn.Module | None) -> Hooks:
        def on_batch(batch: Batch, generator: torch.Generator) -> Batch:
            mixable(batch, 2, "MixUp")
            return mixed_batch(
                batch, _pairs(alpha, len(batch), generator), classes or mixed_classes(model, batch, "MixUp")
            )

        return Hooks(name, (Mechanism("mixed", {"examples": 2}),), batch=on_batch, fitted=fitted)

    return fitted(None)


def mixable(batch: Batch, examples: int, who: str) -> None:
    """Whether a batch can be mixed.

    Raises:
        UnfitBatch: too few examples, inputs that are whole numbers, or labels of positions.
    """
    if len(batch) < examples:
        raise UnfitBatch(
            f"{who} mixes {examples} examples, and the batch has {len(batch)}",
            f"give a batch of at least {examples}" + (", or mix fewer" if examples > 2 else ""),
        )
    if not batch.inputs.is_floating_point():
        raise UnfitBatch(
            f"{who} mixes inputs, and these are whole numbers such as tokens ({batch.inputs.dtype})",
            "defend text by a defense of the update, such as 'gaussian:0.001'",
        )
    if batch.labels.ndim == 2 and not batch.labels.is_floating_point():
        raise UnfitBatch(f"{who} mixes labels of examples, and these are of positions", "leave the defense out")


def mixed_batch(batch: Batch, weights: Tensor, classes: int | None) -> Batch:
    """Every row of weights `(N, N)`, which sums to 1, makes one example and its class probabilities `(N, classes)`.

    Raises:
        BadConfig: the labels are indices, and nobody said how many classes there are.
        UnfitBatch: a label that is no class.
    """
    weights = weights.to(batch.inputs.device, batch.inputs.dtype)
    mixed = (weights @ batch.inputs.flatten(1)).view_as(batch.inputs)
    return Batch(mixed, weights @ probabilities(batch, classes))


def probabilities(batch: Batch, classes: int | None) -> Tensor:
    """The labels as class probabilities `(N, classes)` in the inputs' dtype, as `mixed_batch` does."""
    labels = batch.labels
    if labels.ndim == 2:
        return labels.to(batch.inputs.dtype)
    if classes is None:
        raise BadConfig(
            "labels are mixed as probabilities, and the number of classes is not known",
            "fit the defense to the model, as local_update does: defense.fit(model); or give classes=...",
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UnfitBatch(
            f"labels from {int(labels.min())} to {int(labels.max())} where there are {classes} classes",
            "give labels below the number of classes",
        )
    return torch.nn.functional.one_hot(labels.long(), classes).to(batch.inputs.dtype)


def mixed_classes(model: nn.Module | None, batch: Batch, who: str) -> int | None:
    """How many classes a model has, by what it gives for the batch's first example; None where it does not matter.

    Raises:
        UnfitModel: its output is not one row of class scores for each example.
        UnfitBatch: it does not take the batch's inputs.
    """
    if model is None or batch.labels.ndim == 2:
        return None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            outputs = copy.deepcopy(model).eval()(batch.inputs[:1])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UnfitBatch(
                f"{type(model).__name__} does not take inputs {tuple(batch.inputs.shape)} ({first})",
                "check the input shape and dtype",
            ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise UnfitModel(
            f"{who} mixes class labels, and {type(model).__name__} gives no row of class scores",
            "leave the defense out",
        )
    return int(outputs.shape[1])


def named_classes(classes: int | None) -> str:
    """The part of a specification that names the number of classes.

    Raises:
        BadConfig: there is none.
    """
    if classes is not None and classes < 1:
        raise BadConfig(f"{classes} classes", "give at least 1, or leave it out and let the model tell")
    return "" if classes is None else f",classes={classes}"


def _pairs(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """Weights `(count, count)` of a batch whose examples are each mixed with the next one of a random cycle."""
    # Beta is the share of one of two gammas; their logarithms, since a small alpha's gammas are below any number.
    gammas = torch._standard_gamma(torch.full((2,), alpha + 1, dtype=torch.float64), generator=generator)
    logs = gammas.log() + torch.rand(2, generator=generator, dtype=torch.float64).log() / alpha
    own = float(torch.sigmoid(logs[0] - logs[1]))
    order = torch.randperm(count, generator=generator)
    weights = own * torch.eye(count, dtype=torch.float64)
    weights[order, order.roll(-1)] += 1 - own
    return weights
