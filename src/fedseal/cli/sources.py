"""What one attack is aimed at: a client simulated on bundled or own pictures, or an update that was captured."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from torch import nn

from fedseal import defense as defenses
from fedseal import zoo
from fedseal.audit import Case, build_object
from fedseal.errors import BadConfig, UnfitModel, UnfitUpdate, UnknownName
from fedseal.modality import Image
from fedseal.modality.picture import load
from fedseal.threat import preset
from fedseal.types import Batch, LocalTraining, Mode, Observation, Update

ZOO = "zoo:"
DATA = {"photos": (3, 32, 100), "fashion_mnist": (1, 28, 10)}  # channels, default size, classes


@dataclass(frozen=True)
class Request:
    """What `fedseal attack` was asked for, as values; None for what was not said."""

    image: Path | None = None
    index: int | None = None
    batch: int | None = None
    update: Path | None = None
    model: str = "zoo:lenet"
    data: str = "photos"
    size: int | None = None
    shape: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    label: int | None = None
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
    """

    observation: Observation
    modality: Image
    truth: Batch | None
    title: str
    notes: tuple[str, ...] = ()


def aim(request: Request) -> Aim:
    """Read and build all that the request names.

    Raises:
        FedsealError: whatever of it does not exist or does not fit.
    """
    if sum(source is not None for source in (request.image, request.index, request.update)) > 1:
        raise BadConfig("more than one of --image, --index and --update is given", "give one of them")
    if request.batch is not None and request.update is not None:
        raise BadConfig("--batch is of a simulated client, and --update was captured", "give --examples, if known")
    if (request.batch or 1) > 1 and request.image is not None:
        raise BadConfig(f"--image is one picture, and --batch is {request.batch}", "give --index with --batch")
    if request.data not in DATA:
        raise UnknownName("data set", request.data, DATA)
    modality = _modality(request)
    model = _model(request, modality).to(request.device)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UnfitModel(f"the model '{request.model}' has no trainable parameters", "unfreeze some, or name another")
    _try_out(model, modality, request)
    if request.update is not None:
        return _captured(request, request.update, model, modality)
    return _simulated(request, model, modality)


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


def _simulated(request: Request, model: nn.Module, modality: Image) -> Aim:
    batch, first, notes = _pictures(request, modality)
    count = request.batch or 1
    training = training_from(request.training or "fedsgd", request.mode or "train")
    case = Case(model, batch.to(request.device), training, modality=modality)
    observation, truth = case.observe(
        first=first,
        batch_size=count,
        defense=defenses.parse(request.defense),
        threat=preset(request.threat),
        seed=request.seed,
    )
    last = f"-{first + count - 1}" if count > 1 else ""
    title = request.image.stem if request.image is not None else f"{request.data}{first}{last}"
    return Aim(observation, modality, truth.to("cpu"), title, notes)


def _captured(request: Request, path: Path, model: nn.Module, modality: Image) -> Aim:
    update = Update.load(path)
    if request.training is not None:
        training = training_from(request.training, request.mode or "train")
        if update.training is None:  # a plain file of tensors does not say what they are
            update = replace(update, kind=training.kind)
    elif update.training is not None:
        training = update.training if request.mode is None else replace(update.training, mode=request.mode)
    else:
        raise BadConfig(
            f"'{path}' does not say which local training made it",
            "name it: --training fedsgd, or --training fedavg:lr=0.01,epochs=3,batch_size=8",
        )
    if update.num_examples is not None and update.num_examples < 1:
        raise UnfitUpdate(f"'{path}' names {update.num_examples} examples", "an update is made from at least one")
    if request.examples is not None:
        update = replace(update, num_examples=request.examples)
    defense = None if request.defense == "none" else defenses.parse(request.defense)
    observation = preset(request.threat).observe(
        model, update.to(request.device), modality=modality, training=training, defense=defense
    )
    return Aim(observation, modality, None, path.stem)


def _try_out(model: nn.Module, modality: Image, request: Request) -> None:
    """Whether the model takes such pictures and ends in one number a class: an update alone does not tell."""
    probe = torch.zeros(2, *modality.shape, device=request.device)
    try:
        with torch.no_grad():
            outputs = copy.deepcopy(model).eval()(probe)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shape = ",".join(str(side) for side in modality.shape)
        reason = " ".join(str(error).split())[:200]
        raise UnfitModel(
            f"the model '{request.model}' does not take pictures of shape {shape} ({reason})",
            "name the shape that the client's model is fed, such as --shape 3,32,32",
        ) from None
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
        what = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise UnfitModel(
            f"the model '{request.model}' has no classification head: for two pictures it gives {what}",
            "name a model that ends in one number for each class, (N, classes)",
        )


def _pictures(request: Request, modality: Image) -> tuple[Batch, int, tuple[str, ...]]:
    """The data, the place of the first attacked picture in it, and what was changed."""
    channels, height, width = modality.shape
    if request.image is not None:
        loaded = load(request.image, modality.shape)
        label = request.label or 0
        notes = tuple(f"{request.image.name}: {note}" for note in loaded.notes)
        if request.label is None:
            notes += (f"{request.image.name}: took class 0 as its label; --label names another",)
        return Batch(modality.encode(loaded.pixels[None]), torch.tensor([label])), 0, notes
    if height != width:
        raise BadConfig(f"the shape is {modality.shape}, and the bundled pictures are square", "give --size")
    pixels = (
        zoo.photos(height, channels=channels)
        if request.data == "photos"
        else zoo.fashion_mnist(size=height, channels=channels)
    )
    index = request.index or 0
    if index >= len(pixels):
        raise BadConfig(f"there is no picture {index} in {request.data}", f"give --index 0 to {len(pixels) - 1}")
    beyond = index + (request.batch or 1)
    if beyond > len(pixels):
        raise BadConfig(f"{request.data} ends before picture {beyond - 1}", "give a smaller --batch, or --index")
    labels = pixels.labels.clone()
    if request.label is not None:
        labels[index:beyond] = request.label
    elif request.data == "photos" and not request.model.startswith(ZOO):
        labels[:] = 0  # the photos have no classes, and a model of another's making may have few
    return Batch(modality.encode(pixels.inputs), labels), index, ()


def _modality(request: Request) -> Image:
    channels, size, _ = DATA[request.data]
    side = request.size or size
    shape = request.shape or (channels, side, side)
    if len(shape) != 3:
        raise BadConfig(f"--shape has {len(shape)} numbers", "give channels, height and width: --shape 3,32,32")
    return Image((shape[0], shape[1], shape[2]), request.mean, request.std)


def _model(request: Request, modality: Image) -> nn.Module:
    if not request.model.startswith(ZOO):
        return build_object(request.model, nn.Module)
    name, _, rest = request.model.removeprefix(ZOO).partition(":")
    if name not in zoo.MODELS:
        raise UnknownName("model in the zoo", name, [*zoo.MODELS, "package.module:function"])
    channels, height, width = modality.shape
    fitting = {
        "channels": channels,
        "size": height,
        "inputs": channels * height * width,
        "num_classes": DATA[request.data][2],
        "seed": request.seed,
    }
    known = inspect.signature(zoo.MODELS[name]).parameters
    options = {option: value for option, value in fitting.items() if option in known}
    options.update({option: yaml.safe_load(value) for option, value in pairs(rest)})
    return zoo.build(name, **options)


def pairs(text: str) -> list[tuple[str, str]]:
    """Options as typed, "name=value,name=value".

    Raises:
        BadConfig: one has no name or no value.
    """
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if bad := [name for name, equals, value in pairs if not (equals and value)]:
        raise BadConfig(f"the option '{bad[0]}' has no value", f"write it as {bad[0]}=VALUE")
    return [(name, value) for name, _, value in pairs]
