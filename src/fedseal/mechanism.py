"""What the public knows of a defense: which steps it takes and their figures, not the randomness it draws.

Kerckhoffs' principle, for defenses: who designs one must reckon with an attacker who has read its source. A defense
lists its steps as mechanisms, a threat model grants or withholds the list, and attacks model what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch

# kind -> its figures, as public facts
KINDS: Mapping[str, tuple[str, ...]] = {
    "gaussian": ("sigma",),  # independent normal noise of this standard deviation on every entry
    "gaussian_sum": ("sigma",),  # normal noise of this deviation on the sum over the examples, then divided by them
    "laplace": ("scale",),  # independent Laplacian noise of this scale: its standard deviation is sqrt(2) times that
    "prune": ("fraction",),  # entries smallest in magnitude are zero: by tensor, or over the whole update
    "random_mask": ("fraction",),  # entries drawn at random are zero, the others as they were
    "float": ("eps", "tiny"),  # rounded to nearest: off by eps of its size at most, and by tiny near zero
    "levels": ("levels",),  # rounded at random to one of 2 * levels + 1 multiples of each tensor's largest / levels
    "sign": (),  # every entry is its sign, plus for 0, times one number a tensor
    "clip": ("norm",),  # shrunk to this Euclidean norm if longer
    "clip_examples": ("norm",),  # every example's gradient shrunk to this norm if longer, before the mean
    "mixed": ("examples",),  # inputs and labels are convex combinations of this many examples
    "flipped": (),  # mixed inputs times a secret sign for every pixel
    "transformed": (),  # inputs went through random transformations of a public policy
    "masked_layer": (),  # parts of the gradient of the parameters in `where` are zero, at each local step anew
    "bottleneck": (),  # the model holds a random bottleneck, whose draw is the client's secret
    "unknown_noise": (),  # noise whose strength differs by layer and is the client's secret
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
        if self.kind not in KINDS or set(self.figures) != set(KINDS[self.kind]):
            raise ValueError(f"no mechanism is '{self.kind}' with the figures {sorted(self.figures)}")
        object.__setattr__(self, "figures", MappingProxyType(dict(self.figures)))

    def touches(self, parameter: str) -> bool:
        """Whether it does anything to this parameter's tensor."""
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
