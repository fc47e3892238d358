"""From what the first layer takes in back to the model's input: the one place where preprocessing is undone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedseal.attack.evidence.input_traits import traits_of
from fedseal.attack.evidence.preprocessing import Affine, Preprocessing, bounds
from fedseal.types import Modality, Secret

ROOM = 1e-3  # of the range of valid inputs, by which a reading may leave it
WINDOW = 5  # side of the square in which values of a picture are likely alike
FEW = 8  # values that share unknown numbers, from which on they fill the range of valid inputs


class Undone(NamedTuple):
    """Model inputs.

    Args:
        inputs: `(N, *shape)` in float64 on the CPU.
        known: `(N, numel)`, which of their values were read, not filled in.
        note: what of them is no reading; empty if all is.
    """

    inputs: Tensor
    known: Tensor
    note: str


def undo(
    before: Preprocessing | None, modality: Modality, rows: Tensor, secrets: Sequence[Secret], tolerance: float
) -> Undone:
    """The model inputs `(N, *shape)` of which the first layer took in `rows` `(N, ...)`.

    Args:
        before: what stands before that layer, None if it is no more than a change of shape.
        secrets: dropout that draws on the way, or may.
        tolerance: how far a row's values may be off, relative to the largest.
    """
    flat = rows.detach().flatten(1).double().cpu()
    if before is None:
        known = torch.ones_like(flat, dtype=torch.bool)
        return Undone(flat.reshape(-1, *modality.shape), known, "")
    here = [secret for secret in secrets if secret.module in before.dropped]
    gaps = torch.zeros_like(flat, dtype=torch.bool)
    for secret in here:
        gaps |= (flat - before.dropped[secret.module]).abs() <= tolerance * flat.abs().amax(1, keepdim=True)
    rate = 1 - math.prod(1 - secret.rate for secret in here)
    draws = torch.full((len(flat),), bool(here))
    if here and all(secret.active is None for secret in here):
        draws = _drawn(before, modality, flat, gaps, rate)
    numel = math.prod(modality.shape)
    parts = [
        before_.back(one[None], ~gap[None] if drawn else torch.ones_like(gap[None]), numel)
        for one, gap, drawn in zip(flat, gaps, draws.tolist(), strict=True)
        for before_ in [before.kept if drawn else before.plain]
    ]
    values, known = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    likely = ~known & draws[:, None] & _among_their_like(~known, modality, rate)
    if bool(likely.any()):  # what a dropped value leaves is what many here show
        shown = before.kept.back(flat, torch.ones_like(gaps), numel)[0]
        low, high = bounds(modality)
        likely &= (shown >= low) & (shown <= high)
        values = torch.where(likely, shown, values)
    if before.groups is not None:
        values = _stretched(before, modality, values)
    notes = [_withheld(before)] if before.groups is not None else []
    notes += _said(here, draws, ~known, ~known & ~likely, modality)
    inputs = traits_of(modality).fill(modality, values, known | likely).reshape(-1, *modality.shape)
    return Undone(inputs, known, "; ".join(notes))


def _among_their_like(gaps: Tensor, modality: Modality, rate: float) -> Tensor:
    """Which gaps `(N, numel)` lie where there are so many that most are no work of dropout, as in a black background.

    Only a picture's values have neighbors that are likely alike.
    """
    if len(modality.shape) != 3:
        return torch.zeros_like(gaps)
    maps = gaps.reshape(-1, *modality.shape).double().mean(1, keepdim=True)
    share = F.avg_pool2d(maps, WINDOW, 1, WINDOW // 2, count_include_pad=False)
    around: Tensor = (share > (1 + rate) / 2).expand(-1, modality.shape[0], -1, -1).flatten(1)
    return gaps & around


def _drawn(before: Preprocessing, modality: Modality, rows: Tensor, gaps: Tensor, rate: float) -> Tensor:
    """For each row `(N, M)`, whether dropout drew, where nobody says so: `(N,)`.

    It did where the values leave the valid range if nothing was divided by the rate, or where gaps lie scattered among
    other values; a dark region leaves its gaps side by side.
    """
    low, high = bounds(modality)
    room = ROOM * (high - low)
    found = []
    for one, gap in zip(rows, gaps, strict=True):
        if not bool(gap.any()):
            found.append(False)
            continue
        values, reached = before.plain.back(one[None], torch.ones_like(gap[None]), len(low))
        outside = ((values[0] > high + room) | (values[0] < low - room)) & reached[0]
        lone, all_ = _scattered(gap, before.plain, modality)
        found.append(bool(outside.any()) or lone >= max(2.0, 0.5 * rate * all_))
    return torch.tensor(found)


def _scattered(gap: Tensor, plain: Affine, modality: Modality) -> tuple[float, float]:
    """How many values are gaps while both of their neighbors are none, and how many have such neighbors."""
    order = torch.zeros(math.prod(modality.shape), dtype=torch.bool)
    order[plain.index[(plain.index >= 0) & gap]] = True
    rows = order.reshape(-1, modality.shape[-1])
    if rows.shape[1] < 3:
        return float(order.sum()), float(order.numel())
    between = ~rows[:, :-2] & ~rows[:, 2:]
    return float((rows[:, 1:-1] & between).sum()), float(between.sum())


def _stretched(before: Preprocessing, modality: Modality, values: Tensor) -> Tensor:
    """Inputs `(N, numel)` that are right up to a scale and a shift of each group: each fills the valid range.

    Where a group is of a few values, they are taken for multiples of the usual spread around the middle.
    """
    assert before.groups is not None
    low, high = bounds(modality)
    group = torch.full_like(low, -1, dtype=torch.long)
    inside = before.plain.index >= 0
    group[before.plain.index[inside]] = before.groups[inside]
    # in the units of what the first layer takes in, whatever numbers stood in for the unknown ones
    scale, shift = torch.ones_like(low), torch.zeros_like(low)
    scale[before.plain.index[inside]] = before.plain.scale[inside]
    shift[before.plain.index[inside]] = before.plain.shift[inside]
    raw = values * scale + shift
    for number in group.unique().tolist():  # type: ignore[no-untyped-call]
        here = group == number
        part = raw[:, here]
        least, most = float(part.min()), float(part.max())
        if number < 0:
            continue
        if int(here.sum()) >= FEW and most > least:
            share = (part - least) / (most - least)
            raw[:, here] = low[here] + share * (high - low)[here]
        else:
            raw[:, here] = (low + high)[here] / 2 + part * (high - low)[here] / 4
    return raw


def _withheld(before: Preprocessing) -> str:
    names = ", ".join(f"'{name}'" for name in before.entrance.state[:2])
    return (
        f"exact up to the normalization before the first layer, whose numbers ({names}) are withheld: each group of "
        "values that shares them is stretched to the valid range"
    )


def _said(secrets: Sequence[Secret], draws: Tensor, gaps: Tensor, open_: Tensor, modality: Modality) -> list[str]:
    """What was dropped, and what stands in its place."""
    count, of, left = int(gaps.sum()), gaps.numel(), int(open_.sum())
    how = "from the others by what natural pictures look like" if len(modality.shape) == 3 else "with what is usual"
    if not secrets:
        return [f"{count} of {of} values do not reach the first layer and are filled in {how}"] if count else []
    module = secrets[0].module
    unknown = all(secret.active is None for secret in secrets)
    if not bool(draws.any()):
        return [f"nobody says whether dropout '{module}' drew; the values look as if it did not"] if unknown else []
    said = f"{count} of {of} values are as dropout '{module}' before the first layer leaves those that it drops"
    if unknown:
        said = f"nobody says whether dropout '{module}' drew; {said}"
    kept = f"{count - left} of them lie among their like and are taken at their word, " if left < count else ""
    return [f"{said}: {kept}{left} are filled in {how}"]
