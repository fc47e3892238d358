"""What a loss computes, settled by trying it: neither its name nor its spelling decides.

A loss is evaluated on a few fixed numbers, and its gradient by the outputs is held against closed forms: softmax
cross-entropy with class weights and label smoothing, binary cross-entropy with logits, and the squared error, each
summed or averaged and times any factor. What agrees to the arithmetic's precision, at several batch sizes, *is* that
loss for everything that an update shows; what does not is "unknown", with a reason. Agreement is asked of ordinary
numbers first, then of outputs that are nearly alike, sure, or sure and wrong, and of errors small and large, so that a
floor under the loss, a trim or a Huber loss does not pass.

One deviation is let pass, and noted (`Criterion.everywhere`): an epsilon inside a logarithm, by which the gradient of
an example that the model gets wholly wrong shrinks, but keeps its direction. No labels of a batch are certified then.

The closed form gives the gradient by the outputs for a target, and its inverse the target from the gradient.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedseal.errors import UnknownName
from fedseal.types import LossFunction

Kind = Literal["cross_entropy", "bce", "mse", "unknown"]
Reduction = Literal["mean", "weights", "sum"]
Form = Literal["classes", "rows", "column", "whole_rows", "whole_column"]
LinkStep = Literal["log_softmax", "sigmoid", "column"]
Link = tuple[LinkStep, ...]
Agreement = Literal["holds", "saturates", "differs"]

LOSSES: dict[str, LossFunction] = {
    "cross_entropy": F.cross_entropy,
    "bce": F.binary_cross_entropy_with_logits,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
}
LINKS: dict[LinkStep, Callable[[Tensor], Tensor]] = {
    "log_softmax": lambda outputs: outputs.log_softmax(-1),
    "sigmoid": torch.sigmoid,
    "column": lambda outputs: outputs[..., 0],
}
AGREES = {torch.float64: 1e-6, torch.float32: 2e-4}  # share of the largest entry up to which two gradients agree
SNAPS = {torch.float64: 1e-7, torch.float32: 2e-5}  # up to which a weight or a factor is 1, and no smoothing is there
SIZES = (1, 2, 3, 5)  # batches on which a closed form must agree
SCALES = (0.1, 1.0, 10.0, 30.0)  # of outputs
SURE = (2.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 16.0, 24.0, 40.0)  # by how much one score leads the others
ERRORS = (1e-4, 1e-2, 1.0, 10.0, 100.0, 1e3, 1e6)  # of a squared loss
SATURATED = 9.0  # cross-entropy of an example, beyond which an epsilon may shrink its gradient
FAINT = 1e-6  # of the largest gradient that an example may have: below, an epsilon may shrink it as well
MANY = 65  # examples that differ in all of these, tried in one batch
MOST = 1024  # outputs up to which every class's weight is tried; beyond, SOME are, and must be alike
SOME = 32
FEW = 8  # classes that are told apart to full precision
WHOLE = 1e-3  # from 0 or 1, within which a target of binary cross-entropy is taken for that
FAILS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError, UserWarning)
FORMS: dict[Form, str] = {
    "classes": "class indices (N,)",
    "rows": "one row of numbers for each example, (N, outputs)",
    "column": "one number for each example, (N,)",
    "whole_rows": "one row of whole numbers for each example, (N, outputs)",
    "whole_column": "one whole number for each example, (N,)",
}


def loss_function(loss: str | LossFunction) -> LossFunction:
    """The function behind a loss's name; a function is returned as it is.

    Raises:
        UnknownName: no such loss.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise UnknownName("loss", loss, LOSSES)
    return LOSSES[loss]


class Reading(NamedTuple):
    """Targets read off gradients by the outputs.

    Args:
        targets: class indices `(N,)`, or rows `(N, outputs)` in float64.
        misfit: for each example, the distance between the gradient and the one that its target gives, relative to the
            latter; 0 where every gradient has a target, as under the squared error.
        margin: the same for the next best class; infinite where there is none to confuse it with.
    """

    targets: Tensor
    misfit: Tensor
    margin: Tensor


@dataclass(frozen=True, eq=False)
class Criterion:
    """A loss as a closed form: `factor / norm` times a sum over the examples.

    Under cross-entropy an example of class y adds (1 - smoothing) weights[y] (-log p[y]) + smoothing / outputs times
    the sum over k of weights[k] (-log p[k]). Under binary cross-entropy it adds, for each output k, weights[k]
    (1 - t) softplus(z) + positive[k] t softplus(-z); under the squared error weights[k] (z - t)^2.

    Args:
        kind: "unknown" where no closed form agrees; nothing below then means anything but `reason`.
        outputs: how many numbers the model gives for an example.
        reduction: the norm is the number of examples ("mean"), the sum of their classes' weights ("weights", as torch
            averages under class weights), or 1 ("sum").
        factor: times all; the means over outputs that torch takes are in it.
        weights: `(outputs,)` in float64, of mean 1.
        positive: binary cross-entropy alone: weights where the target is 1, in the same unit.
        smoothing: of labels, in [0, 1].
        forms: the targets that the loss takes, the plainest first.
        soft: whether the loss takes class probabilities `(N, outputs)` and means by them what `loss` does.
        reason: why it is unknown, as a clause; empty otherwise.
        link: what the model applies to the scores that this is about before the loss sees them.
        everywhere: whether the closed form holds at all scales; if not, an epsilon shrinks the gradients of examples
            that the model gets wholly wrong, or the loss fails there.

    >>> one = settle_loss(nn.CrossEntropyLoss(reduction="sum"), 10)
    >>> one.kind, one.reduction, one.uniform, one.plain
    ('cross_entropy', 'sum', True, False)
    >>> settle_loss("cross_entropy", 10).plain
    True
    """

    kind: Kind
    outputs: int
    reduction: Reduction = "mean"
    factor: float = 1.0
    weights: Tensor = field(default_factory=lambda: torch.ones(1, dtype=torch.float64))
    positive: Tensor | None = None
    smoothing: float = 0.0
    forms: tuple[Form, ...] = ()
    soft: bool = False
    reason: str = ""
    link: Link = ()
    everywhere: bool = True

    @property
    def known(self) -> bool:
        """Whether a closed form agrees."""
        return self.kind != "unknown"

    @property
    def classes(self) -> bool:
        """Whether a target is one class of several."""
        return self.kind == "cross_entropy" or (not self.known and "classes" in self.forms)

    @property
    def uniform(self) -> bool:
        """Whether all outputs weigh the same."""
        same = bool((self.weights - 1).abs().max() < 1e-6)
        return same and (self.positive is None or bool((self.positive - 1).abs().max() < 1e-6))

    @property
    def hard(self) -> bool:
        """Whether it is cross-entropy whose gradient is that of plain cross-entropy up to one factor."""
        return self.kind == "cross_entropy" and self.uniform and self.smoothing < 1e-6

    @property
    def plain(self) -> bool:
        """Whether the loss is the mean cross-entropy of hard labels."""
        return self.hard and self.reduction != "sum" and abs(self.factor - 1) < 1e-6

    @property
    def obstacle(self) -> str:
        """Why routes that need the closed form do not apply; empty if it is known."""
        return "" if self.known else f"the loss is not one that was recognized: {self.reason}"

    def unit(self) -> Criterion:
        """The same loss without its factor, averaged where it is summed: what `scale` times its gradients belong to."""
        return replace(self, factor=1.0, reduction="mean" if self.reduction == "sum" else self.reduction)

    def scale(self, count: int) -> float:
        """The factor from the gradient of a batch of `count` under this loss to that under its `unit`."""
        return 1.0 / (self.factor * (count if self.reduction == "sum" else 1)) if self.known else 1.0

    def describe(self) -> str:
        """In words, such as "cross_entropy (sum, weights, smoothing 0.1)"."""
        parts = ["sum"] if self.reduction == "sum" else []
        parts += [] if self.uniform or not self.known else ["weights"]
        parts += [f"smoothing {self.smoothing:.3g}"] if self.smoothing >= 1e-6 else []
        return f"{self.kind} ({', '.join(parts)})" if parts else self.kind

    def norm(self, targets: Tensor) -> Tensor:
        """What the sum over examples is divided by, a number.

        Args:
            targets: class indices `(N,)`, probabilities `(N, outputs)`, or rows.
        """
        if self.reduction == "sum":
            return torch.ones((), dtype=torch.float64, device=targets.device)
        if self.reduction == "mean":
            return torch.full((), float(len(targets)), dtype=torch.float64, device=targets.device)
        weights = self.weights.to(targets.device)
        return (targets.double() @ weights if targets.is_floating_point() else weights[targets]).sum()

    def mass(self, targets: Tensor) -> Tensor:
        """Under cross-entropy: by how much each class's -log p counts for each example, `(N, outputs)` in float64."""
        weights = self.weights.to(targets.device)
        hard = targets.double() if targets.is_floating_point() else F.one_hot(targets, self.outputs).double()
        told = hard.sum(1, keepdim=True)
        return (1 - self.smoothing) * hard * weights + self.smoothing / self.outputs * told * weights

    def signal(self, outputs: Tensor, targets: Tensor, norm: Tensor | float | None = None) -> Tensor:
        """dL/doutputs `(N, outputs)` in float64.

        Args:
            outputs: `(N, outputs)`.
            targets: class indices `(N,)`, probabilities `(N, outputs)`, or in any of `forms`.
            norm: of the whole batch, if these are not all of its examples.
        """
        z, targets = outputs.double(), self.rows(targets)
        scale = self.factor / (self.norm(targets) if norm is None else norm)
        if self.kind == "cross_entropy":
            mass = self.mass(targets)
            return scale * (mass.sum(1, keepdim=True) * z.softmax(-1) - mass)
        weights = self.weights.to(z.device)
        if self.kind == "bce":
            assert self.positive is not None
            p, t = z.sigmoid(), targets.double()
            return scale * (weights * (1 - t) * p - self.positive.to(z.device) * t * (1 - p))
        if self.kind == "mse":
            return scale * 2 * weights * (z - targets.double())
        raise ValueError(self.obstacle)

    def scores(self, outputs: Tensor) -> Tensor:
        """Scores `(N, outputs)` behind a model's outputs, up to what a log-softmax takes from them."""
        outputs = outputs[..., None] if "column" in self.link else outputs
        return outputs.logit() if "sigmoid" in self.link else outputs

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss itself, differentiable by outputs and by targets, which may be soft where the function's may not.

        Args:
            outputs: the model's, behind `link`.
        """
        targets, outputs = self.rows(targets), self.scores(outputs)
        weights = self.weights.to(outputs)
        scale = self.factor / self.norm(targets).to(outputs)
        if self.kind == "cross_entropy":
            return scale * -(self.mass(targets).to(outputs) * outputs.log_softmax(-1)).sum()
        t = targets.to(outputs)
        if self.kind == "bce":
            assert self.positive is not None
            parts = weights * (1 - t) * F.softplus(outputs) + self.positive.to(outputs) * t * F.softplus(-outputs)
            return scale * parts.sum()
        if self.kind == "mse":
            return scale * (weights * (outputs - t).square()).sum()
        raise ValueError(self.obstacle)

    def read(self, outputs: Tensor, signal: Tensor, norm: float | Literal["own", "free"]) -> Reading:
        """The inverse of `signal`: each example's target from its outputs and its gradient by them.

        Args:
            outputs, signal: `(N, outputs)`.
            norm: of the batch; "own" where each example is a batch by itself; "free" where only the signal's direction
                is known, which tells classes alone.
        """
        z, signal = outputs.double(), signal.double()
        if self.kind == "cross_entropy":
            return self._read_classes(z, signal, norm)
        assert norm != "free"
        weights, none = self.weights.to(z.device), signal.new_full((len(z),), torch.inf)
        unscaled = signal * (1.0 if norm == "own" else norm) / self.factor
        if self.kind == "mse":
            return Reading(z - unscaled / (2 * weights), torch.zeros_like(none), none)
        assert self.positive is not None
        p, positive = z.sigmoid(), self.positive.to(z.device)
        targets = (weights * p - unscaled) / (weights * p + positive * (1 - p))
        whole = targets.round().clamp(0, 1)
        targets = torch.where((targets - whole).abs() < WHOLE, whole + 0.0, targets)
        return Reading(targets.clamp(0, 1), (targets - targets.clamp(0, 1)).abs().amax(1), none)

    def _read_classes(self, z: Tensor, signal: Tensor, norm: float | Literal["own", "free"]) -> Reading:
        """Every class is tried: first all at once by products, then the few best to full precision."""
        p, free = z.softmax(-1), norm == "free"
        weights, rest = self.weights.to(z.device), self.smoothing / self.outputs
        own = weights if self.reduction == "weights" else torch.ones_like(weights)
        scale = self.factor / (own if norm == "own" else 1.0 if isinstance(norm, str) else norm)
        total, hard = (1 - self.smoothing) * weights + rest * weights.sum(), (1 - self.smoothing) * weights
        dot = total * (signal * p).sum(1, keepdim=True) - hard * signal - rest * (signal @ weights)[:, None]
        length = total.square() * p.square().sum(1, keepdim=True) + hard.square() + rest**2 * weights.square().sum()
        length = length - 2 * total * (hard * p + rest * (p @ weights)[:, None]) + 2 * hard * rest * weights
        share = (dot / length.clamp_min(1e-300)).clamp_min(0) if free else scale
        away = (signal.square().sum(1, keepdim=True) - 2 * share * dot + share * share * length).clamp_min(0)
        few = (away if free else away / (share * share * length).clamp_min(1e-300)).topk(
            min(self.outputs, FEW), largest=False
        )
        misfits = []
        for place, classes in enumerate(few.indices):
            mass = self.mass(classes)
            guess = mass.sum(1, keepdim=True) * p[place] - mass
            if free:
                factor = (guess @ signal[place] / guess.square().sum(1).clamp_min(1e-300)).clamp_min(0)
            else:
                factor = torch.as_tensor(scale, dtype=z.dtype, device=z.device).expand(self.outputs)[classes]
            guess = factor[:, None] * guess
            size = signal[place].norm() if free else guess.norm(dim=1)
            misfits.append((signal[place] - guess).norm(dim=1) / size.clamp_min(1e-300))
        ordered, places = torch.stack(misfits).sort(1)
        return Reading(few.indices.gather(1, places)[:, 0], ordered[:, 0], ordered[:, 1])

    def rows(self, targets: Tensor) -> Tensor:
        """Targets of any form as this class works with them: class indices `(N,)`, else float rows `(N, outputs)`."""
        if self.kind == "cross_entropy":
            return targets
        return (targets if targets.ndim == 2 else targets[:, None]).to(
            targets.dtype if targets.is_floating_point() else torch.float64
        )

    def formed(self, targets: Tensor) -> Tensor:
        """Class indices `(N,)` or rows `(N, outputs)` in the form that the loss itself takes."""
        if self.kind in ("cross_entropy", "unknown") or not self.forms:
            return targets
        form = self.forms[0]
        shaped = targets[:, 0] if form in ("column", "whole_column") and targets.ndim == 2 else targets
        return shaped.round().long() if form.startswith("whole") else shaped

    def misfit(self, targets: Tensor) -> str | None:
        """Why a loss of rows or numbers does not take such targets; None if it does, or if targets are classes, of
        which torch itself refuses what does not fit.
        """
        if self.classes or not self.forms or form_of(targets, self.outputs) in self.forms:
            return None
        what = f"{self.describe()} of" if self.known else "of"
        return f"the loss, {what} {self.outputs} output{'s' * (self.outputs > 1)}, takes {FORMS[self.forms[0]]}"


def form_of(targets: Tensor, outputs: int) -> Form | None:
    """The form that targets have, None for none of them.

    >>> form_of(torch.zeros(4, 3), 3), form_of(torch.tensor([1, 0]), 1)
    ('rows', 'whole_column')
    """
    whole = not targets.is_floating_point()
    if targets.ndim == 1:
        return ("whole_column" if outputs == 1 else "classes") if whole else ("column" if outputs == 1 else None)
    if targets.ndim == 2 and targets.shape[1] == outputs:
        return "whole_rows" if whole else "rows"
    return None


_SETTLED: WeakKeyDictionary[object, dict[Hashable, Criterion]] = WeakKeyDictionary()
_NAMED: dict[Hashable, Criterion] = {}


def settle_loss(
    loss: str | LossFunction, outputs: int, *, link: Link = (), device: torch.device | str = "cpu"
) -> Criterion:
    """What a loss computes for a model of so many outputs.

    Args:
        loss: a name of `LOSSES`, or a function `(outputs, targets) -> scalar`.
        link: what the model itself applies to the scores that the closed form is about, such as a final log-softmax.
        device: where the loss is tried: where its weights lie.

    Raises:
        UnknownName: no such loss.

    >>> import torch.nn.functional as F
    >>> settle_loss(F.nll_loss, 3).kind, settle_loss(F.nll_loss, 3, link=("log_softmax",)).plain
    ('unknown', True)
    """
    function = loss_function(loss)
    if loss == "cross_entropy" and link in ((), ("log_softmax",)) and outputs > 1:
        ones = torch.ones(outputs, dtype=torch.float64)
        return Criterion("cross_entropy", outputs, weights=ones, forms=("classes",), soft=True, link=link)
    key = (outputs, link, str(device), _contents(function))
    kept = _NAMED if isinstance(loss, str) else _kept(function)
    named = (loss, *key) if isinstance(loss, str) else key
    if named not in kept:
        kept[named] = _settled(function, outputs, link, torch.device(device))
    return kept[named]


def _kept(function: LossFunction) -> dict[Hashable, Criterion]:
    """What was settled of a function; nothing is kept of one that cannot be watched."""
    try:
        return _SETTLED.setdefault(function, {})
    except TypeError:  # no weak reference, or no hash
        return {}


def _contents(function: LossFunction) -> Hashable:
    """What may change in a loss that is a module: its tensors' versions and its plain attributes."""
    if not isinstance(function, nn.Module):
        return None
    tensors = [*function.parameters(), *function.buffers()]
    plain = {n: v for n, v in vars(function).items() if isinstance(v, (str, int, float, bool, type(None)))}
    return tuple((id(t), t._version) for t in tensors), tuple(sorted(plain.items(), key=lambda item: item[0]))


class _OnlyNear(Exception):
    """The loss is a known one for ordinary numbers, and another beyond; the message says which."""


class _Refused(Exception):
    """The loss does not take such targets, or gives no number; the message says which."""


@dataclass(frozen=True)
class _Trial:
    """A loss under trial: in one float format, behind one link."""

    function: LossFunction
    outputs: int
    link: Link
    device: torch.device
    dtype: torch.dtype

    def logits(self, count: int, seed: int) -> Tensor:
        """Fixed numbers `(count, outputs)`."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, self.outputs, generator=generator, dtype=torch.float64)

    def gradient(self, logits: Tensor, targets: Tensor) -> Tensor:
        """dL/dlogits in float64 on the CPU."""
        return self.values(logits, targets)[1]

    def values(self, logits: Tensor, targets: Tensor) -> tuple[float, Tensor]:
        """The loss, and its gradient by the logits in float64 on the CPU.

        Raises:
            _Refused: the function raises, warns, or gives no finite number that depends on the outputs.
        """
        value, gradient = self._tried(logits, targets)
        if not bool(torch.isfinite(gradient).all()) or not bool(gradient.any()):
            raise _Refused("its gradient by the outputs is zero or not finite")
        return value, gradient

    def _tried(self, logits: Tensor, targets: Tensor) -> tuple[float, Tensor]:
        """The same, whatever the numbers."""
        try:
            with _quiet(), torch.enable_grad():
                targets = targets.to(self.device, self.dtype if targets.is_floating_point() else targets.dtype)
                leaf = logits.detach().clone().to(self.device, self.dtype).requires_grad_()
                outputs = leaf
                for step in self.link:
                    outputs = LINKS[step](outputs)
                value = self.function(outputs, targets)
                (gradient,) = torch.autograd.grad(value, leaf)
        except FAILS as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise _Refused(f"it fails on targets of shape {tuple(targets.shape)} ({first})") from error
        return float(value.detach()), gradient.double().cpu()

    def agrees(self, criterion: Criterion, logits: Tensor, targets: Tensor) -> bool:
        """Whether a closed form gives the function's gradient."""
        observed = self.gradient(logits, targets)
        guess = criterion.signal(logits.cpu(), targets)
        return bool((observed - guess).abs().max() <= AGREES[self.dtype] * observed.abs().max())

    def fit(self, criterion: Criterion, logits: Tensor, targets: Tensor, form: Form) -> Agreement:
        """How a closed form gives the function's gradient example by example, however small that of one is.

        It "saturates" where the loss fails or the gradient of what is `SATURATED` or `FAINT` shrinks.
        """
        try:
            observed = self._tried(logits, targets if criterion.classes else _shaped(targets, form))[1]
        except _Refused:
            return "saturates"  # no client sends such an update
        guess = criterion.signal(logits, targets)
        most, rounding, costs = _heft(criterion, logits, targets)
        rounding = 8 * torch.finfo(self.dtype).eps * rounding
        if criterion.kind == "bce":  # each output for itself
            observed, guess, most, rounding, costs = (
                one.reshape(-1, 1) for one in (observed, guess, most, rounding, costs)
            )
        size = guess.abs().amax(1, keepdim=True)
        room = AGREES[torch.float32] * size + rounding
        holds = ((observed - guess).abs() <= room).all(1)
        if (
            criterion.kind == "cross_entropy"
        ):  # an example of a class without weight says nothing, and alone divides by it
            holds |= criterion.mass(criterion.rows(targets)).abs().sum(1) <= FAINT * criterion.weights.abs().max()
        if bool(holds.all()):
            return "holds"
        share = ((observed * guess).sum(1, keepdim=True) / guess.square().sum(1, keepdim=True).clamp_min(1e-300)).clamp(
            0, 1
        )
        shrinks = ((observed - share * guess).abs() <= room).all(1) | ~torch.isfinite(observed).all(1)
        may = ((costs > SATURATED) | (size <= FAINT * most)).any(1)
        return "saturates" if criterion.kind != "mse" and bool((holds | (shrinks & may)).all()) else "differs"


def _heft(criterion: Criterion, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest gradient that each example or output may have, that whose rounding shows, and what each costs."""
    z, rows = logits.double(), criterion.rows(targets)
    scale = abs(criterion.factor) / criterion.norm(rows).abs()
    if criterion.kind == "cross_entropy":
        mass, logs = criterion.mass(rows).abs(), z.log_softmax(-1)
        total = scale * mass.sum(1, keepdim=True)
        wanted = rows.double() if rows.is_floating_point() else F.one_hot(rows, criterion.outputs).double()
        grain = total * logs.exp() * (1 + z.abs().amax(1, keepdim=True))
        return total, grain, -(wanted * logs).sum(1, keepdim=True)
    if criterion.kind == "bce":
        assert criterion.positive is not None
        t = rows.double()
        most = (scale * torch.maximum(criterion.weights.abs(), criterion.positive.abs())).expand_as(z)
        costs = torch.maximum((t < 1) * F.softplus(z), (t > 0) * F.softplus(-z))
        return most, most * torch.maximum(z.sigmoid(), t) * (1 + z.abs()), costs
    most = (scale * 2 * criterion.weights.abs()).expand_as(z)
    return most, most * (z.abs() + rows.double().abs()), torch.zeros_like(z)


def _everywhere(trial: _Trial, criterion: Criterion, form: Form) -> bool:
    """Whether a closed form that agrees for ordinary numbers holds for all others, too.

    Raises:
        _OnlyNear: it does not, by more than an epsilon.
    """
    far = {"cross_entropy": _far_classes, "bce": _far_binary, "mse": _far_squared}[criterion.kind]
    fits = {trial.fit(criterion, logits, targets, form) for logits, targets in far(trial, form)}
    if "differs" in fits:
        words = {"cross_entropy": "cross-entropy", "bce": "binary cross-entropy", "mse": "the squared error"}
        where = "far errors" if criterion.kind == "mse" else "examples that the model is sure of or gets wrong"
        raise _OnlyNear(f"it is {words[criterion.kind]} near ordinary outputs alone, and another loss for {where}")
    return fits == {"holds"}


def _far_classes(trial: _Trial, form: Form) -> Iterator[tuple[Tensor, Tensor]]:
    outputs = trial.outputs

    def leading(count: int, by: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        labels = _labels(count, outputs)
        right = F.one_hot(labels, outputs).double()
        return 0.3 * trial.logits(count, seed) + by.clamp_min(0) * right - by.clamp_max(0) * right.roll(1, 1), labels

    for count in (1, 4):
        for scale in SCALES:
            yield scale * trial.logits(count, 40 + count), _labels(count, outputs)
        for by in SURE:
            for lead in (by, -by):
                yield leading(count, torch.full((count, 1), lead, dtype=torch.float64), 50 + count)
    many = MANY if outputs <= 16 * MOST else 5
    yield leading(many, _leads(many), 60)


def _leads(count: int) -> Tensor:
    """All of `SURE`, for and against, one an example, `(count, 1)`."""
    leads = torch.tensor([*SURE, *(-by for by in SURE)], dtype=torch.float64)
    return leads[5 * torch.arange(count) % len(leads)][:, None]


def _far_binary(trial: _Trial, form: Form) -> Iterator[tuple[Tensor, Tensor]]:
    for count in (1, 4, MANY):
        spread = trial.logits(count, 40 + count)
        for scale in SCALES:
            fractions = trial.logits(count, 50 + count).sigmoid()
            yield scale * spread, (fractions > 0.5).double() if form.startswith("whole") else fractions
        for shift in (0, 1):  # both targets for both signs, also of a single output
            targets = (_checkered(count, trial.outputs) + shift) % 2
            for by in SURE:
                yield 0.3 * spread + by, targets
                yield 0.3 * spread - by, targets
                yield 0.3 * spread + by * (2 * targets - 1), targets
                yield 0.3 * spread - by * (2 * targets - 1), targets
            yield 0.3 * spread + _leads(count), targets


def _far_squared(trial: _Trial, form: Form) -> Iterator[tuple[Tensor, Tensor]]:
    whole = form.startswith("whole")
    for count in (1, 4, MANY):
        one, other = trial.logits(count, 40 + count), trial.logits(count, 50 + count)
        for error in ERRORS:
            yield one, (error * other).round() if whole else error * other
            targets = (10 * one).round() if whole else one
            yield targets + error * other, targets
        errors = torch.tensor(ERRORS, dtype=torch.float64)[torch.arange(count) % len(ERRORS)][:, None]
        yield (10 * one).round() + errors * other, (10 * one).round()


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's warning of targets that are broadcast is a refusal; other warnings are silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "Using a target size", UserWarning)
        yield


def _settled(function: LossFunction, outputs: int, link: Link, device: torch.device) -> Criterion:
    refused, tried = "", ""
    trials = [_Trial(function, outputs, link, device, dtype) for dtype in AGREES]
    for trial in trials:  # a loss with weights in float32 takes no float64
        for fit in (_as_classes, _as_rows):
            try:
                with _drawing_undone():
                    found = fit(trial)
            except _OnlyNear as known:  # in float32 rounding might hide it
                return Criterion("unknown", outputs, forms=_all_taken(trials), reason=str(known), link=link)
            except _Refused as refusal:
                refused = refused or str(refusal)
                continue
            if found.known:
                return replace(found, link=link)
            tried = tried or found.reason
    return Criterion("unknown", outputs, forms=_all_taken(trials), reason=tried or refused, link=link)


def _all_taken(trials: list[_Trial]) -> tuple[Form, ...]:
    return tuple(form for form in FORMS if any(_takes(trial, form) for trial in trials))


def _takes(trial: _Trial, form: Form) -> bool:
    """Whether a loss that is not known takes targets of this form at all."""
    if (trial.outputs == 1 and form == "classes") or (trial.outputs > 1 and "column" in form):
        return False
    targets = _labels(3, trial.outputs) if form == "classes" else _shaped(_checkered(3, trial.outputs), form)
    try:
        with _drawing_undone():
            trial.values(trial.logits(3, 4), targets)
    except _Refused:
        return False
    return True


@contextmanager
def _drawing_undone() -> Iterator[None]:
    """A loss that draws random numbers draws fixed ones here, and leaves no trace in torch's global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _as_classes(trial: _Trial) -> Criterion:
    """Cross-entropy of class indices: two examples of each class tell the class's mass, and so weights and smoothing.

    The gradient by the logits is g = a p - t with t the mass of the example's class and a its sum.
    """
    outputs = trial.outputs
    if outputs < 2:
        raise _Refused("it takes no class indices of one output")
    tried = torch.arange(outputs) if outputs <= MOST else torch.arange(SOME) * (outputs // SOME)
    labels = torch.cat([tried, tried])
    logits = trial.logits(len(labels), 1)
    gradient, p = trial.gradient(logits, labels), logits.double().cpu().softmax(-1)
    first, second = gradient.chunk(2)
    apart = p[: len(tried)] - p[len(tried) :]
    total = ((first - second) * apart).sum(1) / apart.square().sum(1)
    mass = 0.5 * (total[:, None] * (p[: len(tried)] + p[len(tried) :]) - first - second)
    own = mass[torch.arange(len(tried)), tried]
    column = (mass[:, tried].sum(0) - own) / (len(tried) - 1)  # smoothing / outputs times the weight of the class
    weights = own - column + outputs * column
    if not bool(torch.isfinite(weights).all()) or float(weights.abs().sum()) <= 0:
        return Criterion("unknown", outputs, reason="its gradient is none of softmax cross-entropy")
    smoothing = float(outputs * column.sum() / weights.sum())
    loose = SNAPS[trial.dtype]
    smoothing = 0.0 if abs(smoothing) < 10 * loose else smoothing
    mean = float(weights.mean())
    weights = weights / mean
    if float((weights - 1).abs().max()) < loose:
        weights = torch.ones_like(weights)
    elif outputs > MOST:
        return Criterion("unknown", outputs, reason=f"it weighs classes, and there are more than {MOST} of them")
    weights = torch.ones(outputs, dtype=torch.float64) if outputs > MOST else weights
    guess = Criterion("cross_entropy", outputs, "sum", 1.0, weights, None, smoothing, ("classes",))
    reductions: tuple[Reduction, ...] = ("mean", "weights", "sum")
    for reduction in reductions:
        scaled = replace(guess, reduction=reduction)
        factor = mean * float(scaled.norm(labels))
        scaled = replace(scaled, factor=1.0 if abs(factor - 1) < loose else factor)
        if all(trial.agrees(scaled, trial.logits(n, 2 + n), _labels(n, outputs)) for n in SIZES):
            everywhere = _everywhere(trial, scaled, "classes")
            return replace(scaled, soft=_takes_soft(trial, scaled), everywhere=everywhere)
    again = trial.gradient(logits, labels)
    drawn = "it gives another value every time, as if it drew random numbers"
    why = "its gradient is none of softmax cross-entropy" if torch.equal(gradient, again) else drawn
    return Criterion("unknown", outputs, reason=why)


def _labels(count: int, outputs: int) -> Tensor:
    """Fixed labels, of which several are equal."""
    return torch.tensor([(7 * place * place + count) % outputs for place in range(count)])


def _takes_soft(trial: _Trial, criterion: Criterion) -> bool:
    logits = trial.logits(3, 11)
    soft = trial.logits(3, 12).double().cpu().softmax(-1)
    try:
        return trial.agrees(criterion, logits, soft)
    except _Refused:
        return False


def _as_rows(trial: _Trial) -> Criterion:
    """Binary cross-entropy or the squared error, in every form of target that the loss takes."""
    found: dict[Form, Criterion] = {}
    reason, evaluated = "", False
    forms: tuple[Form, ...] = ("rows", "column", "whole_rows", "whole_column")
    for form in forms:
        if "column" in form and trial.outputs != 1:
            continue
        try:
            one = _as_binary(trial, form) or _as_squared(trial, form)
        except _Refused as refusal:
            reason = reason or str(refusal)
            continue
        evaluated = True
        if one is not None:
            found[form] = one
    if not found and evaluated:
        return Criterion("unknown", trial.outputs, reason="its gradient is that of no loss known here")
    if not found:
        raise _Refused(reason)
    taken = next(iter(found.values()))
    return replace(taken, forms=tuple(form for form, one in found.items() if one.kind == taken.kind))


def _shaped(targets: Tensor, form: Form) -> Tensor:
    shaped = targets[:, 0] if "column" in form else targets
    return shaped.long() if form.startswith("whole") else shaped


def _checkered(count: int, outputs: int) -> Tensor:
    """Targets 0 and 1 `(count, outputs)`, both for every output."""
    return torch.tensor([[float((i + k) % 2) for k in range(outputs)] for i in range(count)], dtype=torch.float64)


def _as_binary(trial: _Trial, form: Form) -> Criterion | None:
    outputs, count = trial.outputs, 6
    targets, logits = _checkered(count, outputs), trial.logits(count, 1)
    gradient, p = trial.gradient(logits, _shaped(targets, form)), logits.double().cpu().sigmoid()
    off = (gradient / p * (1 - targets)).sum(0) / (1 - targets).sum(0)
    on = (-gradient / (1 - p) * targets).sum(0) / targets.sum(0)
    mean = float(off.mean())
    if not mean > 0:
        return None
    guess = Criterion("bce", outputs, "sum", mean, _snapped(off / mean, trial), _snapped(on / mean, trial))
    return _reduced(trial, guess, form, count, fractions=True)


def _as_squared(trial: _Trial, form: Form) -> Criterion | None:
    outputs, count = trial.outputs, 6
    targets, logits = _checkered(count, outputs), trial.logits(count, 1)
    gradient = trial.gradient(logits, _shaped(targets, form))
    weights = (gradient / (2 * (logits.double().cpu() - targets))).mean(0)
    mean = float(weights.mean())
    if not mean > 0:
        return None
    return _reduced(trial, Criterion("mse", outputs, "sum", mean, _snapped(weights / mean, trial)), form, count)


def _snapped(weights: Tensor, trial: _Trial) -> Tensor:
    """Ones where weights differ from one by rounding alone."""
    return torch.where((weights - 1).abs() < SNAPS[trial.dtype], torch.ones_like(weights), weights)


def _reduced(trial: _Trial, guess: Criterion, form: Form, count: int, fractions: bool = False) -> Criterion | None:
    """The closed form with the norm under which it agrees at all sizes, None if there is none."""
    outputs = trial.outputs
    scales: dict[Reduction, int] = {"mean": count, "sum": 1}
    for reduction, scale in scales.items():
        factor = guess.factor * scale
        simple = round(factor * outputs) / outputs  # 1 and 1 / outputs, free of rounding
        close = simple > 0 and abs(factor - simple) < SNAPS[trial.dtype] * simple
        one = replace(guess, reduction=reduction, factor=simple if close else factor, forms=(form,))
        tried = []
        for n in SIZES:
            targets = trial.logits(n, 20 + n).double().cpu()
            targets = targets.sigmoid() if fractions else targets
            targets = (targets > 0.5).double() if form.startswith("whole") else targets
            tried.append(trial.agrees(one, trial.logits(n, 2 + n), _shaped(targets, form)))
        if all(tried):
            return replace(one, everywhere=_everywhere(trial, one, form))
    return None


def fingerprint(loss: str | LossFunction, outputs: int, targets: Tensor, *, link: Link = ()) -> str:
    """A hash of what a loss computes for targets like these: equal for spellings of one loss, else different.

    Args:
        outputs: how many numbers the model gives for an example.
        targets: some of the client's, of which form and range count.

    >>> fingerprint("cross_entropy", 3, torch.tensor([0])) == fingerprint(nn.CrossEntropyLoss(), 3, torch.tensor([0]))
    True
    """
    criterion = settle_loss(loss, outputs, link=link, device=targets.device)
    if criterion.known:
        numbers = [criterion.factor, criterion.smoothing, *criterion.weights.tolist()]
        numbers += [] if criterion.positive is None else criterion.positive.tolist()
        said = [criterion.kind, criterion.reduction, *(f"{number:.4g}" for number in numbers)]
    else:
        said = _behavior(loss_function(loss), outputs, targets)
    return hashlib.sha256(repr(said).encode()).hexdigest()


def _behavior(function: LossFunction, outputs: int, targets: Tensor) -> list[str]:
    """Values and gradients of a loss that is not known, in words that rounding does not change."""
    said = []
    for dtype in AGREES:
        trial = _Trial(function, outputs, (), targets.device, dtype)
        for count, seed in ((1, 31), (2, 32), (4, 33)):
            few = targets[:count]
            try:
                with _drawing_undone():
                    value, gradient = trial.values(3 * trial.logits(len(few), seed), few)
            except _Refused as refusal:
                said.append(str(refusal))
                continue
            said += [f"{value:.4g}", f"{float(gradient.norm()):.4g}", f"{float(gradient.flatten()[0]):.4g}"]
        if not all(word.startswith("it ") for word in said):
            return said
    return [*said, f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', '?')}"]
