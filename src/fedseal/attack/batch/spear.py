"""A linear first layer with a ReLU shows its whole batch: the attack around `disaggregate`, labels and certificate.

SPEAR (Dimitrov, Baader, Müller and Vechev, NeurIPS 2024, arXiv:2403.03945).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from fedseal.attack.base import better, refused
from fedseal.attack.equations.disaggregate import Diagnostics, Disaggregated, disaggregate, disaggregation_obstacle
from fedseal.attack.equations.rivals import told_apart
from fedseal.attack.equations.targets import targets_by_signal
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.replay import CAP
from fedseal.attack.evidence.structure import Activation, Reshape
from fedseal.attack.proof.certificate import CERTAIN, certify
from fedseal.attack.route import Route
from fedseal.types import Outcome, ProgressCallback, Reconstruction

__all__ = ["Diagnostics", "Disaggregated", "Spear", "disaggregate"]


@dataclass(frozen=True)
class Spear(Route):
    """Read a whole batch off the gradient of a linear first layer with bias and ReLU, with or without the weights.

    SPEAR (Dimitrov et al., NeurIPS 2024, arXiv:2403.03945), with directions found by descent.

    Args:
        starts: random starts at most, for each of two tries.

    >>> import fedseal as fs
    >>> batch = fs.zoo.fashion_mnist()[:4]
    >>> update = fs.local_update(fs.zoo.mlp(), batch, training=fs.LocalTraining.fedsgd())
    >>> threat, modality = fs.ThreatModel.honest_but_curious(), fs.Image(shape=(1, 28, 28))
    >>> observation = threat.observe(fs.zoo.mlp(), update, modality=modality)
    >>> found = Spear()(observation, generator=torch.Generator().manual_seed(0))
    >>> found.outcome.status, sorted(found.labels.tolist())
    ('exact', [0, 1, 2, 3])
    """

    starts: int = 4096
    name: str = "spear"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this route does not apply, None if it may: whether all directions are found shows only on trying."""
        reason = _unfit(evidence)
        if reason is not None:
            return reason
        layer, update = evidence.first_linear, evidence.observation.update
        assert layer is not None
        gradient = evidence.gradient(layer.weight)
        assert gradient is not None
        return disaggregation_obstacle(gradient, noise=evidence.noise(layer.weight), count=update.num_examples)

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Search the directions, then read inputs and labels; the certificate is the replay."""
        started = time.perf_counter()
        observation, reason = evidence.observation, _unfit(evidence)
        best: Reconstruction | None = None
        while reason is None and (best is None or best.outcome.status not in CERTAIN):
            layer = evidence.first_linear
            assert layer is not None
            assert layer.bias is not None
            weight, bias = evidence.gradient(layer.weight), evidence.gradient(layer.bias)
            assert weight is not None
            assert bias is not None
            found = disaggregate(
                weight,
                bias,
                generator=generator,
                count=observation.update.num_examples,
                noise=evidence.noise(layer.weight),
                starts=self.starts,
                progress=progress,
            )
            reason = found.diagnostics.obstacle
            if reason is None:
                again = self._concluded(evidence, found, started)
                if best is not None:
                    return better(best, again)
                best = again
        if best is not None:
            return best
        return refused(self.name, reason or "", started)

    def _concluded(self, evidence: Evidence, found: Disaggregated, started: float) -> Reconstruction:
        """Labels and certificate of inputs that were found."""
        observation, diagnostics = evidence.observation, found.diagnostics
        like = observation.like
        read, deltas = told_apart(evidence, found.inputs, found.deltas)
        undone = evidence.undo(read, tolerance=max(30 * evidence.eps, found.diagnostics.residual or 0.0))
        inputs = undone.inputs.to(like)
        labels, note = None, ""
        if observation.state is not None and observation.training is not None:
            labels = targets_by_signal(evidence, inputs, deltas)
            if labels is None:
                note = "the inputs are right if the layer's zeros are; no labels fit them"
        elif diagnostics.candidates > diagnostics.rank:
            note = f"{diagnostics.candidates} directions are borne out for {diagnostics.rank} examples; without the "
            note += "weights nothing tells which of them are examples"
        bare = Reconstruction(inputs, labels, Outcome("exact", self.name, diagnostics.residual, 0, 0.0, note))
        if note and labels is None:
            ended = replace(bare, outcome=replace(bare.outcome, status="budget", residual=None))
        else:
            ended = certify(observation, bare)
        differs = (ended.outcome.residual or 0.0) > CAP and not observation.secrets
        if labels is not None and not bool(ended.certain.all()) and differs:
            note = f"the replayed update differs: of {diagnostics.rank} directions at least one may be false"
        note = "; ".join(filter(None, [undone.note, note]))
        outcome = replace(ended.outcome, seconds=time.perf_counter() - started, note=note)
        return replace(ended, outcome=outcome)


def _unfit(evidence: Evidence) -> str | None:
    """What in the architecture or the training stands against this route."""
    layer, update = evidence.first_linear, evidence.observation.update
    reason = evidence.no_first_linear
    if reason is not None or layer is None:
        return reason
    if layer.bias is None or layer.bias not in update.tensors:
        return "the first layer has no bias, so its gradient gives each input only up to a factor"
    layers = evidence.structure.layers
    after = layers[layers.index(layer) + 1 :]
    following = next((later for later in after if not isinstance(later, Reshape)), None)
    if not (isinstance(following, Activation) and following.kind == "relu"):
        return "no ReLU follows the first layer, so its gradient has no zeros to tell the examples apart"
    if evidence.gradient_scale is None:
        return "the update is the sum of several local steps, or of a number of them that is withheld"
    if not bool(update.tensors[layer.bias].any()):
        return "the gradient of the first layer's bias is zero: no unit of that layer was active"
    return None
