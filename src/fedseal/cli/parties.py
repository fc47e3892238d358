"""Who trains, as typed: where the owners' examples come from, the model, and how each owner trains."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn

from fedseal import zoo
from fedseal.audit import build_object
from fedseal.cli.options import pairs
from fedseal.cli.request import ZOO
from fedseal.errors import BadConfig, StorageFailure, UnknownName
from fedseal.federation import data as sources
from fedseal.federation.owners import DataOwner, Local, gradient_step, local_steps, reptile
from fedseal.federation.secure import Secure
from fedseal.modality import tfrecord
from fedseal.modality.folder import picture_batch
from fedseal.modality.table import Table, read_table
from fedseal.types import Batch, Modality

BUNDLED: dict[str, Callable[[], Batch]] = {"fashion_mnist": zoo.fashion_mnist, "photos": zoo.photos}
LOCAL_RATE, GRADIENT_RATE = 0.1, 0.5


@dataclass(frozen=True)
class Data:
    """Each owner's examples, those for validation, and what an example is; None for pictures or what is none."""

    owners: tuple[Batch, ...]
    validation: Batch | None
    modality: Modality | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.owners[0].inputs.shape[1:])

    @property
    def classes(self) -> int:
        """As many as the largest label tells."""
        return 1 + max(int(part.labels.max()) for part in self.owners)

    @property
    def digest(self) -> str:
        """Of all owners' examples, so that the same can be told from others."""
        digest = hashlib.sha256()
        for part in self.owners:
            for tensor in (part.inputs, part.labels):
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def data(
    named: Sequence[str],
    *,
    owners: int | None,
    how: str,
    validation: str | None,
    share: float,
    shape: tuple[int, ...] | None,
    label: str,
    seed: int,
) -> Data:
    """What was named: one data set that is dealt out among owners, or a file or folder for each owner.

    Raises:
        FedsealError: whatever of it does not exist or does not fit.
    """
    generator = torch.Generator().manual_seed(seed)
    reader = _Reader(shape, label)
    read = [reader(name) for name in named]
    held = None if validation is None else reader(validation)
    if len(read) == 1:
        whole = read[0]
        if held is None:
            whole, held = sources.held_out(whole, share, generator)
        found = Data(tuple(sources.split(whole, owners or 10, how, generator)), held, reader.modality)
    else:
        if owners not in (None, len(read)):
            raise BadConfig(f"--owners is {owners}, and {len(read)} data sets are named", "leave --owners out")
        found = Data(tuple(read), held, reader.modality)
    shapes = sorted({tuple(part.inputs.shape[1:]) for part in (*found.owners, *([held] if held else []))})
    if len(shapes) > 1:
        raise BadConfig(f"the owners' examples have the shapes {shapes}", "give all of one shape")
    return found


class _Reader:
    """Reads what is named; tables after the first are encoded as the first is."""

    def __init__(self, shape: tuple[int, ...] | None, label: str) -> None:
        self._asked, self._shape, self._label = shape, shape or (3, 32, 32), label
        self._first: Table | None = None

    @property
    def modality(self) -> Modality | None:
        """What an example is, where the data says it."""
        return None if self._first is None else self._first.modality

    def __call__(self, name: str) -> Batch:
        path = Path(name)
        if name in BUNDLED:
            return BUNDLED[name]()
        if not path.exists():
            raise StorageFailure(
                f"there is no data '{name}'",
                f"give an .npz, .parquet, .csv or .tfrecord file, a folder of pictures, or {', '.join(BUNDLED)}",
            )
        if path.is_dir():
            return self._pictures(path)
        if path.suffix.lower() in (".parquet", ".csv"):
            return self._table(path)
        if path.suffix.lower() in tfrecord.SUFFIXES:
            return tfrecord.read_tfrecord(path, self._asked)
        return sources.read_npz(path)

    def _pictures(self, path: Path) -> Batch:
        if len(self._shape) != 3:
            raise BadConfig(
                f"--shape has {len(self._shape)} numbers", "give channels, height and width: --shape 3,32,32"
            )
        return picture_batch(path, (self._shape[0], self._shape[1], self._shape[2]))

    def _table(self, path: Path) -> Batch:
        table = read_table(path, label=self._label, like=self._first)
        self._first = self._first or table
        return table.batch


def one(name: str, *, shape: tuple[int, ...] | None, label: str) -> Batch:
    """One owner's examples, whole and in their order.

    Raises:
        FedsealError: they do not exist or do not fit.
    """
    return _Reader(shape, label)(name)


def model(name: str, found: Data, seed: int) -> nn.Module:
    """A model that fits the examples; see `model_for`."""
    return model_for(name, found.shape, found.classes, seed)


def model_for(name: str, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """A model of the zoo that fits examples of a shape, or what "package.module:function" returns.

    Raises:
        UnknownName, BadConfig: no such model.
    """
    if not name.startswith(ZOO):
        return build_object(name, nn.Module)
    kind, _, rest = name.removeprefix(ZOO).partition(":")
    if kind not in zoo.MODELS:
        raise UnknownName("model in the zoo", kind, [*zoo.MODELS, "package.module:function"])
    fitting: dict[str, object] = {
        "channels": shape[0],
        "size": shape[-1],
        "inputs": int(torch.tensor(shape).prod()),
        "num_classes": max(2, classes),
        "seed": seed,
    }
    known = inspect.signature(zoo.MODELS[kind]).parameters
    options = {option: value for option, value in fitting.items() if option in known}
    return zoo.build(kind, **options | {option: yaml.safe_load(value) for option, value in pairs(rest)})


def rule(
    *, use_reptile: bool, epochs: int | None, rate: float | None, iterations: int, batch_size: int
) -> tuple[Local, float]:
    """How an owner trains, and the learning rate of the model that goes with it.

    Raises:
        BadConfig: options of two ways at once.
    """
    if use_reptile and epochs is not None:
        raise BadConfig("--reptile takes steps, and --epochs passes over all examples", "give one of them")
    if use_reptile:
        return reptile(lr=LOCAL_RATE if rate is None else rate, batch_size=batch_size, iterations=iterations), 1.0
    if epochs is not None or rate is not None:
        return local_steps(lr=LOCAL_RATE if rate is None else rate, epochs=epochs or 1, batch_size=batch_size), 1.0
    return gradient_step(batch_size), GRADIENT_RATE


def secure(
    protocol: str, *, dp: str | None, clip: float | None, bound: float, minimum: int | None, aggregators: int, bits: int
) -> Secure:
    """The protocol; `dp` is "NOISE" or "NOISE,clip=NORM".

    Raises:
        UnknownName, BadConfig: what means nothing, or does not go together.
    """
    noise = None
    if dp is not None:
        first, _, rest = dp.partition(",")
        options = dict(pairs(rest))
        if foreign := sorted(set(options) - {"clip"}):
            raise UnknownName("option of --dp", foreign[0], ["clip"])
        noise = _number(first, "--dp")
        clip = _number(options["clip"], "--dp") if "clip" in options else (1.0 if clip is None else clip)
    return Secure(protocol, clip=clip, noise=noise, bound=bound, minimum=minimum, aggregators=aggregators, bits=bits)


def owners(found: Data, how: Local) -> list[DataOwner]:
    """One for each part of the data."""
    return [DataOwner.holding(part, how) for part in found.owners]


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise BadConfig(f"{option} has '{text}' where a positive number is due", "write it as --dp 1.1,clip=1")
    return value
