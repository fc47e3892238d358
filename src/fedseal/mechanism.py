"""What the public knows of a defense: which steps it takes and their figures, not the randomness it draws.

Kerckhoffs' principle, for defenses: who designs one must reckon with an attacker who has read its source. A defense
lists its steps as mechanisms, a threat model grants or withholds the list, and attacks model what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import torch

Stage = Literal["model", "inputs", "examples", "steps", "update"]
Effect = Literal["noise", "rounding", "mask", "clip", "mixture", "transformation", "layer"]
ErrorForm = Literal["gaussian", "laplace", "interval", "sign", "unknown"]
Kept = Literal["sensitivity", "length", "privacy"]


@dataclass(frozen=True)
class MechanismKind:
    """All that the code asks of a kind of step; no field has a default, so that no kind is without an answer.

    Args:
        figures: the names of its figures, which are public.
        stage: what it changes on the way from model to update: the model, the inputs (and labels), single "examples"'
            gradients, the gradient of each of the local "steps" anew, or the finished update.
        effect: what it does there.
        error: the form of the error that it leaves in an entry that was sent; "unknown" where nobody knows its size,
            None where it leaves none.
        keeps: what is known to survive it, so that a guarantee may rest on it: "sensitivity", one example counts for no
            more than before; "length", the update gets no longer; "privacy", it uses the update alone and no data.
    """

    figures: tuple[str, ...]
    stage: Stage
    effect: Effect
    error: ErrorForm | None
    keeps: tuple[Kept, ...]

    @property
    def alters(self) -> bool:
        """Whether it takes or moves entries of the gradient or the update, and not what these are computed from."""
        return self.stage in ("examples", "steps", "update")


KINDS: Mapping[str, MechanismKind] = {
    # independent normal noise of this standard deviation on every entry
    "gaussian": MechanismKind(("sigma",), "update", "noise", "gaussian", ("sensitivity", "privacy")),
    # normal noise of this deviation on the sum over the examples, then divided by their number, which is of the data
    "gaussian_sum": MechanismKind(("sigma",), "update", "noise", "gaussian", ()),
    # independent Laplacian noise of this scale: its standard deviation is sqrt(2) times that
    "laplace": MechanismKind(("scale",), "update", "noise", "laplace", ("sensitivity", "privacy")),
    # entries smallest in magnitude are zero: by tensor, or over the whole update
    "prune": MechanismKind(("fraction",), "update", "mask", None, ("length", "privacy")),
    # entries drawn at random are zero, the others as they were
    "random_mask": MechanismKind(("fraction",), "update", "mask", None, ("sensitivity", "length", "privacy")),
    # of a tensor, laid out flat, the entries from start to before stop were handed over; the others are zero
    "segment": MechanismKind(("start", "stop"), "update", "mask", None, ()),
    # rounded to nearest: off by eps of its size at most, and by tiny near zero
    "float": MechanismKind(("eps", "tiny"), "update", "rounding", "interval", ("privacy",)),
    # rounded at random to one of 2 * levels + 1 multiples of each tensor's largest / levels
    "levels": MechanismKind(("levels",), "update", "rounding", "interval", ("privacy",)),
    # every entry is its sign, plus for 0, times one number a tensor
    "sign": MechanismKind((), "update", "rounding", "sign", ("privacy",)),
    # shrunk to this Euclidean norm if longer
    "clip": MechanismKind(("norm",), "update", "clip", None, ("sensitivity", "length", "privacy")),
    # every example's gradient shrunk to this norm if longer, before the mean
    "clip_examples": MechanismKind(("norm",), "examples", "clip", None, ()),
    # inputs and labels are convex combinations of this many examples
    "mixed": MechanismKind(("examples",), "inputs", "mixture", None, ()),
    # mixed inputs times a secret sign for every pixel
    "flipped": MechanismKind((), "inputs", "mixture", None, ()),
    # inputs went through random transformations of a public policy
    "transformed": MechanismKind((), "inputs", "transformation", None, ()),
    # parts of the gradient of the parameters in `where` are zero, at each local step anew
    "masked_layer": MechanismKind((), "steps", "mask", None, ()),
    # the model holds a random bottleneck, whose draw is the client's secret
    "bottleneck": MechanismKind((), "model", "layer", None, ()),
    # noise whose strength differs by layer and is the client's secret
    "unknown_noise": MechanismKind((), "update", "noise", "unknown", ("privacy",)),
}


@dataclass(frozen=True)
class Mechanism:
    """One step of a defense, as its public description tells it.

    Args:
        kind: a key of `KINDS`.
        figures: the kind's figures.
        where: parameters it touches, by name; empty for all.

    Raises:
        ValueError: an unknown kind, or other figures than the kind has.

    >>> Mechanism("gaussian", {"sigma": 1e-3}).figures["sigma"]
    0.001
    """

    kind: str
    figures: Mapping[str, float] = field(default_factory=dict)
    where: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS or set(self.figures) != set(KINDS[self.kind].figures):
            raise ValueError(f"no mechanism is '{self.kind}' with the figures {sorted(self.figures)}")
        object.__setattr__(self, "figures", MappingProxyType(dict(self.figures)))

    @property
    def facts(self) -> MechanismKind:
        """What holds of all steps of its kind."""
        return KINDS[self.kind]

    def touches(self, parameter: str) -> bool:
        """Whether the mechanism changes this parameter's tensor."""
        return not self.where or parameter in self.where


def rounded_to(
    sent: torch.dtype, computed: torch.dtype, where: tuple[str, ...] = (), *, largest: float | None = None
) -> Mechanism | None:
    """The rounding that a number format does to what was computed in a finer one; None if it is none.

    Args:
        where: the parameters that were sent so; empty for all.
        largest: the power of two that the largest number sent reaches, where weights were sent and the update is how
            far they moved, so that the error is no share of it; None where the update itself was sent.

    >>> rounded_to(torch.float16, torch.float32).figures["eps"] == 2**-11
    True
    """
    fine, coarse = torch.finfo(computed), torch.finfo(sent)
    if coarse.eps <= fine.eps:
        return None
    eps, tiny = coarse.eps / 2, coarse.smallest_normal * coarse.eps / 2
    if largest is not None:
        return Mechanism("float", {"eps": 0.0, "tiny": eps * largest + tiny}, where)
    return Mechanism("float", {"eps": eps, "tiny": tiny}, where)
