"""Shape checks at the door, and updates as files: whole or refused, never unpickled."""

from __future__ import annotations

import json
import math
import pickle  # noqa: TID251 - to build what must be refused
import tempfile
from dataclasses import FrozenInstanceError, replace
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
    below_one = st.floats(min_value=0.0, max_value=1.0, exclude_max=True)
    shuffle, epochs, decay = draw(st.booleans()), draw(st.integers(1, 9)), draw(st.floats(min_value=0.0, max_value=1.0))
    plain = LocalTraining.fedavg(
        lr=draw(st.floats(min_value=1e-6, max_value=10.0)),
        epochs=epochs,
        batch_size=size,
        mode=mode,
        weight_decay=decay,
        shuffle=shuffle,
    )
    if draw(st.booleans()):
        momentum = draw(below_one)
        return replace(plain, momentum=momentum, fresh_optimizer=momentum == 0 or draw(st.booleans()))
    return replace(
        plain,
        optimizer="adam",
        betas=(draw(below_one), draw(below_one)),
        eps=draw(st.floats(min_value=1e-12, max_value=1.0)),
        fresh_optimizer=draw(st.booleans()),
    )


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
    "a training of another version": json.dumps({**GOOD, "training": {"nesterov": True}}),
    "momentum without a step": json.dumps({**GOOD, "training": {"momentum": 0.9}}),
    "betas that are no pair": json.dumps({**GOOD, "training": {"epochs": 1, "lr": 1, "betas": 0.9}}),
    "betas that are no numbers": json.dumps({**GOOD, "training": {"epochs": 1, "lr": 1, "betas": ["a", "b"]}}),
    "a flag that is none": json.dumps({**GOOD, "training": {"epochs": 1, "lr": 1, "shuffle": "no"}}),
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


def test_an_update_is_written_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update, path = Update("gradient", {"w": torch.ones(2)}), tmp_path / "update.safetensors"
    update.save(path)
    before = path.read_bytes()

    def cut_off(tensors: object, name: str, metadata: object) -> None:
        Path(name).write_bytes(before[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedseal.types.save_file", cut_off)
    with pytest.raises(StorageFailure, match="No space left"):
        replace(update, tensors={"w": torch.zeros(2)}).save(path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["update.safetensors"]


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.long)),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long)),
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


def test_a_file_from_before_the_optimizers_is_plain_sgd_in_the_batchs_order(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    old = {"epochs": 2, "lr": 0.1, "batch_size": 4, "mode": "train", "loss": "cross_entropy"}
    header = json.dumps({**GOOD, "kind": "difference", "training": old})
    save_file({"update.w": torch.ones(2)}, path, metadata={"fedseal.update": header})
    training = LocalTraining.fedavg(lr=0.1, epochs=2, batch_size=4)
    assert Update.load(path).training == training
    assert (training.optimizer, training.momentum, training.weight_decay) == ("sgd", 0.0, 0.0)
    assert (training.shuffle, training.fresh_optimizer) == (False, True)
    assert training.describe() == old  # so that runs begun with 0.1.0 resume


def test_a_description_names_what_is_out_of_the_ordinary() -> None:
    training = LocalTraining.fedavg(lr=0.1, optimizer="adam", betas=(0.8, 0.99), shuffle=True, fresh_optimizer=False)
    extra = {"optimizer": "adam", "betas": [0.8, 0.99], "shuffle": True, "fresh_optimizer": False}
    assert training.describe() == {**LocalTraining.fedavg(lr=0.1).describe(), **extra}


STEP = {"epochs": 1, "lr": 0.1}
OUT_OF_RANGE: list[tuple[dict[str, object], str]] = [
    ({"optimizer": "adagrad"}, "optimizer is 'adagrad'"),
    ({"momentum": 1.0}, r"momentum is 1\.0"),
    ({"momentum": -0.1}, "momentum is -0"),
    ({"momentum": math.nan}, "momentum is nan"),
    ({"optimizer": "adam", "momentum": 0.9}, "'momentum' means nothing to adam; remove it, or use optimizer='sgd'"),
    ({"betas": (0.5, 0.9)}, "'betas' means nothing to sgd; remove it, or use optimizer='adam'"),
    ({"eps": 1e-6}, "'eps' means nothing to sgd"),
    ({"weight_decay": -0.1}, "weight decay is -0"),
    ({"weight_decay": math.inf}, "weight decay is inf"),
    ({"optimizer": "adam", "betas": (0.5, 1.0)}, "betas are"),
    ({"optimizer": "adam", "betas": (-0.5, 0.9)}, "betas are"),
    ({"optimizer": "adam", "betas": (0.5, 0.9, 0.9)}, "betas are"),
    ({"optimizer": "adam", "eps": 0.0}, "eps is 0"),
    ({"shuffle": "yes"}, "'shuffle' is 'yes'"),
    ({"fresh_optimizer": False}, "SGD without momentum has no state to carry over"),
]


@pytest.mark.parametrize(("fields", "said"), OUT_OF_RANGE)
def test_an_option_out_of_range_is_named(fields: dict[str, object], said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        LocalTraining(**{**STEP, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"momentum": 0.5}, {"optimizer": "adam"}, {"weight_decay": 0.1}, {"shuffle": True}]
)
def test_fedsgd_takes_no_step_that_an_option_could_change(options: dict[str, object]) -> None:
    with pytest.raises(BadConfig, match=f"'{next(iter(options))}' is given to FedSGD, which takes no local step"):
        LocalTraining(**options)  # type: ignore[arg-type]


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
