"""Labels of sentences that are known: the head's gradient is linear in them.

With features H at the places that have a loss, the head's gradient is dV = R^T H, R = (softmax - one-hot) / n row by
row, so that R follows by least squares; a label's entry is the only negative one of its row.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from fedseal.attack.text.transformer import Transformer, is_product
from fedseal.modality.language import IGNORED
from fedseal.modality.text import Text
from fedseal.types import Observation

SILENT = 1e-3  # of the largest row: below, a place had no loss


class SentenceHead(NamedTuple):
    """What goes into the output layer, `(N, d)` or `(N, P, d)`, and its gradient up to a positive factor, in float64;
    the name of its bias.
    """

    features: Tensor
    gradient: Tensor
    bias: str | None


def head_of(observation: Observation, transformer: Transformer, ids: Tensor) -> SentenceHead | None:
    """The last linear product for token ids `(N, L)`; None where the client does not train it."""
    products = [name for name, module in transformer.modules.items() if is_product(module)]
    last = transformer.run(ids, products)[-1]
    weight = transformer.weight_name(last.name)
    if weight is None or weight not in observation.update.tensors:
        return None
    gradient = observation.update.tensors[weight].double()
    sign = -1.0 if observation.update.kind == "difference" else 1.0
    return SentenceHead(last.input, sign * gradient, transformer.weight_name(last.name, "bias"))


def labels_of(observation: Observation, transformer: Transformer, ids: Tensor, *, pad: int) -> Tensor | None:
    """Labels for token ids `(N, L)` of whole sentences; None where the update does not tell.

    Returns:
        `(N,)` for classes of sentences, `(N, P)` with -100 where there is no loss for classes of places.
    """
    task = getattr(observation.model, "task", None)
    head = head_of(observation, transformer, ids)
    if head is None:
        return None
    features, gradient = head.features, head.gradient
    if task == "sequence" and features.ndim == 3:  # a decoder's class is read at the last token
        features = features[torch.arange(len(ids), device=ids.device), (ids != pad).sum(1) - 1]
    width = gradient.shape[1]
    known = (ids != pad).flatten() if features.ndim == 3 else torch.ones(len(ids), dtype=torch.bool)
    rows = features.reshape(-1, width)[known]
    if len(rows) > width:
        return None
    if task == "masked":
        return _masked(observation, ids, known, rows, gradient, head.bias)
    errors = torch.linalg.pinv(rows.T) @ gradient.T  # (places, classes)
    labels: Tensor = errors.argmin(1)
    if task == "sequence" or features.ndim == 2:
        return labels
    silent = errors.norm(dim=1) < SILENT * errors.norm(dim=1).max()
    full = torch.full((ids.numel(),), IGNORED, device=ids.device)
    full[known] = labels.masked_fill(silent, IGNORED)
    return full.reshape(ids.shape)


def completed(observation: Observation, transformer: Transformer, ids: Tensor, *, pad: int) -> Tensor:
    """Sentences of causal language modelling with their last tokens, which occur as labels alone.

    Args:
        ids: `(N, L)` without them.
    """
    head = head_of(observation, transformer, ids)
    lengths = (ids != pad).sum(1)
    if head is None:
        return ids
    rows = head.features[ids != pad]
    if len(rows) > rows.shape[1]:
        return ids
    errors = torch.linalg.pinv(rows.T) @ head.gradient.T
    last = lengths.cumsum(0) - 1
    filled = ids.clone()
    for row, (length, label) in enumerate(zip(lengths.tolist(), errors[last].argmin(1).tolist(), strict=True)):
        if length < ids.shape[1]:
            filled[row, length] = label
    return filled


def _masked(
    observation: Observation, ids: Tensor, known: Tensor, rows: Tensor, gradient: Tensor, bias: str | None
) -> Tensor | None:
    """The masked tokens.

    Where the embedding is shared, the gradient's rows of tokens in the input hold another part, so that an entry may
    be off there: of the tokens that the bias names as labels, the one whose entry lies nearest to a label's is taken.
    """
    text = cast(Text, observation.modality)
    mask = getattr(text.tokenizer, "mask_token_id", None)
    if mask is None:
        return None
    places = ids.flatten().eq(mask)[known]
    if not bool(places.any()):
        return None
    errors = torch.linalg.pinv(rows[places].T) @ gradient.T
    allowed = torch.ones(len(gradient), dtype=torch.bool, device=ids.device)
    slopes = observation.update.tensors.get(bias or "")
    if slopes is not None:
        allowed = (slopes if observation.update.kind == "gradient" else -slopes) < 0
    allowed[list(text.special)] = False
    errors[:, ~allowed] = float("inf")
    labels = (errors * len(errors) + 1).abs().argmin(1)  # a label's entry is (p - 1) / n
    full = torch.full((ids.numel(),), IGNORED, device=ids.device)
    full[known.nonzero().flatten()[places]] = labels
    return full.reshape(ids.shape)
