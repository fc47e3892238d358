"""The values that travel through fedseal, all frozen, and the protocols that lower layers hold of higher ones.

A client turns a `Batch` into an `Update` by its `LocalTraining`. A threat model turns updates into an `Observation`, in
which a withheld fact is absent. An `Attack` turns an observation into a `Reconstruction`. Only shapes are checked here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from fedseal import captured
from fedseal.errors import BadConfig, StorageFailure, UnfitBatch, UnfitUpdate, UnknownName, UnknownToAdversary
from fedseal.files import whole
from fedseal.layout import canonical, unshared
from fedseal.mechanism import Mechanism
from fedseal.vocabulary import FileKind as FileKind
from fedseal.vocabulary import Mode as Mode
from fedseal.vocabulary import Optimizer as Optimizer
from fedseal.vocabulary import Outcome as Outcome
from fedseal.vocabulary import RouteNote as RouteNote
from fedseal.vocabulary import Status as Status

Tensors = Mapping[str, Tensor]
LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """The private examples of one client.

    Args:
        inputs: what the model is fed, `(N, ...)`.
        labels: what the loss takes: class indices `(N,)`, class probabilities `(N, C)`, class indices of positions
            `(N, P)`, below 0 where there is none, as in language modelling; or findings and numbers, `(N, outputs)` or
            `(N,)` floats. `local_update` refuses labels that a loss would broadcast.

    Raises:
        UnfitBatch: empty, or inputs and labels differ in number.

    >>> batch = Batch(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
    >>> len(batch[1:]), batch[1:].labels.tolist()
    (3, [1, 2, 3])
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.inputs.ndim < 2 or len(self.inputs) == 0:
            raise UnfitBatch(f"the batch's inputs have shape {tuple(self.inputs.shape)}", "give (N, ...) with N >= 1")
        if self.labels.ndim not in (1, 2) or len(self.labels) != len(self.inputs):
            raise UnfitBatch(
                f"{len(self.inputs)} inputs came with labels of shape {tuple(self.labels.shape)}",
                "give one class index or number, or one row of them, for each input",
            )
        object.__setattr__(self, "inputs", canonical(self.inputs))
        object.__setattr__(self, "labels", canonical(self.labels))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: slice) -> Batch:
        return Batch(self.inputs[index], self.labels[index])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(self.inputs.to(device), self.labels.to(device))


@dataclass(frozen=True)
class LocalTraining:
    """What the client does between receiving a model and answering; use `fedsgd` or `fedavg`.

    Args:
        epochs: passes over the batch; 0 means FedSGD, one gradient without a step.
        lr: learning rate of the local steps; None for FedSGD.
        batch_size: examples a local step, the last of an epoch may have fewer; None for all of them.
        mode: whether BatchNorm and dropout run as in training or as in evaluation; "as_is" keeps each module's own.
        loss: "cross_entropy" (mean over the examples), or a function `(outputs, labels) -> scalar`.
        optimizer: "sgd" or "adam", as torch's with the same arguments; it starts every round without state.
        momentum: of SGD, without dampening.
        weight_decay: times the weight, added to its gradient.
        betas: decay of Adam's two moments.
        eps: added to the root of Adam's second moment.
        shuffle: whether every epoch takes the examples in a new random order, which stays the client's secret;
            else in the batch's order.
        fresh_optimizer: False records that a real client went on with its optimizer's state from an earlier round.
            Nobody sends that state, so such a training cannot be simulated.

    Raises:
        BadConfig: a value out of range, or an option that the optimizer or FedSGD does not have.
    """

    epochs: int = 0
    lr: float | None = None
    batch_size: int | None = None
    mode: Mode = "train"
    loss: str | LossFunction = "cross_entropy"
    optimizer: Optimizer = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    shuffle: bool = False
    fresh_optimizer: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("train", "eval", "as_is"):
            raise BadConfig(f"the mode of the local training is '{self.mode}'", "use 'train', 'eval' or 'as_is'")
        if self.epochs < 0 or (self.batch_size is not None and self.batch_size < 1):
            raise BadConfig(f"{self.epochs} epochs of batches of {self.batch_size}", "both must be at least 1")
        if self.epochs > 0 and not (self.lr is not None and math.isfinite(self.lr) and self.lr > 0):
            raise BadConfig(f"the local learning rate is {self.lr}", "give a positive number")
        self._check_options()

    def _check_options(self) -> None:
        options = self._options()
        if self.epochs == 0 and options:
            raise BadConfig(f"'{next(iter(options))}' is given to FedSGD, which takes no local step", "use fedavg(...)")
        if self.optimizer not in ("sgd", "adam"):
            raise BadConfig(f"the local optimizer is '{self.optimizer}'", "use 'sgd' or 'adam'")
        if foreign := sorted(options.keys() & ({"betas", "eps"} if self.optimizer == "sgd" else {"momentum"})):
            other = "adam" if self.optimizer == "sgd" else "sgd"
            raise BadConfig(
                f"'{foreign[0]}' means nothing to {self.optimizer}", f"remove it, or use optimizer='{other}'"
            )
        if not 0 <= self.momentum < 1:
            raise BadConfig(f"the local momentum is {self.momentum}", "give a number from 0 to below 1")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise BadConfig(f"the local weight decay is {self.weight_decay}", "give 0 or a positive number")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise BadConfig(f"Adam's betas are {self.betas}", "give two numbers from 0 to below 1")
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise BadConfig(f"Adam's eps is {self.eps}", "give a positive number")
        for name in ("shuffle", "fresh_optimizer"):
            if not isinstance(getattr(self, name), bool):
                raise BadConfig(f"'{name}' is {getattr(self, name)!r}", "give True or False")
        if not self.fresh_optimizer and self.optimizer == "sgd" and self.momentum == 0:
            raise BadConfig("SGD without momentum has no state to carry over", "leave fresh_optimizer at True")

    @classmethod
    def fedsgd(cls, *, mode: Mode = "train", loss: str | LossFunction = "cross_entropy") -> LocalTraining:
        """One gradient over the whole batch, no step (McMahan et al., AISTATS 2017, arXiv:1602.05629)."""
        return cls(mode=mode, loss=loss)

    @classmethod
    def fedavg(
        cls,
        *,
        lr: float,
        epochs: int = 1,
        batch_size: int | None = None,
        mode: Mode = "train",
        loss: str | LossFunction = "cross_entropy",
        optimizer: Optimizer = "sgd",
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        shuffle: bool = False,
        fresh_optimizer: bool = True,
    ) -> LocalTraining:
        """The client answers with the weight difference after local steps (McMahan et al., arXiv:1602.05629).

        >>> LocalTraining.fedavg(lr=0.01, epochs=5, batch_size=8, momentum=0.9, shuffle=True).kind
        'difference'
        """
        if epochs < 1:
            raise BadConfig(f"FedAvg with {epochs} local epochs", "train for at least 1, or use LocalTraining.fedsgd()")
        return cls(
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            mode=mode,
            loss=loss,
            optimizer=optimizer,
            momentum=momentum,
            weight_decay=weight_decay,
            betas=betas,
            eps=eps,
            shuffle=shuffle,
            fresh_optimizer=fresh_optimizer,
        )

    @property
    def kind(self) -> Literal["gradient", "difference"]:
        """What the client sends after this training."""
        return "gradient" if self.epochs == 0 else "difference"

    @property
    def loss_name(self) -> str:
        """The loss as a record names it; several may share a name, so what they compute tells cases apart.

        >>> LocalTraining.fedsgd(loss=nn.BCEWithLogitsLoss()).loss_name
        'torch.nn.modules.loss:BCEWithLogitsLoss'
        """
        return self.loss if isinstance(self.loss, str) else _named(self.loss)

    def describe(self) -> dict[str, object]:
        """The fields as plain values, for records and files; options at their defaults are left out.

        >>> list(LocalTraining.fedavg(lr=0.01, momentum=0.9).describe())
        ['epochs', 'lr', 'batch_size', 'mode', 'loss', 'momentum']
        """
        return {
            "epochs": self.epochs,
            "lr": self.lr,
            "batch_size": self.batch_size,
            "mode": self.mode,
            "loss": self.loss_name,
            **self._options(),
        }

    def _options(self) -> dict[str, object]:
        """The options of optimizer and order that differ from their defaults."""
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self) if f.name in _OPTIONS}
        return {name: list(v) if isinstance(v, tuple) else v for name, (v, default) in values.items() if v != default}


def _named(function: object) -> str:
    """Where a function, or the class of an object that is called, is defined; a partial with its plain arguments."""
    if isinstance(function, partial):
        plain = [f"{k}={v!r}" for k, v in function.keywords.items() if isinstance(v, str | int | float | bool)]
        return f"{_named(function.func)}({', '.join(plain)})"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


_OPTIONS = ("optimizer", "momentum", "weight_decay", "betas", "eps", "shuffle", "fresh_optimizer")


@dataclass(frozen=True)
class Update:
    """What a client sends.

    Args:
        kind: "gradient" (FedSGD), or "difference": weights after minus weights before local training (FedAvg).
        tensors: one tensor for every trainable parameter, by its name in the model.
        buffers: the buffers the protocol sends beside it, such as BatchNorm statistics after the step; None if not
        sent. num_examples: how many examples it was computed on; None if not sent.
        num_clients: of how many clients this is the mean; 1 unless aggregated.
        training: the local training that made it, where known.
        rounding: what was taken from it on its way, beside any defense, by a coarser number format or because a part of
            it alone was handed over; everybody sees what.

    >>> import fedseal as fs
    >>> batch = fs.Batch(torch.rand(1, 3, 32, 32), torch.tensor([7]))
    >>> update = fs.local_update(fs.zoo.lenet(), batch, training=fs.LocalTraining.fedsgd())
    >>> update.kind, update.num_examples, len(update.tensors)
    ('gradient', 1, 8)
    """

    kind: Literal["gradient", "difference"]
    tensors: Tensors
    buffers: Tensors | None = None
    num_examples: int | None = None
    num_clients: int = 1
    training: LocalTraining | None = None
    rounding: tuple[Mechanism, ...] = ()

    def to(self, device: torch.device | str) -> Update:
        """The same update on another device."""
        moved = None if self.buffers is None else {n: b.to(device) for n, b in self.buffers.items()}
        return replace(self, tensors={n: t.to(device) for n, t in self.tensors.items()}, buffers=moved)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all.

        Tensors stand in it as `update.NAME` and `buffer.NAME`, the rest as JSON in its header.

        Raises:
            StorageFailure: the file cannot be written.
        """
        named = {f"update.{n}": t for n, t in self.tensors.items()}
        flat = unshared(named | {f"buffer.{n}": b for n, b in (self.buffers or {}).items()})
        header: dict[str, object] = {
            "kind": self.kind,
            "num_examples": self.num_examples,
            "num_clients": self.num_clients,
            "has_buffers": self.buffers is not None,
            "training": None if self.training is None else self.training.describe(),
        }
        if self.rounding:
            header["rounding"] = [[step.kind, dict(step.figures), list(step.where)] for step in self.rounding]
        with whole(Path(path)) as part:
            try:
                save_file(flat, str(part), metadata={"fedseal.update": json.dumps(header)})
            except SafetensorError as error:  # of the operating system too, as a sentence
                raise StorageFailure(f"cannot write the update to '{path}' ({error})", "choose another place") from None

    @classmethod
    def load(cls, path: str | Path, kind: FileKind | None = None, before: Tensors | str | Path | None = None) -> Update:
        """Read what `save` wrote, or tensors that bear the model's parameter names: safetensors, `.npz`, `.pt`.

        No code in a file is run. A custom loss is remembered by name only: pass the training anew. What differs from
        the model, such as names that a wrapper made longer, is settled where the model is known: `ThreatModel.observe`.

        Args:
            kind: what the tensors are: "gradient"; "difference": weights after minus weights before local training; or
                "weights": those after it, which become a difference. None for what the file says of itself, or a
                gradient where it says nothing.
            before: the weights that the client was sent, by name, or a file of them; for "weights" alone.

        Raises:
            UnfitUpdate: missing, damaged or of another format, or its tensors are not of that kind.
            BadConfig: weights without those before, or those before without weights.
            UnknownName: another kind.
        """
        if kind is not None and kind not in FILE_KINDS:
            raise UnknownName("kind of update", kind, FILE_KINDS)
        both = 'give both: Update.load(path, kind="weights", before=model.state_dict())'
        if kind == "weights" and before is None:
            raise BadConfig(f"of the weights after training in '{path}' those before are not given", both)
        if kind != "weights" and before is not None:
            raise BadConfig(f"weights before training are given for '{path}', which is not called weights", both)
        return cls.from_content(captured.read_tensors(path), path, kind=kind, before=before)

    @classmethod
    def from_content(
        cls,
        content: captured.Content,
        path: str | Path,
        *,
        kind: FileKind | None = None,
        before: Tensors | str | Path | None = None,
    ) -> Update:
        """What `load` makes of a file that is read already, and of weights with those before.

        Args:
            content: what `captured.read_tensors` gave.
            path: of the file, for errors.

        Raises:
            UnfitUpdate: its header is damaged, or its tensors are not of that kind.
        """
        flat, texts = content
        if HEADER in texts:
            found = cls._from_parts(flat, _header(texts[HEADER], path), path)
            if kind not in (None, found.kind):
                raise UnfitUpdate(f"'{path}' says that it holds a {found.kind}, no {kind}", "leave the kind out")
            return found
        if before is not None:
            start = before if isinstance(before, Mapping) else captured.read_tensors(before)[0]
            moved, rounding = captured.difference(flat, start, path)
            return cls("difference", moved, rounding=rounding)
        return cls("difference" if kind == "difference" else "gradient", flat)

    @classmethod
    def _from_parts(cls, flat: Tensors, header: Mapping[str, object], path: str | Path) -> Update:
        try:
            training = header["training"]
            if isinstance(training, dict) and "betas" in training:
                training = {**training, "betas": tuple(training["betas"])}
            if header["kind"] not in ("gradient", "difference") or int(str(header["num_clients"])) < 1:
                raise ValueError(f"{header['kind']} of {header['num_clients']} clients")
            rounding = header.get("rounding", [])
            if not isinstance(rounding, list):
                raise ValueError(f"the rounding {rounding!r}")
            return cls(
                kind="gradient" if header["kind"] == "gradient" else "difference",
                tensors={n.removeprefix("update."): t for n, t in flat.items() if n.startswith("update.")},
                buffers={n.removeprefix("buffer."): t for n, t in flat.items() if n.startswith("buffer.")}
                if header["has_buffers"]
                else None,
                num_examples=None if header["num_examples"] is None else int(str(header["num_examples"])),
                num_clients=int(str(header["num_clients"])),
                training=LocalTraining(**training) if isinstance(training, dict) else None,
                rounding=tuple(
                    Mechanism(kind, {name: float(v) for name, v in figures.items()}, tuple(map(str, where)))
                    for kind, figures, where in rounding
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError, BadConfig) as error:
            raise UnfitUpdate(f"the header of '{path}' is not fedseal's ({error!r})", "write it anew") from None


FILE_KINDS: tuple[FileKind, ...] = ("gradient", "difference", "weights")
HEADER = "fedseal.update"


def _header(text: str, path: str | Path) -> Mapping[str, object]:
    """The facts in a file's header.

    Raises:
        UnfitUpdate: it is no JSON object.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnfitUpdate(f"the header of '{path}' is not fedseal's ({error!r})", "write it anew") from None
    if not isinstance(header, dict):
        raise UnfitUpdate(f"the header of '{path}' is not fedseal's ({header!r:.40})", "write it anew")
    return header


@dataclass(frozen=True)
class Round:
    """One update, and the weights it was computed at: parameters and buffers by name, or None where withheld."""

    state: Tensors | None
    update: Update


@dataclass(frozen=True)
class Secret:
    """Something that the client draws anew at every step and sends to nobody; that it is drawn is public.

    Args:
        kind: "dropout".
        module: its name in the model.
        rate: the probability with which a value is dropped; the others are divided by one minus it.
        active: whether the client's training draws it; None where the threat model withholds the training's mode.
    """

    kind: Literal["dropout"]
    module: str
    rate: float
    active: bool | None


@dataclass(frozen=True)
class Observation:
    """What the adversary holds, and nothing else; made by `ThreatModel.observe`. A withheld fact is None.

    Args:
        model: the architecture alone; its tensors are on the meta device and hold no values.
        modality: what an input is: shape, value range.
        rounds: one or more updates of the same batch.
        loss: the name of the loss, or the function; public.
        threat: the name of the threat model.
        training: the client's local training.
        labels: the true labels `(N,)`; only an oracle has them.
        defense: the public part of the client's defense, step by step; empty if the client is known to run none.
        secrets: what layers of the architecture draw in secret, such as dropout. The model above does not draw.
        notes: how the update was spelled and what was made of it, as sentences for people; attacks read none of them.
    """

    model: nn.Module
    modality: Modality
    rounds: tuple[Round, ...]
    loss: str | LossFunction
    threat: str
    training: LocalTraining | None = None
    labels: Tensor | None = None
    defense: tuple[Mechanism, ...] | None = None
    secrets: tuple[Secret, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def update(self) -> Update:
        """The first round's update."""
        return self.rounds[0].update

    @property
    def state(self) -> Tensors | None:
        """The first round's weights, None where withheld."""
        return self.rounds[0].state

    @property
    def like(self) -> Tensor:
        """A tensor of the update: its device is where attacks work."""
        return next(iter(self.update.tensors.values()))

    def require_state(self, who: str) -> Tensors:
        """The weights.

        Raises:
            UnknownToAdversary: the threat model withholds them.
        """
        if self.state is None:
            raise UnknownToAdversary(
                f"{who} needs the model's weights, which the threat model '{self.threat}' withholds",
                "grant 'state', or use the exact route for a linear first layer, which needs none",
            )
        return self.state

    def require_training(self, who: str) -> LocalTraining:
        """The client's local training.

        Raises:
            UnknownToAdversary: the threat model withholds it.
        """
        if self.training is None:
            raise UnknownToAdversary(
                f"{who} needs the local training, which the threat model '{self.threat}' withholds or nobody named",
                "grant 'training', and name it: observe(..., training=LocalTraining.fedsgd())",
            )
        return self.training


@dataclass(frozen=True)
class Candidate:
    """A guess in the making: inputs `(N, ...)` and labels, `(N,)` indices or `(N, C)` probabilities."""

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Certificate:
    """What is proved of a reconstruction, example by example; made by `fedseal.attack.certify`, never by an attack.

    An example is certain if three facts hold: the reconstruction *explains* the update, the update *determines* the
    example, and nothing else was drawn in secret on the way.

    Args:
        kind: "replay": the client's own arithmetic was run on the reconstruction and gave the update; "layer": the
            equations of the first layer alone, which need no weights.
        residual: relative distance between the observed update and what the reconstruction gives.
        tolerance: the residual up to which it explains the update, from what the client's arithmetic leaves.
        sensitivity: for each example, the smallest relative change of the update that a change of that example by
            0.01 (root mean square) causes, whatever the other examples do; tokens are compared with other tokens.
        certain: for each example, whether all three facts hold.
        assumption: what the proof takes for granted, such as the number of examples that the client named.
        note: why examples are not certain; empty if all are.
    """

    kind: Literal["replay", "layer"]
    residual: float
    tolerance: float
    sensitivity: tuple[float, ...]
    certain: tuple[bool, ...]
    assumption: str
    note: str = ""


@dataclass(frozen=True)
class Reconstruction:
    """What an attack read out: model inputs `(N, ...)` and labels, None where nothing was found.

    Labels are class indices `(N,)`, or targets `(N, outputs)` under a loss that takes such. `confidence` is the
    attack's own, 0 to 1, for every token `(N, L)` or column `(N, columns)`; None if it has none. `certificate` is None
    where nothing can be proved.
    """

    inputs: Tensor | None
    labels: Tensor | None
    outcome: Outcome
    explanation: tuple[RouteNote, ...] = field(default=())
    confidence: Tensor | None = None
    certificate: Certificate | None = None

    @property
    def certain(self) -> Tensor:
        """Which examples are certain, `(N,)` booleans; none where nothing was found.

        >>> Reconstruction(torch.zeros(2, 3), None, Outcome("budget", "dlg", 0.5, 10, 0.1)).certain.tolist()
        [False, False]
        """
        if self.certificate is not None:
            return torch.tensor(self.certificate.certain)
        return torch.zeros(0 if self.inputs is None else len(self.inputs), dtype=torch.bool)

    def to(self, device: torch.device | str) -> Reconstruction:
        """The same reconstruction on another device."""
        inputs, labels, confidence = (
            None if tensor is None else tensor.detach().to(device)
            for tensor in (self.inputs, self.labels, self.confidence)
        )
        return replace(self, inputs=inputs, labels=labels, confidence=confidence)


@dataclass(frozen=True)
class Progress:
    """A step of a running attack: what it tries, how far it is, its objective, and the present candidate inputs."""

    route: str
    step: int
    steps: int
    objective: float
    inputs: Tensor | None


ProgressCallback = Callable[[Progress], None]


class Modality(Protocol):
    """What "an input" is: how a candidate starts, feeds the model, stays valid, and is shown."""

    @property
    def kind(self) -> str:
        """What attacks, metrics and reports treat it as: "image", "text", "tabular"; others are shown as pictures."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch dimension."""

    def start(self, noise: Tensor) -> Tensor:
        """A first candidate from standard normal noise `(N, *shape)`."""

    def forward(self, candidate: Tensor) -> Tensor:
        """What the model is fed for a candidate; differentiable."""

    def project(self, candidate: Tensor) -> Tensor:
        """The nearest valid candidate."""

    def decode(self, inputs: Tensor) -> Tensor:
        """Model inputs as a person sees them."""

    def describe(self) -> dict[str, object]:
        """All fields as plain values, for records."""


class Attack(Protocol):
    """A frozen value that reads an observation; it never sees the truth and never grades itself."""

    @property
    def name(self) -> str:
        """The name as tables and records give it."""

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack. Raises a `FedsealError` before work starts if the observation lacks what the attack needs."""


@dataclass(frozen=True)
class LocalStep:
    """Where a client stands when it has the gradient of a local step.

    Args:
        number: of the step, from 0.
        model: the architecture, in the training's mode.
        state: parameters and buffers by name, as they are before the step; not to be written to.
        inputs: the step's examples `(B, ...)`.
        labels: theirs.
    """

    number: int
    model: nn.Module
    state: Tensors
    inputs: Tensor
    labels: Tensor


class NoiseGuarantee(Protocol):
    """What a defense promises in one round: the sampled Gaussian mechanism, see `defense.Guarantee`."""

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over what one unit can contribute."""

    @property
    def sample_rate(self) -> float:
        """With which a unit takes part, above 0, up to 1."""

    @property
    def delta(self) -> float:
        """The delta of (epsilon, delta)-differential privacy."""

    @property
    def unit(self) -> Literal["example", "client"]:
        """What is hidden: one example, or all that one client has."""


class Defense(Protocol):
    """Four pure hooks on the client's way from batch to update, one on the model, and what is known of them.

    `defense.Hooks` makes one of functions, each the identity by default. A class of your own needs every member here.
    """

    @property
    def name(self) -> str:
        """The specification that `defense.parse` reads back."""

    @property
    def public(self) -> tuple[Mechanism, ...]:
        """What an attacker who knows the defense knows of it."""

    @property
    def feedback(self) -> bool:
        """Whether a client adds to its next update what the defense took from this one."""

    @property
    def guarantee(self) -> NoiseGuarantee | None:
        """The differential privacy that it gives in one round; None where it promises none."""

    @property
    def changes_batch(self) -> bool:
        """Whether `on_batch` does anything."""

    @property
    def changes_update(self) -> bool:
        """Whether `on_update` does anything."""

    def on_model(self, model: nn.Module) -> nn.Module:
        """The model that clients train in place of the given one, which is not changed."""

    def fit(self, model: nn.Module) -> Defense:
        """The same defense, knowing the model that is trained: how many classes it has, what its layers are called."""

    @property
    def per_example(self) -> bool:
        """Whether `on_example_grads` does anything, so that single examples' gradients are worth computing."""

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Change the examples before training."""

    def on_example_grads(self, grads: Tensors, generator: torch.Generator) -> Tensors:
        """Change the gradients of single examples, `(N, *parameter.shape)` each, before they are averaged."""

    @property
    def per_step(self) -> bool:
        """Whether `on_gradient` does anything."""

    def on_gradient(self, grads: Tensors, step: LocalStep, generator: torch.Generator) -> Tensors:
        """Change the mean gradient of each local step before it is used; FedSGD has one, which is then sent."""

    def on_update(self, update: Update, generator: torch.Generator) -> Update:
        """Change the finished update."""
