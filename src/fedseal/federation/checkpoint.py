"""A run that can be killed at any moment: the model and the history of its rounds, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedseal.errors import BadConfig, StorageFailure
from fedseal.federation.report import RoundReport
from fedseal.files import whole
from fedseal.types import Tensors

VERSION = 1
KEY = "fedseal.training"


def save_checkpoint(path: Path, mark: str, state: Tensors, history: Sequence[RoundReport]) -> None:
    """Write it beside the old one, then put it in its place.

    Raises:
        StorageFailure: it cannot be written.
    """
    header = {"version": VERSION, "mark": mark, "history": [report.plain() for report in history]}
    write_checkpoint(path, state, {KEY: json.dumps(header)})


def load_checkpoint(path: Path, mark: str) -> tuple[dict[str, Tensor], list[RoundReport]]:
    """The model's tensors, and the rounds so far.

    Raises:
        StorageFailure: there is no whole checkpoint.
        BadConfig: it is another federation's.
    """
    if not path.is_file():
        raise StorageFailure(f"there is no checkpoint '{path}'", "check the path, or start without --resume")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})[KEY])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version, other = header["version"], header["mark"]
        history = [RoundReport(**report) for report in header["history"]]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StorageFailure(f"'{path}' is not a whole checkpoint ({error!r})", "start without --resume") from None
    if version != VERSION:
        raise BadConfig(f"the checkpoint '{path}' is of version {version}, and this is {VERSION}", "start anew")
    if other != mark:
        raise BadConfig(
            f"the checkpoint '{path}' is of another federation",
            "resume with the same model, owners, protocol, seed and local training",
        )
    return state, history


def write_checkpoint(path: Path, state: Tensors, metadata: dict[str, str]) -> None:
    """A safetensors file, whole or not at all.

    Raises:
        StorageFailure: it cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            save_file(plain, str(part), metadata)
    except (OSError, SafetensorError) as error:
        raise StorageFailure(f"cannot write '{path}' ({error})", "choose another place") from None
