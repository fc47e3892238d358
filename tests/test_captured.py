"""Captured files mean what they are: three formats, three kinds, and whatever is damaged is refused."""

from __future__ import annotations

import gc
import io
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor, nn

from fedseal import Batch, LocalTraining, Update, local_update
from fedseal.captured import plain_name, read_tensors
from fedseal.errors import BadConfig, FedsealError, UnfitUpdate, UnknownName
from fedseal.mechanism import rounded_to
from fedseal.setup.data.arrays import read_npz

STEPS = LocalTraining.fedavg(lr=0.1, epochs=2)
BATCH = Batch(torch.rand(2, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0]))


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def arrays(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


Writer = Callable[[dict[str, Tensor]], bytes]


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def pt(content: object) -> bytes:
    return written(lambda file: torch.save(content, file))


WRITERS: dict[str, Writer] = {
    "safetensors": save,
    "npz": lambda tensors: written(lambda file: np.savez(file, **arrays(tensors))),
    "compressed npz": lambda tensors: written(lambda file: np.savez_compressed(file, **arrays(tensors))),
    "pt": pt,
    "pt in order": lambda tensors: pt(OrderedDict(tensors)),
    "pt of parameters": lambda tensors: pt({name: nn.Parameter(tensor) for name, tensor in tensors.items()}),
    "pt within a checkpoint": lambda tensors: pt({"epoch": 3, "state_dict": tensors, "lr": 0.1}),
    "pt with a gap": lambda tensors: pt({**tensors, "frozen": None}),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ["update.bin", "update.safetensors", "update.npz"])
def test_the_format_shows_in_the_content_and_not_in_the_name(tmp_path: Path, writer: str, name: str) -> None:
    sent = dict(local_update(net(), BATCH, training=LocalTraining.fedsgd()).tensors)
    (tmp_path / name).write_bytes(WRITERS[writer](sent))
    found = Update.load(tmp_path / name)
    assert (found.kind, found.training, set(found.tensors)) == ("gradient", None, set(sent))
    assert all(torch.equal(found.tensors[n], sent[n]) and not found.tensors[n].requires_grad for n in sent)


def test_weights_after_training_become_the_difference(tmp_path: Path) -> None:
    """The design's own call."""
    model, sent = net(), local_update(net(), BATCH, training=STEPS)
    after = {name: tensor + sent.tensors[name] for name, tensor in model.state_dict().items()}
    np.savez(tmp_path / "captured.npz", **arrays(after))
    save_file(model.state_dict(), tmp_path / "before.safetensors")
    for before in (model.state_dict(), tmp_path / "before.safetensors", str(tmp_path / "before.safetensors")):
        found = Update.load(tmp_path / "captured.npz", kind="weights", before=before)
        assert (found.kind, found.rounding) == ("difference", ())
        for name, tensor in sent.tensors.items():
            torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=6e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_a_coarser_format_are_off_by_a_share_of_the_weight_and_not_of_the_step(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model, sent = net(), local_update(net(), BATCH, training=STEPS)
    after = {name: (tensor + sent.tensors[name]).to(dtype) for name, tensor in model.state_dict().items()}
    torch.save(after, tmp_path / "w.pt")
    found = Update.load(tmp_path / "w.pt", kind="weights", before=model.state_dict())
    for name, tensor in sent.tensors.items():
        (step,) = (step for step in found.rounding if step.touches(name))
        off = float((found.tensors[name] - tensor).abs().max())
        assert off <= step.figures["tiny"]
        assert off > 0.1 * step.figures["tiny"]


def test_a_format_that_is_not_coarser_rounds_nothing() -> None:
    assert rounded_to(torch.float64, torch.float32) is None
    assert rounded_to(torch.float16, torch.float16) is None
    step = rounded_to(torch.bfloat16, torch.float16)
    assert step is not None
    assert step.figures["eps"] == 2.0**-8


@pytest.mark.parametrize("other", ["gradient", "difference"])
def test_what_lies_near_zero_is_not_called_weights(tmp_path: Path, other: str) -> None:
    training = STEPS if other == "difference" else LocalTraining.fedsgd()
    torch.save({n: 0.1 * t for n, t in local_update(net(), BATCH, training=training).tensors.items()}, tmp_path / "u")
    with pytest.raises(UnfitUpdate, match="called weights, and lies nearer to 0"):
        Update.load(tmp_path / "u", kind="weights", before=net().state_dict())


def test_kinds_and_weights_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    sent = local_update(net(), BATCH, training=STEPS)
    sent.save(tmp_path / "ours")
    torch.save(net().state_dict(), tmp_path / "w")
    with pytest.raises(UnfitUpdate, match="says that it holds a difference, no gradient"):
        Update.load(tmp_path / "ours", kind="gradient")
    with pytest.raises(UnfitUpdate, match="says that it holds a difference, no weights"):
        Update.load(tmp_path / "ours", kind="weights", before=net().state_dict())
    with pytest.raises(BadConfig, match="those before are not given"):
        Update.load(tmp_path / "w", kind="weights")
    with pytest.raises(BadConfig, match="not called weights"):
        Update.load(tmp_path / "w", before=net().state_dict())
    with pytest.raises(UnknownName, match="did you mean 'weights'"):
        Update.load(tmp_path / "w", kind="weigths")  # type: ignore[arg-type]
    with pytest.raises(UnfitUpdate, match=r"the weights before are without it"):
        Update.load(tmp_path / "w", kind="weights", before={"0.weight": torch.zeros(4, 5)})
    with pytest.raises(UnfitUpdate, match=r"the weights before have the shape \(5,\)"):
        Update.load(tmp_path / "w", kind="weights", before={**net().state_dict(), "0.bias": torch.zeros(5)})


def test_what_a_format_rounded_is_kept_in_a_file(tmp_path: Path) -> None:
    step = rounded_to(torch.float16, torch.float32, ("a", "b"))
    assert step is not None
    Update("gradient", {"a": torch.ones(2)}, rounding=(step,)).save(tmp_path / "u")
    (back,) = Update.load(tmp_path / "u").rounding
    assert (back.kind, dict(back.figures), back.where) == (step.kind, dict(step.figures), step.where)


def test_tied_weights_and_slices_of_one_vector_are_written(tmp_path: Path) -> None:
    matrix, vector = torch.rand(3, 2), torch.arange(6.0)
    tensors = {"in": matrix, "out": matrix, "turned": matrix.T, "low": vector[:2], "high": vector[1:]}
    tensors["none"] = vector[:0]
    Update("gradient", tensors, buffers={"also": matrix}).save(tmp_path / "u")
    back = Update.load(tmp_path / "u")
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in tensors.items())
    assert torch.equal((back.buffers or {})["also"], matrix)


class Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.mkdir, (self.mark,))


def test_code_in_a_pt_file_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3), "trap": Trap(tmp_path / "mark")}, tmp_path / "evil.pt")
    with pytest.raises(UnfitUpdate, match=r"no whole \.pt file of tensors alone"):
        Update.load(tmp_path / "evil.pt")
    np.savez(tmp_path / "evil.npz", w=np.array([Trap(tmp_path / "mark")], dtype=object))
    with pytest.raises(UnfitUpdate, match=r"not a whole \.npz file"):
        Update.load(tmp_path / "evil.npz")
    assert not (tmp_path / "mark").exists()


UNFIT: dict[str, tuple[object, str]] = {
    "a number": (3, "holds a int"),
    "nothing": ({}, "holds a dict, of which none are tensors"),
    "a tensor": (torch.ones(3), "holds a Tensor"),
    "two groups": ({"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}, "of which 2 are tensors by name"),
    "numbers for names": ({0: torch.ones(1)}, "holds '0'"),
    "sparse": ({"w": torch.ones(2, 2).to_sparse()}, "'w' in .* is sparse"),
    "without values": ({"w": torch.ones(2, device="meta")}, "'w' in .* is without values"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_pt_file_of_something_else_is_refused(tmp_path: Path, case: str) -> None:
    content, said = UNFIT[case]
    torch.save(content, tmp_path / "u.pt")
    with pytest.raises(UnfitUpdate, match=said):
        read_tensors(tmp_path / "u.pt")


def test_numpy_types_that_torch_lacks_are_named(tmp_path: Path) -> None:
    raw = torch.ones(2, dtype=torch.bfloat16).view(torch.int16).numpy().view("V2")
    for array, said in ((raw, r"'w' in .* is of numpy's type \|V2.*bfloat16"), (np.array(["a"]), "numpy's type <U1")):
        np.savez(tmp_path / "u.npz", w=array)
        with pytest.raises(UnfitUpdate, match=said):
            read_tensors(tmp_path / "u.npz")
    np.savez(tmp_path / "u.npz", w=np.arange(3, dtype=">f8"))
    assert read_tensors(tmp_path / "u.npz")[0]["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("module.a.weight", "a.weight"),
        ("_orig_mod.a.weight", "a.weight"),
        ("module._orig_mod.a.weight", "a.weight"),
        ("_orig_mod.module.a.weight", "a.weight"),
        ("_fsdp_wrapped_module.a._fsdp_wrapped_module.0._checkpoint_wrapped_module.weight", "a.0.weight"),
        ("a.modules.weight", "a.modules.weight"),
    ],
)
def test_names_of_wrappers_are_known(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def _changed(content: bytes, changes: list[tuple[int, int, int]], cut: int | None) -> bytes:
    made = bytearray(content)
    for place, what, byte in changes:
        at = place % len(made)
        if what == 0:
            made[at] = byte
        elif what == 1:
            made.insert(at, byte)
        elif len(made) > 1:
            del made[at]
    return bytes(made[: cut % len(made)] if cut is not None else made)


@pytest.mark.parametrize("writer", ["ours", *WRITERS])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 16), st.integers(0, 2), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.none() | st.integers(0, 1 << 16),
)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_damaged_file_is_refused_or_read_and_never_breaks(
    tmp_path: Path, writer: str, changes: list[tuple[int, int, int]], cut: int | None
) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    if not whole.exists():
        sent = local_update(net(), BATCH, training=LocalTraining.fedavg(lr=0.1, optimizer="adam", betas=(0.8, 0.9)))
        sent.save(whole) if writer == "ours" else whole.write_bytes(WRITERS[writer](dict(sent.tensors)))
    damaged.write_bytes(_changed(whole.read_bytes(), changes, cut))
    try:
        found = Update.load(damaged)
    except FedsealError:
        return
    assert all(isinstance(tensor, Tensor) for tensor in found.tensors.values())


@pytest.mark.parametrize("writer", ["npz", "pt"])
def test_a_changed_number_in_a_file_with_checksums_is_found(tmp_path: Path, writer: str) -> None:
    path, value = tmp_path / "u", np.float32(0.123456)
    content = WRITERS[writer]({"w": torch.full((50,), float(value))})
    assert value.tobytes() in content
    path.write_bytes(content.replace(value.tobytes(), np.float32(9).tobytes(), 1))
    with pytest.raises(UnfitUpdate, match="not a whole"):
        Update.load(path)


def test_no_refusal_advises_to_unpickle(tmp_path: Path) -> None:
    """As the libraries' own words do."""
    np.savez(tmp_path / "a.npz", w=np.array([{}], dtype=object))
    torch.save({"w": torch.nn.Linear(1, 1)}, tmp_path / "a.pt")
    for name in ("a.npz", "a.pt"):
        with pytest.raises(UnfitUpdate) as refused:
            read_tensors(tmp_path / name)
        for words in ("allow_pickle", "weights_only", "pickle.load", "unsafe"):
            assert words not in str(refused.value)


@pytest.mark.parametrize("read", [read_tensors, read_npz])
def test_a_damaged_archive_is_left_closed(tmp_path: Path, read: Callable[[Path], object]) -> None:
    """numpy leaves a file open that it opened itself and that is no whole archive."""
    file = tmp_path / "cut.npz"
    np.savez(file, inputs=np.zeros((2, 3)), labels=np.zeros(2, int))
    file.write_bytes(file.read_bytes()[:-10])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(FedsealError):
            read(file)
        gc.collect()
    assert not [warning for warning in told if issubclass(warning.category, ResourceWarning)]
