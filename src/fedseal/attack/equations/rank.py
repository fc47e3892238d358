"""Whether layers in a row determine their input: equations counted, and the closed form's own error bars.

Both follow from the observation alone, so that a route asks them before it works and a certificate after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch

from fedseal.attack.equations.recursion import ClosedForm, Signal, closed_form, head_signal
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.structure import Activation, Conv, Layer, Linear
from fedseal.types import ProgressCallback

INVERTIBLE = ("sigmoid", "tanh", "leaky_relu")
CLOSED = "closed form"  # the name under which evidence keeps one


class Count(NamedTuple):
    """One layer of the rank analysis."""

    layer: str
    equations: int
    unknowns: int

    @property
    def determined(self) -> bool:
        """Whether there are at least as many equations as unknowns."""
        return self.equations >= self.unknowns


def rank_analysis(
    layers: tuple[Layer, ...], count: int = 1, sent: Mapping[str, int] | None = None
) -> tuple[Count, ...]:
    """Equations against unknowns, convolution by convolution, from the input on (R-GAP's count).

    Over a batch of `count`, every example has forward equations of its own; all share the gradient equations, of which
    a defense may have left only so many as `sent` says by the weight's name.
    """
    counts = []
    for layer in layers:
        if isinstance(layer, Conv):
            inputs, outputs = math.prod(layer.in_shape), math.prod(layer.out_shape)
            weights = layer.out_shape[0] * layer.in_shape[0] // layer.groups * math.prod(layer.kernel)
            weights = weights if sent is None else sent.get(layer.weight, weights)
            name = layer.weight.removesuffix(".weight")
            counts.append(Count(name, count * outputs + weights, count * inputs))
    return tuple(counts)


def invertible(evidence: Evidence) -> str | None:
    """Why the layers cannot all be inverted from the head to the input, None if they can."""
    structure = evidence.structure
    if structure.obstacle is not None:
        return structure.obstacle
    for layer in structure.layers:
        if isinstance(layer, Activation) and layer.kind not in INVERTIBLE:
            return f"the activation '{layer.kind}' cannot be inverted: it maps many values to one"
        if isinstance(layer, Activation) and layer.kind == "leaky_relu" and layer.slope <= 0:
            return f"a leaky ReLU of slope {layer.slope:g} cannot be inverted"
    first = next((layer for layer in structure.layers if isinstance(layer, (Linear, Conv))), None)
    before = () if first is None else evidence.secrets_before(first.weight)
    drawn = [secret.module for secret in evidence.observation.secrets if secret.active and secret not in before]
    if drawn:
        return f"dropout '{drawn[0]}' draws in secret between the layers, whose equations hold for none of its draws"
    sent = evidence.observation.update.tensors
    missing = [layer.weight for layer in structure.layers if isinstance(layer, (Linear, Conv))]
    missing = [name for name in missing if name not in sent]
    return f"the update has no gradient of '{missing[0]}' (frozen)" if missing else None


def sent_counts(evidence: Evidence) -> dict[str, int] | None:
    """How many entries of each tensor carry a value; None where all do."""
    masks = {name: evidence.release.sent(name) for name in evidence.observation.update.tensors}
    return {name: int(mask.sum()) for name, mask in masks.items() if mask is not None} or None


def signal(evidence: Evidence) -> Signal:
    """The head's input and the gradient by it, worked out once."""
    return evidence.once("head", lambda: head_signal(evidence))


def closed(evidence: Evidence, generator: torch.Generator, progress: ProgressCallback | None = None) -> ClosedForm:
    """The closed form of one example, worked out once."""
    return evidence.once(CLOSED, lambda: closed_form(evidence, signal(evidence), generator, progress))


def undetermined(evidence: Evidence, found: ClosedForm | None) -> str:
    """Why the equations leave the input open, empty if they do not."""
    counts = rank_analysis(evidence.structure.layers, sent=sent_counts(evidence))
    short = [count for count in counts if not count.determined]
    if short:
        return f"layer '{short[0].layer}' alone has {short[0].equations} equations for {short[0].unknowns} unknowns"
    if found is None or not found.open:
        return ""
    return f"the equations leave {found.open} of {found.inputs.numel()} input values open"
