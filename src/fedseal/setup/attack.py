"""One attack: what it is asked for, and what it is aimed at: a client that is simulated, or a captured update."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedseal import defense as defenses
from fedseal.audit import Case
from fedseal.captured import Content, read_tensors
from fedseal.client import state_of
from fedseal.errors import BadConfig, UnfitModel, UnfitUpdate, UnknownName
from fedseal.message import fit_state
from fedseal.modality import Image, LanguageModel, Text
from fedseal.modality.table import Missing
from fedseal.setup import models
from fedseal.setup.data import images
from fedseal.setup.data.dataset import Dataset
from fedseal.setup.data.load import load_data
from fedseal.setup.data.sentences import sentence_data, sentence_lines
from fedseal.setup.data.tables import table
from fedseal.setup.training import EXAMPLE, training
from fedseal.threat import preset
from fedseal.types import Batch, FileKind, Modality, Mode, Observation, Update


@dataclass(frozen=True)
class AttackSpec:
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
class Target:
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


def target(spec: AttackSpec) -> Target:
    """Read and build all that a specification names.

    Raises:
        FedsealError: whatever of it does not exist or does not fit.
    """
    _check(spec)
    if spec.table is not None:
        return _rows(spec, spec.table)
    if spec.text or spec.text_file is not None or models.is_language(spec.model):
        return _sentences(spec)
    return _pictures(spec)


class _CapturedFile(NamedTuple):
    """The file of an update, read once."""

    path: Path
    content: Content

    @classmethod
    def read(cls, spec: AttackSpec) -> _CapturedFile | None:
        return None if spec.update is None else cls(spec.update, read_tensors(spec.update))


def _check(spec: AttackSpec) -> None:
    """That the options name one source of private examples."""
    sources = {
        "--image": spec.image is not None,
        "--text": bool(spec.text),
        "--text-file": spec.text_file is not None,
        "--table": spec.table is not None,
    }
    given = [name for name, there in sources.items() if there]
    if spec.index is not None and given not in (["--text-file"], ["--table"]):
        given.append("--index")
    if spec.update is not None and given != ["--table"]:  # which then gives the schema alone
        given.append("--update")
    if len(given) > 1:
        raise BadConfig(f"more than one of {', '.join(given)} is given", "give one of them")
    if spec.batch is not None and spec.update is not None:
        raise BadConfig("--batch is of a simulated client, and --update was captured", "give --examples, if known")


def _rows(spec: AttackSpec, path: Path) -> Target:
    if not isinstance(spec.label, str):
        raise BadConfig("--table is given without the column of the class", "name it: --label COLUMN")
    data = table(path, label=spec.label, missing=spec.missing)
    model = models.build_model(spec.model, shape=data.shape, classes=data.classes, seed=spec.seed).to(spec.device)
    return _target(spec, model, data, "rows", _CapturedFile.read(spec))


def _sentences(spec: AttackSpec) -> Target:
    model, text = models.language_model(spec.model)
    model = model.to(spec.device)
    file = _CapturedFile.read(spec)
    if file is not None:
        return _captured(spec, file, model, text)
    if spec.text and spec.batch is not None:
        raise BadConfig("--batch is of a file or of pictures", "give --text once for every sentence of the batch")
    lines, title = _lines(spec)
    data = sentence_data(model, text, lines, label=spec.label, seed=spec.seed, title=title)
    notes = data.notes + _wide(model, text, data)
    part = replace(spec, index=0, batch=len(lines))
    return replace(_simulated(part, model, text, data), title=title, notes=notes)


def _wide(model: LanguageModel, text: Text, data: Dataset) -> tuple[str, ...]:
    tokens = int((data.batch.inputs != text.pad).sum())
    if tokens < model.width:
        return ()
    wide = f"{tokens} tokens in all, and the model is {model.width} wide"
    return (f"{wide}: the exact route needs fewer tokens than that",)


def _lines(spec: AttackSpec) -> tuple[list[str], str]:
    """The attacked sentences, and a name for them."""
    if spec.text:
        return list(spec.text), "text"
    if spec.text_file is None:
        raise BadConfig(f"the model '{spec.model}' reads sentences, and none is given", "give --text or --text-file")
    lines = sentence_lines(spec.text_file)
    first, count = spec.index or 0, spec.batch or 1
    if first + count > len(lines):
        raise BadConfig(
            f"'{spec.text_file}' holds {len(lines)} sentences, and {first} to {first + count - 1} are asked for",
            "give a smaller --index or --batch; sentences stand on lines of their own",
        )
    return lines[first : first + count], spec.text_file.stem


def _pictures(spec: AttackSpec) -> Target:
    if (spec.batch or 1) > 1 and spec.image is not None:
        raise BadConfig(f"--image is one picture, and --batch is {spec.batch}", "give --index with --batch")
    if isinstance(spec.label, str):
        raise BadConfig(f"--label is '{spec.label}', and the class of a picture is a number", "give a whole number")
    file = _CapturedFile.read(spec)
    data = _picture_data(spec, spec.label) if file is None else _no_pictures(spec)
    classes = data.classes
    if file is not None:
        classes = models.outputs_in(spec.model, file.content[0], shape=data.shape, classes=classes)
    model = models.build_model(spec.model, shape=data.shape, classes=classes, seed=spec.seed).to(spec.device)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UnfitModel(f"the model '{spec.model}' has no trainable parameters", "unfreeze some, or name another")
    _try_out(model, data, spec)
    return _target(spec, model, data, "pictures", file)


def _no_pictures(spec: AttackSpec) -> Dataset:
    """Of what a captured update is of, shape and normalization alone are known."""
    image = Image(images.shape_of(spec.data, spec.shape or spec.size), spec.mean, spec.std)
    blank = Batch(torch.zeros(1, *image.shape), torch.zeros(1, dtype=torch.long))
    return Dataset(blank, image, spec.data, images.BUNDLED.get(spec.data, images.BUNDLED["photos"])[1])


def _picture_data(spec: AttackSpec, label: int | None) -> Dataset:
    bundled = spec.data in images.BUNDLED
    if spec.image is None:
        if not (bundled or Path(spec.data).exists()):
            raise UnknownName("data set", spec.data, [*images.BUNDLED, "a folder, .npz or .tfrecord file"])
        data = load_data(spec.data, size=spec.shape or spec.size, mean=spec.mean, std=spec.std)
    else:
        image = Image(images.shape_of(spec.data, spec.shape or spec.size), spec.mean, spec.std)
        data = images.single(spec.image, image, label, images.BUNDLED[spec.data][1] if bundled else 2)
    if label is None and spec.data == "photos" and spec.image is None and not spec.model.startswith(models.ZOO):
        label = 0  # the photos have no classes, and a model of another's making may have few
    if label is None:
        return data
    return replace(data, batch=Batch(data.batch.inputs, torch.full_like(data.batch.labels, label)))


def _try_out(model: nn.Module, data: Dataset, spec: AttackSpec) -> None:
    """Whether the model takes such inputs and ends in one number a class: an update alone does not tell."""
    probe = torch.zeros(2, *data.shape, device=spec.device)
    try:
        with torch.no_grad():
            outputs = copy.deepcopy(model).eval()(probe)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shape = ",".join(str(side) for side in data.shape)
        reason = " ".join(str(error).split())[:200]
        raise UnfitModel(
            f"the model '{spec.model}' does not take pictures of shape {shape} ({reason})",
            "name the shape that the client's model is fed, such as --shape 3,32,32",
        ) from None
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
        what = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise UnfitModel(
            f"the model '{spec.model}' has no classification head: for two pictures it gives {what}",
            "name a model that ends in one number for each class, (N, classes)",
        )


def _target(spec: AttackSpec, model: nn.Module, data: Dataset, noun: str, file: _CapturedFile | None) -> Target:
    """What is aimed at among the examples of a data set, or an update of such a model."""
    if data.modality is None:
        raise BadConfig(
            f"'{data.title}' holds inputs of shape {data.shape}, which are no pictures with values in [0, 1]",
            "audit a function that returns a Case with its modality: fedseal audit package.module:case",
        )
    if file is not None:
        return _captured(spec, file, model, data.modality)
    first, count = spec.index or 0, spec.batch or 1
    if first + count > len(data.batch):
        raise BadConfig(
            f"'{data.title}' holds {len(data.batch)} {noun}, and {_span(first, count)} asked for",
            f"give --index 0 to {len(data.batch) - 1}, or a smaller --batch",
        )
    return _simulated(spec, model, data.modality, data)


def _span(first: int, count: int) -> str:
    return f"number {first} is" if count == 1 else f"{first} to {first + count - 1} are"


def _simulated(spec: AttackSpec, model: nn.Module, modality: Modality, data: Dataset) -> Target:
    case = Case(model, data.batch.to(spec.device), training(spec.training or "fedsgd", spec.mode), modality=modality)
    first, count = spec.index or 0, spec.batch or 1
    observation, truth = case.observe(
        first=first,
        batch_size=count,
        defense=defenses.parse(spec.defense),
        threat=preset(spec.threat),
        seed=spec.seed,
    )
    unrelated = torch.cat([data.batch.inputs[:first], data.batch.inputs[first + count :]])
    span = f"{first}-{first + count - 1}" if count > 1 else str(first)
    title = data.title if spec.image is not None else f"{Path(data.title).name}{span}"
    return Target(observation, modality, truth.to("cpu"), title, data.notes, unrelated if len(unrelated) else None)


def _captured(spec: AttackSpec, file: _CapturedFile, model: nn.Module, modality: Modality) -> Target:
    path = file.path
    if spec.before is not None:
        from fedseal.audit.recording import at  # late: it brings the whole of secure aggregation

        model = at(model, fit_state(model, read_tensors(spec.before)[0]))
    before = state_of(model) if spec.kind == "weights" else None
    update = Update.from_content(file.content, path, kind=spec.kind, before=before)
    if spec.training is not None:
        ran = training(spec.training, spec.mode)
        if update.training is None and spec.kind is None:  # a plain file of tensors does not say what they are
            update = replace(update, kind=ran.kind)
    elif update.training is not None:
        ran = update.training if spec.mode is None else replace(update.training, mode=spec.mode)
    else:
        raise BadConfig(
            f"'{path}' does not say which local training made it",
            f"name it: --training fedsgd for a gradient, else --training {EXAMPLE}",
        )
    if update.num_examples is not None and update.num_examples < 1:
        raise UnfitUpdate(f"'{path}' names {update.num_examples} examples", "an update is made from at least one")
    if spec.examples is not None:
        update = replace(update, num_examples=spec.examples)
    defense = None if spec.defense == "none" else defenses.parse(spec.defense)
    if defense is not None and defenses.needs_batch(defense):
        raise BadConfig(
            f"the defense '{defense.name}' acts on examples, and of a captured update there are none",
            "name a defense of the finished update, such as gaussian:0.001, or simulate the client on data of your own",
        )
    observation = preset(spec.threat).observe(
        model, update.to(spec.device), modality=modality, training=ran, defense=defense
    )
    return Target(observation, modality, None, path.stem, observation.notes)
