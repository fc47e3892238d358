"""Where an attack or an audit is computed, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from fedseal.errors import BadConfig, UnknownName

if TYPE_CHECKING:
    from fedseal.audit.executor import Engine

SMALL = 250_000  # parameters of a model whose operations are too short to be worth sharing among threads


@contextmanager
def computing_threads(requested: int | None, model: nn.Module) -> Iterator[None]:
    """Compute with that many threads; None for one with a small model, which is several times as fast so, else all."""
    before = torch.get_num_threads()
    small = sum(parameter.numel() for parameter in model.parameters()) <= SMALL
    torch.set_num_threads(requested or (1 if small else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def engine(
    name: str | None, *, address: str | None, workers: int | None, threads: int | None, device: str
) -> Engine | None:
    """Where cells are computed: by default in one process a core, in this one alone where that is one.

    Raises:
        UnknownName: no such engine.
        BadConfig: an address for what has none.
        MissingExtra: ray is not installed.
        EngineFailure: nothing answers at the address.
    """
    from fedseal.audit.executor import Processes, cores

    if name not in (None, "processes", "ray"):
        raise UnknownName("engine", name, ["processes", "ray"])
    if name == "ray":
        from fedseal.audit.ray_engine import Ray

        return Ray(address or "local", workers=workers, threads=threads or 1)
    if address is not None:
        raise BadConfig(f"the address '{address}' is given without Ray", "add --engine ray, or leave it out")
    count = workers or (cores() if device == "cpu" else 1)
    return Processes(count, threads or 1) if count > 1 else None
