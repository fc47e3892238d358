"""What an attack is aimed at, as it is read from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from fedseal import LocalTraining, local_update, zoo
from fedseal.setup.attack import AttackSpec, target


def test_a_captured_update_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be as large as the model, and the number of classes is read off it first."""
    batch, net = zoo.photos(size=32)[:1], zoo.lenet()
    local_update(net, batch, training=LocalTraining.fedsgd()).save(tmp_path / "update.safetensors")
    opened: list[str] = []
    real = safe_open

    def counted(path: str, **facts: Any) -> Any:
        opened.append(path)
        return real(path, **facts)

    monkeypatch.setattr("fedseal.captured.safe_open", counted)
    found = target(AttackSpec(update=tmp_path / "update.safetensors"))
    assert opened == [str(tmp_path / "update.safetensors")]
    assert found.observation.update.num_examples == 1
