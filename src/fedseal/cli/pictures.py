"""The private examples as pictures: bundled ones, or the user's own."""

from __future__ import annotations

import copy
import inspect

import torch
import yaml
from torch import nn

from fedseal import zoo
from fedseal.audit import build_object
from fedseal.cli.options import pairs
from fedseal.cli.request import ZOO, Aim, Request, Source, captured, simulated
from fedseal.errors import BadConfig, UnfitModel, UnknownName
from fedseal.modality import Image
from fedseal.modality.picture import load
from fedseal.types import Batch

DATA = {"photos": (3, 32, 100), "fashion_mnist": (1, 28, 10)}  # channels, default size, classes


def aim(request: Request) -> Aim:
    """Read the pictures and build the model that the request names.

    Raises:
        FedsealError: whatever of it does not exist or does not fit.
    """
    if (request.batch or 1) > 1 and request.image is not None:
        raise BadConfig(f"--image is one picture, and --batch is {request.batch}", "give --index with --batch")
    if request.data not in DATA:
        raise UnknownName("data set", request.data, DATA)
    if isinstance(request.label, str):
        raise BadConfig(f"--label is '{request.label}', and the class of a picture is a number", "give a whole number")
    modality = _modality(request)
    model = _model(request, modality).to(request.device)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UnfitModel(f"the model '{request.model}' has no trainable parameters", "unfreeze some, or name another")
    _try_out(model, modality, request)
    if request.update is not None:
        return captured(request, request.update, model, modality)
    return simulated(request, model, modality, _source(request, modality))


def _source(request: Request, modality: Image) -> Source:
    batch, first, notes = _pictures(request, modality)
    count = request.batch or 1
    last = f"-{first + count - 1}" if count > 1 else ""
    title = request.image.stem if request.image is not None else f"{request.data}{first}{last}"
    return Source(batch, first, count, title, notes)


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
        label = int(request.label or 0)
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
        labels[index:beyond] = int(request.label)
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
