"""What an observation says before any attack: the gradient behind the update, its precision, the batch size, the label.

Every reading is a function of the observation alone, and says None where the threat model withholds what it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedseal.attack.evidence.entrance import Undone, undo
from fedseal.attack.evidence.preprocessing import Preprocessing, read_preprocessing
from fedseal.attack.evidence.release import Release
from fedseal.attack.evidence.single import Single, with_bias, without_bias
from fedseal.attack.evidence.structure import Activation, Linear, Reshape, Structure, structure_of
from fedseal.criterion import Criterion, settle_loss
from fedseal.types import LocalTraining, Observation, Secret

if TYPE_CHECKING:
    from fedseal.attack.evidence.signs import SignReading

Made = TypeVar("Made")
_STRUCTURES: WeakKeyDictionary[nn.Module, dict[tuple[tuple[int, ...], bool, bool], Structure]] = WeakKeyDictionary()
ROUNDING = 2.5  # units in the last place by which a sum of products in the client's dtype is off, as measured


class Course(NamedTuple):
    """What SGD's local steps make of a weight: `kept` times its start, less each gradient times its share.

    Args:
        shares: of the gradients, the last step's first; they do not depend on the gradients.
    """

    kept: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Evidence:
    """An observation, read once."""

    observation: Observation

    def once(self, what: str, make: Callable[[], Made]) -> Made:
        """Memoize a value that a route needs both in `obstacle` and in `read`."""
        if what not in self._kept:
            self._kept[what] = make()
        return cast("Made", self._kept[what])

    def kept(self, what: str, kind: type[Made]) -> Made | None:
        """What was made under that name, None if nothing was."""
        found = self._kept.get(what)
        return found if isinstance(found, kind) else None

    @staticmethod
    def of(observation: Observation) -> Evidence:
        """The evidence of an observation, gathered once for all who hold this observation."""
        known = observation.__dict__.get("_evidence")
        if not isinstance(known, Evidence):
            known = Evidence(observation)
            observation.__dict__["_evidence"] = known
        return known

    def first_rows(self, inputs: Tensor) -> Tensor:
        """What the first layer is fed for these inputs `(N, ...)`, `(N, features)`, where no dropout draws."""
        before = self.preprocessing
        return inputs.flatten(1) if before is None else before.plain(inputs.flatten(1).double().cpu()).to(inputs.device)

    @property
    def entry_gain(self) -> float:
        """By how much a change of an input value changes what the first layer takes in, at least; 0 where one does not
        reach it.
        """
        before = self.preprocessing
        return 1.0 if before is None else before.plain.gain(math.prod(self.observation.modality.shape))

    @cached_property
    def _kept(self) -> dict[str, object]:
        return {}

    @cached_property
    def structure(self) -> Structure:
        """The model's layers, behind what stands before the first of them; none where that cannot be undone."""
        found, before = self._traced, self._before
        return replace(found, layers=(), obstacle=before, entrance=None) if isinstance(before, str) else found

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What the model does to its input before the first layer; None where that is no more than a change of shape,
        or cannot be undone.
        """
        return None if isinstance(self._before, str) else self._before

    @property
    def structure_at_entrance(self) -> Structure:
        """The model as it was traced, whatever stands before the first layer."""
        return self._traced

    @cached_property
    def _traced(self) -> Structure:
        modality = self.observation.modality
        whole = not modality.forward(torch.zeros(1, *modality.shape)).is_floating_point()
        model = self.observation.model  # on the meta device, and written to by nobody
        known = _STRUCTURES.setdefault(model, {})
        key = (modality.shape, whole, model.training)
        if key not in known:
            known[key] = structure_of(model, modality.shape, whole=whole)
        return known[key]

    @cached_property
    def _before(self) -> Preprocessing | str | None:
        entrance, seen = self._traced.entrance, self.observation
        if entrance is None:
            return None
        # buffers are sent as they are after the training, which changes those that it does not normalize by
        known = seen.update.buffers or {} if seen.state is None else seen.state
        rates = {secret.module: secret.rate for secret in seen.secrets}
        return read_preprocessing(seen.model, entrance, seen.modality, known, rates, seen.like.dtype)

    def undo(self, rows: Tensor, *, tolerance: float | None = None) -> Undone:
        """The model inputs behind what the first layer takes in, `(N, ...)`.

        Args:
            tolerance: how far a row's values may be off, relative to the largest; None for some roundings.
        """
        layer = self.structure.layers[0].weight if self.preprocessing is not None else ""  # type: ignore[union-attr]
        secrets = self.secrets_before(layer) if layer else ()
        off = 30 * self.eps if tolerance is None else tolerance
        return undo(self.preprocessing, self.observation.modality, rows, secrets, off)

    @property
    def doubt(self) -> str:
        """Why inputs that `undo` gives are not known to be the client's though the first layer's are; empty if they
        are.
        """
        before, model = self.preprocessing, self.observation.model
        if not self.size_shows:
            return "nothing that was sent of the first layer's gradient by its bias tells the size of the input"
        if before is None:
            return ""
        if before.groups is not None:
            return "the normalization before the first layer is withheld"
        names = {name.rpartition(".")[0] for name in before.entrance.state}
        batch = [name for name in names if isinstance(model.get_submodule(name), _BatchNorm)]
        if batch and self.observation.training is None:
            return f"whether '{batch[0]}' normalizes by the batch is withheld"
        return ""

    @cached_property
    def size_shows(self) -> bool:
        """Whether some unit of the first layer has both its bias's gradient and its row handed over: else inputs of any
        size explain the rows. True where the bias's gradient is no part of the update at all.
        """
        layer, tensors = self.first_linear, self.observation.update.tensors
        if layer is None or layer.bias is None or not {layer.weight, layer.bias} <= tensors.keys():
            return True
        masks = [self.release.sent(name) for name in (layer.weight, layer.bias)]
        if masks[0] is None and masks[1] is None:
            return True
        rows, biases = tensors[layer.weight] != 0, tensors[layer.bias] != 0
        rows, biases = (one if mask is None else one & mask for one, mask in zip((rows, biases), masks, strict=True))
        return bool((rows.any(1) & biases).any())

    def secrets_before(self, weight: str) -> tuple[Secret, ...]:
        """What may be drawn in secret before this parameter is used, or at a place that is not known."""
        passed = {name for _, names in self._traced.dropout for name in names}
        here = self._traced.dropout_before(weight)
        return tuple(s for s in self.observation.secrets if s.module in here or s.module not in passed)

    @cached_property
    def eps(self) -> float:
        """Relative error of a number that the client computed; never below what float64 solvers can use."""
        return max(ROUNDING * torch.finfo(self.observation.like.dtype).eps, 1e-13)

    @cached_property
    def gradient_scale(self) -> float | None:
        """The factor from the update to a mean gradient; None where the update is not a multiple of one gradient.

        A loss that is a sum, or has a factor, is divided by that. Where clipping shortened it, `shrink` undoes that.
        """
        if self.observation.update.kind == "gradient":
            return self._per_example / self.shrink
        return None if self._rate is None else -self._per_example / (self._rate * self.shrink)

    @cached_property
    def criterion(self) -> Criterion:
        """What the client's loss computes, as a function of the head's scores."""
        structure, seen = self.structure, self.observation
        return settle_loss(seen.loss, structure.num_classes, link=structure.link, device=seen.like.device)

    @cached_property
    def unit(self) -> Criterion:
        """The loss that `gradient` belongs to: a mean over the examples, without the factor of the client's own."""
        return self.criterion.unit()

    @property
    def _per_example(self) -> float:
        """The factor from the client's gradient to that of `unit`."""
        return self.criterion.scale(self.batch_size or 1)

    @property
    def _rate(self) -> float | None:
        """The learning rate, where the update is one plain step."""
        training, update = self.observation.training, self.observation.update
        if training is None or training.lr is None or training.epochs != 1:
            return None
        if training.optimizer != "sgd" or training.weight_decay or not training.fresh_optimizer:
            return None
        whole = update.num_examples is not None and update.num_examples <= (training.batch_size or update.num_examples)
        return training.lr if whole else None

    def gradient(self, name: str) -> Tensor | None:
        """The mean gradient of one parameter in float64, None where it was not sent (frozen), or where the update is
        not a multiple of one gradient.
        """
        if self.gradient_scale is None or name not in self.observation.update.tensors:
            return None
        return self.observation.update.tensors[name].double() * self.gradient_scale

    def noise(self, name: str) -> Tensor:
        """Standard errors of `gradient(name)` by its first axis, `(rows,)` in float64, from the arithmetic alone."""
        observed = self.observation.update.tensors[name].double()
        size = observed.flatten(1).square().mean(1).sqrt() if observed.ndim > 1 else observed.abs()
        size = size + 1e-3 * observed.abs().max()
        if self.observation.update.kind == "difference" and self.observation.state is not None:
            size = (
                size + self.observation.state[name].double().abs().max()
            )  # a difference inherits the weights' rounding
        return (self.eps * abs(self.gradient_scale or 1.0) * size).clamp_min(1e-300)

    @cached_property
    def releases(self) -> tuple[Release, ...]:
        """What a known defense leaves of the entries, round by round."""
        return tuple(Release(self.observation, number) for number in range(len(self.observation.rounds)))

    @property
    def release(self) -> Release:
        """The first round's."""
        return self.releases[0]

    @property
    def altered(self) -> bool:
        """Whether a known defense took or moved entries of the update."""
        return self.release.altered

    @cached_property
    def shrink(self) -> float:
        """The factor by which clipping shortened one example's gradient, read off the head; 1 where nothing says.

        The head's input is a ratio of gradients, which no factor changes; with the weights it gives the gradient by the
        logits in its true length.
        """
        head, state, tensors = self.structure.head, self.observation.state, self.observation.update.tensors
        if not self.release.only_direction or head is None or state is None or self.target is None:
            return 1.0
        if head.bias is None or head.bias not in tensors or head.weight not in tensors:
            return 1.0
        by_bias, by_weight = self._sign * tensors[head.bias].double(), self._sign * tensors[head.weight].double()
        noise = self.release.spread(head.bias).square().expand(by_bias.shape).sum()
        features = by_weight.T @ by_bias / (by_bias.square().sum() - noise).clamp_min(1e-300)
        scores = state[head.weight].double() @ features + state[head.bias].double()
        d = self.criterion.signal(scores[None], self.target)[0]
        rate = 1.0 if self.observation.update.kind == "gradient" else self._rate or 1.0
        return float((by_bias @ d) / (d @ d) / rate) or 1.0

    @property
    def _sign(self) -> float:
        """The sign of the update relative to the gradient: -1 for a step, which goes against it."""
        return -1.0 if self.observation.update.kind == "difference" else 1.0

    def error(self, name: str) -> Tensor:
        """Standard errors of `gradient(name)`, entry by entry, in float64, from the arithmetic and a known defense.

        An entry that was not sent is 0 in the gradient; it has the error that its known bound leaves, infinite without
        one.
        """
        tensor, scale = self.observation.update.tensors[name], abs(self.gradient_scale or 1.0)
        arithmetic = self.noise(name).reshape(-1, *[1] * (tensor.ndim - 1)) if tensor.ndim else self.noise(name)
        errors = (arithmetic.square() + (scale * self.release.spread(name)).square()).sqrt().expand(tensor.shape)
        sent, bound = self.release.sent(name), self.release.bound(name)
        if sent is None:
            return errors
        missing = math.inf if bound is None else scale * bound / math.sqrt(3)  # uniform over what the bound allows
        return torch.where(sent, errors, (errors.square() + missing**2).sqrt())

    @cached_property
    def head_factors(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Singular value decomposition of the head's gradient `(classes, features)`."""
        head = self.structure.head
        if head is None or head.weight not in self.observation.update.tensors:
            return None
        gradient = self.observation.update.tensors[head.weight].double()
        left, values, right = torch.linalg.svd(gradient, full_matrices=False)
        return left, values, right

    @cached_property
    def batch_size(self) -> int | None:
        """The number of examples: as sent, else the rank of the head's gradient where that is below full."""
        update = self.observation.update
        if update.num_examples is not None:
            return update.num_examples
        if self.head_factors is None or update.kind != "gradient":
            return None
        if self.altered and self.release.of_effect("clip") != self.release.steps:
            return None  # noise and gaps fill the rank
        values = self.head_factors[1]
        rank = int((values > values[0] * 30 * self.eps).sum())
        # the rows of a softmax head's gradient sum to zero
        most = min(self.structure.num_classes - int(self.criterion.classes), len(values))
        return rank if rank < most else None

    @cached_property
    def course(self) -> Course | None:
        """What the local steps make of every weight; None where they are withheld or not SGD's."""
        training, count = self.observation.training, self.batch_size
        if training is None or training.lr is None or training.optimizer != "sgd" or not training.fresh_optimizer:
            return None
        return None if count is None else course_of(training, count)

    @property
    def sums_gradients(self) -> bool:
        """Whether each entry has the sign of a sum of gradients with positive factors, after `pushed` at least.

        Weight decay adds the weights to every gradient. SGD's is known from the weights at the start; Adam's is not,
        for its moments are of both. Without decay Adam's first moment is such a sum, and the second has no sign.
        """
        training, course = self.observation.training, self.course
        if self.observation.update.kind == "gradient":
            return True
        if training is None or not training.fresh_optimizer:  # an earlier round's gradients come in
            return False
        if training.weight_decay == 0:
            return True
        return course is not None and min(course.shares) >= 0 and self.observation.state is not None

    def pushed(self, name: str) -> tuple[Tensor, Tensor]:
        """What the gradients alone did to a parameter, against their steps, in float64, and a bound on its error.

        Where no weight decay is known there is nothing to take off, and each entry's sign is exact: rounding keeps
        order.
        """
        observation, course = self.observation, self.course
        sent = observation.update.tensors[name].double()
        if observation.update.kind == "gradient" or course is None or observation.state is None:
            return self._sign * sent, torch.zeros_like(sent)
        if course.kept == 1.0:
            return self._sign * sent, torch.zeros_like(sent)
        start = observation.state[name].double()
        error = 2 * len(course.shares) * self.eps * (start.abs() + sent.abs())
        return self._sign * (sent - (course.kept - 1.0) * start), error

    @property
    def label(self) -> int | None:
        """The label of a single example under cross-entropy, None where nothing shows it (`labels/reading.py`)."""
        return None if self.reading is None else self.reading.label

    @cached_property
    def reading(self) -> SignReading | None:
        """The label read off the signs, and whether the update leaves no other label."""
        from fedseal.attack.evidence.signs import read_signs  # imported late: it reads the evidence

        return read_signs(self)

    @cached_property
    def target(self) -> Tensor | None:
        """The target of a single example, in the form that the loss takes, `(1,)` or `(1, outputs)`.

        Under binary cross-entropy the gradient of the head's bias is negative where the target is 1, whatever the
        weights; other targets follow from the scores, which need them.
        """
        device, criterion = self.observation.like.device, self.criterion
        if criterion.kind == "cross_entropy":
            return None if self.label is None else torch.tensor([self.label], device=device)
        if not criterion.known or self.batch_size != 1:
            return None
        if self.single is not None:
            return self._told(self.single.target)
        head, tensors = self.structure.head, self.observation.update.tensors
        if criterion.kind == "mse" or head is None or head.bias not in tensors:
            return None
        by_bias = math.copysign(1.0, criterion.factor) * self.pushed(head.bias or "")[0]
        return self._told((by_bias < 0).double()[None])

    def _told(self, rows: Tensor) -> Tensor:
        """Targets `(N, outputs)` in the form that the loss takes, in the client's number format."""
        shaped, like = self.criterion.formed(rows), self.observation.like
        return shaped.to(like) if shaped.is_floating_point() else shaped.to(like.device)

    @cached_property
    def singles(self) -> list[Single]:
        """What a single example may be at the head, where weights and gradients are known as they are; best first."""
        head, state, tensors = self.structure.head, self.observation.state, self.observation.update.tensors
        if head is None or state is None or head.weight not in tensors or self.batch_size != 1:
            return []
        if not self.criterion.known or self.altered or self.release.only_direction or self.gradient_scale is None:
            return []
        weight, gradient = state[head.weight].double(), tensors[head.weight].double() * self.gradient_scale
        bias = weight.new_zeros(len(weight)) if head.bias is None else state[head.bias].double()
        if head.bias is not None and head.bias in tensors:
            by_bias = tensors[head.bias].double() * self.gradient_scale
            return [with_bias(self.unit, weight, bias, gradient, by_bias)] if bool(by_bias.any()) else []
        return [one for one in without_bias(self.unit, weight, bias, gradient) if self._possible(one.features)]

    @property
    def features_are_positive(self) -> bool:
        """Whether the activation before the head gives no negative numbers."""
        return self._last_activation in ("sigmoid", "relu")

    @property
    def _last_activation(self) -> str:
        last = [layer for layer in self.structure.tail if not isinstance(layer, Reshape)][-1:]
        return last[0].kind if last and isinstance(last[0], Activation) else ""

    def _possible(self, features: Tensor) -> bool:
        """Whether the activation before the head gives such features."""
        size, room = float(features.abs().max()), 1e-3
        bounded = self._last_activation not in ("sigmoid", "tanh") or size <= 1 + room
        return bounded and not (self.features_are_positive and float(features.min()) < -room * size)

    @property
    def single(self) -> Single | None:
        """The single example at the head, where it is one alone; None where two targets explain its gradient."""
        if not self.singles:
            return None
        best = self.singles[0]
        same = all(torch.equal(other.target, best.target) for other in self.singles)
        return best if same and best.misfit <= 1e-2 else None

    @cached_property
    def first_linear(self) -> Linear | None:
        """The first layer, if it is fully connected on the whole input."""
        for layer in self.structure.layers:
            if isinstance(layer, Linear):
                return layer
            if type(layer).__name__ != "Reshape":
                return None
        return None

    @property
    def no_first_linear(self) -> str | None:
        """Why there is no gradient of a fully connected first layer to read, None if there is."""
        layer = self.first_linear
        if layer is None:
            obstacle = self.structure.obstacle if not self.structure.layers else None
            return obstacle or "the first layer is not fully connected on the flattened input"
        if layer.weight not in self.observation.update.tensors:
            return f"the update has no gradient of the first layer's weight '{layer.weight}' (frozen)"
        tensors = self.observation.update.tensors
        black = (
            layer.bias is not None and layer.bias in tensors and bool(tensors[layer.bias].any())
        )  # an input of zeros leaves no other trace
        if not bool(tensors[layer.weight].any()) and not black:
            return "the gradient of the first layer's weight is zero: no unit of that layer was active"
        return None


def course_of(training: LocalTraining, count: int) -> Course:
    """What the local steps of SGD over this many examples make of a weight.

    A step is linear in weight, velocity and gradient, so that a start alone and one gradient alone tell all.

    >>> course_of(LocalTraining.fedavg(lr=0.5, epochs=2, weight_decay=0.5), 1)
    Course(kept=0.5625, shares=(0.5, 0.375))
    """
    assert training.lr is not None
    steps = training.epochs * math.ceil(count / (training.batch_size or count))

    def response(weight: float, gradient: float) -> list[float]:
        velocity, weights = 0.0, []
        for step in range(steps):
            own = training.weight_decay * weight + (gradient if step == 0 else 0.0)
            velocity = training.momentum * velocity + own
            weight -= (training.lr or 0.0) * velocity
            weights.append(weight)
        return weights

    return Course(response(1.0, 0.0)[-1], tuple(-weight for weight in response(0.0, 1.0)))
