"""What one attack is asked for and aimed at, and the client that is simulated or whose update was captured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fedseal import defense as defenses
from fedseal.audit import Case
from fedseal.audit.recording import at
from fedseal.captured import read
from fedseal.cli.options import pairs
from fedseal.client import state_of
from fedseal.errors import BadConfig, UnfitUpdate, UnknownName
from fedseal.message import fit_state
from fedseal.modality.table import Missing
from fedseal.threat import preset
from fedseal.types import Batch, FileKind, LocalTraining, Modality, Mode, Observation, Update

ZOO = "zoo:"


@dataclass(frozen=True)
class Request:
    """What `fedseal attack` was asked for, as values; None for what was not said.

    The label is a class, or of a table the name of the column that holds it. `update` is a captured file, `kind` what
    it holds, `before` the weights that the client was sent, in place of the model's own.
    """

    image: Path | None = None
    text: tuple[str, ...] = ()
    text_file: Path | None = None
    table: Path | None = None
    index: int | None = None
    batch: int | None = None
    update: Path | None = None
    kind: FileKind | None = None
    before: Path | None = None
    model: str = "zoo:lenet"
    data: str = "photos"
    size: int | None = None
    shape: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    label: int | str | None = None
    missing: Missing = "refuse"
    examples: int | None = None
    training: str | None = None
    mode: Mode | None = None
    threat: str = "honest_but_curious"
    defense: str = "none"
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Aim:
    """What an attack is given, and the truth that it is not given; None where nobody knows it.

    Args:
        title: a short name of the source, for files.
        notes: what was changed or assumed on the way.
        others: inputs `(G, ...)` of the same source that were not attacked, for blind guesses; None without any.
    """

    observation: Observation
    modality: Modality
    truth: Batch | None
    title: str
    notes: tuple[str, ...] = ()
    others: Tensor | None = None


_FEDAVG: dict[str, Callable[[str], object]] = {
    "lr": float,
    "epochs": int,
    "batch_size": int,
    "optimizer": str,
    "momentum": float,
    "weight_decay": float,
    "eps": float,
    "shuffle": lambda text: {"true": True, "false": False}[text],
}


def training_from(text: str, mode: Mode) -> LocalTraining:
    """A local training as typed: "fedsgd", or "fedavg:lr=0.01,epochs=3,batch_size=8".

    >>> training_from("fedavg:lr=0.1,epochs=2", "train").epochs
    2

    Raises:
        UnknownName: another kind, or another option.
        BadConfig: an option's value means nothing.
    """
    kind, _, rest = text.partition(":")
    if kind not in ("fedsgd", "fedavg"):
        raise UnknownName("training", kind, ["fedsgd", "fedavg"])
    kinds: dict[str, Callable[[str], object]] = _FEDAVG if kind == "fedavg" else {}
    values: dict[str, object] = {}
    for name, value in pairs(rest):
        if name not in kinds:
            raise UnknownName(f"option of '{kind}'", name, kinds or ["(none)"])
        try:
            values[name] = kinds[name](value)
        except (ValueError, KeyError):
            raise BadConfig(
                f"'{name}={value}' of the training has no meaning", "write fedavg:lr=0.01,epochs=3,shuffle=true"
            ) from None
    if kind == "fedsgd":
        return LocalTraining.fedsgd(mode=mode)
    if "lr" not in values:
        raise BadConfig("fedavg has no learning rate", "write it as fedavg:lr=0.01,epochs=3")
    return LocalTraining.fedavg(mode=mode, **values)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Source:
    """The private examples of a simulated client.

    Args:
        batch: all that there are; the attacked ones are `first` to `first + count - 1`.
        title: a short name, for files.
        notes: what was changed or assumed on the way.
    """

    batch: Batch
    first: int
    count: int
    title: str
    notes: tuple[str, ...] = ()


def simulated(request: Request, model: nn.Module, modality: Modality, source: Source) -> Aim:
    """What an attack is given of a client that is simulated.

    Raises:
        FedsealError: whatever of it does not exist or does not fit.
    """
    training = training_from(request.training or "fedsgd", request.mode or "train")
    case = Case(model, source.batch.to(request.device), training, modality=modality)
    observation, truth = case.observe(
        first=source.first,
        batch_size=source.count,
        defense=defenses.parse(request.defense),
        threat=preset(request.threat),
        seed=request.seed,
    )
    unrelated = torch.cat([source.batch.inputs[: source.first], source.batch.inputs[source.first + source.count :]])
    others = unrelated if len(unrelated) else None
    return Aim(observation, modality, truth.to("cpu"), source.title, source.notes, others)


def captured(request: Request, path: Path, model: nn.Module, modality: Modality) -> Aim:
    """What an attack is given of an update that was captured.

    Raises:
        FedsealError: whatever of it does not exist or does not fit.
    """
    if request.before is not None:
        model = at(model, fit_state(model, read(request.before)[0]))
    update = Update.load(path, request.kind, state_of(model) if request.kind == "weights" else None)
    if request.training is not None:
        training = training_from(request.training, request.mode or "train")
        if update.training is None and request.kind is None:  # a plain file of tensors does not say what they are
            update = replace(update, kind=training.kind)
    elif update.training is not None:
        training = update.training if request.mode is None else replace(update.training, mode=request.mode)
    else:
        raise BadConfig(
            f"'{path}' does not say which local training made it",
            "name it: --training fedsgd for a gradient, else --training fedavg:lr=0.01,epochs=3,batch_size=8",
        )
    if update.num_examples is not None and update.num_examples < 1:
        raise UnfitUpdate(f"'{path}' names {update.num_examples} examples", "an update is made from at least one")
    if request.examples is not None:
        update = replace(update, num_examples=request.examples)
    defense = None if request.defense == "none" else defenses.parse(request.defense)
    if defense is not None and defenses.needs_batch(defense):
        raise BadConfig(
            f"the defense '{defense.name}' acts on examples, and of a captured update there are none",
            "name a defense of the finished update, such as gaussian:0.001, or simulate the client on data of your own",
        )
    observation = preset(request.threat).observe(
        model, update.to(request.device), modality=modality, training=training, defense=defense
    )
    return Aim(observation, modality, None, path.stem, observation.notes)
