"""Files of tensors by name, as people capture and save them: safetensors, numpy's `.npz`, torch's `.pt`.

Which of them a file is shows in its content, not in its name. Nothing in a file is run: of safetensors and `.npz` only
numbers are read, and a `.pt` file, which is a pickle, goes through torch's reader that builds tensors and plain
containers and refuses everything else.
"""

from __future__ import annotations

import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  (what torch.load raises; nothing else of pickle is used)
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedseal.errors import UnfitUpdate
from fedseal.layout import canonical
from fedseal.mechanism import Mechanism, rounded_to

UNNAMED = "arr_{}"  # how numpy.savez names arrays without a name; here of what stands in lists too
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
REMEDY = "copy it anew, or write it with Update.save(), safetensors, numpy.savez or torch.save of a dict of tensors"

# What the readers raise on damaged files, besides; found by changing bytes of whole ones.
DAMAGED = (
    OSError, ValueError, TypeError, LookupError, AttributeError, EOFError, RuntimeError, AssertionError, OverflowError,
    ImportError, UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, SafetensorError,
)  # fmt: skip

Content = tuple[dict[str, Tensor], dict[str, str]]  # tensors by name, and the texts in the header
Format = Literal["safetensors", ".npz", ".pt", ".npz or .pt"]


def read_tensors(path: str | Path) -> Content:
    """All tensors of a file by name, on the CPU and in the one memory order, and the texts in its header.

    A `.pt` file may hold a dict of tensors, one such dict within a dict, or a list; what stands in a list, or in an
    `.npz` file without names, is called `arr_0`, `arr_1` and so on. Entries that are None are left out: parameters
    without a gradient.

    Raises:
        UnfitUpdate: missing, damaged, of another format, or what it holds are no tensors.
    """
    if not Path(path).is_file():
        raise UnfitUpdate(f"there is no update file '{path}'", "check the path")
    form: Format = "safetensors"
    header: dict[str, str] = {}
    content: Any
    try:
        form = _format(path)
        if form == "safetensors":
            with safe_open(str(path), framework="pt") as file:
                header = dict(file.metadata() or {})
                content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        elif form == ".npz":
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                content = {name: file[name] for name in file.files}
        else:
            content = _loaded(path)
    except MemoryError:
        raise UnfitUpdate(f"'{path}' does not fit into memory", "use a machine with more") from None
    except DAMAGED as error:
        raise _damaged(path, form, error) from None
    found = _arrays(content, path) if form == ".npz" else _named(content, path) if form == ".pt" else content
    return {name: _plain(name, tensor, path) for name, tensor in found.items()}, header


def difference(
    after: Mapping[str, Tensor], before: Mapping[str, Tensor], path: str | Path
) -> tuple[dict[str, Tensor], tuple[Mechanism, ...]]:
    """Weights after training minus those before, by the names of `after`, and what the format of `after` rounded off.

    Names may differ by `WRAPPERS`. Weights that were sent in a coarser format than the ones before are off by a share
    of the weight, however little it moved.

    Raises:
        UnfitUpdate: the weights before lack one, or its shape differs; or these are no weights.
    """
    called = match_names(after, before)
    moved: dict[str, Tensor] = {}
    coarse: dict[tuple[torch.dtype, torch.dtype, float], list[str]] = {}
    for name, tensor in after.items():
        own = called[name]
        start = None if own is None else before[own]
        if start is None or start.shape != tensor.shape:
            said = "are without" if start is None else f"have the shape {tuple(start.shape)} for"
            raise UnfitUpdate(
                f"'{path}' holds '{name}' {tuple(tensor.shape)}, and the weights before {said} it",
                "give the weights that the client was sent, of the same model",
            )
        start = start.detach().cpu()
        if not tensor.is_floating_point():
            moved[name] = tensor - start.to(tensor.dtype)
            continue
        moved[name] = (tensor.double() - start.double()).to(start.dtype if start.is_floating_point() else tensor.dtype)
        if tensor.numel() and start.is_floating_point():
            scale = 2.0 ** math.floor(math.log2(max(float(tensor.double().abs().max()), 1e-300)))
            coarse.setdefault((tensor.dtype, start.dtype, scale), []).append(name)
    _check_weights(after, {name: before[own] for name, own in called.items() if own is not None}, path)
    steps = [rounded_to(sent, start, tuple(which), largest=scale) for (sent, start, scale), which in coarse.items()]
    return {name: canonical(tensor) for name, tensor in moved.items()}, tuple(step for step in steps if step)


def plain_name(name: str) -> str:
    """A parameter's name without what DataParallel, torch.compile, FSDP and checkpointing put into it.

    >>> plain_name("module._orig_mod.layers.0._fsdp_wrapped_module.weight")
    'layers.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def match_names(names: Iterable[str], known: Iterable[str]) -> dict[str, str | None]:
    """For each given name the known one that is meant: the same, one that differs by wrappers, or by one first part.

    A first part that all given names share, such as the "model." of a training framework, is taken off if every name is
    then known.

    >>> match_names(["model.a.weight"], ["a.weight", "a.bias"])
    {'model.a.weight': 'a.weight'}
    >>> match_names(["module.a"], ["a"]), match_names(["b"], ["a"])
    ({'module.a': 'a'}, {'b': None})
    """
    exact, plain = dict.fromkeys(known), dict[str, str | None]()
    for name in exact:
        short = plain_name(name)
        plain[short] = None if short in plain else name  # two of one name are told apart by their whole names only
    names = list(names)

    def own(name: str) -> str | None:
        return name if name in exact else plain.get(plain_name(name))

    found = {name: own(name) for name in names}
    if None in found.values() and len({name.partition(".")[0] for name in names}) == 1:
        inner = {name: own(name.partition(".")[2]) for name in names}
        return found if None in inner.values() else inner
    return found


def lies_near(tensors: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Literal["weights", "difference"] | None:
    """Whether tensors lie nearer to the weights before training than to 0, or the other way round; None for neither.

    >>> lies_near({"w": torch.tensor([1.0, 1.9])}, {"w": torch.tensor([1.0, 2.0])})
    'weights'
    """
    squares = [0.0, 0.0, 0.0]
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            here, start = tensor.double(), before[name].detach().cpu().double()
            for place, part in enumerate((here, here - start, start)):
                squares[place] += float(part.square().sum())
    own, apart, start_square = squares
    if own < min(apart, start_square):
        return "difference"
    return "weights" if apart < min(own, start_square) else None


def _check_weights(after: Mapping[str, Tensor], before: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse a gradient or a difference that is called weights: it lies near 0, not near the weights before."""
    if lies_near(after, before) == "difference":
        raise UnfitUpdate(
            f"'{path}' is called weights, and lies nearer to 0 than to the weights before training",
            "it is a gradient or a difference: leave out --kind weights, or give the weights it was trained from",
        )


def _format(path: str | Path) -> Format:
    with Path(path).open("rb") as file:
        if file.read(2) != b"PK":
            return "safetensors"
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())
            broken = archive.testzip() if pickled else None  # torch's reader looks at no checksum
    except DAMAGED as error:
        raise _damaged(path, ".npz or .pt", error) from None
    if broken is not None:
        raise UnfitUpdate(f"'{path}' is not a whole .pt file (the checksum of its '{broken}' is wrong)", REMEDY)
    return ".pt" if pickled else ".npz"


def _loaded(path: str | Path) -> Any:
    with warnings.catch_warnings(), Path(path).open("rb") as file:  # of a path torch would go by its ending
        warnings.simplefilter("ignore")  # the reader warns of damage that it then refuses
        # The one place where a pickle is read, and it is not unpickled: with weights_only, torch's own reader builds
        # tensors, containers, numbers and texts, and refuses every other name that the file wants to have called.
        return torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251


def _damaged(path: str | Path, form: Format, error: BaseException) -> UnfitUpdate:
    said = " ".join(str(error).split()) or type(error).__name__
    said = said if len(said) <= 160 else said[:157] + "..."
    # torch and numpy advise to unpickle all the same, so that their words are not passed on
    if isinstance(error, UnpicklingError) or "weights_only" in said:
        return UnfitUpdate(
            f"'{path}' is no whole .pt file of tensors alone",
            "save a dict of names and tensors with torch.save; code in a file is not run",
        )
    if "pickle" in said:
        said = "Python objects, which are not read"
    return UnfitUpdate(f"'{path}' is not a whole {form} file ({said})", REMEDY)


def _arrays(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    found = {}
    for name, array in content.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
            what = f"of numpy's type {array.dtype}" if isinstance(array, np.ndarray) else "no array"
            raise UnfitUpdate(
                f"'{name}' in '{path}' is {what}, which torch has no numbers for",
                "save it as float32; for bfloat16, which numpy does not have, use safetensors",
            )
        found[name] = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    return found


def _named(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The one group of tensors in what a `.pt` file holds."""
    if (found := _group(content)) is not None:
        return found
    parts = content if isinstance(content, Mapping) else {}
    groups = [group for part in parts.values() if (group := _group(part))]
    if len(groups) == 1:
        return groups[0]
    holds = ", ".join(f"'{name}'" for name in list(parts)[:5]) or f"a {type(content).__name__}"
    raise UnfitUpdate(
        f"'{path}' holds {holds}, of which {len(groups) or 'none'} are tensors by name",
        "save the update alone: torch.save({name: tensor, ...}, path)",
    )


def _group(content: Any) -> dict[str, Tensor] | None:
    """Tensors by name, if there are any and nothing else."""
    if isinstance(content, (list, tuple)):
        content = {UNNAMED.format(place): part for place, part in enumerate(content)}
    if not isinstance(content, Mapping):
        return None
    there = {name: part for name, part in content.items() if part is not None}
    if not there or not all(isinstance(n, str) and isinstance(part, Tensor) for n, part in there.items()):
        return None
    return there


def _plain(name: str, tensor: Tensor, path: str | Path) -> Tensor:
    """A tensor of numbers in memory."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        what = "quantized" if tensor.is_quantized else "without values" if tensor.is_meta else "sparse"
        raise UnfitUpdate(f"'{name}' in '{path}' is {what}", "save it dense, as floating-point numbers")
    return canonical(tensor.detach())
