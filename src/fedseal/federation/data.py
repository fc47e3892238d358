"""One data set split among simulated data owners, and a share of it held out."""

from __future__ import annotations

import torch
from torch import Tensor

from fedseal.errors import BadConfig
from fedseal.types import Batch


def split_among(batch: Batch, owners: int, how: str, generator: torch.Generator) -> list[Batch]:
    """One data set as that of several owners; every example goes to one of them, and everyone gets at least one.

    Args:
        how: "iid" for shares of a shuffled set, or "dirichlet:0.5": of every class each owner gets a share that is
            drawn from a Dirichlet distribution of that concentration; the lower, the more the owners differ (Hsu, Qi
            and Brown, arXiv:1909.06335).

    Raises:
        BadConfig: fewer examples than owners, or another split.

    >>> data = Batch(torch.zeros(20, 1), torch.arange(20) % 2)
    >>> [len(part) for part in split_among(data, 3, "iid", torch.Generator().manual_seed(0))]
    [7, 7, 6]
    """
    if not 1 <= owners <= len(batch):
        raise BadConfig(f"{len(batch)} examples for {owners} data owners", "give every owner at least one")
    name, _, figure = how.partition(":")
    order = torch.randperm(len(batch), generator=generator)
    if name == "iid" and not figure:
        parts = [order[first::owners] for first in range(owners)]
    elif name == "dirichlet":
        parts = _skewed(batch.labels, order, owners, _concentration(figure), generator)
    else:
        raise BadConfig(f"there is no split '{how}'", "use iid, or dirichlet:0.5")
    return [Batch(batch.inputs[rows], batch.labels[rows]) for rows in parts]


def held_out(batch: Batch, share: float, generator: torch.Generator) -> tuple[Batch, Batch | None]:
    """A data set, and a random share of it for validation; None for a share of 0.

    Raises:
        BadConfig: the share leaves nothing of one of them.
    """
    count = round(share * len(batch))
    if share == 0:
        return batch, None
    if not 1 <= count < len(batch):
        raise BadConfig(f"a validation split of {share:g} of {len(batch)} examples", "give a share such as 0.2")
    order = torch.randperm(len(batch), generator=generator)
    rest, held = order[count:].sort().values, order[:count].sort().values
    return Batch(batch.inputs[rest], batch.labels[rest]), Batch(batch.inputs[held], batch.labels[held])


def _skewed(
    labels: Tensor, order: Tensor, owners: int, concentration: float, generator: torch.Generator
) -> list[Tensor]:
    if labels.ndim != 1:
        raise BadConfig("a Dirichlet split is by class, and these labels are no classes", "use iid")
    rows: list[list[int]] = [[] for _ in range(owners)]
    for label in sorted(set(labels.tolist())):
        members = order[labels[order] == label]
        ends = (_shares(owners, concentration, generator).cumsum(0) * len(members)).round().long()
        for owner, part in enumerate(torch.tensor_split(members, ends[:-1])):
            rows[owner] += part.tolist()
    while any(not part for part in rows):
        min(rows, key=len).append(max(rows, key=len).pop())
    return [torch.tensor(part) for part in rows]


def _shares(owners: int, concentration: float, generator: torch.Generator) -> Tensor:
    """From a symmetric Dirichlet distribution, by gamma variables through their inverse distribution function."""
    uniform = torch.rand(owners, generator=generator, dtype=torch.float64)
    from scipy.special import gammaincinv  # late: it takes longer than all of fedseal's own modules

    gammas = torch.from_numpy(gammaincinv(concentration, uniform.numpy()))
    if not bool(gammas.sum() > 0):  # all too small for a float: one owner has it all
        gammas = torch.zeros(owners, dtype=torch.float64).index_fill(0, uniform.argmax(), 1.0)
    return gammas / gammas.sum()


def _concentration(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise BadConfig(f"a Dirichlet split of concentration '{text}'", "give a positive number: dirichlet:0.5")
    return value
