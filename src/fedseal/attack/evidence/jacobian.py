"""The update as a function of inputs and real targets, linearized at a candidate: products with its Jacobian."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.replay import replayable
from fedseal.client import local_training, twice_differentiable
from fedseal.errors import NotTwiceDifferentiable, UnfitBatch
from fedseal.types import Candidate, LocalTraining, Round, Tensors

COLUMNS = 1024  # input values up to which the whole Jacobian is worked out
ENTRIES = 3e7  # of that Jacobian
WHOLE = 1e-3  # from 0 and 1, within which a finding is one
QUICK = (320, 4e5)  # columns and entries up to which it takes some milliseconds
CHUNK = 128  # directions at a time


def small(evidence: Evidence, count: int, most: int = COLUMNS, size: float = ENTRIES) -> bool:
    """Whether the whole Jacobian of an update by a batch of that many examples is worth working out."""
    columns = count * math.prod(evidence.observation.modality.shape)
    entries = sum(tensor.numel() for tensor in evidence.observation.update.tensors.values())
    return columns <= most and columns * entries * len(evidence.observation.rounds) <= size


def linearized(
    evidence: Evidence, candidate: Candidate, dtype: torch.dtype = torch.float64, *, layers: bool = False
) -> Linearized:
    """In this precision, where device and model allow it.

    Args:
        layers: see `Linearized`.

    Raises:
        NotTwiceDifferentiable: an operator of the model has no second derivative.
    """
    own = evidence.observation.like.dtype
    for tried in dict.fromkeys((own if evidence.observation.like.device.type == "mps" else dtype, own)):
        try:
            return Linearized(evidence, candidate, tried, layers=layers)
        except (RuntimeError, UnfitBatch) as error:  # model or loss insist on their own dtype, or no second derivative
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise NotTwiceDifferentiable(f"the update cannot be linearized ({said})", "use plain operators in the model")


class Linearized:
    """The update as a function of the inputs and of targets that are real numbers, differentiable at a candidate.

    Jacobian products come from the backward pass alone, run twice, so that every model that can be matched has them.

    Args:
        layers: what every layer takes in may move on its own as well, as if it did not follow from the inputs. These
            columns stand behind those of inputs and targets.
    """

    def __init__(self, evidence: Evidence, candidate: Candidate, dtype: torch.dtype, *, layers: bool = False) -> None:
        training = replayable(evidence.observation)
        assert training is not None
        self.inputs = candidate.inputs.detach().to(dtype).requires_grad_()
        free = candidate.labels.is_floating_point() and real_targets(evidence, candidate.labels)
        labels = candidate.labels.detach()
        self.targets = labels.to(dtype).requires_grad_() if free else None
        moving = Candidate(self.inputs, labels if self.targets is None else self.targets)
        self.leaves = [self.inputs] if self.targets is None else [self.inputs, self.targets]
        with twice_differentiable(), _Apart(evidence.observation.model) if layers else nullcontext() as apart:
            self.update = updates(evidence, moving, training, dtype, differentiable=True)
        if apart is not None:
            self.leaves += apart.added.values()
        self.probe = torch.zeros_like(self.update, requires_grad=True)
        pulled = torch.autograd.grad(
            self.update, self.leaves, self.probe, create_graph=True, allow_unused=True, materialize_grads=True
        )
        self.pulled = torch.cat([part.flatten() for part in pulled])
        self.norm = float(self.update.detach().norm())

    @property
    def columns(self) -> int:
        """Input values and real targets, and what layers take in if that moves."""
        return len(self.pulled)

    def push(self, directions: Tensor) -> Tensor:
        """J v for each row v of `(k, columns)`: `(k, entries)`."""
        if not self.pulled.requires_grad:
            return self.update.new_zeros(len(directions), len(self.update))
        if len(directions) == 1:  # batching makes a loop of some convolutions, slower by far
            return self._push_one(directions[0])[None].detach()
        try:
            with twice_differentiable(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="There is a performance drop")
                (moved,) = torch.autograd.grad(
                    self.pulled,
                    [self.probe],
                    directions,
                    retain_graph=True,
                    is_grads_batched=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
        except RuntimeError:  # an operator without a batching rule
            moved = torch.stack([self._push_one(direction) for direction in directions])
        return moved.detach()

    def _push_one(self, direction: Tensor) -> Tensor:
        with twice_differentiable():
            (moved,) = torch.autograd.grad(
                self.pulled, [self.probe], direction, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        return moved

    def matrix(self) -> Tensor:
        """The transposed Jacobian `(columns, entries)` in float64."""
        ways = torch.split(torch.eye(self.columns).to(self.inputs), CHUNK)
        return torch.cat([self.push(part) for part in ways]).double()

    def pull(self, change: Tensor) -> Tensor:
        """J^T w `(columns,)` for a change of the update."""
        with twice_differentiable():
            parts = torch.autograd.grad(
                self.update, self.leaves, change, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        return torch.cat([part.flatten() for part in parts]).detach()


class _Apart:
    """Within, what every layer takes in may move on its own, and of a layer that takes in the data what it gives.

    A layer is a module with weights of its own, of two axes or more. Zeros are added, in units of what they are added
    to; the steps of a local training share them. Of several weights in one module what is between them stays as it is,
    and so does what such a module makes of the data.
    """

    def __init__(self, model: nn.Module) -> None:
        self.added: dict[tuple[nn.Module, torch.Size], Tensor] = {}
        self._layers = {module for module in model.modules() if _weights(module, recurse=False)}
        self._first: set[nn.Module] = set()

    def __enter__(self) -> _Apart:
        self._handles = (register_module_forward_pre_hook(self._before), register_module_forward_hook(self._after))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, taken: tuple[Any, ...]) -> Any:
        data = taken[0] if taken else None
        if module not in self._layers or not isinstance(data, Tensor) or not data.is_floating_point():
            return None
        if not self._follows(data):
            if len(_weights(module, recurse=True)) == 1:
                self._first.add(module)
            return None
        return self._moved(module, data), *taken[1:]

    def _after(self, module: nn.Module, _: object, given: Any) -> Any:
        return self._moved(module, given) if module in self._first and isinstance(given, Tensor) else None

    def _follows(self, data: Tensor) -> bool:
        """Whether something follows from what was added before."""
        before = list(self.added.values())
        if not before or not data.requires_grad:
            return False
        found = torch.autograd.grad(data.sum(), before, retain_graph=True, allow_unused=True)
        return any(part is not None for part in found)

    def _moved(self, module: nn.Module, data: Tensor) -> Tensor:
        key = (module, data.shape)
        if key not in self.added:
            self.added[key] = torch.zeros_like(data.detach()).requires_grad_()
        return data + data.detach().square().mean().sqrt() * self.added[key]


def _weights(module: nn.Module, *, recurse: bool) -> list[Tensor]:
    return [parameter for parameter in module.parameters(recurse=recurse) if parameter.ndim > 1]


def updates(
    evidence: Evidence, candidate: Candidate, training: LocalTraining, dtype: torch.dtype, *, differentiable: bool
) -> Tensor:
    """The updates of all rounds, entry by entry, of what was sent `(entries,)`, worked out in this precision."""
    observation = evidence.observation
    labels = candidate.labels.to(dtype) if candidate.labels.is_floating_point() else candidate.labels
    moving = Candidate(observation.modality.forward(candidate.inputs), labels)
    parts = [
        part
        for number, round in enumerate(observation.rounds)
        for part in _flat(evidence, number, round, moving, training, dtype, differentiable)
    ]
    return torch.cat(parts)


def _flat(
    evidence: Evidence,
    number: int,
    round: Round,
    moving: Candidate,
    training: LocalTraining,
    dtype: torch.dtype,
    differentiable: bool,
) -> Iterator[Tensor]:
    """One round's update, entry by entry, of what was sent."""
    assert round.state is not None
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in round.state.items()}
    model = evidence.observation.model
    made: Tensors = local_training(
        model, state, moving.inputs, moving.labels, training, differentiable=differentiable
    ).tensors
    release = evidence.releases[number]
    for name in round.update.tensors:
        sent = release.sent(name)
        yield (made[name] if sent is None else made[name] * sent).flatten()


def real_targets(evidence: Evidence, labels: Tensor) -> bool:
    """Whether targets are real numbers, which may move as the inputs may; class indices and findings of yes and no do
    not, but findings between the two do.
    """
    between = bool(((labels - labels.round()).abs() > WHOLE).any())
    return evidence.criterion.kind in ("mse", "unknown") or between
