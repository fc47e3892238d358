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
    cost: {rounds: 20, clients: 10}   # measure what each defense costs too: see `audit.cost.CostPlan`; else left out
    out: runs/first

Sentences take the place of `data` and `size` by `text: notes.txt` (one on each line, or a list of them here) with a
language model such as `model: minilm`; rows by `table: people.csv` with `label: COLUMN`, the column of the class, and
`missing: drop` where values are missing.

Instead of `model` and `data`, `case: package.module:case` names a function that returns a `Case`. Paths are relative
to the current folder, as on the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from fedseal.audit.case import Case
from fedseal.audit.cost import Cost, CostPlan, check_accuracy, measure_case
from fedseal.audit.executor import Engine
from fedseal.audit.record import Record
from fedseal.audit.runner import CellProgress, run
from fedseal.errors import BadConfig, StorageFailure
from fedseal.grammar import expanded
from fedseal.modality.table import Missing
from fedseal.setup import models
from fedseal.setup.data.dataset import Dataset
from fedseal.setup.data.images import shape_of
from fedseal.setup.data.load import TABLES, load_data
from fedseal.setup.data.sentences import sentence_data, sentence_lines
from fedseal.setup.data.tables import table
from fedseal.setup.factory import build_object
from fedseal.setup.training import TrainingSpec

LENET, PERCEPTRON, LANGUAGE = f"{models.ZOO}lenet", f"{models.ZOO}mlp", "minilm"
FEW = 4  # batches of a case that names no number: enough for a first answer within minutes
_OF_A_CASE = {"model", "data", "text", "table", "label", "missing", "size", "range", "training", "normalization"}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of `audit.run` other than the case and the output folder."""

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


class Normalization(_Strict, frozen=True):
    """The client's public normalization, one value a channel or one for all."""

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]


class Model(_Strict, frozen=True):
    """A model by name, with options for the function that builds it."""

    name: str
    options: dict[str, object] = Field(default_factory=dict)


class CostSpec(_Strict, frozen=True):
    """How costs are measured; see `audit.cost.CostPlan`."""

    rounds: int = CostPlan.rounds
    clients: int = CostPlan.clients
    lr: float | None = None
    batch_size: int | None = None
    seeds: tuple[int, ...] = CostPlan.seeds
    test_share: float = CostPlan.test_share

    def resolved(self) -> CostPlan:
        """The plan that these options describe."""
        return CostPlan(**{name: getattr(self, name) for name in type(self).model_fields})


class AuditFile(_Strict, Arguments, frozen=True):
    """The keys of the YAML file."""

    case: str | None = None
    model: str | Model | None = None
    data: str = "photos"
    text: str | tuple[str, ...] | None = None
    table: str | None = None
    label: str | int | None = None
    missing: Missing = "refuse"
    range: tuple[float, float] | None = None
    size: int | tuple[int, int, int] | None = None
    training: TrainingSpec = TrainingSpec()
    normalization: Normalization | None = None
    cost: CostSpec | None = None
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
    cost: CostPlan | None = None

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
            "training": TrainingSpec,
            "normalization": Normalization,
            "model": Model,
            "cost": CostSpec,
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
        strange = {"data", "size", "range", "normalization", *(("table", "missing") if what == "text" else ())}
        if clash := sorted(strange & given):
            raise BadConfig(f"'{what}' and '{clash[0]}' are both given", "remove one of them")
        return _written(file) if what == "text" else _read(file)
    if (clash := sorted({"label", "missing"} & given)) and Path(file.data).suffix.lower() not in TABLES:
        raise BadConfig(f"'{clash[0]}' is given without a text or a table", "remove it, or name one")
    return _read(file)


def _written(file: AuditFile) -> tuple[Case, tuple[str, ...]]:
    asked = _model(file, LANGUAGE)
    if asked.options:
        raise BadConfig("the options of a language model cannot be set here", "name package.module:function instead")
    model, text = models.language_model(asked.name)
    lines = sentence_lines(file.text) if isinstance(file.text, str) else list(file.text or ())
    data = sentence_data(model, text, lines, label=file.label)
    where = Path(file.text).name if isinstance(file.text, str) else "sentences"
    name = f"{models.short(asked.name)} on {where}"
    return Case(model, data.batch, file.training.resolved(), modality=text, name=name), data.notes


def _read(file: AuditFile) -> tuple[Case, tuple[str, ...]]:
    """Pictures or rows, and a model that fits them."""
    data, source = _data(file), file.table or file.data
    asked = _model(file, LENET if file.table is None else PERCEPTRON)
    model = models.build_model(asked.name, shape=data.shape, classes=data.classes, options=asked.options)
    name = f"{models.short(asked.name)} on {source if file.table is None else Path(source).name}"
    return Case(model, data.batch, file.training.resolved(), modality=data.modality, name=name), data.notes


def _data(file: AuditFile) -> Dataset:
    label = None if file.label is None else str(file.label)
    if file.table is not None:
        if label is None:
            raise BadConfig("'table' is given without the column of the class", "add label: COLUMN")
        return table(Path(file.table), label=label, missing=file.missing)
    mean, std = _normalization(file, file.data)
    if file.range is not None and not -float("inf") < file.range[0] < file.range[1] < float("inf"):
        raise BadConfig(f"'range' is {list(file.range)}", "give two numbers, the lower first: range: [0, 4095]")
    return load_data(
        file.data,
        size=file.size,
        mean=mean,
        std=std,
        label=label,
        missing=file.missing,
        span=file.range,
        what="size",
    )


def _model(file: AuditFile, usual: str) -> Model:
    return file.model if isinstance(file.model, Model) else Model(name=file.model or usual)


def _normalization(file: AuditFile, source: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """One number a channel, also where the file gives one for all."""
    if file.normalization is None:
        return None, None
    mean, std = file.normalization.mean, file.normalization.std
    channels = shape_of(source, file.size, "size")[0]
    return (
        mean if isinstance(mean, tuple) else (mean,) * channels,
        std if isinstance(std, tuple) else (std,) * channels,
    )


def audit_of(target: str | None) -> Setup:
    """The audit that a target stands for.

    Args:
        target: a YAML file, or "package.module:function" that returns a `Case`; None for the bundled photos on LeNet.

    Raises:
        StorageFailure, BadConfig, FedsealError: whatever of it does not exist or does not fit.
    """
    if target is None:
        with resources.as_file(resources.files("fedseal.setup") / "default.yaml") as path:
            setup = load_config(path)
        return replace(setup, given={**(setup.given or {}), "config": "built in"})
    if target.endswith((".yaml", ".yml")) or Path(target).is_file():
        return load_config(target)
    if ":" not in target:
        raise BadConfig(
            f"'{target}' is no configuration file, no record of 'fedseal train --record', and no function",
            "name a .yaml file, a record's folder, or package.module:function that returns a Case",
        )
    case = build_object(target, Case)
    return Setup(case, out=f"runs/{target.rpartition(':')[0].rpartition('.')[2]}", given={"case": target})


def case_of(given: Mapping[str, object]) -> Case:
    """The case of an earlier audit, built again from the arguments that its record keeps.

    Raises:
        BadConfig: arguments that name no case, such as those of `audit.run` itself.
        StorageFailure, FedsealError: what they name is not there any more, or does not fit.
    """
    named = {name: given[name] for name in sorted({"case", *_OF_A_CASE}) if name in given}
    if "recorded" in given:
        raise BadConfig(
            "the run is of what a federation's parties could read, and its record does not name their data",
            "attack the record again: fedseal audit",
        )
    if "fingerprint" in given or not named:
        raise BadConfig(
            "the run was started from Python, so its record does not say how to build the case",
            "name what builds it: --case package.module:function, or a .yaml file",
        )
    try:
        return _case(AuditFile.model_validate(named))[0]
    except ValidationError as error:
        raise _explained("record.json", error) from None


def changed(setup: Setup, given: Mapping[str, Any]) -> Setup:
    """The setup with other arguments in place of its own, and a few samples where nobody says how many."""
    setup = replace(setup, given={**(setup.given or {}), **given}, **given)
    if setup.samples is not None or "config" in (setup.given or {}):
        return setup
    largest = max(1, *setup.batch_size)
    return replace(setup, samples=max(1, min(FEW, len(setup.case.batch) // largest)))
