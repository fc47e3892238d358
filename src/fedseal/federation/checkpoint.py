"""A run that can be killed at any moment: the model and the history of its rounds, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedseal.errors import BadConfig, StorageFailure
from fedseal.federation.report import RoundReport
from fedseal.files import whole
from fedseal.json_file import JsonFile, no_more_than, parsed_model
from fedseal.layout import unshared
from fedseal.types import Tensors

VERSION = 1
KEY = "fedseal.training"
Report = Annotated[RoundReport, no_more_than(RoundReport)]


class Version(JsonFile):
    """Of a checkpoint's header; the rest may be of another shape in another one."""

    version: int


class CheckpointHeader(Version):
    """What a checkpoint says of itself.

    Args:
        mark: of the federation.
        history: the rounds so far.
    """

    mark: str
    history: tuple[Report, ...]


def save_checkpoint(path: Path, mark: str, state: Tensors, history: Sequence[RoundReport]) -> None:
    """Write it beside the old one, then put it in its place.

    Raises:
        StorageFailure: it cannot be written.
    """
    header = CheckpointHeader(version=VERSION, mark=mark, history=tuple(history))
    write_checkpoint(path, state, {KEY: header.model_dump_json()})


def load_checkpoint(path: Path, *marks: str) -> tuple[dict[str, Tensor], list[RoundReport]]:
    """The model's tensors, and the rounds so far.

    Args:
        marks: of the federation, of which the checkpoint has one.

    Raises:
        StorageFailure: there is no whole checkpoint.
        BadConfig: it is another federation's.
    """
    if not path.is_file():
        raise StorageFailure(f"there is no checkpoint '{path}'", "check the path, or start without --resume")
    fact, remedy = f"'{path}' is not a whole checkpoint", "start without --resume"
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(KEY, "")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise StorageFailure(f"{fact} ({error!r})", remedy) from None
    version = parsed_model(text, Version, fact, remedy).version
    if version != VERSION:
        raise BadConfig(f"the checkpoint '{path}' is of version {version}, and this is {VERSION}", "start anew")
    header = parsed_model(text, CheckpointHeader, fact, remedy)
    if header.mark not in marks:
        raise BadConfig(
            f"the checkpoint '{path}' is of another federation",
            "resume with the same model, owners, protocol, seed and local training, and with data that is read alike",
        )
    return state, list(header.history)


def write_checkpoint(path: Path, state: Tensors, metadata: dict[str, str]) -> None:
    """A safetensors file, whole or not at all.

    Raises:
        StorageFailure: it cannot be written.
    """
    plain = unshared(state)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            save_file(plain, str(part), metadata)
    except (OSError, SafetensorError) as error:
        raise StorageFailure(f"cannot write '{path}' ({error})", "choose another place") from None
