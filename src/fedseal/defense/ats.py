"""Training on transformed pictures, by policies found by a search."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from fedseal.defense.base import Hooks
from fedseal.defense.transform import TRANSFORMATIONS
from fedseal.errors import BadConfig, UnfitBatch
from fedseal.mechanism import Mechanism
from fedseal.types import Batch, Defense

# Operation and magnitude from 0 to 9, by the number under which the paper's policies name it.
_NUMBERED = """
    invert7 contrast6 rotate2 translate_x9 sharpness1 sharpness3 shear_y2 translate_y2 autocontrast5 equalize2
    shear_y5 posterize5 color3 brightness5 sharpness9 brightness9 equalize5 equalize1 contrast7 sharpness5
    color5 translate_x5 equalize7 autocontrast8 translate_y3 sharpness6 brightness6 color8 solarize0 invert0
    equalize0 autocontrast0 equalize8 equalize4 color5 equalize5 autocontrast4 solarize4 brightness3 color0
    solarize1 autocontrast0 translate_y3 translate_y3 autocontrast1 solarize1 equalize5 invert0 translate_y3
    autocontrast1
"""
LIBRARY: tuple[tuple[str, int], ...] = tuple((entry[:-1], int(entry[-1])) for entry in _NUMBERED.split())


def ats(policy: str) -> Defense:
    """Replace every picture `(N, C, H, W)` by its transformation under a policy such as "3-1-7" before training.

    Gao et al., "Privacy-preserving collaborative learning with automatic transformation search" (CVPR 2021,
    arXiv:2011.12505). A policy is a few numbers of a library of 50 transformations, applied in that order; several
    policies stand with "/" or, as in the paper, "+" between them, and every picture draws one. It promises gradients
    from which published attacks converge worse, at little cost in accuracy, since the policies are augmentations. It
    is broken as to content: Balunovic et al. (ICLR 2022, arXiv:2111.04706) reconstruct through it in early training,
    and what comes back is the transformed picture, in which a person still sees most.

    Assumed: the library is AutoAugment's as the authors number it, every step is applied always, and signs of
    magnitudes are drawn for each picture, as in their experiments; geometry is nearest-neighbor. Transformations take
    the model's inputs for pixels from 0 to 1, or, where the batch goes beyond, from its least to its largest value.
    The batch is transformed once a round.

    Raises:
        BadConfig: a policy that is no row of numbers, or names one that the library does not have.
        UnfitBatch: on inputs that are no pictures with 1 or 3 channels.

    >>> [LIBRARY[number] for number in (3, 1, 7)]
    [('translate_x', 9), ('contrast', 6), ('translate_y', 2)]
    >>> ats("3-1-7/43-18-18").name
    'ats:3-1-7/43-18-18'
    """
    policies = [_numbers(part) for part in re.split("[/+]", policy)]

    def on_batch(batch: Batch, generator: torch.Generator) -> Batch:
        inputs = batch.inputs
        if inputs.ndim != 4 or inputs.shape[1] not in (1, 3) or not inputs.is_floating_point():
            raise UnfitBatch(
                f"ATS transforms pictures, and the inputs have shape {tuple(inputs.shape)} and dtype {inputs.dtype}",
                "give pictures (N, 1 or 3, H, W), or use a defense of the update, such as 'gaussian:0.001'",
            )
        low, high = min(0.0, float(inputs.min())), max(1.0, float(inputs.max()))
        pixels = [
            _transformed(pixel, policies[int(torch.randint(len(policies), (), generator=generator))], generator)
            for pixel in (inputs - low) / (high - low)
        ]
        return Batch(torch.stack(pixels) * (high - low) + low, batch.labels)

    name = "/".join("-".join(str(number) for number in numbers) for numbers in policies)
    return Hooks(f"ats:{name}", (Mechanism("transformed"),), batch=on_batch)


def _numbers(policy: str) -> tuple[int, ...]:
    parts = policy.split("-")
    if not all(part.isdecimal() for part in parts):
        raise BadConfig(f"ATS has no policy '{policy}'", "write numbers of its library, as in 'ats:3-1-7'")
    if beyond := [part for part in parts if int(part) >= len(LIBRARY)]:
        raise BadConfig(
            f"ATS has no transformation {beyond[0]}, which the policy '{policy}' names",
            f"use numbers from 0 to {len(LIBRARY) - 1}, as in 'ats:3-1-7'",
        )
    return tuple(int(part) for part in parts)


def _transformed(picture: Tensor, policy: tuple[int, ...], generator: torch.Generator) -> Tensor:
    for number in policy:
        operation, magnitude = LIBRARY[number]
        sign = 2.0 * int(torch.randint(2, (), generator=generator)) - 1
        picture = TRANSFORMATIONS[operation](picture, magnitude / 9, sign).clamp(0, 1)
    return picture
