"""Sending fewer bits an entry. Values are rounded, and tensors keep their dtype, as if decoded by the receiver."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedseal.defense.base import Hooks
from fedseal.errors import BadConfig, UnfitUpdate
from fedseal.mechanism import Mechanism
from fedseal.types import Defense, Update


def float16() -> Defense:
    """Round every entry to the nearest number of 16 bits with 5 of exponent: to 2^-11 of its size.

    Zhu, Liu and Han (NeurIPS 2019, arXiv:1906.08935) find that it does not stop their attack. It promises nothing, and
    costs nothing but entries below 3e-8, which vanish; it halves the bytes. Closed forms that divide small entries feel
    it.

    Raises:
        UnfitUpdate: on an update with an entry beyond 65504.
    """
    return _rounded("float16", torch.float16)


def bfloat16() -> Defense:
    """Round every entry to the nearest number of 16 bits with 8 of exponent: to 2^-8 of its size.

    Zhu, Liu and Han (NeurIPS 2019, arXiv:1906.08935) take half precision for no defense; this one is eight times
    coarser than float16, and keeps float32's range. It promises nothing, and costs next to nothing.

    Raises:
        UnfitUpdate: on an update with an entry beyond 3.39e38.
    """
    return _rounded("bfloat16", torch.bfloat16)


def _rounded(name: str, dtype: torch.dtype) -> Defense:
    info = torch.finfo(dtype)

    def on_update(update: Update, generator: torch.Generator) -> Update:
        sent = {n: tensor.to(dtype).to(tensor.dtype) for n, tensor in update.tensors.items()}
        for n, tensor in sent.items():
            if not bool(torch.isfinite(tensor).all()):
                raise UnfitUpdate(
                    f"the update's '{n}' does not fit into {name}, whose largest number is {info.max:.3g}",
                    "clip the update first: clip:NORM+" + name,
                )
        return replace(update, tensors=sent)

    half = {"eps": info.eps / 2, "tiny": info.smallest_normal * info.eps / 2}
    return Hooks(name, (Mechanism("float", half),), update=on_update)


def int8(*, levels: int = 127) -> Defense:
    """Round every entry at random to one of its two neighbors among the multiples of its tensor's largest / levels.

    Each is taken with the probability that keeps the mean (Alistarh et al., NeurIPS 2017, arXiv:1610.02132, with the
    largest entry for scale in place of the norm). It promises nothing: an attacker knows an interval for every entry.
    It costs variance of a quarter of a step's square at most, and a quarter of the bytes; entries far below the
    largest / levels mostly vanish.

    Args:
        levels: from 1 (ternary) to 127 (a signed byte).

    Raises:
        BadConfig: another number of levels.
    """
    if not 1 <= levels <= 127:
        raise BadConfig(f"{levels} levels of a signed byte", "give 1 to 127")

    def on_update(update: Update, generator: torch.Generator) -> Update:
        return replace(update, tensors={n: stochastic(t, levels, generator) for n, t in update.tensors.items()})

    name = "int8" + ("" if levels == 127 else f":levels={levels}")
    return Hooks(name, (Mechanism("levels", {"levels": float(levels)}),), update=on_update)


def stochastic(tensor: Tensor, levels: int, generator: torch.Generator) -> Tensor:
    """The tensor, each entry rounded up or down at random to a multiple of the largest / levels, without bias."""
    chance = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    wide = tensor.detach().cpu().double()
    largest = wide.abs().max() if wide.numel() else wide.new_zeros(())
    if largest == 0:
        return tensor.clone()
    place = wide / largest * levels  # exactly `levels` for the largest, which is the scale that the receiver reads off
    rounded = (place.floor() + (chance < place - place.floor())).clamp(-levels, levels)
    return (rounded * largest / levels).to(tensor.device, tensor.dtype)


def sign() -> Defense:
    """Send one bit an entry, and one number a tensor: the sign, a zero's being plus, times the mean absolute value.

    Seide et al. (Interspeech 2014) and Bernstein et al. (ICML 2018, arXiv:1802.04434). It promises nothing, and leaves
    an attacker the signs, which for many entries still determine the direction. It costs accuracy, less with momentum
    or large batches, and saves 31 bits of 32.
    """

    def signed(tensor: Tensor) -> Tensor:
        size = tensor.double().abs().mean() if tensor.numel() else tensor.new_zeros(())
        return torch.where(tensor < 0, -size, size).to(tensor.dtype)

    def on_update(update: Update, generator: torch.Generator) -> Update:
        return replace(update, tensors={n: signed(tensor) for n, tensor in update.tensors.items()})

    return Hooks("sign", (Mechanism("sign"),), update=on_update)
