"""What a server of another framework sent and received, as a record that `View` reads.

`flower_grid` and `fedseal.nvflare` know how their framework carries tensors; what they have in common is here: which
model an update is of, whether it is weights or a difference, and what of it cannot be kept. That is said as it comes,
once for each reason, since at the audit it is too late.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fedseal.captured import difference, lies_near
from fedseal.errors import UnfitUpdate, UnknownName
from fedseal.federation.packing import Packing, state_digest
from fedseal.federation.protocol import LOG
from fedseal.federation.view import Shelf
from fedseal.layout import canonical
from fedseal.mechanism import Mechanism
from fedseal.types import FILE_KINDS, FileKind, LocalTraining, Tensors, Update

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of BatchNorm, which no gradient moves
SERVER = "the server"
KIND: dict[FileKind, Literal["gradient", "difference"]] = {
    "gradient": "gradient",
    "difference": "difference",
    "weights": "difference",
}
ARTICLE = {"gradient": "a gradient", "difference": "a difference of weights", "weights": "weights"}
WEIGHTS = 'say what it is: sends="weights"'


@dataclass(frozen=True, eq=False)
class Sent:
    """A model that a server sent.

    Args:
        round: as the server counts.
    """

    round: int
    state: Tensors
    digest: bytes


class Exchange:
    """Keeps the updates of the rounds that are wanted.

    Args:
        folder: where; `View.load` reads it.
        rounds: which; None for all.
        training: what clients do, where it is known.
        sends: what clients send: "weights", "difference" or "gradient"; None to tell weights from a difference by what
            they lie near to. A gradient cannot be told from a difference: say so here, or by the training.

    Raises:
        UnknownName: clients send something else.
    """

    def __init__(
        self, folder: Path, rounds: Container[int] | None, training: LocalTraining | None, sends: FileKind | None = None
    ) -> None:
        if sends is not None and sends not in FILE_KINDS:
            raise UnknownName("kind of update", sends, FILE_KINDS)
        self._folder, self._rounds, self._training, self._sends = folder, rounds, training, sends
        self._shelf: Shelf | None = None
        self._models: dict[int, bytes] = {}  # digests of what was kept, by round
        self._last: Sent | None = None
        self._kept: set[tuple[int, str]] = set()
        self._told: set[str] = set()

    def sends(self, state: Tensors, round: int | None) -> Sent:
        """A model that leaves the server; without a number of the round, another model is the next round's."""
        digest = state_digest(state)
        if self._last is not None and digest == self._last.digest and round in (None, self._last.round):
            return self._last
        if round is None:
            round = 0 if self._last is None else self._last.round + 1
        self._last = Sent(round, state, digest)
        return self._last

    def receives(
        self, sent: Sent, sender: str, tensors: Tensors, count: int | None, kind: FileKind | None = None
    ) -> None:
        """A client's answer to it.

        Args:
            count: number of examples, where the client says it.
            kind: what the framework says that it is.

        Raises:
            StorageFailure: it cannot be written.
        """
        if self._rounds is not None and sent.round not in self._rounds:
            return
        mine = self._matching(sent.state, tensors)
        if reason := self._misfit(sent, sender, mine):
            self.tell(reason)
            return
        try:
            form = self._form(sent.state, mine, kind)
            update = self._update(sent.state, mine, form, count)
        except UnfitUpdate as error:
            self.tell(error.fact)
            return
        if not any(bool(tensor.any()) for tensor in update.tensors.values()):
            self.tell("an update is zero everywhere, so it holds nothing to read")
            return
        self._keep(sent, sender, update, form)

    def tell(self, reason: str) -> None:
        """Say why something is not recorded; once."""
        if reason not in self._told:
            self._told.add(reason)
            LOG.warning("not recorded: %s", reason)

    def close(self) -> None:
        """Say in the folder what there is.

        Raises:
            StorageFailure: it cannot be written.
        """
        if self._shelf is not None:
            self._shelf.close()

    def _matching(self, state: Tensors, tensors: Tensors) -> dict[str, Tensor]:
        """What is of the model that was sent, but for a mask of -inf and the like, which cannot be subtracted."""
        mine = {n: canonical(t.detach().cpu()) for n, t in tensors.items() if n in state and t.shape == state[n].shape}
        for name in sorted(tensors.keys() - mine.keys()):
            sent = f"was sent as {tuple(state[name].shape)}" if name in state else "is not of the model that was sent"
            self.tell(f"'{name}' {tuple(tensors[name].shape)} {sent}")
        return {name: tensor for name, tensor in mine.items() if not _fixed(tensor, state[name])}

    def _misfit(self, sent: Sent, sender: str, mine: Tensors) -> str:
        """Why an answer cannot be kept."""
        if not mine:
            return "an answer holds no tensor of the model that was sent"
        if self._models.setdefault(sent.round, sent.digest) != sent.digest:
            return f"in round {sent.round} clients were sent different models, of which the first is kept"
        if (sent.round, sender) in self._kept:
            return f"a client answers twice in round {sent.round}, of which the first is kept"
        broken = [name for name, tensor in mine.items() if not bool(torch.isfinite(_plain(tensor)).all())]
        return f"'{broken[0]}' holds NaN or infinity" if broken else ""

    def _form(self, state: Tensors, mine: Tensors, kind: FileKind | None) -> FileKind:
        """What a client sent: what the user says, else the framework, else what it lies near to.

        Raises:
            UnfitUpdate: that is not so.
        """
        near, said = lies_near(mine, state), self._sends or kind
        made = None if self._training is None else self._training.kind
        form = said or ("weights" if near != "difference" else made or "difference")
        if near == "weights" and form != "weights":
            raise UnfitUpdate(f"what is called a {form} lies nearer to the model that was sent than to 0", WEIGHTS)
        if made is not None and made != KIND[form]:
            raise UnfitUpdate(f"clients send {ARTICLE[form]}, and the training named makes a {made}", "name another")
        if said is None and form == "difference" and made is None:
            LOG.info("an update lies nearer to 0 than to the model: taken for a difference of weights")
        return form

    def _update(self, state: Tensors, mine: Tensors, form: FileKind, count: int | None) -> Update:
        moved: dict[str, Tensor] = dict(mine)
        rounding: tuple[Mechanism, ...] = ()
        if form == "weights":
            moved, rounding = difference(mine, state, "an answer")
        fixed = [name for name in mine if _is_statistic(name)]
        buffers = {n: mine[n] if form == "weights" else _after(state[n], mine[n]) for n in fixed}
        return Update(
            kind=KIND[form],
            tensors={name: tensor for name, tensor in moved.items() if name not in fixed},
            buffers=buffers or None,
            num_examples=count if count is not None and count > 0 else None,
            training=self._training,
            rounding=rounding,
        )

    def _keep(self, sent: Sent, sender: str, update: Update, form: FileKind) -> None:
        if self._shelf is None:
            self._shelf = Shelf(self._folder, _packing(sent.state), self._training)
        if sent.round not in {round for round, _ in self._kept}:
            self._shelf.model(sent.round, sent.state)
        self._kept.add((sent.round, sender))
        self._shelf.put(sent.round, SERVER, sender, update, form)


def _packing(state: Tensors) -> Packing:
    parts = [(name, tuple(tensor.shape)) for name, tensor in state.items()]
    fixed = [part for part in parts if _is_statistic(part[0])]
    return Packing(tuple(part for part in parts if part not in fixed), tuple(fixed))


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in STATISTICS


def _fixed(tensor: Tensor, sent: Tensor) -> bool:
    """Whether it holds infinite entries, and is what was sent."""
    plain = _plain(tensor)
    return not bool(torch.isfinite(plain).all()) and torch.equal(plain, _plain(canonical(sent.detach().cpu())))


def _after(before: Tensor, moved: Tensor) -> Tensor:
    return (before.double() + moved.double()).to(before.dtype)


def _plain(tensor: Tensor) -> Tensor:
    """In a format that torch computes with."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
