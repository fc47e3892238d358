"""One line in a ServerApp of your own: `grid = recorded(grid, "seen")` keeps what its clients sent, for a later audit.

    from fedseal.federation import View, recorded

    @app.main()
    def main(grid, context):
        grid = recorded(grid, "seen", rounds={1, 10})
        FedAvg().start(grid=grid, ...)

It stands between a strategy and Flower's grid, sees every reply before the strategy does, and changes nothing. Messages
that are no training, such as evaluations or secure protocols' own, are passed over. What is training and cannot be kept
is said as a warning of the logger "fedseal".
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fedseal.federation.foreign.exchange import Exchange, Sent
from fedseal.federation.grid import tensor_of
from fedseal.types import FileKind, LocalTraining

ROUND, COUNT, MODEL = "server-round", "num-examples", "arrays"  # as Flower's strategies name them


def recorded(
    grid: Any,
    folder: str | Path,
    rounds: Container[int] | None = None,
    training: LocalTraining | None = None,
    *,
    arrays: str | None = None,
    sends: FileKind | None = None,
) -> Any:
    """A grid that records.

    Args:
        grid: Flower's.
        folder: where; `View.load` reads it.
        rounds: which, as the strategy counts them, from 1; None for all.
        training: what clients do, where it is known: an audit wants it.
        arrays: the name of the array record that holds the model; None for the only one, or for "arrays".
        sends: what clients answer with: "weights", "difference" or "gradient"; None to tell weights from a difference.

    Raises:
        StorageFailure: something cannot be written.
        UnknownName: clients answer with something else.
    """
    return RecordedGrid(grid, Exchange(Path(folder), rounds, training, sends), arrays)


class RecordedGrid:
    """Passes everything through to the grid below."""

    def __init__(self, grid: Any, exchange: Exchange, arrays: str | None) -> None:
        self._grid, self._exchange, self._arrays = grid, exchange, arrays
        self._sent: dict[str, tuple[str, Sent]] = {}  # the record's name and the model, by the id of a message

    def __getattr__(self, name: str) -> Any:
        """Whatever else a grid has."""
        return getattr(self._grid, name)

    def push_messages(self, messages: Iterable[Any]) -> Any:
        """Note the model, and send."""
        listed = list(messages)
        ids = list(self._grid.push_messages(listed))
        self._note(zip(ids, listed, strict=False))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Any:
        """Receive, and keep."""
        return self._heard(self._grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Any:
        """Send, receive, and keep."""
        listed = list(messages)
        replies = self._grid.send_and_receive(listed, timeout=timeout)
        self._note((message.metadata.message_id, message) for message in listed)
        return self._heard(replies)

    def _note(self, messages: Iterable[tuple[str, Any]]) -> None:
        seen: dict[int, dict[str, Tensor] | None] = {}  # messages of a round carry one and the same record
        for place, message in messages:
            records = message.content.array_records
            if not message.metadata.message_type.startswith("train") or not records:
                continue
            name = self._name(records)
            if name is None:
                continue
            record = records[name]
            state = seen[id(record)] if id(record) in seen else seen.setdefault(id(record), self._tensors(record))
            if state:
                self._sent[place] = (name, self._exchange.sends(state, _round(message.content)))

    def _heard(self, replies: Iterable[Any]) -> list[Any]:
        listed = list(replies)
        for reply in listed:
            name, sent = self._sent.pop(reply.metadata.reply_to_message_id, ("", None))
            if sent is None or reply.has_error():
                continue
            records = reply.content.array_records
            record = records[name] if name in records else next(iter(records.values())) if len(records) == 1 else None
            if record is None:
                self._exchange.tell(f"an answer has {_listed(records)}, and the model was sent as '{name}'")
                continue
            if others := {other: part for other, part in records.items() if part is not record}:
                self._exchange.tell(f"an answer has {_listed(others)} beside the model")
            tensors = self._tensors(record)
            if tensors is not None:
                sender = str(reply.metadata.src_node_id)
                self._exchange.receives(sent, sender, tensors, _examples(reply.content))
        self._exchange.close()
        return listed

    def _name(self, records: Mapping[str, Any]) -> str | None:
        """The record that holds the model."""
        name = self._arrays or (next(iter(records)) if len(records) == 1 else MODEL)
        if name in records:
            return name
        self._exchange.tell(f"a message has {_listed(records)}; name the model's: recorded(..., arrays=...)")
        return None

    def _tensors(self, record: Any) -> dict[str, Tensor] | None:
        """A record's tensors; None if one of them cannot be read."""
        found = {}
        for name, array in record.items():
            try:
                found[name] = tensor_of(array)
            except (TypeError, ValueError, OSError, EOFError) as error:  # what numpy's reader raises
                self._exchange.tell(f"'{name}' holds no numbers that can be read ({error})")
                return None
        return found


def _listed(records: Mapping[str, Any]) -> str:
    return "no array record" if not records else f"array records {', '.join(map(repr, records))}"


def _round(content: Any) -> int | None:
    """The round's number; None if it is not said."""
    found = [record[ROUND] for record in content.config_records.values() if ROUND in record]
    return found[0] if found and isinstance(found[0], int) else None


def _examples(content: Any) -> int | None:
    """Number of examples, where it is said; some write it as a float."""
    found = [record[COUNT] for record in content.metric_records.values() if COUNT in record]
    whole = found and isinstance(found[0], int | float) and float(found[0]).is_integer()
    return int(found[0]) if whole else None
