"""Which token stood at which place, from the gradients of the two embeddings.

A token's embedding and a place's embedding are added, so that the gradient by a token's row is the sum of what came
back to it at all its places, and the gradient by a place's row the sum over all tokens that stood there. With A the
tokens' rows and B the places', a single sentence, which has one token at every place, makes A = N B with N of zeros and
ones. In a batch a token that stood at one place only appears whole in that place's row: the non-negative solution M of
B = M A has an entry near 1 at its place and near 0 elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedseal.attack.text.tokens import embedding_of
from fedseal.errors import UnfitUpdate
from fedseal.types import Observation

ONE, NONE = (0.6, 1.5), 0.3  # entries that count as one and as none; for tokens of one place they were .9 to 1.17
OUTLIER = 6.0  # standard errors by which a row stands out of noise
OFFSET = 2  # rows that some tables of places hold before the first


class Incidence(NamedTuple):
    """Share of every token at every place `(places, tokens)`, and which tokens stood at one place only, `(tokens,)`."""

    share: Tensor
    single: Tensor


def place_rows(observation: Observation) -> Tensor | None:
    """The gradient of the embedded places that a sentence reaches, `(P, d)` in float64: the rows that move, or under
    noise move more than those that no sentence reaches. None where that tells nothing.
    """
    try:
        shared = dict(observation.model.named_parameters())[embedding_of(observation)[0]]
    except UnfitUpdate:
        return None
    length = observation.modality.shape[0]
    for name, module in observation.model.named_modules():
        if not isinstance(module, nn.Embedding) or module.weight is shared or module.num_embeddings < length:
            continue
        tensor = observation.update.tensors.get(f"{name}.weight")
        if tensor is None or tensor.shape[1] != shared.shape[1]:
            continue
        rows = tensor.double()
        squares, rest = rows.square().sum(1), rows[length + OFFSET :].square().sum(1)
        noise = float(rest.median()) if len(rest) else 0.0
        moved = (squares > noise * (1 + OUTLIER * (2 / rows.shape[1]) ** 0.5)).nonzero().flatten()
        if len(moved) and int(moved[-1] - moved[0]) < length:
            return rows[int(moved[0]) : int(moved[-1]) + 1]
    return None


def of_one_sentence(tokens: Tensor, places: Tensor) -> Tensor:
    """Share of every token at every place of a single sentence, between 0 and 1, `(P, T)`; noise leaves a fraction.

    Args:
        tokens: what came back to every token, `(T, n)`; places: to every place, `(P, n)` with n at least P.
    """
    solved: Tensor = torch.linalg.lstsq(places.T.cpu(), tokens.T.cpu(), driver="gelsd").solution
    return solved.nan_to_num(0.0).clamp(0, 1).to(places.device)


def incidence(tokens: Tensor, places: Tensor) -> Incidence:
    """Shares in a batch.

    Args:
        tokens: what came back to every token, `(T, n)` with n numbers, more than T; places: to every place, `(P, n)`.
    """
    from scipy.optimize import nnls  # late: it takes longer than all of fedseal's own modules

    scale = tokens.norm(dim=1).clamp_min(1e-300)
    columns = (tokens / scale[:, None]).T.cpu().numpy()
    rows = [nnls(columns, place.numpy(), maxiter=30 * len(tokens))[0] for place in places.cpu()]
    share = torch.stack([torch.from_numpy(row) for row in rows]).to(tokens) / scale
    top, at = share.max(0)
    others = share.clone()
    others[at, torch.arange(share.shape[1], device=share.device)] = 0.0
    single = (top > ONE[0]) & (top < ONE[1]) & (others.abs().amax(0) < NONE)
    return Incidence(share, single)
