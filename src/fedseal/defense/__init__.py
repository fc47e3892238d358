"""Defenses on the client's side, one a file; `parse` reads specifications such as "prune:0.2+gaussian:0.001"."""

from __future__ import annotations

from fedseal.defense.accounting import Guarantee, Privacy
from fedseal.defense.ats import ats
from fedseal.defense.base import Hooks, needs_batch, none
from fedseal.defense.clip import clip
from fedseal.defense.compose import chain
from fedseal.defense.dpsgd import dpsgd
from fedseal.defense.instahide import instahide
from fedseal.defense.mixup import mixup
from fedseal.defense.noise import gaussian, laplace
from fedseal.defense.outpost import outpost
from fedseal.defense.precision import bfloat16, float16, int8, sign
from fedseal.defense.precode import precode
from fedseal.defense.prune import prune, random_mask
from fedseal.defense.soteria import soteria
from fedseal.defense.specification import Build, read_defense
from fedseal.defense.topk import topk
from fedseal.types import Defense

# A defense is a function: its first argument is the strength, its keyword arguments are the options.
DEFENSES: dict[str, Build] = {
    "gaussian": gaussian,
    "laplace": laplace,
    "float16": float16,
    "bfloat16": bfloat16,
    "int8": int8,
    "sign": sign,
    "prune": prune,
    "random_mask": random_mask,
    "topk": topk,
    "clip": clip,
    "dpsgd": dpsgd,
    "mixup": mixup,
    "instahide": instahide,
    "soteria": soteria,
    "precode": precode,
    "ats": ats,
    "outpost": outpost,
}

__all__ = [
    "DEFENSES",
    "Guarantee",
    "Hooks",
    "Privacy",
    "ats",
    "bfloat16",
    "chain",
    "clip",
    "dpsgd",
    "float16",
    "gaussian",
    "instahide",
    "int8",
    "laplace",
    "mixup",
    "needs_batch",
    "none",
    "outpost",
    "parse",
    "precode",
    "prune",
    "random_mask",
    "sign",
    "soteria",
    "topk",
]


def parse(specification: str) -> Defense:
    """The defense that a specification names: "none", "NAME", "NAME:STRENGTH,key=value", or several joined by "+".

    Raises:
        UnknownName: no such defense, or no such option.
        BadConfig: a strength or option that is missing, means nothing, or makes no sense; an order that voids a
            guarantee.

    >>> parse("prune:0.2").name
    'prune:0.2'
    >>> parse("prune:0.5,scope=global+gaussian:1e-3").name
    'prune:0.5,scope=global+gaussian:0.001'
    """
    return read_defense(specification, DEFENSES)
