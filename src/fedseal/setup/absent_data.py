"""Examples that are on other hosts: what stands for them here, and what has to be known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fedseal.errors import BadConfig, UnfitBatch
from fedseal.setup.data.common import check_one
from fedseal.setup.data.dataset import AS_STORED, UNIT, reading_notes
from fedseal.setup.data.images import BUNDLED
from fedseal.setup.data.terms import LARGEST
from fedseal.setup.federation import FederationSpec, OwnersData
from fedseal.types import Batch

if TYPE_CHECKING:
    from fedseal.federation.federation import Federation


def elsewhere(
    plan: FederationSpec, classes: int | None, names: tuple[str, ...], examples: int | None
) -> tuple[OwnersData, Federation]:
    """What stands for data of which some is on other hosts, and the parties without it.

    Args:
        classes, names: of the labels.
        examples: most of a data owner.

    Raises:
        BadConfig: too little is said of it.
        UnfitBatch: what is here is not alike, or has another shape than was said.
    """
    from fedseal.federation.owners import DataOwner

    missing = [
        option
        for option, value in (("--shape", plan.shape), ("--classes", classes), ("--examples", examples))
        if value is None
    ]
    if missing or plan.sizes is None or classes is None or examples is None:
        away = next(name for name in plan.data if not is_here(name))
        raise BadConfig(
            f"'{away}' is not on this machine, and {' and '.join(missing)} must say what cannot be read off it",
            "give shape, number of classes and most examples of an owner: --shape 1,28,28 --classes 10 --examples 600; "
            "what owners proposed has the first two: --terms FILE",
        )
    if prod(plan.sizes) > LARGEST:
        raise BadConfig(f"an example of the shape {plan.shape} is larger than any that is read", "correct --shape")
    if plan.owners not in (None, len(plan.data)):
        raise BadConfig(f"--owners is {plan.owners}, and {len(plan.data)} data sets are named", "leave --owners out")
    rule, secure = plan.rule[0], plan.secure
    most = 1 if secure.noise is not None else min(examples, rule.draw or examples)
    found = stand_in(plan.sizes, classes)
    if plan.terms is None:
        found = _like_what_is_here(plan, plan.sizes, names, found)
    owners = [DataOwner(Absent(number), rule) for number in range(len(plan.data))]
    return found, plan.of(plan.model_owner(found), owners, replace(secure, max_weight=most))


def _like_what_is_here(
    plan: FederationSpec, shape: tuple[int, ...], names: tuple[str, ...], found: OwnersData
) -> OwnersData:
    """With the scale and the order of channels that all data must have: those of the data that is here, if there is
    any; else pixels from 0 to 1, red before blue, and rows of numbers as they are.
    """
    named = (*plan.data, *([] if plan.validation is None else [plan.validation]))
    here = {name: plan.read_one(name, names=names) for name in named if is_here(name)}
    if not here:
        row = len(shape) < 2 and plan.span is None
        order = {1: "grey", 3: "RGB"}.get(shape[0], "") if len(shape) == 3 else ""
        return replace(found, scale=AS_STORED if row else UNIT, channels=order)
    check_one(here)
    one = next(iter(here.values()))
    if one.shape != shape:
        raise UnfitBatch(
            f"'{next(iter(here))}' holds examples of the shape {one.shape}, and --shape is {plan.shape}",
            "correct one of them",
        )
    notes = [note for name, data in here.items() for note in reading_notes(name, data)]
    return replace(found, scale=one.scale, channels=one.channels, notes=tuple(notes))


def is_here(name: str) -> bool:
    """Whether data is on this machine."""
    return name in BUNDLED or Path(name).exists()


def stand_in(shape: Sequence[int], classes: int) -> OwnersData:
    """One example that has the shape and the last class, from which a model can be made that fits all."""
    return OwnersData((Batch(torch.zeros(()).expand(1, *shape), torch.tensor([classes - 1])),), None, classes)


class Absent:
    """Loads examples that are on another host."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self) -> Batch:
        """Refuse.

        Raises:
            BadConfig: always.
        """
        raise BadConfig(f"the examples of data owner {self._number} are on its own host", "ask that owner")
