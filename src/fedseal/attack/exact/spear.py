"""A linear first layer with a ReLU shows its whole batch: the attack around `disaggregate`, labels and certificate.

SPEAR (Dimitrov, Baader, Müller and Vechev, NeurIPS 2024, arXiv:2403.03945).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fedseal.attack.base import better, refused
from fedseal.attack.certificate import CERTAIN, certify
from fedseal.attack.evidence import Evidence
from fedseal.attack.exact.disaggregate import Diagnostics, Disaggregated, disaggregate, obstacle
from fedseal.attack.replay import CAP
from fedseal.attack.route import Route
from fedseal.attack.structure import Activation, Reshape
from fedseal.client import forward, train
from fedseal.types import LocalTraining, Outcome, ProgressCallback, Reconstruction

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
        return obstacle(gradient, noise=evidence.noise(layer.weight), count=update.num_examples)

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
        inputs = found.inputs.reshape(-1, *observation.modality.shape).to(like)
        labels, note = None, ""
        if observation.state is not None and observation.training is not None:
            labels = labels_by_signal(evidence, inputs, found.deltas)
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
        if labels is not None and not bool(ended.certain.all()) and (ended.outcome.residual or 0.0) > CAP:
            note = f"the replayed update differs: of {diagnostics.rank} directions at least one may be false"
        outcome = replace(ended.outcome, seconds=time.perf_counter() - started, note=note)
        return replace(ended, outcome=outcome)


def _unfit(evidence: Evidence) -> str | None:
    """What in the architecture or the training stands against this route."""
    layer, update = evidence.first_linear, evidence.observation.update
    if layer is None:
        return "the first layer is not fully connected on the flattened input"
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


def labels_by_signal(evidence: Evidence, inputs: Tensor, deltas: Tensor) -> Tensor | None:
    """The labels `(b,)`: the one class for each example whose gradient by the first layer's output is the one found."""
    observation, layer = evidence.observation, evidence.first_linear
    assert observation.state is not None
    assert observation.training is not None
    assert layer is not None
    assert layer.bias is not None
    count, classes = len(inputs), evidence.structure.num_classes
    counts = _counts(evidence, inputs)
    possible = torch.arange(classes) if counts is None else counts.nonzero().flatten()
    if any(isinstance(module, _BatchNorm) and module.training for module in observation.model.modules()):
        # the examples' gradients depend on each other: the counts are known, their places are not
        return None if counts is None else torch.arange(classes).repeat_interleave(counts).to(inputs.device)
    single = LocalTraining.fedsgd(mode=observation.training.mode, loss=observation.training.loss)
    labels = []
    for example, delta in zip(inputs, deltas, strict=True):
        distances = []
        for label in possible.tolist():
            one = torch.tensor([label], device=inputs.device)
            alone = train(observation.model, observation.state, example[None], one, single).tensors[layer.bias]
            distances.append(float((alone.detach().double().cpu() / count - delta).norm()))
        labels.append(int(possible[min(range(len(distances)), key=distances.__getitem__)]))
    return torch.tensor(labels, device=inputs.device)


def _counts(evidence: Evidence, inputs: Tensor) -> Tensor | None:
    """How often each class occurs, `(classes,)`: the sum of the softmax less the batch size times the head's bias
    gradient; None where that is not known or comes out as no counts.
    """
    observation, head = evidence.observation, evidence.structure.head
    if observation.loss != "cross_entropy" or head is None or head.bias is None:
        return None
    gradient = evidence.gradient(head.bias) if head.bias in observation.update.tensors else None
    if gradient is None or observation.state is None:
        return None
    with torch.no_grad():
        outputs = forward(observation.model, observation.state, observation.modality.forward(inputs))
    counts = (outputs.double().softmax(-1).sum(0) - len(inputs) * gradient).round().long().clamp_min(0).cpu()
    return counts if int(counts.sum()) == len(inputs) else None
