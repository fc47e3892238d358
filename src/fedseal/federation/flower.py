"""Flower as engine: its simulation on Ray, its deployments, and a hook that records what a server of your own sees.

Flower carries messages between a ServerApp and ClientApps; parties answer them as they do in one process. Whatever a
party keeps between two messages stays in its node's context. Telemetry, update checks and usage statistics are off in
everything that is started here.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedseal.errors import BadConfig, EngineFailure, MissingExtra
from fedseal.federation.federation import Federation, Members, Trained
from fedseal.federation.keys import StoredKeys
from fedseal.federation.party import LOG, Ask, Reply
from fedseal.federation.rounds import Link
from fedseal.secagg import Outgoing, Public, Roster

SILENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns about what it will do one day
}
PART = "fedseal"  # of a message's records
HELLO = "hello"
WAIT = 0.2  # seconds between two looks for nodes


def quiet() -> None:
    """Switch off everything with which Flower and Ray would reach out."""
    os.environ.update(SILENT)


def _flwr() -> Any:
    """Flower's parts that are used here.

    Raises:
        MissingExtra: it is not installed.
    """
    quiet()
    try:
        import flwr.app
        import flwr.clientapp
        import flwr.serverapp
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed", "pip install 'fedseal[federation]'") from None
    return flwr


@dataclass(frozen=True)
class Simulation:
    """Flower's simulation on Ray, on this machine; every party is a node.

    Args:
        workers: processes that play the nodes; None for one a core.
        timeout: seconds after which a party counts as gone.
    """

    workers: int | None = None
    timeout: float = 600.0

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        """Serve from a ServerApp.

        Raises:
            MissingExtra: Flower or Ray is not installed.
            BadConfig: owners or their functions that cannot be handed to another process.
        """
        flwr = _flwr()
        server, failed = flwr.serverapp.ServerApp(), list[BaseException]()

        @server.main()  # type: ignore[untyped-decorator]
        def main(grid: Any, context: Any) -> None:
            try:
                serve(GridLink(grid, members, self.timeout))
            except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
                failed.append(error)

        with _as_before(), _only_errors("flwr", "ray"):
            self._simulate(flwr, server, client_app(bare(members)), len(members.clients) + len(members.aggregators))
        if failed:
            raise failed[0]

    def _simulate(self, flwr: Any, server: Any, client: Any, nodes: int) -> None:
        try:
            import ray
            import ray.cloudpickle
            from flwr.simulation import run_simulation
        except ModuleNotFoundError as error:
            raise MissingExtra(f"{error.name} is not installed", "pip install 'fedseal[federation]'") from None
        dumps: Callable[[Any], bytes] = ray.cloudpickle.dumps
        try:
            dumps(client)
        except Exception as error:  # whatever a user's own class raises when it is asked for its content
            raise BadConfig(
                f"the data owners cannot be handed to another process ({type(error).__name__}: {error})",
                "define their functions in a module, load data in build_data, or use engine='local'",
            ) from error
        workers = self.workers or min(nodes, os.cpu_count() or 1)
        began = not ray.is_initialized()
        init = {"num_cpus": workers, "log_to_driver": False, "logging_level": 40, "include_dashboard": False}
        config: Any = {"init_args": init, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
        try:
            run_simulation(server, client, nodes, backend_config=config)
        finally:
            if began and ray.is_initialized():
                ray.shutdown()


class GridLink:
    """Asks parties through a Flower grid. It learns who is which node by asking them."""

    def __init__(self, grid: Any, members: Members, timeout: float) -> None:
        self._grid, self._timeout, self._flwr = grid, timeout, _flwr()
        self._expected = {*members.clients, *members.aggregators}
        self._nodes: dict[int, int] = {}  # by party
        self._greeted: set[int] = set()
        self._greet(until=time.monotonic() + timeout)

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        """Answers in the order of the questions."""
        if any(ask.step in ("advertise", "train", "take") for ask in asks):
            self._greet()
        places = {self._nodes[ask.to]: ask for ask in asks if ask.to in self._nodes}
        found = {}
        for node, content in self._sent({node: packed(ask) for node, ask in places.items()}).items():
            found[places[node].to] = reply_of(content)
        for ask in asks:
            if ask.to in found:
                yield ask, found[ask.to]

    def _greet(self, until: float = 0.0) -> None:
        """Ask nodes that are new who they are, and at first wait until all parties are there."""
        while True:
            new = set(self._grid.get_node_ids()) - self._greeted
            for node, content in self._sent({node: greeting() for node in new}).items():
                self._nodes[int(content[PART]["party"])] = node
                self._greeted.add(node)
            if self._expected <= self._nodes.keys() or time.monotonic() > until:
                break
            time.sleep(WAIT)
        if not self._nodes:
            raise EngineFailure("no party answers", "start the nodes, each with its own key")

    def _sent(self, contents: dict[int, Any]) -> dict[int, Any]:
        """Contents of the answers, by node."""
        if not contents:
            return {}
        messages = [
            self._flwr.app.Message(content, dst_node_id=node, message_type="train")
            for node, content in contents.items()
        ]
        answers = {}
        for message in self._grid.send_and_receive(messages, timeout=self._timeout):
            if message.has_error():
                LOG.warning("a node fails: %s", message.error.reason)
                continue
            answers[message.metadata.src_node_id] = message.content
        return answers


def client_app(members: Members) -> Any:
    """The ClientApp in which every party answers, whichever it is.

    A node is told which by its configuration: `partition-id` counts data owners, then aggregators.
    """
    flwr = _flwr()
    app = flwr.clientapp.ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def answer(message: Any, context: Any) -> Any:
        flwr = _flwr()
        number = _number(members, context.node_config)
        content = message.content[PART]
        if content["step"] == HELLO:
            record = flwr.app.ConfigRecord({"party": str(number)})
            return flwr.app.Message(flwr.app.RecordDict({PART: record}), reply_to=message)
        party = members.party(number, kept=True)
        if PART in context.state:
            party.load({name: list(values) for name, values in context.state[PART].items()})
        reply = party.answer(ask_of(message.content, number))
        context.state[PART] = flwr.app.ConfigRecord(party.dump())
        return flwr.app.Message(packed_reply(reply), reply_to=message)

    return app


def _number(members: Members, node: Any) -> int:
    place = int(node["partition-id"])
    everyone = (*members.clients, *members.aggregators)
    if not 0 <= place < len(everyone):
        raise BadConfig(f"partition {place} of {len(everyone)} parties", "count data owners first, then aggregators")
    return everyone[place]


def bare(members: Members) -> Members:
    """The same with keys that nobody used: used ones hold objects that cannot go to another process."""
    keys, roster = members.keys, members.pact.roster
    unused = Roster(
        {number: _unused(public) for number, public in roster.clients.items()},
        _unused(roster.opener),
        tuple(map(_unused, roster.aggregators)),
    )
    pact = replace(members.pact, roster=unused)
    return replace(members, keys=keys if isinstance(keys, StoredKeys) else keys.copied(), pact=pact)


def _unused(public: Public) -> Public:
    return Public(public.verifying, public.sealing)


def apps(federation: Federation, keys: str | Path, **options: Any) -> tuple[Any, Any]:
    """A ServerApp and a ClientApp for `flwr run`, in simulation or on a deployment.

    Args:
        keys: a folder of keys that `fedseal train --deploy` or this function wrote; made where it is missing. A node
            needs `pact.json` and its own key, and nothing else of it.
        options: of `Federation.fit`; rounds may come from the run's configuration instead.

    Raises:
        MissingExtra: Flower is not installed.
        StorageFailure: the folder cannot be written or read.
    """
    flwr = _flwr()
    members = federation.members_of(StoredKeys.at(Path(keys), federation.secure, len(federation.data_owners)))
    server = flwr.serverapp.ServerApp()
    rounds, save = options.pop("rounds", 1), options.pop("save", None)
    timeout = options.pop("timeout", 600.0)

    @server.main()  # type: ignore[untyped-decorator]
    def main(grid: Any, context: Any) -> None:
        asked = int(context.run_config.get("rounds", rounds))
        trained: Trained = federation.fit(asked, engine=OnGrid(grid, timeout), members=members, **options)
        if save is not None:
            trained.save(save)

    return server, client_app(members)


@dataclass(frozen=True)
class OnGrid:
    """An engine for who has a grid already, inside a ServerApp."""

    grid: Any
    timeout: float = 600.0

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        """Serve through the grid."""
        serve(GridLink(self.grid, members, self.timeout))


def packed(ask: Ask) -> Any:
    """A question as records."""
    app = _flwr().app
    facts = {"step": ask.step, "round": ask.round, "size": ask.size, "messages": [bytes(m) for m in ask.messages]}
    records: dict[str, Any] = {PART: app.ConfigRecord(facts)}
    if ask.state is not None:
        arrays = {name: app.Array(tensor.detach().cpu().numpy()) for name, tensor in ask.state.items()}
        records["model"] = app.ArrayRecord(arrays)
    return app.RecordDict(records)


def greeting() -> Any:
    """The question who a node is."""
    app = _flwr().app
    return app.RecordDict({PART: app.ConfigRecord({"step": HELLO})})


def ask_of(content: Any, number: int) -> Ask:
    """What `packed` wrote."""
    facts, state = content[PART], None
    if "model" in content:
        state = {name: _tensor(array) for name, array in content["model"].items()}
    messages = tuple(facts["messages"])
    return Ask(number, facts["step"], int(facts["round"]), int(facts["size"]), messages, state)


def packed_reply(reply: Reply) -> Any:
    """An answer as records; numbers of parties are too large for Flower's integers."""
    app = _flwr().app
    facts = {
        "to": [str(out.to) for out in reply.messages],
        "messages": [bytes(out.message) for out in reply.messages],
        "refused": reply.refused,
    }
    return app.RecordDict({PART: app.ConfigRecord(facts)})


def reply_of(content: Any) -> Reply:
    """What `packed_reply` wrote."""
    facts = content[PART]
    pairs = zip(facts["to"], facts["messages"], strict=True)
    return Reply(tuple(Outgoing(int(to), message) for to, message in pairs), facts["refused"])


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array.numpy()))  # a copy, which may be written to


@contextmanager
def _as_before() -> Iterator[None]:
    """Flower's simulation adds to the environment, and what it adds grows from run to run."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before) - set(SILENT):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _only_errors(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
