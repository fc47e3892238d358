"""Statistics that stay at their owner, from round to round: see `Secure.statistics`."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fedseal.errors import StorageFailure, UnfitUpdate, brief
from fedseal.federation.packing import statistics_of
from fedseal.files import write_whole
from fedseal.types import Tensors, Update


class SiteStatistics:
    """One owner's own running statistics, with which its model goes on; none before its first round.

    Args:
        model: whose statistics they are.
        place: a file which outlives the process; None to keep them in memory.

    Raises:
        StorageFailure: that file is damaged, or holds anything but statistics of this model.
    """

    def __init__(self, model: nn.Module, place: Path | None = None) -> None:
        self._place = place
        self.tensors = {} if place is None or not place.is_file() else _stored(place, model)

    def keep(self, tensors: dict[str, Tensor]) -> None:
        """Go on from these: of a round of which the step was accepted."""
        if self._place is not None:
            write_whole(self._place, safetensors.torch.save(tensors))
        self.tensors = tensors

    def dump(self) -> bytes:
        """For a process that goes on where this one ends."""
        return safetensors.torch.save(self.tensors)

    def load(self, memory: bytes) -> None:
        """Go on where `dump` was called."""
        self.tensors = safetensors.torch.load(memory)


def trained_statistics(update: Update, before: Tensors) -> dict[str, Tensor]:
    """Copies of an update's statistics.

    Args:
        before: those of the model, by name.

    Raises:
        UnfitUpdate: one is no number; from then on the owner's model would give none.
    """
    sent = update.buffers or {}
    found = {name: sent[name].clone() for name in before if name in sent}
    for name, tensor in found.items():
        if not bool(tensor.isfinite().all()):
            raise UnfitUpdate(
                f"the statistic '{name}' is {float(tensor[~tensor.isfinite()][0])} after the training",
                "bring inputs to a common scale, or look which example has a value that is out of all proportion",
            )
    return found


def check_fixed_buffers(update: Update, sent: Tensors, moving: Tensors) -> None:
    """Refuse a training that changes what is fixed: nobody would be sent the change, and it would be lost.

    Args:
        sent: the model's tensors before the training.
        moving: its statistics, by name.

    Raises:
        UnfitUpdate: it does.
    """
    for name, after in (update.buffers or {}).items():
        fraction = after.is_floating_point() or after.is_complex()  # counters are each owner's own
        if not fraction or name not in sent or name in moving or _same(after, sent[name]):
            continue
        raise UnfitUpdate(
            f"the training changes '{name}', which is no running mean or variance of a normalization layer, so that it "
            "would be lost",
            "keep it as it is in training, or let its layer derive from torch's BatchNorm",
        )


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all entries are the same, those that are no numbers as well."""
    one, other = one.detach().cpu(), other.detach().cpu().to(one.dtype)
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _stored(path: Path, model: nn.Module) -> dict[str, Tensor]:
    own, remedy = statistics_of(model), "delete it, and they begin anew"
    try:
        found: dict[str, Tensor] = safetensors.torch.load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise StorageFailure(f"'{path}' holds no statistics of a model ({error})", remedy) from None
    for name, tensor in sorted(found.items()):
        if name not in own:
            raise StorageFailure(f"'{path}' holds '{brief(name)}', which is no statistic of the model", remedy)
        if tensor.shape != own[name].shape or not tensor.is_floating_point():
            held, due = (f"{one.dtype} {tuple(one.shape)}" for one in (tensor, own[name]))
            raise StorageFailure(f"'{path}' holds '{name}' as {held}, and the model's is {due}", remedy)
        if not bool(tensor.isfinite().all()):
            raise StorageFailure(f"'{path}' holds a '{name}' that is no number", remedy)
    return found
