"""What an update says of one picture through a patch embedding: `delta^T rows = gradient`, linear in the patches.

Patch p enters as `z_p = W x_p + b + t_p`, with t_p the table's row of its place. For one example the gradient by the
table at p is that by z_p, delta_p, and the gradient by W is the sum of all delta_p x_p^T. Both are in the update, so
that the patches solve linear equations whose matrix is known: no weight, label or layer behind has a part in it. A sum
of gradients of several steps on one example has the same form, since the patches stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedseal.attack.evidence.entrance import Undone, undo
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.input_traits import traits_of
from fedseal.attack.evidence.patches import NO_PATCHES, PatchEmbedding, Reading
from fedseal.attack.evidence.preprocessing import Preprocessing, bounds, read_preprocessing
from fedseal.attack.evidence.structure import Entrance
from fedseal.types import Secret

PLAIN = ("view", "_unsafe_view", "reshape", "detach", "clone", "contiguous")


@dataclass(frozen=True)
class PatchEquations:
    """The equations of one example's patches, in float64 on the CPU.

    Args:
        layer: the patch embedding.
        before: what stands before it, None if that is no more than a change of shape.
        delta: `(width, places)`, the gradient by what the layer gives.
        gradient: `(width, pixels)`, by its weight.
        bias: `(width,)`, by its bias; None where none was sent. It is the sum of delta over the places.
        secrets: dropout that draws before the layer, or may.
        ordered: whether it is known which place has which row of the table.
        reading: what makes `delta` of the table's gradient.
    """

    evidence: Evidence
    layer: PatchEmbedding
    before: Preprocessing | None
    delta: Tensor
    gradient: Tensor
    bias: Tensor | None
    secrets: tuple[Secret, ...]
    ordered: bool
    reading: Reading

    def rows(self, inputs: Tensor) -> Tensor:
        """The patches `(places, pixels)` of a model input `(1, *shape)`, as they enter the layer."""
        flat = inputs.detach().double().cpu().flatten(1)
        entered = flat if self.before is None else self.before.plain(flat)
        return self.layer.rows(entered.reshape(1, *self.layer.shape))

    @cached_property
    def mean(self) -> Tensor:
        """The patches of an input in the middle of what is valid."""
        low, high = bounds(self.evidence.observation.modality)
        return self.rows(((low + high) / 2)[None])

    def picture(self, rows: Tensor) -> Tensor:
        """The flat model input of these patches, differentiable; values that reach no patch are zeros."""
        entered = self.layer.entered(rows).flatten(1)
        if self.before is None:
            return entered[0]
        numel = math.prod(self.evidence.observation.modality.shape)
        return self.before.plain.back(entered, torch.ones_like(entered, dtype=torch.bool), numel)[0][0]

    def inputs(self, rows: Tensor, tolerance: float) -> Undone:
        """The model input whose patches these are, `(1, *shape)`."""
        entered = self.layer.entered(rows)
        return undo(self.before, self.evidence.observation.modality, entered, self.secrets, tolerance)

    @property
    def spare(self) -> int:
        """How many equations are left over once the patches are solved for, for each pixel."""
        return max(0, self.layer.width - self.layer.places)

    def misfit(self, rows: Tensor) -> float:
        """How far the patches are from solving the equations, relative to the gradient by the layer's weight."""
        return float((self.delta @ rows - self.gradient).norm()) / self.size

    @property
    def size(self) -> float:
        """What errors of the equations are compared with: a black picture leaves zeros by the layer's weight."""
        return float(self.gradient.norm()) or float(self.delta.norm())

    @property
    def beside(self) -> float:
        """How far the table's gradient is from adding up to the bias's, relative to that; 0 without a bias."""
        if self.bias is None:
            return 0.0
        return float((self.delta.sum(1) - self.bias).norm() / self.bias.norm().clamp_min(1e-300))


def patch_equations(evidence: Evidence) -> PatchEquations | str:
    """The equations, or why there are none."""
    return evidence.once("patch equations", lambda: _read(evidence))


def _read(evidence: Evidence) -> PatchEquations | str:
    observation = evidence.observation
    if traits_of(observation.modality).discrete or len(observation.modality.shape) != 3:
        return NO_PATCHES
    layer = evidence.structure_at_entrance.patches
    if isinstance(layer, str):
        return layer
    tensors = observation.update.tensors
    for name, what in ((layer.weight, "the patches' layer"), (layer.table, "the positions")):
        if name not in tensors:
            return f"the update has no gradient of {what}, '{name}' (frozen or held back)"
    if not bool(tensors[layer.table].any()):
        return f"the gradient of the positions, '{layer.table}', is zero"
    if layer.dropout and any(secret.module in layer.dropout for secret in observation.secrets):
        return f"dropout '{layer.dropout[0]}' draws between the patches' layer and the positions"
    known = (observation.update.buffers or {}) if observation.state is None else observation.state
    ordered = all(name in known for name in layer.indices)
    shapes = {name: buffer.shape for name, buffer in observation.model.named_buffers() if name in layer.indices}
    counted = {name: torch.arange(shape.numel()).reshape(shape) for name, shape in shapes.items()}
    reading = layer.reading(counted | {name: known[name].cpu() for name in layer.indices if name in known})
    if reading is None:
        return f"the table '{layer.table}' does not show the gradient by what the patches' layer gives"
    before = None
    if layer.kernel is None or layer.dropout_before or any(name not in PLAIN for name in layer.operators):
        entrance = Entrance(layer.weight, layer.shape, layer.state, layer.dropout_before, layer.operators)
        rates = {secret.module: secret.rate for secret in observation.secrets}
        found = read_preprocessing(
            observation.model, entrance, observation.modality, known, rates, observation.like.dtype
        )
        if isinstance(found, str):
            return found
        before = found
    table, weight = (tensors[name].double().cpu() for name in (layer.table, layer.weight))
    bias = None if layer.bias is None or layer.bias not in tensors else tensors[layer.bias].double().cpu()
    secrets = tuple(secret for secret in observation.secrets if secret.module in layer.dropout_before)
    return PatchEquations(
        evidence, layer, before, reading(table).contiguous(), weight.flatten(1), bias, secrets, ordered, reading
    )
