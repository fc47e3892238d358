"""BatchNorm statistics as a prior: a candidate batch must have the means and variances that the batch itself had.

A client that sends its buffers after one step in train mode sends them exactly: run' = (1 - m) run + m batch is solved
for the batch. Otherwise the running statistics in the weights say what earlier batches were like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.search.prior import Bindable, Prior, Scene
from fedseal.attack.search.update_model import cast
from fedseal.client import forward
from fedseal.errors import UnfitModel, UnfitUpdate, UnknownToAdversary
from fedseal.types import Observation, Round, Tensors

Source = Literal["sent", "public", "any"]
FIRST = 10.0  # how much more the layer nearest to the pixels counts, as in published implementations


class BatchMoments(NamedTuple):
    """Mean and biased variance of one BatchNorm's inputs by channel, `(C,)` each."""

    mean: Tensor
    variance: Tensor


class Normalized(NamedTuple):
    """One BatchNorm in a forward pass: its inputs' moments, its running buffers' names, and how it updates them.

    Args:
        number: values a channel, N H W.
        momentum: the share of the batch in the new running statistics; 0 where the layer runs as in evaluation.
    """

    moments: BatchMoments
    names: tuple[str, str]
    number: int
    momentum: float


class _Watch(TorchFunctionMode):
    """Sees every `batch_norm` whose running statistics are buffers of the model, called by a module or not."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.seen: list[Normalized] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Look at the inputs, and run the operator."""
        kwargs = kwargs or {}
        if func is F.batch_norm:
            self._look(*args, **kwargs)
        return func(*args, **kwargs)

    def _look(
        self,
        inputs: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        if id(running_mean) not in self.names or id(running_var) not in self.names:
            return  # without running statistics there is nothing to compare with
        over = [axis for axis in range(inputs.ndim) if axis != 1]
        moments = BatchMoments(inputs.mean(over), inputs.var(over, correction=0))
        names = (self.names[id(running_mean)], self.names[id(running_var)])
        number = inputs.numel() // inputs.shape[1]
        self.seen.append(Normalized(moments, names, number, momentum if training else 0.0))


def normalized(observation: Observation, state: Tensors, inputs: Tensor) -> list[Normalized]:
    """Every BatchNorm with running statistics on the way of model inputs `(N, ...)`, in order; differentiable.

    The forward pass runs on copies of the buffers.
    """
    buffers = {name: state[name].clone() for name, _ in observation.model.named_buffers()}
    watch = _Watch({id(tensor): name for name, tensor in buffers.items()})
    with watch:
        forward(observation.model, {**state, **buffers}, inputs)
    return watch.seen


def sent_moments(round: Round, layers: Sequence[Normalized]) -> list[BatchMoments]:
    """The batch's own statistics, from the buffers before and after one step.

    Raises:
        UnknownToAdversary: no buffers were sent, or they are withheld.
        UnfitUpdate: a layer ran as in evaluation or twice, so that its buffers do not hold the batch's statistics.
    """
    sent, state = round.update.buffers, round.state or {}
    names = [layer.names[0] for layer in layers]
    if sent is None or any(name not in sent for layer in layers for name in layer.names):
        raise UnknownToAdversary(
            "the batch's own BatchNorm statistics are in buffers that were not sent or are withheld",
            "grant 'buffers', or use statistics=public",
        )
    moments = []
    for layer in layers:
        if layer.momentum == 0 or names.count(layer.names[0]) > 1:
            how = "ran as in evaluation" if layer.momentum == 0 else "ran more than once"
            raise UnfitUpdate(
                f"the BatchNorm with the buffer '{layer.names[0]}' {how}, so its buffers do not hold the batch's "
                "statistics",
                "use statistics=public",
            )
        mean, variance = (
            (sent[name].double() - (1 - layer.momentum) * state[name].double()) / layer.momentum for name in layer.names
        )
        # running variances are unbiased, the moments of a batch are not
        moments.append(BatchMoments(mean, (variance * (layer.number - 1) / layer.number).clamp_min(0)))
    return moments


def public_moments(round: Round, layers: Sequence[Normalized]) -> list[BatchMoments]:
    """The running statistics in the weights: of earlier batches, a weak stand-in for this one's."""
    state = round.state or {}
    return [BatchMoments(state[layer.names[0]].double(), state[layer.names[1]].double()) for layer in layers]


@dataclass(frozen=True)
class BatchStatistics(Bindable):
    """Distance of the candidate's BatchNorm statistics from the batch's, mean over layers, the first ten times.

    For each layer the Euclidean distances of means and of variances over channels, by the root of their number
    (GradInversion; Yin et al., CVPR 2021, arXiv:2104.07586). Scale by layer and the mean are ours.

    Args:
        source: "sent": the batch's own statistics, from the buffers that the client sent after one step; "public": the
            running statistics in the weights; "any": sent where they are, else public, else nothing.
    """

    source: Source = "any"

    def bind(self, scene: Scene) -> Prior:
        """The prior for this observation.

        Raises:
            UnfitModel: the model has no BatchNorm with running statistics.
            UnknownToAdversary: the client's buffers are missing or withheld.
            UnfitUpdate: they are of several local steps, or of a model in evaluation mode.
        """
        observation = scene.observation
        count = (Evidence(observation).batch_size or 1) * scene.copies
        rounds = [(round, cast(round.state or {}, scene.to)) for round in observation.rounds]
        probe = scene.to.new_zeros(max(2, count), *observation.modality.shape)
        with torch.no_grad():
            layers = normalized(observation, rounds[0][1], observation.modality.forward(probe))
        if not layers and self.source == "any":
            return lambda inputs: inputs.new_zeros(())
        if not layers:
            raise UnfitModel(
                f"{type(observation.model).__name__} has no BatchNorm with running statistics",
                "leave the statistics out: statistics=any",
            )
        targets = [
            [
                BatchMoments(m.mean.to(scene.to), m.variance.to(scene.to))
                for m in self._targets(observation, round, layers)
            ]
            for round, _ in rounds
        ]

        def prior(inputs: Tensor) -> Tensor:
            fed = observation.modality.forward(inputs)
            parts = [
                _distance(normalized(observation, state, fed), target)
                for (_, state), target in zip(rounds, targets, strict=True)
            ]
            return torch.stack(parts).mean()

        return prior

    def _targets(self, observation: Observation, round: Round, layers: Sequence[Normalized]) -> list[BatchMoments]:
        if self.source == "public":
            return public_moments(round, layers)
        try:
            _require_one_step(observation)
            return sent_moments(round, layers)
        except (UnknownToAdversary, UnfitUpdate):
            if self.source == "any":
                return public_moments(round, layers)
            raise


def _require_one_step(observation: Observation) -> None:
    training = observation.training
    if observation.update.kind == "gradient":
        return
    count = observation.update.num_examples
    steps_a_epoch = 2 if training is None or count is None else -(-count // (training.batch_size or count))
    if training is None or training.epochs * steps_a_epoch > 1:
        raise UnfitUpdate(
            "the client's buffers are of several local steps, each with statistics of its own",
            "use statistics=public",
        )


def _distance(layers: Sequence[Normalized], targets: Sequence[BatchMoments]) -> Tensor:
    parts = []
    for number, (layer, target) in enumerate(zip(layers, targets, strict=True)):
        part = sum(
            ((one - other).square().mean() + torch.finfo(one.dtype).tiny).sqrt()
            for one, other in zip(layer.moments, target, strict=True)
        )
        parts.append(part * (FIRST if number == 0 else 1.0))
    return torch.stack(parts).mean()  # type: ignore[arg-type]
