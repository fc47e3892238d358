"""A filter for NVFlare servers: keeps what clients sent, for a later audit.

    from fedseal.nvflare import Recorder

    recipe.add_server_input_filter(Recorder("seen", rounds=[0, 10]), tasks=["train"])

It is tested with NVFlare 2.9 (`pip install 'nvflare==2.9.*'`), which nothing else of fedseal imports. `fedseal audit`
and `fedseal.federation.View` read the folder as any other record.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedseal.errors import FedsealError, MissingExtra
from fedseal.federation.foreign.exchange import Exchange, Sent
from fedseal.setup.training import training as parsed_training
from fedseal.types import FileKind

try:
    from nvflare.apis.dxo import DataKind, from_shareable
    from nvflare.apis.event_type import EventType
    from nvflare.apis.filter import Filter
    from nvflare.apis.fl_constant import FLContextKey, ReturnCode
    from nvflare.app_common.app_constant import AppConstants
except ModuleNotFoundError as error:
    raise MissingExtra(f"{error.name} is not installed", "pip install 'nvflare==2.9.*'") from None

KINDS: dict[str, FileKind] = {DataKind.WEIGHTS: "weights", DataKind.WEIGHT_DIFF: "difference"}


class Recorder(Filter):  # type: ignore[misc]  # nvflare has no types
    """Keeps results as they come in, and passes them on unchanged; of the models that they answer it hears by events.

    Put it behind filters that decompress or decrypt. Results that are no model, such as metrics, are passed over; what
    is one and cannot be kept is said as a warning of the logger "fedseal.federation". A folder that cannot be written
    ends the record, not the training.

    Args:
        folder: where; `View.load` reads it. A relative one lies in the job's folder on the server.
        rounds: which, as the workflow counts them; None for all.
        training: what clients do, where it is known, such as "fedavg:lr=0.1,epochs=2,batch_size=8".
        sends: what clients answer with, where NVFlare's own word for it is wrong: "weights", "difference", "gradient".

    Raises:
        UnknownName: another training, or clients answer with something else.
        BadConfig: an option of the training means nothing.
    """

    def __init__(
        self,
        folder: str,
        rounds: list[int] | None = None,
        training: str | None = None,
        sends: FileKind | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.rounds, self.training, self.sends = folder, rounds, training, sends
        self._exchange: Exchange | None = self._at(Path(folder))  # refuses what cannot be, where the job is made
        self._begun = False
        self._sent: dict[tuple[str, str], Sent] = {}  # by task and client
        self._lock = threading.Lock()

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """Note a model that leaves."""
        if event_type == EventType.AFTER_TASK_DATA_FILTER and self._exchange is not None:
            with self._lock:
                self._note(fl_ctx)

    def process(self, shareable: Any, fl_ctx: Any) -> Any:
        """Keep a result, and return it as it is."""
        with self._lock:
            if self._exchange is not None and shareable.get_return_code(ReturnCode.OK) == ReturnCode.OK:
                try:
                    self._keep(self._exchange, shareable, fl_ctx)
                except FedsealError as error:  # a full disk
                    self.log_error(fl_ctx, f"the record ends here: {error}")
                    self._exchange = None
        return shareable

    def _note(self, fl_ctx: Any) -> None:
        task = fl_ctx.get_prop(FLContextKey.TASK_DATA)
        found = None if task is None else _model(task)
        if found is None or found[0] != "weights":
            return
        exchange = self._exchange_of(fl_ctx)
        state = _tensors(exchange, found[1])
        if state:
            round = task.get_header(AppConstants.CURRENT_ROUND)
            self._sent[_place(fl_ctx)] = exchange.sends(state, round if isinstance(round, int) else None)

    def _keep(self, exchange: Exchange, result: Any, fl_ctx: Any) -> None:
        place = _place(fl_ctx)
        sent, found = self._sent.pop(place, None), _model(result)
        if sent is None or found is None:
            return
        kind, arrays = found
        tensors = _tensors(exchange, arrays)
        if tensors is not None:
            exchange.receives(sent, place[1], tensors, None, kind)
            exchange.close()

    def _exchange_of(self, fl_ctx: Any) -> Exchange:
        if not self._begun:
            self._begun = True
            folder = Path(self.folder)
            if not folder.is_absolute():
                folder = Path(fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id())) / folder
            self._exchange = self._at(folder)
        assert self._exchange is not None
        return self._exchange

    def _at(self, folder: Path) -> Exchange:
        training = None if self.training is None else parsed_training(self.training)
        return Exchange(folder, self.rounds, training, self.sends)


def _place(fl_ctx: Any) -> tuple[str, str]:
    """The task and the client that an event or a result is about."""
    return str(fl_ctx.get_prop(FLContextKey.TASK_ID)), str(fl_ctx.get_peer_context().get_identity_name())


def _model(shareable: Any) -> tuple[FileKind, Mapping[str, Any]] | None:
    """What a message says that it holds, and its arrays; None if it is no model."""
    try:
        dxo = from_shareable(shareable)
    except ValueError:  # another kind of content
        return None
    return (KINDS[dxo.data_kind], dxo.data) if dxo.data_kind in KINDS else None


def _tensors(exchange: Exchange, arrays: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Arrays of numpy or torch by name; None if there are others, such as encrypted ones."""
    found = {}
    for name, array in arrays.items():
        content = array.materialize() if hasattr(array, "materialize") else array  # left on disk by NVFlare
        if isinstance(content, np.ndarray) and content.dtype.kind in "fiub":
            content = torch.from_numpy(np.array(content, content.dtype.newbyteorder("=")))
        if not isinstance(content, Tensor):
            exchange.tell(f"'{name}' holds no numbers that can be read ({type(array).__name__})")
            return None
        found[str(name)] = content.detach().cpu()
    return found
