"""The audit as a YAML file.

    model: zoo:lenet                  # fitted to the data; or {name: zoo:lenet, options: {activation: tanh}}
                                      # or package.module:build, a function that returns an nn.Module
    data: photos                      # or fashion_mnist, or a folder of pictures
    size: 32                          # pictures are fitted to 3 x 32 x 32; or [1, 28, 28]
    training: {kind: fedsgd}          # or {kind: fedavg, lr: 0.01, epochs: 3, batch_size: 8, mode: train}, and
                                      # optimizer: adam, betas, eps; momentum; weight_decay; shuffle: true
    normalization: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
    attacks: [auto, dlg]
    defenses: [none, prune: [0.2, 0.5], "clip:1+gaussian:[0.01, 0.1]"]
    threats: [honest_but_curious]
    samples: 3
    batch_size: 1                     # or several to compare: [1, 4, 8]
    epochs: [0, 1, 5]                 # of local training in place of its own; 0 for one gradient. Else left out
    lr: 0.01                          # of these epochs, where the training has none
    seeds: [0]
    device: cpu
    cost: {rounds: 20, clients: 10}   # measure what each defense costs too: see `audit.cost.Plan`; else left out
    out: runs/first

Sentences take the place of `data` and `size` by `text: notes.txt` (one on each line, or a list of them here) with a
language model such as `model: minilm`; rows by `table: people.csv` with `label: COLUMN`, the column of the class, and
`missing: drop` where values are missing.

Instead of `model` and `data`, `case: package.module:case` names a function that returns a `Case`. Paths are relative
to the current folder, as on the command line.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from torch import nn

from fedseal import zoo
from fedseal.audit.case import Case
from fedseal.audit.cost import Cost, Plan, check_accuracy, measure_case
from fedseal.audit.executor import Engine
from fedseal.audit.factory import build_object
from fedseal.audit.grid import expanded
from fedseal.audit.record import Record
from fedseal.audit.runner import CellProgress, run
from fedseal.audit.table_data import table_model
from fedseal.audit.text_data import language_model, read_sentences, sentence_batch
from fedseal.errors import BadConfig, StorageFailure, UnknownName
from fedseal.modality import Image
from fedseal.modality.folder import picture_batch
from fedseal.modality.table import Missing, read_table
from fedseal.types import Batch, LocalTraining, Mode, Optimizer

ZOO = "zoo:"
LENET = f"{ZOO}lenet"
_OF_A_CASE = {"model", "data", "text", "table", "label", "missing", "size", "training", "normalization"}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What an audit is asked, the case and the folder aside; `audit.run` says what each means."""

    attacks: tuple[str, ...] = ("auto",)
    defenses: tuple[str, ...] = ("none",)
    threats: tuple[str, ...] = ("honest_but_curious",)
    samples: int | None = None
    batch_size: tuple[int, ...] = (1,)
    epochs: tuple[int, ...] | None = None
    lr: float | None = None
    seeds: tuple[int, ...] = (0,)
    device: str = "cpu"


def _arguments(of: Arguments) -> dict[str, Any]:
    return {argument.name: getattr(of, argument.name) for argument in fields(Arguments)}


class _Strict(BaseModel, extra="forbid", frozen=True):
    pass


class Training(_Strict, frozen=True):
    """The client's local training."""

    kind: Literal["fedsgd", "fedavg"] = "fedsgd"
    lr: float | None = None
    epochs: int = 1
    batch_size: int | None = None
    mode: Mode = "train"
    optimizer: Optimizer = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    shuffle: bool = False

    def resolved(self) -> LocalTraining:
        """As a value."""
        if self.kind == "fedsgd":
            if extra := sorted(self.model_fields_set - {"kind", "mode"}):
                raise BadConfig(f"'training: {extra[0]}' means nothing to fedsgd", "remove it, or set kind: fedavg")
            return LocalTraining.fedsgd(mode=self.mode)
        if self.lr is None:
            raise BadConfig("'training: kind: fedavg' has no learning rate", "add lr, such as lr: 0.01")
        return LocalTraining.fedavg(
            lr=self.lr,
            epochs=self.epochs,
            batch_size=self.batch_size,
            mode=self.mode,
            optimizer=self.optimizer,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            betas=self.betas,
            eps=self.eps,
            shuffle=self.shuffle,
        )


class Normalization(_Strict, frozen=True):
    """The client's public normalization, one value a channel or one for all."""

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]


class Model(_Strict, frozen=True):
    """A model by name, with options for the function that builds it."""

    name: str
    options: dict[str, object] = Field(default_factory=dict)


class CostPlan(_Strict, frozen=True):
    """How costs are measured; see `audit.cost.Plan`."""

    rounds: int = Plan.rounds
    clients: int = Plan.clients
    lr: float | None = None
    batch_size: int | None = None
    seeds: tuple[int, ...] = Plan.seeds
    test_share: float = Plan.test_share

    def resolved(self) -> Plan:
        """As a value."""
        return Plan(**{name: getattr(self, name) for name in type(self).model_fields})


class AuditFile(_Strict, Arguments, frozen=True):
    """The keys of the YAML file."""

    case: str | None = None
    model: str | Model | None = None
    data: str = "photos"
    text: str | tuple[str, ...] | None = None
    table: str | None = None
    label: str | int | None = None
    missing: Missing = "refuse"
    size: int | tuple[int, int, int] | None = None
    training: Training = Training()
    normalization: Normalization | None = None
    cost: CostPlan | None = None
    out: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _single_names(cls, content: object) -> object:
        """`attacks: auto` means `attacks: [auto]`, and `defenses: {prune: [0.2, 0.5]}` both strengths."""
        if not isinstance(content, dict):
            return content
        lists = ("attacks", "defenses", "threats", "seeds", "batch_size", "epochs")
        several = {k: [v] if k in lists and isinstance(v, str | int | dict) else v for k, v in content.items()}
        shields = several.get("defenses")
        if isinstance(shields, list):
            several["defenses"] = [spec for shield in shields for spec in _specifications(shield)]
        return several


def _specifications(defense: object) -> list[object]:
    """A defense in a file as specifications with one strength each; what is none is left to be complained about."""
    if isinstance(defense, str):
        return [*expanded([defense])]
    if not isinstance(defense, dict):
        return [defense]
    return [
        f"{name}:{strength}"
        for name, strengths in defense.items()
        for strength in (strengths if isinstance(strengths, list) else [strengths])
    ]


@dataclass(frozen=True, eq=False)
class Setup(Arguments):
    """A case and the arguments to audit it with; change some with `dataclasses.replace`.

    Args:
        notes: what was changed or assumed of the data.
        cost: how to measure what each defense costs; None not to.
    """

    case: Case
    out: str
    given: dict[str, object] | None = None
    notes: tuple[str, ...] = ()
    cost: Plan | None = None

    def run(
        self,
        *,
        workers: int = 1,
        engine: Engine | None = None,
        resume: bool = True,
        on_progress: Callable[[CellProgress], None] | None = None,
    ) -> Record:
        """The audit; see `audit.run`.

        Raises:
            BadConfig: also where costs are to be measured, and the labels have no accuracy.
        """
        if self.cost is not None:
            check_accuracy(self.case.model, self.case.batch, self.case.training)
        return run(
            self.case,
            out=self.out,
            **_arguments(self),
            workers=workers,
            engine=engine,
            resume=resume,
            on_progress=on_progress,
            given=self.given,
        )

    def measure_costs(self, on_progress: Callable[[str, int], None] | None = None) -> tuple[Cost, ...]:
        """What each defense costs, kept in the run folder beside the record; nothing where no plan is given.

        Args:
            on_progress: told the defense and the seed that is trained.

        Raises:
            BadConfig: the plan does not fit the case.
            UnfitUpdate: a defense that the case's updates do not fit.
            StorageFailure: a file cannot be read or written.
        """
        if self.cost is None:
            return ()
        return measure_case(self.case, self.out, defenses=self.defenses, plan=self.cost, on_progress=on_progress)


def load_config(path: str | Path) -> Setup:
    """Read a YAML file and build what it names.

    Raises:
        StorageFailure: no such file, or it cannot be read.
        BadConfig: no YAML, unknown keys, values of the wrong kind, or what they name does not exist.
        UnfitPicture: a file in the folder of pictures is none.
    """
    content = _yaml(Path(path))
    try:
        file = AuditFile.model_validate(content)
    except ValidationError as error:
        raise _explained(path, error) from None
    case, notes = _case(file)
    return Setup(
        case=case,
        notes=notes,
        out=file.out or f"runs/{Path(path).stem}",
        cost=None if file.cost is None else file.cost.resolved(),
        **_arguments(file),
        given={"config": str(path), **file.model_dump(mode="json", exclude_unset=True)},
    )


def _yaml(path: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageFailure(f"cannot read the configuration '{path}' ({error.strerror})", "check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BadConfig(f"'{path}' is no YAML ({reason})", "correct it there") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BadConfig(f"'{path}' holds no keys", "write lines such as 'attacks: [auto, dlg]'")
    return content


def _explained(path: str | Path, error: ValidationError) -> BadConfig:
    first = error.errors()[0]
    spots = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        tables: dict[str, type[BaseModel]] = {
            "training": Training,
            "normalization": Normalization,
            "model": Model,
            "cost": CostPlan,
        }
        known = sorted((tables[spots[0]] if len(spots) > 1 else AuditFile).model_fields)
        near = difflib.get_close_matches(spots[-1], known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        where = f" in '{spots[0]}'" if len(spots) > 1 else ""
        return BadConfig(f"'{path}' has an unknown key '{spots[-1]}'{where}", f"{hint}Known: {', '.join(known)}")
    return BadConfig(
        f"'{path}': '{spots[0]}' is {first['input']!r} ({first['msg'].lower()})",
        "correct it; docs/tutorial.md shows a whole file",
    )


def _own_case(file: AuditFile) -> Case:
    assert file.case is not None
    if clash := sorted(file.model_fields_set & _OF_A_CASE):
        raise BadConfig(
            f"'case' and '{clash[0]}' are both given", f"a case brings its own {clash[0]}: remove one of them"
        )
    return build_object(file.case, Case)


def _case(file: AuditFile) -> tuple[Case, tuple[str, ...]]:
    """The case, and what was changed or assumed of its data."""
    if file.case is not None:
        return _own_case(file), ()
    given = file.model_fields_set
    if file.text is not None or file.table is not None:
        what = "text" if file.text is not None else "table"
        strange = {"data", "size", "normalization", *(("table", "missing") if what == "text" else ())}
        if clash := sorted(strange & given):
            raise BadConfig(f"'{what}' and '{clash[0]}' are both given", "remove one of them")
        return _written(file) if what == "text" else _tabular(file)
    if clash := sorted({"label", "missing"} & given):
        raise BadConfig(f"'{clash[0]}' is given without a text or a table", "remove it, or name one")
    return _pictures(file), ()


def _written(file: AuditFile) -> tuple[Case, tuple[str, ...]]:
    name = file.model.name if isinstance(file.model, Model) else file.model or "minilm"
    if isinstance(file.model, Model) and file.model.options:
        raise BadConfig("the options of a language model cannot be set here", "name package.module:function instead")
    if isinstance(file.label, str):
        raise BadConfig(f"'label' is '{file.label}', and the class of a sentence is a number", "give a whole number")
    model, text = language_model(name)
    lines = read_sentences(file.text) if isinstance(file.text, str) else list(file.text or ())
    batch, notes = sentence_batch(model, text, lines, label=file.label)
    where = Path(file.text).name if isinstance(file.text, str) else "sentences"
    training = file.training.resolved()
    return Case(model, batch, training, modality=text, name=f"{name.removeprefix(ZOO)} on {where}"), notes


def _tabular(file: AuditFile) -> tuple[Case, tuple[str, ...]]:
    assert file.table is not None
    if file.label is None:
        raise BadConfig("'table' is given without the column of the class", "add label: COLUMN")
    table = read_table(file.table, label=str(file.label), missing=file.missing)
    asked = file.model if isinstance(file.model, Model) else Model(name=file.model or f"{ZOO}mlp")
    model = table_model(asked.name, table, asked.options)
    name = f"{asked.name.removeprefix(ZOO)} on {Path(file.table).name}"
    case = Case(model, table.batch, file.training.resolved(), modality=table.modality, name=name)
    return case, tuple(str(table).splitlines())


def _pictures(file: AuditFile) -> Case:
    pixels, shape = _data(file)
    image = Image(shape, *_normalization(file, shape[0]))
    batch = Batch(image.encode(pixels.inputs), pixels.labels)
    model = _model(file.model if isinstance(file.model, Model) else Model(name=file.model or LENET), batch)
    return Case(model, batch, file.training.resolved(), modality=image, name=f"{_name(file)} on {file.data}")


def _name(file: AuditFile) -> str:
    return (file.model.name if isinstance(file.model, Model) else file.model or LENET).removeprefix(ZOO)


def _model(model: Model, batch: Batch) -> nn.Module:
    if not model.name.startswith(ZOO):
        return build_object(model.name, nn.Module, model.options)
    name = model.name.removeprefix(ZOO)
    if name not in zoo.MODELS:
        raise UnknownName("model in the zoo", name, zoo.MODELS)
    options = inspect.signature(zoo.MODELS[name]).parameters
    fitting = {option: value for option, value in _fitting(batch).items() if option in options}
    return zoo.build(name, **{**fitting, **model.options})


def _fitting(batch: Batch) -> dict[str, int]:
    """Options of the zoo's models that make one fit the data."""
    channels, height, width = batch.inputs.shape[1:]
    classes = max(10, int(batch.labels.max()) + 1)
    return {"channels": channels, "size": height, "inputs": channels * height * width, "num_classes": classes}


def _data(file: AuditFile) -> tuple[Batch, tuple[int, int, int]]:
    """Pixels in [0, 1] with labels, and their shape."""
    default = (1, 28, 28) if file.data == "fashion_mnist" else (3, 32, 32)
    size = default if file.size is None else file.size
    shape = (default[0], size, size) if isinstance(size, int) else size
    channels, height, width = shape
    if file.data not in ("photos", "fashion_mnist"):
        return picture_batch(Path(file.data), shape), shape
    if height != width:
        raise BadConfig(f"'size' is {list(shape)}", f"the bundled {file.data} are square: give one number")
    if file.data == "photos":
        return zoo.photos(height, channels=channels), shape
    return zoo.fashion_mnist(size=height, channels=channels), shape


def _normalization(file: AuditFile, channels: int) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    if file.normalization is None:
        return None, None
    mean, std = file.normalization.mean, file.normalization.std
    return (
        mean if isinstance(mean, tuple) else (mean,) * channels,
        std if isinstance(std, tuple) else (std,) * channels,
    )
