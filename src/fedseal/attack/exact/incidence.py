"""Which token stood at which place, from the gradients of the two embeddings.

A token's embedding and a place's embedding are added, so that the gradient by a token's row is the sum of what came
back to it at all its places, and the gradient by a place's row the sum over all tokens that stood there. A token that
stood at one place only therefore appears whole in that place's row: with A the tokens' rows and B the places', the
non-negative solution M of B = M A has an entry near 1 at its place and near 0 elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ONE, NONE = (0.6, 1.5), 0.3  # entries that count as one and as none; for tokens of one place they were .9 to 1.17


class Incidence(NamedTuple):
    """Share of every token at every place `(places, tokens)`, and which tokens stood at one place only, `(tokens,)`."""

    share: Tensor
    single: Tensor


def incidence(tokens: Tensor, places: Tensor) -> Incidence:
    """Read it.

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
