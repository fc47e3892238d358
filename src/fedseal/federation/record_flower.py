"""One line in a ServerApp of your own: `grid = recorded(grid, "seen")` keeps what its clients sent, for a later audit.

    from fedseal.federation import View, recorded

    @app.main()
    def main(grid, context):
        grid = recorded(grid, "seen", rounds={1, 10})
        FedAvg().start(grid=grid, ...)

It stands between a strategy and Flower's grid, sees every reply before the strategy does, and changes nothing. Replies
without arrays of the model's names and shapes, such as evaluations or secure protocols' messages, are passed over.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedseal.federation.packing import Packing
from fedseal.federation.recorder import Shelf
from fedseal.types import LocalTraining

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of BatchNorm, which no gradient moves
ROUND, COUNT = "server-round", "num-examples"  # as Flower's strategies name them


def recorded(
    grid: Any, folder: str | Path, rounds: Container[int] | None = None, training: LocalTraining | None = None
) -> Any:
    """A grid that records.

    Args:
        grid: Flower's.
        folder: where; `View.load` reads it.
        rounds: which, as the strategy counts them, from 1; None for all.
        training: what clients do, where it is known: an audit wants it.

    Raises:
        StorageFailure: something cannot be written.
    """
    return RecordedGrid(grid, Path(folder), rounds, training)


class RecordedGrid:
    """Passes everything through to the grid below."""

    def __init__(self, grid: Any, folder: Path, rounds: Container[int] | None, training: LocalTraining | None) -> None:
        self._grid, self._folder, self._rounds, self._training = grid, folder, rounds, training
        self._sent: dict[str, tuple[int, dict[str, NDArray[Any]]]] = {}  # by the id of a message
        self._shelf: Shelf | None = None
        self._known: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        """Whatever else a grid has."""
        return getattr(self._grid, name)

    def push_messages(self, messages: Iterable[Any]) -> Any:
        """Note the model, and send."""
        listed = list(messages)
        ids = list(self._grid.push_messages(listed))
        for place, message in zip(ids, listed, strict=False):
            self._note(place, message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Any:
        """Receive, and keep."""
        return self._heard(self._grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Any:
        """Send, receive, and keep."""
        listed = list(messages)
        replies = self._grid.send_and_receive(listed, timeout=timeout)
        for message in listed:
            self._note(message.metadata.message_id, message)
        return self._heard(replies)

    def _note(self, place: str, message: Any) -> None:
        state = _arrays(message.content)
        round = next((int(c[ROUND]) for c in message.content.config_records.values() if ROUND in c), 0)
        if state and message.metadata.message_type.startswith("train"):
            self._sent[place] = (round, state)

    def _heard(self, replies: Iterable[Any]) -> list[Any]:
        listed = list(replies)
        for reply in listed:
            round, state = self._sent.pop(reply.metadata.reply_to_message_id, (0, None))
            if state is None or reply.has_error() or (self._rounds is not None and round not in self._rounds):
                continue
            arrays = _arrays(reply.content)
            if arrays.keys() == state.keys() and all(arrays[n].shape == state[n].shape for n in state):
                self._keep(round, str(reply.metadata.src_node_id), state, arrays, _examples(reply.content))
        if self._shelf is not None:
            self._shelf.close()
        return listed

    def _keep(
        self, round: int, node: str, state: dict[str, NDArray[Any]], arrays: dict[str, NDArray[Any]], count: int | None
    ) -> None:
        packing = _packing(state)
        if self._shelf is None:
            self._shelf = Shelf(self._folder, packing, self._training)
        if round not in self._known:
            self._known.add(round)
            self._shelf.model(round, {name: torch.from_numpy(np.array(array)) for name, array in state.items()})
        names = [name for name, _ in (*packing.weights, *packing.buffers)]
        moved = [(arrays[n].astype(np.float64) - state[n].astype(np.float64)).ravel() for n in names]
        step = torch.from_numpy(np.concatenate(moved))
        self._shelf.keep(round, "the server", node, "step", {"step": step}, weight=count)


def _packing(state: dict[str, NDArray[Any]]) -> Packing:
    parts = [(name, tuple(array.shape)) for name, array in state.items()]
    fixed = [part for part in parts if part[0].rpartition(".")[2] in STATISTICS]
    return Packing(tuple(part for part in parts if part not in fixed), tuple(fixed))


def _arrays(content: Any) -> dict[str, NDArray[Any]]:
    return {name: array.numpy() for record in content.array_records.values() for name, array in record.items()}


def _examples(content: Any) -> int | None:
    return next((int(record[COUNT]) for record in content.metric_records.values() if COUNT in record), None)
