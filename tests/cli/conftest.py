"""A command line to call, and a folder of one's own with a model and a case in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedseal.cli.app import run_command

OWN = '''
import torch
import fedseal as fs
from torch import nn

SHAPE = (3, 8, 8)

def build():
    """Fully connected: the exact route answers at once."""
    return fs.zoo.mlp(inputs=192, widths=(16,), num_classes=4, seed=1)

def headless():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

def weightless():
    return nn.Sequential(nn.Flatten(), nn.ReLU())

def case():
    batch = fs.zoo.photos(size=8, num_classes=4)[:6]
    return fs.Case(build(), batch, fs.LocalTraining.fedsgd(), name="own")

def other():
    batch = fs.zoo.photos(size=8, num_classes=4)[6:12]
    return fs.Case(build(), batch, fs.LocalTraining.fedsgd(), name="other")
'''


@dataclass(frozen=True)
class Answer:
    """What a command line answered."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line that bad input gives."""
        assert self.code == 2, self.err
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        assert "; " in lines[0]  # a fact, and what to do about it
        assert "Traceback" not in self.err
        return lines[0]


Command = Callable[..., Answer]


@pytest.fixture
def fedseal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedseal.cli.progress.EVERY", 3600.0)  # however slow the machine is

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = run_command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in that folder with `build` and `case`."""
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)
