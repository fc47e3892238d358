"""Where an audit runs: versions, revision, device."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess

import torch

from fedseal.audit.record import Environment
from fedseal.errors import BadConfig

PACKAGES = ("fedseal", "torch", "numpy", "scipy", "safetensors", "torchmetrics")


def environment(device: str, threads: int) -> Environment:
    """What a reader needs to run the audit again; `threads` are those that a cell is computed with."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: version for name in PACKAGES if (version := _version(name)) is not None},
        git=_revision(),
        device=device,
        threads=threads,
    )


def usable_device(name: str) -> str:
    """The device's name, if this machine has it.

    Raises:
        BadConfig: torch knows no such device, or it is not here.
    """
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if _has_mps() else [])]
        raise BadConfig(
            f"the device '{name}' cannot be used ({str(error).splitlines()[0]})", f"use one of: {', '.join(here)}"
        ) from None
    return name


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    revision = _git("rev-parse", "HEAD")
    if not revision:
        return None
    return f"{revision}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else revision


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
