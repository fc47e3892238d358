"""Shape checks at the door, and updates as files: whole or refused, never unpickled."""

from __future__ import annotations

import json
import math
import pickle  # noqa: TID251 - to build what must be refused
import tempfile
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from fedseal.errors import BadConfig, StorageFailure, UnfitBatch, UnfitUpdate
from fedseal.types import Batch, LocalTraining, Mode, Update

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=12)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    made = {}
    for name in draw(st.sets(NAMES, max_size=4)):
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
        values = torch.randn(shape, generator=generator).to(draw(st.sampled_from(DTYPES)))
        made[name] = values.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else values
    return made


@st.composite
def trainings(draw: st.DrawFn) -> LocalTraining:
    modes: tuple[Mode, ...] = ("train", "eval", "as_is")
    mode = draw(st.sampled_from(modes))
    if draw(st.booleans()):
        return LocalTraining.fedsgd(mode=mode)
    size = draw(st.none() | st.integers(1, 64))
    lr = draw(st.floats(min_value=1e-6, max_value=10.0))
    return LocalTraining.fedavg(lr=lr, epochs=draw(st.integers(1, 9)), batch_size=size, mode=mode)


@st.composite
def updates(draw: st.DrawFn) -> Update:
    return Update(
        kind=draw(st.sampled_from(("gradient", "difference"))),
        tensors=draw(tensors()),
        buffers=draw(st.none() | tensors()),
        num_examples=draw(st.none() | st.integers(1, 10**6)),
        num_clients=draw(st.integers(1, 1000)),
        training=draw(st.none() | trainings()),
    )


@settings(max_examples=60, deadline=None)
@given(updates())
def test_an_update_is_read_as_it_was_written(update: Update) -> None:
    with tempfile.TemporaryDirectory() as folder:
        update.save(Path(folder) / "u.safetensors")
        back = Update.load(Path(folder) / "u.safetensors")
    facts = ("kind", "num_examples", "num_clients", "training")
    assert [getattr(back, fact) for fact in facts] == [getattr(update, fact) for fact in facts]
    assert (back.buffers is None) == (update.buffers is None)
    _assert_equal(back.tensors, update.tensors)
    _assert_equal(back.buffers or {}, update.buffers or {})


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    Update("gradient", {"weight": torch.randn(10, 10), "bias": torch.randn(10)}, num_examples=1).save(whole)
    content = whole.read_bytes()
    assert len(content) > 500
    for length in [*range(0, len(content), 50), len(content) - 1]:
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(content[:length])
        with pytest.raises(UnfitUpdate, match="not a whole safetensors file"):
            Update.load(cut)


def test_a_file_with_trailing_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    Update("gradient", {"w": torch.ones(3)}).save(path)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(UnfitUpdate, match="not a whole safetensors file"):
        Update.load(path)


class Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.mkdir, (self.mark,))


def test_a_pickled_file_is_refused_and_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.safetensors", tmp_path / "mark"
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(UnfitUpdate):
        Update.load(path)
    torch.save({"w": torch.ones(3), "trap": Trap(mark)}, path)
    with pytest.raises(UnfitUpdate):
        Update.load(path)
    assert not mark.exists()


@pytest.mark.parametrize("place", ["none.safetensors", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(UnfitUpdate, match="there is no update file"):
        Update.load(tmp_path / place)


def test_a_plain_safetensors_file_is_a_gradient_without_facts(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(2)}
    save_file(tensors, tmp_path / "u.safetensors")
    update = Update.load(tmp_path / "u.safetensors")
    assert (update.kind, update.buffers, update.num_examples, update.training) == ("gradient", None, None, None)
    _assert_equal(update.tensors, tensors)


GOOD = {"kind": "gradient", "num_examples": 1, "num_clients": 1, "has_buffers": False, "training": None}
BAD_HEADERS = {
    "not JSON": "{",
    "a list": json.dumps([1]),
    "a number": json.dumps(7),
    "a fact missing": json.dumps({"kind": "gradient"}),
    "a count that is no number": json.dumps({**GOOD, "num_examples": "many"}),
    "a training of another version": json.dumps({**GOOD, "training": {"momentum": 0.9}}),
    "a training out of range": json.dumps({**GOOD, "training": {"epochs": -1}}),
    "a training of another type": json.dumps({**GOOD, "training": {"epochs": "five"}}),
    "an unknown kind": json.dumps({**GOOD, "kind": "weights"}),
    "no clients": json.dumps({**GOOD, "num_clients": 0}),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_file_with_a_foreign_header_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "u.safetensors"
    save_file({"update.w": torch.ones(2)}, path, metadata={"fedseal.update": BAD_HEADERS[case]})
    with pytest.raises(UnfitUpdate):
        Update.load(path)


def test_an_update_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure, match="nowhere"):
        Update("gradient", {"w": torch.ones(2)}).save(tmp_path / "nowhere" / "u.safetensors")


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.long)),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long)),
        (torch.zeros(2, 3), torch.zeros(2)),
        (torch.zeros(2, 3), torch.zeros(2, 1, 1)),
        (torch.zeros(1, 3), torch.tensor(0)),
    ],
)
def test_a_batch_that_does_not_belong_together_is_refused(inputs: Tensor, labels: Tensor) -> None:
    with pytest.raises(UnfitBatch):
        Batch(inputs, labels)


def test_a_batch_accepts_indices_and_rows_of_probabilities() -> None:
    assert len(Batch(torch.zeros(2, 3), torch.tensor([1, 0]))) == 2
    assert len(Batch(torch.zeros(2, 3), torch.full((2, 4), 0.25))) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "training"},
        {"epochs": -1},
        {"epochs": 1},
        {"epochs": 1, "lr": 0.0},
        {"epochs": 1, "lr": -0.1},
        {"epochs": 1, "lr": math.nan},
        {"epochs": 1, "lr": math.inf},
        {"epochs": 1, "lr": 0.1, "batch_size": 0},
    ],
)
def test_a_local_training_that_means_nothing_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(BadConfig):
        LocalTraining(**fields)  # type: ignore[arg-type]


def test_fedavg_takes_at_least_one_epoch_and_fedsgd_is_no_epoch() -> None:
    with pytest.raises(BadConfig, match="fedsgd"):
        LocalTraining.fedavg(lr=0.1, epochs=0)
    assert (LocalTraining.fedsgd().kind, LocalTraining.fedavg(lr=0.1).kind) == ("gradient", "difference")


def test_values_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        LocalTraining.fedsgd().lr = 1.0  # type: ignore[misc]


def _assert_equal(one: object, other: object) -> None:
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert torch.equal(one[name], other[name])
