"""The arrows of the design, on the real tree and on planted violations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fedseal
from layers.imports import ARROWS, violations

SOURCE = Path(fedseal.__file__).parent
APART = {"nvflare.py"}  # what it imports has an environment of its own


def test_the_source_tree_has_no_arrow_that_the_design_does_not_draw() -> None:
    assert violations(SOURCE) == []


def test_the_table_of_arrows_has_no_cycle() -> None:
    placed: set[str] = set()
    while len(placed) < len(ARROWS):
        free = {part for part, below in ARROWS.items() if part not in placed and below <= placed}
        assert free, f"a cycle among {ARROWS.keys() - placed}"
        placed |= free


PLANTED = {
    ("attack/base.py", "from fedseal.metric import score"): "attack -> metric",
    ("attack/layers/deep.py", "from ...metric import score"): "attack -> metric",
    ("attack/layers/deep.py", "from ... import zoo"): "attack -> zoo",
    ("metric/match.py", "import fedseal.attack.base"): "metric -> attack",
    ("attack/base.py", "def f():\n    from fedseal import defense"): "attack -> defense",
    ("attack/base.py", "from fedseal import Batch"): "attack -> __init__",
    ("attack/base.py", "import fedseal"): "attack -> __init__",
    ("types.py", "if TYPE_CHECKING:\n    from fedseal.client import train"): "types -> client",
    ("threat.py", "from fedseal.attack import parse"): "threat -> attack",
    ("secagg/ring.py", "from fedseal.types import Update"): "secagg -> types",
    ("audit/runner.py", "from fedseal.report import html"): "audit -> report",
    ("zoo/models.py", "from fedseal.metric import score"): "zoo -> metric",
    ("utils.py", ""): "'utils' is not in the design's layout",
    ("zoo/models.py", "import torchvision.models"): "imports torchvision",
    ("types.py", "from pickle import loads"): "imports pickle",
    ("types.py", "state = torch.load(path)"): "torch.load unpickles",
    ("types.py", "state = torch.load(path, weights_only=True)"): "torch.load unpickles",
    ("captured.py", "state = torch.load(path)"): "torch.load unpickles",
    ("captured.py", "state = torch.load(path, weights_only=False)"): "torch.load unpickles",
    ("captured.py", "from pickle import UnpicklingError, loads"): "imports pickle",
    ("types.py", "state = np.load(path)"): "np.load unpickles",
    ("types.py", "state = np.load(path, allow_pickle=True)"): "np.load unpickles",
    ("client.py", "import random"): "imports random",
    ("client.py", "x = np.random.default_rng()"): "numpy's global randomness",
    ("client.py", "x = torch.randn(3)"): "randn without a generator",
    ("client.py", "x = weight.uniform_(-1, 1)"): "uniform_ without a generator",
    ("client.py", "from torch import randn"): "imports randn out of its module",
    ("client.py", "torch.manual_seed(0)"): "torch.manual_seed outside fork_rng",
}
ALLOWED = (
    ("attack/base.py", "from fedseal.client import train\nfrom fedseal import errors"),
    ("cli/app.py", "from fedseal import attack, metric, zoo\nfrom fedseal.secagg import ring"),
    ("federation/local.py", "from fedseal.defense import chain\nfrom ..secagg import wire"),
    ("types.py", "import torch.random\nfrom torch import Tensor\nimport safetensors.torch"),
    ("types.py", "x = np.load(p, allow_pickle=False)\ny = safetensors.torch.load(b)"),
    ("captured.py", "from pickle import UnpicklingError\nx = torch.load(p, weights_only=True)"),
    ("client.py", "x = torch.randn(3, generator=g)\nw.uniform_(0, 1, generator=g)"),
    ("client.py", "with torch.random.fork_rng():\n    torch.manual_seed(0)"),
)


@pytest.mark.parametrize(("place", "violation"), PLANTED.items(), ids=lambda value: str(value))
def test_a_planted_violation_is_found(tmp_path: Path, place: tuple[str, str], violation: str) -> None:
    found = violations(_tree(tmp_path, *place))
    assert [line.split(": ", 1)[1] for line in found] == [violation]


@pytest.mark.parametrize("place", ALLOWED, ids=lambda value: str(value[1]))
def test_a_drawn_arrow_is_accepted(tmp_path: Path, place: tuple[str, str]) -> None:
    assert violations(_tree(tmp_path, *place)) == []


@pytest.mark.slow
def test_every_module_can_be_imported_first() -> None:
    """No cycle hides behind an order of imports; parts are forgotten between two, so that each comes first once."""
    names = sorted(
        ".".join(("fedseal", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for path in SOURCE.rglob("*.py")
        if path.name != "__main__.py" and path.name not in APART
    )
    script = (
        "import importlib, sys, torch\n"
        f"for name in {names}:\n"
        "    for old in [n for n in sys.modules if n.split('.')[0] == 'fedseal']: del sys.modules[old]\n"
        "    importlib.import_module(name)\n"
        "banned = {'torchvision', 'torchmetrics', 'nvflare'} & set(sys.modules)\n"
        "assert not banned, banned\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _tree(folder: Path, file: str, code: str) -> Path:
    path = folder / "fedseal" / file
    path.parent.mkdir(parents=True)
    path.write_text(code + "\n")
    return folder / "fedseal"
